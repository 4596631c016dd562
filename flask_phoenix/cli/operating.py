"""How a command of an operator reaches the processes that serve the app: as one node more, which serves nobody."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click
import gevent
from flask.cli import ScriptInfo
from gevent import monkey

from ..app_state import State, state_of
from ..exceptions import PhoenixError
from ..operations.cluster import Cluster

ALONE = (
    "this command reaches the processes that serve over what joins them: set PHOENIX_PUBSUB_URL, such as"
    " workers:///run/myapp or redis://localhost, here and for the servers, also where there is one process alone"
)
SILENCE = (
    "no process has answered: does one serve the app, with the same PHOENIX_PUBSUB_URL and SECRET_KEY, and has it had a"
    " client? Its log tells of a request that it has refused"
)


@contextmanager
def operating(info: ScriptInfo) -> Iterator[tuple[State, Cluster]]:
    """Become a node of the app, and return what asks the others; Ctrl-C and SIGTERM end the block in good order.

    What goes wrong is the command's error, in one line.
    """
    monkey.patch_all()  # before the app is imported
    app = info.load_app()
    termination = gevent.signal_handler(signal.SIGTERM, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)
    try:
        state = state_of(app)
        state.secrets()
        state.engine.node.become()
        try:
            if state.engine.node.adapter is None:
                raise PhoenixError(ALONE)
            with app.app_context(), state.cluster() as cluster:
                yield state, cluster
        finally:
            state.engine.stop()
    except PhoenixError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        """Whoever looked has seen enough."""
    finally:
        termination.cancel()


def require_answer(answered: object) -> None:
    """See that some process has answered.

    :raises PhoenixError: none has.
    """
    if not answered:
        raise PhoenixError(SILENCE)


def plain(text: object) -> str:
    """Return a text that does nothing to a terminal, and is one line: a client may choose a topic to deceive."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def cut(text: object, width: int) -> str:
    """Return a text that is no wider than a column; as :func:`plain`."""
    whole = plain(text)
    return whole if len(whole) <= width else f"{whole[: width - 1]}…"


def size(count: float) -> str:
    """Return bytes as they are read by people."""
    for unit in ("B", "K", "M"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" or count >= 10 else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}G"


def age(seconds: float) -> str:
    """Return a time that has passed as it is read by people."""
    for unit, length in (("s", 60), ("m", 60), ("h", 48)):
        if seconds < length:
            return f"{seconds:.0f}{unit}"
        seconds /= 24 if unit == "h" else 60
    return f"{seconds:.0f}d"
