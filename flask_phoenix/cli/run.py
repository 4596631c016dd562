"""The command ``flask run``, for apps that serve sockets."""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any

import click
from flask import Flask
from flask.cli import ScriptInfo, pass_script_info, run_command, show_server_banner
from flask.helpers import get_debug_flag
from gevent import monkey
from werkzeug._reloader import run_with_reloader
from werkzeug.debug import DebuggedApplication
from werkzeug.serving import WSGIRequestHandler, generate_adhoc_ssl_context, is_running_from_reloader

from ..runtime.engine import Engine
from ..server.gevent import Handler, Server

#: The environment variable by which ``flask run`` tells itself, begun anew, that the app serves sockets: the id of the
#: process that has looked. Not named FLASK_, as an app may make its configuration of all those.
LOOKED = "_FLASK_PHOENIX_RUN"


@click.command("run", params=run_command.params, help=run_command.help)
@pass_script_info
def run(info: ScriptInfo, /, **options: Any) -> None:
    """Run the development server, on gevent if the app serves sockets.

    The reloader and the debugger work as people expect. Any other app is left to Flask's own command, unpatched.
    """
    if _is_begun_anew():
        # Before the app is imported, so that whatever it imports finds everything patched.
        monkey.patch_all()
    try:
        app = info.load_app()
    except Exception as error:
        if not is_running_from_reloader():
            raise
        traceback.print_exc()
        serve(info, failing(error), **options)
        return
    if not find_engines(app):
        warn_if_forgotten(app)
        assert run_command.callback is not None
        run_command.callback(**options)
        return
    if isinstance(app, Flask) and "phoenix" in app.extensions and not is_running_from_reloader():
        app.extensions["phoenix"].warn_if_bare()
    os.environ[LOOKED] = str(os.getpid())
    reload = get_debug_flag() if options["reload"] is None else options["reload"]
    if not monkey.is_module_patched("socket") and not (reload and not is_running_from_reloader()):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    serve(info, app, **options)


def warn_if_forgotten(app: Any) -> None:
    """Say that this app serves no sockets, where a module of the program has some for an app that is yet to come."""
    extension = sys.modules.get("flask_phoenix.extension")
    if extension is None:
        return
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if type(value) is extension.Phoenix and extension.waits_for_an_app(value):
                click.secho(f"{module.__name__}.{name} serves no app: call {name}.init_app(app)", err=True, fg="red")


def _is_begun_anew() -> bool:
    """Tell whether this process has looked at the app before, or the reloader that started it."""
    return os.environ.pop(LOOKED, None) in (str(os.getpid()), str(os.getppid()))


def find_engines(app: Any) -> list[Engine]:
    """Return the engines of an app and of those that its middlewares mount, if they use this extension."""
    engines, found = [], {id(app): app}
    waiting = [app]
    for each in waiting:
        if isinstance(each, Flask) and "phoenix" in each.extensions:
            engines.append(each.extensions["phoenix"].engine)
        for part in _parts(each):
            part = part.__self__ if type(part) is MethodType else part
            if callable(part) and not isinstance(part, type) and id(part) not in found:
                found[id(part)] = part
                waiting.append(part)
    return engines


def _parts(app: Any) -> list[Any]:
    """Return what a middleware holds: the app that it stands around, or those that it mounts."""
    if isinstance(app, Flask):
        return [app.wsgi_app]
    with suppress(Exception):  # it may be a proxy, which answers for something else
        held = list(vars(app).values())
        return [*held, *(app for mounts in held if isinstance(mounts, dict) for app in mounts.values())]
    return []


def serve(
    info: ScriptInfo,
    app: Flask | Callable[..., Any],
    host: str,
    port: int,
    reload: bool | None,
    debugger: bool | None,
    cert: Any,
    extra_files: list[str] | None,
    exclude_patterns: list[str] | None,
    **_: Any,
) -> None:
    """Serve an app on gevent, under Flask's reloader and debugger where they are asked for."""
    debug = get_debug_flag()
    wsgi: Any = DebuggedApplication(app, evalex=True) if (debug if debugger is None else debugger) else app
    if isinstance(wsgi, DebuggedApplication):
        wsgi.trusted_hosts.append(host)
    show_server_banner(debug, info.app_import_path)

    servers: list[Server] = []

    def main() -> None:
        server = Server((host, port), wsgi, find_engines(app), handler_class=DevelopmentHandler, **tls_options(cert))
        with in_one_line(host, port):
            server.start()
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if cert else "http"
        click.echo(f" * Running on {scheme}://{shown}:{server.server_port} (Press CTRL+C to quit)", err=True)
        servers.append(server)
        server.serve_until_stopped()

    if debug if reload is None else reload:
        if not is_running_from_reloader():
            check_port(host, port)  # what is wrong with it is to be said once, not by each child
            for engine in find_engines(app):
                engine.draining = True  # this process serves nobody: it starts the one that does
        try:
            run_with_reloader(main, extra_files=extra_files, exclude_patterns=exclude_patterns)
        finally:  # it ends this process, with a status for the one that starts the next
            for server in servers:
                server.end()
    else:
        main()


@contextmanager
def in_one_line(host: str, port: int) -> Iterator[None]:
    """Let the command end with one line where nobody can listen."""
    try:
        yield
    except OSError as error:
        remedy = "; stop the program that uses it, or choose another --port" if error.errno == errno.EADDRINUSE else ""
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise click.ClickException(f"cannot listen on port {port} of {host}: {reason}{remedy}") from error


def check_port(host: str, port: int) -> None:
    """See that a server could listen on a port, without letting anybody connect."""
    with in_one_line(host, port), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))


class RequestLine(WSGIRequestHandler):
    """Writes the line of a request as Werkzeug's server does, to its log and in its colours."""

    def __init__(self, handler: Handler) -> None:
        address = handler.client_address
        self.client_address = address if isinstance(address, tuple) else ("<local>", 0)
        self.requestline = handler.requestline or ""
        if handler.path is not None:
            self.command, self.path, self.request_version = handler.command, handler.path, handler.request_version


class DevelopmentHandler(Handler):
    """Serves one HTTP connection, and logs as Flask's own command does."""

    def write_line(self) -> None:
        """Write a line to Werkzeug's log."""
        RequestLine(self).log_request(abs(self.code or 0) or str(self.status or "-").split()[0])


def failing(error: Exception) -> Callable[..., Any]:
    """Return an app that raises what the import of the real one raised, for the debugger to show."""

    def app(environ: Any, start_response: Any) -> Any:
        raise error from None

    return app


def tls_options(cert: Any) -> dict[str, Any]:
    """Turn the values of ``--cert`` and ``--key`` into options of gevent's server."""
    if cert is None:
        return {}
    if isinstance(cert, tuple):
        return {"certfile": cert[0], "keyfile": cert[1]}
    return {"ssl_context": generate_adhoc_ssl_context() if cert == "adhoc" else cert}
