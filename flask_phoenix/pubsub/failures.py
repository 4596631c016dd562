"""What becomes of an exception that must not end the greenlet or the callback in which it was raised."""

from __future__ import annotations

import logging
import sys
from typing import Any

import gevent

#: What asks for the end of the process, wherever it is raised.
EXITS = (KeyboardInterrupt, SystemExit)


def log_failure(log: logging.Logger, message: str, *arguments: Any) -> None:
    """Log the exception that is being handled; one that asks for the end of the process is handed on as well."""
    log.exception(message, *arguments)
    error = sys.exc_info()[1]
    if isinstance(error, EXITS):
        raise_in_main_greenlet(error)


def raise_in_main_greenlet(error: BaseException) -> None:
    """Raise an exception in the main greenlet of this thread, soon, as gevent does with one that nobody handles."""
    hub = gevent.get_hub()
    hub.loop.run_callback(hub.handle_system_error, type(error), error)
