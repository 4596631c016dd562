"""One client's long-poll session in this process, and the lines of its batches."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable

import gevent

from ...exceptions import InvalidMessage
from ...protocol.messages import Frame
from ...runtime.connection import INTERNAL_ERROR
from .carrier import LongPollCarrier

log = logging.getLogger("flask_phoenix.connection")

#: What a session answers: the statuses of ``transports/long_poll.ex``, which travel inside the body.
TAKEN, NOTHING, NOT_TAKEN, GONE = 200, 204, 408, 410

#: Stands before a line that is text whatever it looks like; base64 has no such character.
TEXT_MARK = "\t"

#: Stands for a body that cannot be read: it is no line of a batch, and so it ends the session as other nonsense does.
NOT_UTF8 = "(not UTF-8)"


class Session:
    """One client's session, wherever it lives."""

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames: TAKEN with all there are, NOTHING, or GONE."""
        raise NotImplementedError

    def restore(self, frames: list[str]) -> None:
        """Give frames back that a poll has taken, and whose answer has not reached the client."""
        raise NotImplementedError

    def dispatch(self, lines: list[str]) -> int:
        """Hand the lines of a batch to the session, in order: TAKEN, NOT_TAKEN in time, or GONE."""
        raise NotImplementedError


class LocalSession(Session):
    """A session of this process."""

    def __init__(self, carrier: LongPollCarrier, max_frame_size: int, used: Callable[[], None]) -> None:
        self.carrier = carrier
        self._max_frame_size = max_frame_size
        self._used = used
        self._answered = False

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames, for a window at most."""
        if self._answered:
            self._used()
        frames = self.carrier.poll()
        self._answered = True
        if frames:
            return TAKEN, frames
        return (GONE if self.carrier.connection is None else NOTHING), []

    def note_presence(self) -> None:
        """Take note that the client is there, though its poll has not come to this process now."""
        self.carrier.note_presence()

    def restore(self, frames: list[str]) -> None:
        """Keep frames for the next poll."""
        self.carrier.restore(frames)

    def dispatch(self, lines: list[str]) -> int:
        """Hand frames to the connection; a channel whose inbox is full delays them, for a window at most."""
        self._used()
        connection = self.carrier.connection
        if connection is None:
            return GONE
        timeout = gevent.Timeout.start_new(self.carrier.window)
        try:
            for line in lines:
                if not connection.open:
                    return GONE
                connection.receive(read_line(line, self._max_frame_size))
        except InvalidMessage as error:
            # Phoenix lets the POST run into its window; its answer is all that could be waited for.
            log.error("a client of %s sent what is no message: %s", type(connection.socket).__name__, error)
            connection.close(INTERNAL_ERROR, "invalid message")
            return NOT_TAKEN
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            return NOT_TAKEN
        finally:
            timeout.close()
        return TAKEN


def text_line(text: str) -> str:
    """Write a body that is one text frame as a line of a batch."""
    return TEXT_MARK + text


def read_line(line: str, limit: int) -> Frame:
    """Read a line of a batch: JSON of either version begins with a bracket, anything else is base64.

    :raises InvalidMessage: it is neither, or too long.
    """
    if len(line) > limit:
        raise InvalidMessage(f"a line of {len(line)} characters; max_frame_size is {limit}")
    if line.startswith(TEXT_MARK):
        return line.removeprefix(TEXT_MARK)
    if line.startswith(("[", "{")):
        return line
    try:
        return base64.b64decode(line, validate=True)
    except ValueError as error:
        raise InvalidMessage(f"a line that is neither JSON nor base64: {line[:40]!r}") from error
