"""What a client can do in a test, and what can be said of what it got, whatever carries its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

from ..exceptions import Refused
from ..protocol.messages import ERROR, HEARTBEAT, JOIN, LEAVE, PHOENIX, REPLY, Broadcast, Message, Reply
from ..protocol.state import JOIN_CRASHED
from .frames import Wire
from .matching import ANYTHING, Expected, difference
from .presence import Change, Follower, Presences
from .settling import wait_for
from .transcript import CLOSED, GOT, SENT, Entry, Transcript

#: pytest and unittest show the line of the test that failed, and not what stands below.
__tracebackhide__ = __unittest = True

#: Real seconds within which what another thread does has to come. What follows in this one has come before that.
WITHIN = 2.0


Kind = TypeVar("Kind", bound="BaseClient")


class BaseClient:
    """A client that a test plays: it joins, pushes, and says what has to come.

    What came is taken by the assertion that it fits, once, in whatever order; ``refute_*`` look at what was not taken.
    Payloads are matched as :func:`.difference` says: of a dict the keys that are named. A channel's crash that nothing
    has asserted fails the test in its end.

    :param name: by which failures name it.
    """

    def __init__(self, transcript: Transcript, name: str, wire: Wire, within: float = WITHIN) -> None:
        self.transcript = transcript
        self.name = name
        self.within = within
        #: The close code and the reason, once the server has closed the connection.
        self.closed: tuple[int, str] | None = None
        self._wire = wire
        self._refs = count(1)
        self._pushed: dict[str, Message] = {}
        self._waiting: list[Entry] = []
        self._since = len(transcript.broadcasts)
        self._taken_broadcasts: set[int] = set()
        self._followers: dict[str, Follower] = {}

    def join(self, topic: str, payload: Any = None, *, within: float | None = None) -> Joined:
        """Join a topic.

        :raises Refused: the channel refuses; the exception carries the response.
        :raises AssertionError: no answer comes.
        """
        ref = self.push(topic, JOIN, payload)
        follower = self._followers[topic]
        status, response = self.reply(ref, within)
        if status != "ok":
            raise Refused(response) from (self.transcript.take_failure() if response == JOIN_CRASHED.response else None)
        return Joined(self, topic, ref, response, follower)

    #: The name of Phoenix's ``ChannelTest`` for it; the broadcasts of all topics can be asserted in any case.
    subscribe_and_join = join

    def push(self, topic: str, event: str, payload: Any = None, join_ref: str | None = None) -> str:
        """Send an event, with bytes as a binary frame; return its ref."""
        ref = str(next(self._refs))
        if event == JOIN:
            join_ref, self._followers[topic] = ref, Follower()
        message = Message(join_ref, ref, topic, event, {} if payload is None else payload)
        frame = self._wire.write(message)
        if self.closed is not None:
            raise self._failure(f"{event!r} cannot be sent: the connection was closed {self.closed}")
        self._pushed[ref] = message
        self.transcript.note(self.name, SENT, message)
        self._send(frame)
        return ref

    def reply(self, ref: str, within: float | None = None) -> Reply:
        """Wait for the reply to a ref.

        :raises AssertionError: it does not come, or the channel crashes first.
        """
        message = self._wait(lambda: self._take(_answers(ref)) or self._crash_before_reply(ref), within)
        if message is None:
            raise self._failure(f"expected a reply to {self._describe(ref)}, and it has not come")
        if message.event == ERROR:
            raise self._failure(f"expected a reply to {self._describe(ref)}, and the channel has crashed")
        return Reply(message.payload["status"], message.payload["response"])

    def assert_reply(
        self,
        ref: str,
        status: str = "ok",
        response: Expected = ANYTHING,
        *,
        exact: bool = False,
        within: float | None = None,
    ) -> Any:
        """See that a message is answered so; return the response.

        :raises AssertionError: it is answered otherwise, or not at all.
        """
        reply = self.reply(ref, within)
        wrong = difference(response, reply.response, exact, "response")
        if reply.status != status:
            wrong = f"it is {reply.status!r}: {reply.response!r}"
        if wrong is not None:
            raise self._failure(f"expected the reply to {self._describe(ref)} to be {status!r}, {response!r}; {wrong}")
        return reply.response

    def refute_reply(
        self, ref: str, status: str | None = None, response: Expected = ANYTHING, *, within: float = 0
    ) -> None:
        """See that a message is not answered, or not so.

        :raises AssertionError: it is.
        """
        answers = _answers(ref)

        def fits(message: Message) -> bool:
            return (
                answers(message)
                and status in (None, message.payload["status"])
                and difference(response, message.payload["response"]) is None
            )

        self.refute(fits, f"reply to {self._describe(ref)}", within)

    def assert_broadcast(
        self, topic: str, event: str, payload: Expected = ANYTHING, *, exact: bool = False, within: float | None = None
    ) -> Any:
        """See that an event was broadcast on a topic since this client connected, whoever got it; return its payload.

        Each client may assert it once.

        :raises AssertionError: it was not.
        """
        found = self._wait(lambda: self._take_broadcast(topic, event, payload, exact), within)
        if found is None:
            near = [difference(payload, each.payload, exact) for _, each in self._broadcasts(topic, event)]
            raise self._failure(f"expected {event!r} to be broadcast on {topic!r} with {payload!r}", near)
        return found.payload

    def refute_broadcast(self, topic: str, event: str, payload: Expected = ANYTHING, *, within: float = 0) -> None:
        """See that an event was not broadcast on a topic since this client connected.

        :raises AssertionError: it was.
        """
        if self._wait(lambda: self._take_broadcast(topic, event, payload, False), within):
            raise self._failure(f"expected {event!r} not to be broadcast on {topic!r}, and it was")

    def receive(self, fits: Callable[[Message], bool], what: str = "a message", within: float | None = None) -> Message:
        """Wait for the first message that fits; the others are kept for later.

        :raises AssertionError: none comes.
        """
        message = self.take(fits, within)
        if message is None:
            raise self._failure(f"expected {what}, and it has not come")
        return message

    def refute(self, fits: Callable[[Message], bool], what: str = "message", within: float = 0) -> None:
        """See that no message comes that fits.

        :raises AssertionError: one does.
        """
        message = self.take(fits, within)
        if message is not None:
            raise self._failure(f"expected no {what}; got {message.event!r}: {message.payload!r}")

    def assert_closed(self, code: int | None = None, reason: str | None = None, *, within: float | None = None) -> None:
        """See that the server has closed the connection.

        :raises AssertionError: it has not, or otherwise.
        """
        expected = "to be closed" + "".join(f" {said!r}" for said in (code, reason) if said is not None)
        if not self._wait(lambda: self.closed, within):
            raise self._failure(f"expected the connection {expected}; it is open")
        assert self.closed is not None
        if code not in (None, self.closed[0]) or reason not in (None, self.closed[1]):
            raise self._failure(f"expected the connection {expected}; it was, with {self.closed}")

    def broadcast_from(self, topic: str, event: str, payload: Any) -> None:
        """Broadcast as another subscriber does: all who have joined the topic get it, this client too."""
        raise NotImplementedError

    def channel(self, topic: str) -> Any:
        """Return the author's channel that this client has joined, if it runs in this process."""
        raise NotImplementedError

    def close(self) -> None:
        """Go away, as when a page is closed."""
        raise NotImplementedError

    def take(self, fits: Callable[[Message], bool], within: float | None = None) -> Message | None:
        """Return the first message that fits, once it has come; None: it does not."""
        message: Message | None = self._wait(lambda: self._take(fits), within)
        return message

    def messages(self, topic: str, event: str) -> list[Message]:
        """Return the messages of an event that no assertion has taken."""
        waiting: list[Message] = [entry.what for entry in self._waiting]
        return [message for message in waiting if (message.topic, message.event) == (topic, event)]

    def __enter__(self: Kind) -> Kind:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self.close()
        if failure is None:
            self._refute_crash()

    def _send(self, frame: Any) -> None:
        raise NotImplementedError

    def _wait(self, find: Callable[[], Any], within: float | None) -> Any:
        """Return what is found, once there is something; see :data:`WITHIN`."""
        found: list[Any] = []

        def look() -> bool:
            found.append(find())
            return bool(found[-1])

        return found[-1] if wait_for(look, self.within if within is None else within) else None

    def _arrive(self, message: Message) -> None:
        """Take what the server sends."""
        if message.topic == PHOENIX:
            return  # the answer to a heartbeat
        if message.topic in self._followers:
            self._followers[message.topic].hear(message.event, message.payload)
        self._waiting.append(self.transcript.note(self.name, GOT, message))

    def _take(self, fits: Callable[[Message], bool]) -> Message | None:
        for index, entry in enumerate(self._waiting):
            if fits(entry.what):
                entry.taken = True
                del self._waiting[index]
                if entry.what.event == ERROR:
                    self.transcript.take_failure()
                message: Message = entry.what
                return message
        return None

    def _end(self, code: int, reason: str) -> None:
        self.closed = code, reason
        self.transcript.note(self.name, CLOSED, f"closed by the server: {code} {reason}")

    def _broadcasts(self, topic: str, event: str) -> list[tuple[int, Broadcast]]:
        entries = enumerate(self.transcript.broadcasts[self._since :])
        return [
            (index, entry.what)
            for index, entry in entries
            if index not in self._taken_broadcasts and entry.what[:2] == (topic, event)
        ]

    def _take_broadcast(self, topic: str, event: str, payload: Any, exact: bool) -> Broadcast | None:
        for index, broadcast in self._broadcasts(topic, event):
            if difference(payload, broadcast.payload, exact) is None:
                self._taken_broadcasts.add(index)
                self.transcript.broadcasts[self._since + index].taken = True
                return broadcast
        return None

    def _refute_crash(self) -> None:
        """See that no channel has crashed unless the test knows: as in Phoenix, where a crash ends a test."""

        def crashes() -> list[Message]:
            return [entry.what for entry in self._waiting if entry.what.event == ERROR]

        found: list[Message] = [] if self.transcript.failed else self._wait(crashes, 0)
        if found:
            topic = found[0].topic
            raise self._failure(f"the channel of {topic!r} has crashed; if it is to, assert_push({ERROR!r}) says so")

    def _crash_before_reply(self, ref: str) -> Message | None:
        """Return what says that the channel is gone which was to reply."""
        pushed = self._pushed.get(ref)
        messages: list[Message] = self.messages(pushed.topic, ERROR) if pushed is not None else []
        return next((each for each in messages if pushed is not None and each.ref == pushed.join_ref), None)

    def _describe(self, ref: str) -> str:
        pushed = self._pushed.get(ref)
        return ref if pushed is None else f"{pushed.event!r} on {pushed.topic!r} (ref {ref})"

    def _failure(self, what: str, near: Sequence[str | None] = ()) -> AssertionError:
        """Make what a test is told: what it is about, how near others came, what happened, and the crash before it."""
        self.transcript.failed = True
        others = [f"  one came in which {wrong}" for wrong in near]
        failure = AssertionError("\n".join([f"{self.name}: {what}", *others, str(self.transcript)]))
        failure.__cause__ = self.transcript.take_failure()
        return failure


class Joined:
    """A topic that a client has joined."""

    def __init__(self, client: BaseClient, topic: str, join_ref: str, response: Any, follower: Follower) -> None:
        self.client = client
        self.topic = topic
        self.join_ref = join_ref
        #: The response of the join's reply.
        self.response = response
        self._follower = follower

    def push(self, event: str, payload: Any = None) -> str:
        """Send an event; return its ref, for :meth:`assert_reply`."""
        return self.client.push(self.topic, event, payload, self.join_ref)

    def call(self, event: str, payload: Any = None, *, within: float | None = None) -> Reply:
        """Send an event and wait for the reply.

        :raises AssertionError: it does not come.
        """
        return self.client.reply(self.push(event, payload), within)

    def leave(self) -> Reply:
        """Leave the topic."""
        return self.call(LEAVE)

    def assert_reply(
        self,
        ref: str,
        status: str = "ok",
        response: Expected = ANYTHING,
        *,
        exact: bool = False,
        within: float | None = None,
    ) -> Any:
        """See that a message is answered so; return the response. As :meth:`.Client.assert_reply`."""
        return self.client.assert_reply(ref, status, response, exact=exact, within=within)

    def refute_reply(
        self, ref: str, status: str | None = None, response: Expected = ANYTHING, *, within: float = 0
    ) -> None:
        """See that a message is not answered, or not so."""
        self.client.refute_reply(ref, status, response, within=within)

    def assert_push(
        self, event: str, payload: Expected = ANYTHING, *, exact: bool = False, within: float | None = None
    ) -> Any:
        """See that this client gets an event here, pushed or broadcast; return its payload.

        :raises AssertionError: it does not.
        """
        client, here = self.client, self._fits(event)
        message = client.take(lambda each: here(each) and difference(payload, each.payload, exact) is None, within)
        if message is None:
            others = filter(here, client.messages(self.topic, event))
            near = [difference(payload, each.payload, exact) for each in others]
            raise client._failure(f"expected {event!r} on {self.topic!r} with {payload!r}", near)
        return message.payload

    def refute_push(self, event: str, payload: Expected = ANYTHING, *, within: float = 0) -> None:
        """See that this client does not get an event here, neither pushed nor broadcast.

        :raises AssertionError: it does.
        """
        here = self._fits(event)
        self.client.refute(
            lambda each: here(each) and difference(payload, each.payload) is None,
            f"{event!r} on {self.topic!r}",
            within,
        )

    def assert_broadcast(
        self, event: str, payload: Expected = ANYTHING, *, exact: bool = False, within: float | None = None
    ) -> Any:
        """See that an event was broadcast on this topic, whoever got it. As :meth:`.Client.assert_broadcast`."""
        return self.client.assert_broadcast(self.topic, event, payload, exact=exact, within=within)

    def refute_broadcast(self, event: str, payload: Expected = ANYTHING, *, within: float = 0) -> None:
        """See that an event was not broadcast on this topic since the client connected."""
        self.client.refute_broadcast(self.topic, event, payload, within=within)

    def broadcast_from(self, event: str, payload: Any) -> None:
        """Broadcast here as another subscriber does: all who have joined get it, this client too."""
        self.client.broadcast_from(self.topic, event, payload)

    @property
    def channel(self) -> Any:
        """The author's channel, in the server: its ``assigns``, its ``send``."""
        return self.client.channel(self.topic)

    @property
    def presences(self) -> Presences:
        """Who is present here, as this client knows: each key with its metas."""
        wait_for(lambda: True, 0)
        return self._follower.presences

    def assert_presence_join(self, key: str, meta: Expected = ANYTHING, *, within: float | None = None) -> list[Any]:
        """See that this client is told that a key, with this meta, has come; return the metas that did.

        :raises AssertionError: it is not.
        """
        return self._assert_change(self._follower.joins, "come", key, meta, within)

    def assert_presence_leave(self, key: str, meta: Expected = ANYTHING, *, within: float | None = None) -> list[Any]:
        """See that this client is told that a key, with this meta, has gone; return the metas that did.

        :raises AssertionError: it is not.
        """
        return self._assert_change(self._follower.leaves, "gone", key, meta, within)

    def refute_presence_join(self, key: str, meta: Expected = ANYTHING, *, within: float = 0) -> None:
        """See that this client is not told that a key has come."""
        self._refute_change(self._follower.joins, "come", key, meta, within)

    def refute_presence_leave(self, key: str, meta: Expected = ANYTHING, *, within: float = 0) -> None:
        """See that this client is not told that a key has gone."""
        self._refute_change(self._follower.leaves, "gone", key, meta, within)

    def _assert_change(self, changes: list[Change], verb: str, key: str, meta: Any, within: float | None) -> list[Any]:
        change: Change | None = self.client._wait(lambda: _take_change(changes, key, meta), within)
        if change is None:
            others = [each for other in changes if other.key == key for each in other.metas]
            near = [difference(meta, each, where="meta") for each in others]
            raise self.client._failure(f"expected {key!r} to have {verb} on {self.topic!r} with {meta!r}", near)
        return change.metas

    def _refute_change(self, changes: list[Change], verb: str, key: str, meta: Any, within: float) -> None:
        if self.client._wait(lambda: _take_change(changes, key, meta), within):
            raise self.client._failure(f"expected {key!r} not to have {verb} on {self.topic!r}, and it has")

    def _fits(self, event: str) -> Callable[[Message], bool]:
        # What the JavaScript client checks: a frame with another join_ref belongs to a channel that is gone.
        refs = (None, self.join_ref)
        return lambda message: message.event == event and message.topic == self.topic and message.join_ref in refs


def heartbeat() -> Message:
    """Return a client's sign of life."""
    return Message(None, HEARTBEAT, PHOENIX, HEARTBEAT, {})


def _answers(ref: str) -> Callable[[Message], bool]:
    return lambda message: message.event == REPLY and message.ref == ref


def _take_change(changes: list[Change], key: str, meta: Any) -> Change | None:
    for index, change in enumerate(changes):
        if change.key == key and any(difference(meta, each) is None for each in change.metas):
            return changes.pop(index)
    return None
