"""Hearing Redis: a connection that listens to channels, and comes back when it is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from redis.exceptions import ConnectionError, MovedError, TimeoutError

from .client import FAILURES, RedisClient, pause

log = logging.getLogger(__name__)


class Listener:
    """What an connection asks and tells the one it listens for; all of it is called in the connection's thread."""

    #: Set when all is to end.
    stopping: threading.Event
    #: Seconds of silence before a sign of life is asked for.
    check_interval: float

    def asked(self, connection: SubscriberConnection) -> dict[bytes, Any]:
        """Return the channels that an connection is to listen to, each with what to give to :meth:`confirmed`."""
        raise NotImplementedError

    def confirmed(self, ask: Any) -> None:
        """Hear that nothing is missed any more of what was asked for."""
        raise NotImplementedError

    def heard(self, channel: bytes, data: bytes) -> None:
        """Hear what was published."""
        raise NotImplementedError

    def lost(self, connection: SubscriberConnection) -> None:
        """Hear that an connection has lost its link, or cannot get one."""
        raise NotImplementedError

    def moved(self, channel: bytes, error: MovedError | None) -> None:
        """Hear that a channel is to be listened to at another server, and at which, if that is known."""
        raise NotImplementedError

    def found(self, connection: SubscriberConnection) -> None:
        """Hear that an connection has a link."""
        raise NotImplementedError


class SubscriberConnection:
    """A connection that hears channels, and the thread that reads from it; a link that is lost is made anew."""

    def __init__(self, access: RedisClient, pool: Any, listener: Listener) -> None:
        self.pool = pool
        #: It has no link.
        self.away = False
        self._client = access
        self._listener = listener
        self._closed = False
        self._connection: Any = None
        #: For whoever writes to the connection, or changes what follows.
        self._lock = threading.Lock()
        #: What has been said and not been answered: each channel, and what was asked for, or None if it was left.
        self._due: deque[tuple[bytes, Any]] = deque()

    def run(self) -> None:
        """Listen until it is closed."""
        failures = 0
        while not self._over:
            began = time.monotonic()
            try:
                self._attend()
            except Exception as error:  # one that another thread has closed raises whatever it stumbles on
                self._lose(error)
            if time.monotonic() - began > self._listener.check_interval:
                failures = 0
            self._listener.stopping.wait(pause(failures))
            failures += 1

    def tell(self, leave: Iterable[bytes], join: dict[bytes, Any]) -> None:
        """Leave channels and join others; without a link this waits for the next one, which asks anew."""
        with self._lock:
            if self._connection is not None:
                try:
                    self._say(leave, join)
                except FAILURES:
                    self._connection = None  # its reader finds out: redis-py would reconnect, and hear nothing

    def close(self) -> None:
        """End; from any thread."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()

    @property
    def _over(self) -> bool:
        return self._closed or self._listener.stopping.is_set()

    def _attend(self) -> None:
        connection = self._client.connect(self.pool)
        try:
            with self._lock:
                self._connection = connection
                self._due.clear()
                self._say((), self._listener.asked(self))
            if self.away:
                log.warning("Redis is back")
            self.away = False
            self._listener.found(self)
            self._listen(connection)
        finally:
            with self._lock:
                self._connection = None
            connection.disconnect()

    def _lose(self, error: Exception) -> None:
        if self._over:
            return
        if not self.away:
            log.warning("Redis is lost, and what other nodes publish is missed until it is back: %s", error)
        self.away = True
        self._listener.lost(self)

    def _say(self, leave: Iterable[bytes], join: dict[bytes, Any]) -> None:
        self._due.extend((channel, None) for channel in leave)
        self._due.extend(join.items())
        commands = [(self._client.word("UNSUBSCRIBE"), channel) for channel in leave]
        commands += [(self._client.word("SUBSCRIBE"), channel) for channel in join]
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def _listen(self, connection: Any) -> None:
        silent = False
        while self._connection is connection:
            try:
                answer = connection.read_response(disconnect_on_error=False, push_request=True)
            except TimeoutError:
                if silent:
                    raise
                silent = True
                self._ping()
                continue
            except MovedError as error:
                self._redirected(error)
            else:
                if isinstance(answer, list):
                    self._hear(*answer)
            silent = False
        raise ConnectionError("it could not be written to")

    def _ping(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.send_command("PING", check_health=False)

    def _hear(self, kind: bytes, channel: bytes = b"", data: Any = None) -> None:
        if kind in (b"message", b"smessage"):
            self._listener.heard(channel, data)
        elif kind in (b"subscribe", b"ssubscribe"):
            self._listener.confirmed(self._answered(channel))
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            if self._due and self._due[0] == (channel, None):
                self._due.popleft()
            else:  # a node of a cluster gives the channel away
                self._listener.moved(channel, None)

    def _redirected(self, error: MovedError) -> None:
        channel, ask = self._due.popleft()
        if ask is not None:
            self._listener.moved(channel, error)

    def _answered(self, channel: bytes) -> Any:
        asked, ask = self._due.popleft()
        if ask is None or asked != channel:
            raise ConnectionError(f"it answers {channel!r} and was asked for {asked!r}")
        return ask
