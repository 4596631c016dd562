"""``flask phoenix worker``: a process that serves nobody, and listens and speaks as one of those that do."""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
import gevent
from flask.cli import ScriptInfo, pass_script_info
from gevent import GreenletExit, monkey
from gevent.event import Event

from ..app_state import state_of
from ..exceptions import InvalidOption, PhoenixError
from ..refusals import refuse_lazy
from ..runtime.background import STOP_GRACE
from ..runtime.engine import FAILURES, Engine
from ..server.drain import drain

ALONE = (
    "nothing joins this process to those that serve: set PHOENIX_PUBSUB_URL, such as redis://localhost or"
    " workers:///run/myapp, here and for the servers"
)
#: Seconds after which the wait for the end begins anew: a loop with nothing else to wait for would end at once.
PERIOD = 3600.0


@click.command("worker")
@click.argument("function", required=False, metavar="[MODULE:FUNCTION]")
@pass_script_info
def worker(info: ScriptInfo, function: str | None) -> None:
    """Run a process that serves nobody, until FUNCTION returns or the process is told to end.

    It hears and publishes what the app's processes do, and runs the app's background functions as they do. FUNCTION is
    called in an app context; without one the process runs until SIGTERM or SIGINT.
    """
    monkey.patch_all()  # before the app is imported
    app = info.load_app()
    try:
        engine = state_of(app).engine
        call = Event().wait if function is None else find(function)
        ending = begin(engine)
    except PhoenixError as error:
        raise click.ClickException(str(error)) from error
    failure = work(engine, call, ending)
    drain(engine)
    engine.stop()
    if failure is not None:
        raise failure


def find(path: str) -> Callable[[], Any]:
    """Return the function of a path such as ``app.feeds:read``."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise click.BadParameter(f"expected module:function, as in app.feeds:read; got {path!r}")
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise click.BadParameter(f"{path!r} names no function: {error}") from error
    if not callable(found):
        raise click.BadParameter(f"{path!r} names no function: {module} has no function {name!r}")
    function: Callable[[], Any] = found
    try:
        refuse_lazy(function, repr(path))
    except InvalidOption as error:
        raise click.BadParameter(str(error)) from error
    return function


def begin(engine: Engine) -> Event:
    """Become a node; return what is set when this process is to end.

    :raises PhoenixError: nothing joins this process to others.
    """
    ending = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, ending.set)
    engine.served, engine.stop_server = True, ending.set
    engine.serve()
    if engine.node.adapter is None:
        engine.stop()
        raise PhoenixError(ALONE)
    return ending


def work(engine: Engine, function: Callable[[], Any], ending: Event) -> BaseException | None:
    """Call a function until it returns, or the process is to end; return what it has raised."""

    def call() -> BaseException | None:
        try:
            with engine.context():
                function()
            return None
        except FAILURES as failure:
            return failure
        finally:
            ending.set()

    task = gevent.spawn(call)
    while not ending.wait(PERIOD):
        """It goes on."""
    task.kill(timeout=STOP_GRACE)
    return None if isinstance(task.value, GreenletExit) else task.value
