"""The connections that hear Redis, and the subscriber that decides which of them hears which channel."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from gevent.event import Event
from redis.exceptions import ConnectionError, MovedError, NoPermissionError, ResponseError, TimeoutError

from .client import FULL_DISK, PublishingClient, pause
from .threads import Threads

log = logging.getLogger("flask_phoenix.redis")

#: After how many messages a connection lets others run.
MESSAGES_BETWEEN_PAUSES = 64
#: How many messages, and bytes of them, may wait to be handed on before reading pauses, and for how many seconds each
#: time.
UNDELIVERED_LIMIT, UNDELIVERED_SIZE, READ_PAUSE = 10_000, 16 << 20, 0.01
#: Seconds after which a cluster that does not answer is asked again.
RETRY = 1.0

#: The answer to a ping, where it is a list.
PONG = b"pong"
#: Seconds after which a link that is lost is made anew at once.
STABLE = 1.0
#: Seconds after which a channel that Redis refused is asked for again.
REFUSED_RETRY = 5.0


class Ask:
    """A channel that is wanted here."""

    __slots__ = ("answered", "confirmed", "connection")

    def __init__(self) -> None:
        #: Set when Redis has confirmed the channel, and when nobody is to wait for that any more.
        self.answered = Event()
        self.confirmed = False
        #: What is to hear it, once that is known.
        self.connection: SubscriberConnection | None = None


#: Channels that a connection is to leave, and those that it is to join.
Move = tuple[list[bytes], dict[bytes, Ask]]


class RedisSubscriber:
    """Hears channels: decides, in a thread of its own, which connection hears which of them, and follows them.

    :param mark: what stands before the messages of this node, which it drops.
    :param receive: called in the thread of the event loop, with the topic and data of what other nodes publish.
    :param restored: called there when a link was lost and is there again.
    :param tell_lost: called there when a link is lost, with True and the reason, and with False when all are there.
    :param subscribe_timeout: seconds that a subscription may take to be confirmed.
    :param check_interval: seconds of silence after which a server is asked for a sign of life.
    """

    def __init__(
        self,
        client: PublishingClient,
        threads: Threads,
        mark: bytes,
        receive: Callable[[str, bytes], None],
        restored: Callable[[], None],
        tell_lost: Callable[[bool, str], None],
        subscribe_timeout: float,
        check_interval: float,
    ) -> None:
        self.check_interval = check_interval
        #: Set when all connections are to end.
        self.stopping = threading.Event()
        self._client = client
        self._threads = threads
        self._mark = mark
        self._receive = receive
        self._restored = restored
        self._tell_lost = tell_lost
        self._subscribe_timeout = subscribe_timeout
        self._wanted: dict[bytes, Ask] = {}
        #: Channels that are wanted, or no longer, and are yet to be placed.
        self._changed: deque[bytes] = deque()
        self._work = threading.Event()
        self._placed: dict[bytes, SubscriberConnection] = {}
        self._connections: dict[Any, SubscriberConnection] = {}
        #: Where nobody waits for a confirmation, since one was not given in time: connections, or None for what cannot
        #: be placed.
        self._late: set[SubscriberConnection | None] = set()
        #: Channels that Redis has refused, and when they are asked for again.
        self._refused: set[bytes] = set()
        self._refused_until = 0.0
        self._heard = 0
        #: Bytes that wait to be handed on, which several threads count.
        self._undelivered = 0
        self._counting = threading.Lock()
        self._refreshed = 0.0
        self._warned = False
        #: Seconds until what could not be placed is tried again.
        self._retry: float | None = None

    def start(self) -> None:
        """Begin to place channels."""
        self._threads.spawn(self._run)

    def close(self) -> None:
        """End all connections; nobody waits for a channel any more."""
        self.stopping.set()
        self._wake()
        for connection in list(self._connections.values()):
            connection.close()
        for ask in self._wanted.values():
            ask.answered.set()

    def subscribe(self, topic: str) -> None:
        """Want a topic, and wait until Redis confirms; without Redis, it is heard when that is back.

        All who wait for one server wait for one time-out together; then nobody does until it answers again.
        """
        channel = self._client.channel(topic)
        while not self.stopping.is_set():
            ask = self._wanted.get(channel)
            if ask is None:
                ask = self._wanted[channel] = Ask()
                self._place_later(channel)
            if not ask.answered.wait(0 if self._late and ask.connection in self._late else self._subscribe_timeout):
                self._give_up(ask.connection)
            if self._wanted.get(channel) is ask:  # else it has been unsubscribed from meanwhile
                if not ask.confirmed and channel not in self._refused:
                    self._warn(topic)
                return

    def unsubscribe(self, topic: str) -> None:
        """Want a topic no more."""
        channel = self._client.channel(topic)
        if (ask := self._wanted.pop(channel, None)) is not None:
            ask.answered.set()  # whoever just waits for it asks anew
            self._refused.discard(channel)
            self._place_later(channel)

    def _give_up(self, connection: SubscriberConnection | None) -> None:
        """Let nobody wait any more for what a connection is to hear."""
        self._late.add(connection)
        for ask in self._wanted.values():
            if ask.connection is connection:
                ask.answered.set()

    def _place_later(self, *channels: bytes) -> None:
        self._changed.extend(channels)
        self._wake()

    def _wake(self) -> None:
        self._threads.set(self._work)

    def _warn(self, topic: str) -> None:
        if not self._warned and not self.stopping.is_set():
            self._warned = True
            log.warning("Redis does not confirm %r: until it does, the topic is heard on this node alone", topic)

    @property
    def _full(self) -> bool:
        return self._undelivered > UNDELIVERED_SIZE or len(self._threads) > UNDELIVERED_LIMIT

    def _count(self, size: int) -> None:
        with self._counting:
            self._undelivered += size

    def _deliver(self, channel: bytes, data: bytes) -> None:
        self._count(-len(data))
        if channel in self._wanted:  # else it was let go of while this was on its way
            self._receive(self._client.topic(channel), data[len(self._mark) :])

    # In the thread that places channels.

    def _run(self) -> None:
        while not self.stopping.is_set():
            self._work.wait(self._retry or (REFUSED_RETRY if self._refused else None))
            self._work.clear()
            if self._refused and time.monotonic() > self._refused_until:
                self._refused_until = time.monotonic() + REFUSED_RETRY
                self._changed.extend([*self._refused])
            try:
                self._place()
            except Exception:
                log.exception("what subscribes to Redis failed, and goes on")

    def _place(self) -> None:
        """Tell the connections what is wanted, each what its server carries."""
        changed: dict[bytes, None] = {}
        while self._changed:
            changed[self._changed.popleft()] = None
        moves: dict[SubscriberConnection, Move] = {}
        try:
            while changed:
                self._move(next(reversed(changed)), moves)
                changed.popitem()
            self._retry = None
            self._late.discard(None)
        except Exception as error:
            if self._retry is None:
                log.warning("topics cannot be subscribed to until the cluster answers: %s", error)
            self._retry = RETRY
            self._changed.extend(reversed(changed))  # what failed is last at the next attempt
        for connection, (leave, join) in moves.items():
            connection.tell(leave, join)
        used = set(self._placed.values())
        for connection in [each for each in self._connections.values() if each.lost and each not in used]:
            self._late.discard(connection)
            self._connections.pop(connection.pool).close()
            self._tell_links()

    def _move(self, channel: bytes, moves: dict[SubscriberConnection, Move]) -> None:
        ask, old = self._wanted.get(channel), self._placed.get(channel)
        new = self._connection(self._client.pool(channel)) if ask is not None else None
        if old is not None and old is not new:
            del self._placed[channel]
            moves.setdefault(old, ([], {}))[0].append(channel)
        if new is not None and ask is not None:
            self._placed[channel] = ask.connection = new
            moves.setdefault(new, ([], {}))[1][channel] = ask
            if new in self._late:
                self._threads.call(ask.answered.set)

    def _connection(self, pool: Any) -> SubscriberConnection:
        if pool not in self._connections:
            connection = self._connections[pool] = SubscriberConnection(self._client, pool, self)
            self._threads.spawn(connection.run)
        return self._connections[pool]

    # What a connection asks and tells, in its own thread.

    def wanted_of(self, connection: SubscriberConnection) -> dict[bytes, Ask]:
        """Return the channels that a connection is to hear."""
        mine = [channel for channel, other in list(self._placed.items()) if other is connection]
        return {channel: ask for channel in mine if (ask := self._wanted.get(channel)) is not None}

    def confirm(self, channel: bytes, ask: Ask) -> None:
        """Let those go on who wait for a channel: nothing is missed on it any more."""
        ask.confirmed = True
        self._threads.call(ask.answered.set)
        if channel in self._refused:
            self._refused.discard(channel)
            if not self._refused:
                log.warning("Redis lets this node hear all that it refused")

    def refuse(self, channel: bytes, ask: Ask, error: Exception) -> None:
        """Let those go on who wait for a channel that this node may not hear; it is asked for again, now and then."""
        first = not self._refused
        if self._wanted.get(channel) is ask:
            self._refused.add(channel)
        self._threads.call(ask.answered.set)
        if first:
            self._refused_until = time.monotonic() + REFUSED_RETRY
            self._client.tell_refusal(channel, error)
            self._wake()

    def alive(self, connection: SubscriberConnection) -> None:
        """Let subscribers wait for a server again: it answers."""
        if self._late:
            self._late.discard(connection)

    def heard_again(self) -> None:
        """Tell that all that was heard on a lost link is heard again."""
        self._threads.call(self._restored)
        self._tell_links()

    def hear(self, channel: bytes, data: bytes) -> None:
        """Hand on what another node has published."""
        if not data.startswith(self._mark):
            self._count(len(data))
            self._threads.call(self._deliver, channel, data)
        self._heard += 1
        if not self._heard % MESSAGES_BETWEEN_PAUSES:
            time.sleep(0)
        while self._full and not self.stopping.is_set():
            time.sleep(READ_PAUSE)

    def link_lost(self, connection: SubscriberConnection, error: Exception) -> None:
        """Tell it; in a cluster, look whether other servers carry now what this one did."""
        self._tell_links(str(error))
        if self._client.sharded:
            self._refresh()
            self._place_later(*self.wanted_of(connection))

    def _tell_links(self, why: str = "") -> None:
        lost = any(connection.lost for connection in list(self._connections.values()))
        self._threads.call(self._tell_lost, lost, why)

    def link_made(self, connection: SubscriberConnection) -> None:
        """Publish to that server again, too."""
        self._warned = False
        self._client.reopen(connection.pool)

    def channel_moved(self, channel: bytes, error: MovedError | None) -> None:
        """Hear a channel where it is now: the error tells, if there is one."""
        if error is not None:
            time.sleep(READ_PAUSE)  # two servers may send each other's clients to and fro, for a moment
            self._client.redirect(error)
        elif time.monotonic() - self._refreshed > READ_PAUSE:  # the channels of a slot move together
            self._refresh()
        self._place_later(channel)

    def _refresh(self) -> None:
        try:
            self._client.refresh()
        except Exception as error:
            log.debug("the cluster cannot be asked for its nodes: %s", error)
        self._refreshed = time.monotonic()


class SubscriberConnection:
    """A connection that hears channels of one server, and the thread that reads from it; a lost link is made anew."""

    def __init__(self, client: PublishingClient, pool: Any, subscriber: RedisSubscriber) -> None:
        self.pool = pool
        #: It has no link.
        self.lost = False
        self._client = client
        self._subscriber = subscriber
        self._closed = False
        self._connection: Any = None
        #: For whoever writes to the connection, or changes what follows.
        self._lock = threading.Lock()
        #: What has been sent and not been answered: each channel, and what is set then, or None if it was left.
        self._unanswered: deque[tuple[bytes, Ask | None]] = deque()

    def run(self) -> None:
        """Hear until it is closed."""
        failures = 0
        while not self._over:
            began = time.monotonic()
            try:
                self._serve()
            except Exception as error:  # one that another thread has closed raises whatever it stumbles on
                self._lose(error)
            if time.monotonic() - began > STABLE:
                failures = 0
            self._subscriber.stopping.wait(pause(failures) if failures else 0)
            failures += 1

    def tell(self, leave: Iterable[bytes], join: dict[bytes, Ask]) -> None:
        """Leave channels and join others; without a link this waits for the next one, which asks for all of them."""
        with self._lock:
            if self._connection is not None:
                try:
                    self._send(leave, join)
                except Exception:
                    self._connection = None  # its reader finds out: redis-py would reconnect, and hear nothing

    def close(self) -> None:
        """End; from any thread."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()

    @property
    def _over(self) -> bool:
        return self._closed or self._subscriber.stopping.is_set()

    def _serve(self) -> None:
        """Make a link, and hear until it is lost."""
        connection = self._client.connect(self.pool)
        try:
            with self._lock:
                self._connection = connection
                self._unanswered.clear()
                self._send((), self._subscriber.wanted_of(self))
                self._write(("PING",))  # so that there is an answer
            self._subscriber.link_made(self)
            self._read(connection)
        finally:
            with self._lock:
                self._connection = None
            connection.disconnect()

    def _lose(self, error: Exception) -> None:
        if self._over:
            return
        if not self.lost:
            log.warning("Redis is lost, and what other nodes publish is missed until it is back: %s", error)
        self.lost = True
        self._subscriber.link_lost(self, error)

    def _send(self, leave: Iterable[bytes], join: dict[bytes, Ask]) -> None:
        self._unanswered.extend((channel, None) for channel in leave)
        self._unanswered.extend(join.items())
        commands = [(self._client.command("UNSUBSCRIBE"), channel) for channel in leave]
        commands += [(self._client.command("SUBSCRIBE"), channel) for channel in join]
        self._write(*commands)

    def _write(self, *commands: tuple[Any, ...]) -> None:
        """Write to the connection. Where it has just been closed, redis-py makes a link anew, which is to end, too."""
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        if self._over:
            self._connection.disconnect()

    def _read(self, connection: Any) -> None:
        silent = False
        while self._connection is connection and not self._over:
            try:
                answer = connection.read_response(disconnect_on_error=False, push_request=True)
            except TimeoutError:
                if silent:
                    raise
                silent = True
                self._ping()
                continue
            except ResponseError as error:
                answer = self._refused(error)
            silent = False
            self._subscriber.alive(self)
            if isinstance(answer, list) and answer[0] != PONG:
                self._take(*answer)
            elif self.lost:  # all that was wanted has been answered before
                self.lost = False
                log.warning("Redis is back")
                self._subscriber.heard_again()
        raise ConnectionError("it could not be written to")

    def _ping(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._write(("PING",))

    def _take(self, kind: bytes, channel: bytes = b"", data: Any = None) -> None:
        if kind in (b"message", b"smessage"):
            self._subscriber.hear(channel, data)
        elif kind in (b"subscribe", b"ssubscribe"):
            asked, ask = self._unanswered.popleft()
            if ask is None or asked != channel:
                raise ConnectionError(f"it answers {channel!r} and was asked for {asked!r}")
            self._subscriber.confirm(channel, ask)
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            if self._unanswered and self._unanswered[0] == (channel, None):
                self._unanswered.popleft()
            else:  # a server of a cluster gives the channel away
                self._subscriber.channel_moved(channel, None)

    def _refused(self, error: ResponseError) -> Any:
        """Take an answer that is no: the channel is elsewhere, or this node may not hear it; return what is as good.

        :raises ResponseError: it is another one.
        """
        if "'ping'" in str(error) or str(error).startswith(FULL_DISK):
            return [PONG]
        if not isinstance(error, MovedError | NoPermissionError):
            raise error
        channel, ask = self._unanswered.popleft() if self._unanswered else (b"", None)
        if ask is not None and isinstance(error, MovedError):
            self._subscriber.channel_moved(channel, error)
        elif ask is not None:
            self._subscriber.refuse(channel, ask, error)
        return [b""]
