"""The commands ``flask run``, for apps that serve sockets, and ``flask phoenix``."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo, pass_script_info, run_command, show_server_banner, with_appcontext
from flask.helpers import get_debug_flag
from gevent import monkey
from werkzeug._reloader import run_with_reloader
from werkzeug.debug import DebuggedApplication
from werkzeug.serving import generate_adhoc_ssl_context, is_running_from_reloader

from .broadcaster import SETTING, Broadcaster
from .exceptions import PhoenixError
from .protocol.json import Json
from .runtime.engine import Engine
from .server.gevent import Server


@click.command("run", params=run_command.params, help=run_command.help)
@pass_script_info
def run(info: ScriptInfo, /, **options: Any) -> None:
    """Run the development server, on gevent if the app serves sockets.

    The reloader and the debugger work as people expect. Any other app is left to Flask's own command.
    """
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
    if "phoenix" in app.extensions:
        serve(info, app, **options)
    elif run_command.callback is not None:
        run_command.callback(**options)


@click.group("phoenix")
def phoenix() -> None:
    """Speak to the clients that are connected to the app's processes."""


@phoenix.command("broadcast")
@click.argument("topic")
@click.argument("event")
@click.argument("payload", default="{}")
@click.option("--url", help="How the processes are joined; the app's PHOENIX_PUBSUB_URL, unless given.")
@with_appcontext
def broadcast(topic: str, event: str, payload: str, url: str | None) -> None:
    """Send an event to everybody on a topic. PAYLOAD is a JSON object."""
    with _broadcaster(url) as broadcaster:
        broadcaster.broadcast(topic, event, Json().loads(payload))


@phoenix.command("disconnect")
@click.argument("id")
@click.option("--url", help="How the processes are joined; the app's PHOENIX_PUBSUB_URL, unless given.")
@with_appcontext
def disconnect(id: str, url: str | None) -> None:
    """Close every connection whose socket has this id."""
    with _broadcaster(url) as broadcaster:
        broadcaster.disconnect(id)


@contextmanager
def _broadcaster(url: str | None) -> Iterator[Broadcaster]:
    """Make a broadcaster for the app; what goes wrong is the command's error, in one line."""
    try:
        with Broadcaster(url or current_app.config.get(SETTING)) as broadcaster:
            yield broadcaster
    except PhoenixError as error:
        raise click.ClickException(str(error)) from error


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

    def main() -> None:
        server = make_server(app, wsgi, host, port, **tls_options(cert))
        scheme = "https" if cert else "http"
        click.echo(f" * Running on {scheme}://{host}:{port} (Press CTRL+C to quit)", err=True)
        server.serve_until_stopped()

    if debug if reload is None else reload:
        if isinstance(app, Flask) and "phoenix" in app.extensions and not is_running_from_reloader():
            app.extensions["phoenix"].engine.draining = True  # this process serves nobody: it starts the one that does
        run_with_reloader(main, extra_files=extra_files, exclude_patterns=exclude_patterns)
    else:
        main()


def make_server(app: Flask | Callable[..., Any], wsgi: Any, host: str, port: int, **options: Any) -> Server:
    """Make the server of an app; one that failed to load has no sockets, but its error is to be seen."""
    state = app.extensions["phoenix"] if isinstance(app, Flask) else None
    if state is None:
        return Server((host, port), wsgi, Engine(nullcontext, Json()), lambda environ: False, **options)
    return Server((host, port), wsgi, state.engine, state.upgrades, **options)


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
