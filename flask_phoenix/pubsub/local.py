"""Topics and the subscribers of this process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, NamedTuple, TypeVar

import gevent
from gevent import GreenletExit

from ..exceptions import InvalidPayload
from ..protocol.messages import INTERNAL, Broadcast, Frame, JsonText, Kept, Message, Traced, shown
from ..protocol.serializers import Serializer
from .adapter import Adapter
from .conflation import Conflation, conflated
from .failures import log_failure

log = logging.getLogger("flask_phoenix.pubsub")

AnyBroadcast = TypeVar("AnyBroadcast", bound=Broadcast)

#: Writes what :attr:`Lane.to_wire` has made to one client, at once; never blocks, never raises.
Write = Callable[[Any], None]
#: Is called with each broadcast, at once; longer work has to be queued. :meth:`PubSub.read` makes its payload a value.
Notify = Callable[[Broadcast], None]
#: Is called with a broadcast that cannot be encoded for a client, and with the reason.
Missed = Callable[[Broadcast, InvalidPayload], None]
#: Calls many receivers with the same data.
Each = Callable[[Sequence[Any], Any], None]


def call_each(receivers: Sequence[Callable[[Any], Any]], data: Any) -> None:
    """Call each receiver with the data; a receiver that fails is logged, and the others are called all the same."""
    for receive in receivers:
        try:
            receive(data)
        except GreenletExit:
            raise
        except BaseException:
            log_failure(log, "a broadcast failed at %r", receive)


class Lane(NamedTuple):
    """How a kind of client is written to: its serializer, and the framing of its transport.

    Equal lanes share one encoding of each broadcast (Phoenix calls it the fast lane).
    """

    serializer: Serializer
    #: Makes of a frame what the transport writes.
    to_wire: Callable[[Frame], Any]
    #: What :attr:`to_wire` makes is bytes of a stream: several may be joined and written at once.
    stream: bool
    #: Writes the same to many clients of this lane.
    each: Each = call_each
    #: Its clients are told the positions of broadcasts that are kept.
    refs: bool = False

    def encode(self, broadcast: Broadcast) -> Any:
        """Encode a broadcast, once for every client of this lane.

        :raises InvalidPayload: clients of this lane cannot take the payload.
        """
        return self.to_wire(self.serializer.encode_broadcast(broadcast))

    def encode_kept(self, broadcast: Kept) -> list[Any]:
        """Encode a broadcast with its position.

        :raises InvalidPayload: as :meth:`encode`.
        """
        return [self.to_wire(frame) for frame in self.serializer.encode_kept(Message(None, broadcast.ref, *broadcast))]


class Subscriber:
    """What receives the broadcasts of a topic.

    :param notify: called with each broadcast; of a subscriber with a lane, with those that are intercepted.
    :param lane: how the other broadcasts are encoded for a client, to which ``write`` writes them.
    :param intercepts: events that go to ``notify`` instead of the lane.
    :param missed: called in place of ``write`` where the lane cannot encode a broadcast: the client goes without.
    :param conflation: which broadcasts replace older ones that still wait for the client; None: none do.
    """

    __slots__ = ("conflation", "ignores", "intercepts", "lane", "missed", "name", "notify", "write")

    def __init__(
        self,
        notify: Notify,
        lane: Lane | None = None,
        write: Write | None = None,
        intercepts: frozenset[str] = frozenset(),
        missed: Missed | None = None,
        conflation: Conflation | None = None,
    ) -> None:
        self.notify = notify
        self.missed = missed
        self.lane = lane
        self.write = write
        self.intercepts = intercepts
        self.conflation = conflation
        #: Events that it is not given; to be set before it subscribes.
        self.ignores: frozenset[str] = frozenset()
        #: What a history knows it by, once it has one.
        self.name = ""

    @property
    def kind(self) -> Kind:
        """What subscribers of one group have in common."""
        return self.lane, self.intercepts, self.conflation, self.ignores


#: A lane, the intercepts, the conflation of a subscriber, and what it is not given.
Kind = tuple[Lane | None, frozenset[str], Conflation | None, frozenset[str]]


class Group:
    """The subscribers of a topic of one kind; a broadcast is encoded once for them all."""

    __slots__ = ("_writers", "aside", "conflation", "ignores", "lane", "members")

    def __init__(
        self,
        lane: Lane | None,
        intercepts: frozenset[str],
        conflation: Conflation | None,
        ignores: frozenset[str] = frozenset(),
    ) -> None:
        self.lane = lane
        #: Events that do not go through the lane.
        self.aside = intercepts | ignores
        self.ignores = ignores
        self.conflation = conflation
        self.members: dict[Subscriber, int] = {}
        self._writers: list[Write] | None = None

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber; one that is added twice is called twice."""
        self.members[subscriber] = self.members.get(subscriber, 0) + 1
        self._writers = None

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, however often it was added."""
        self.members.pop(subscriber, None)
        self._writers = None

    def writers(self, sender: Subscriber | None) -> list[Write]:
        """Return the write function of each client; the very same list until a member is added or removed."""
        if sender in self.members:
            return [member.write for member in self.members if member is not sender and member.write]
        if self._writers is None:
            self._writers = [member.write for member in self.members if member.write]
        return self._writers

    def listeners(self, sender: Subscriber | None) -> list[Notify]:
        """Return the notify function of each member, for broadcasts that do not go through the lane."""
        return [member.notify for member, times in self.members.items() if member is not sender for _ in range(times)]

    def miss(self, broadcast: Broadcast, sender: Subscriber | None, error: InvalidPayload) -> None:
        """Tell the members that they go without a broadcast."""
        for member in list(self.members):
            if member.missed is not None and member is not sender:
                member.missed(broadcast, error)


class Counts:
    """Counts what is written for clients: the wall between this room and the runtime's meter."""

    __slots__ = ()

    def send(self, count: int, size: int) -> None:
        """Count frames for clients, of so many bytes together."""
        raise NotImplementedError


class Stamp(NamedTuple):
    """When something was published."""

    #: On the monotonic clock of this process.
    at: float
    #: On another node.
    remote: bool


class Delivery(NamedTuple):
    """What the members of one group get of one broadcast."""

    #: The topic, or the one receiver: later frames for it wait until this has been delivered.
    key: Any
    #: What each receiver is called with.
    data: Any
    receivers: list[Any]
    #: The data is bytes of a stream and may be joined with what follows for the same receiver.
    stream: bool
    each: Each = call_each
    #: When it was published, where that is measured.
    stamp: Stamp | None = None


class PubSub:
    """The topics of this node, their subscribers, and the adapter that is asked for these topics.

    Payloads of broadcasts are bytes or :class:`.JsonText` here. Clients get the text as it is; whoever needs a value
    reads it, when its turn has come: as a value it may take twenty times the memory.

    :param deliver: takes each delivery, in order: the hub.
    :param loads: reads a payload.
    """

    def __init__(self, deliver: Callable[[Delivery], None], loads: Callable[[str], Any]) -> None:
        self._deliver = deliver
        self._loads = loads
        self._adapter: Adapter | None = None
        #: The topics that the adapter has confirmed.
        self._confirmed: set[str] = set()
        #: How many greenlets wait for the adapter to confirm a topic.
        self._waiting: Counter[str] = Counter()
        #: Topics that are asked for although nobody may be subscribed to them.
        self._held: set[str] = set()
        self._topics: dict[str, dict[Kind, Group]] = {}
        self._taps: dict[Notify, None] = {}
        #: Counts what clients are sent, where anybody looks.
        self.meter: Counts | None = None

    def attach(self, adapter: Adapter) -> None:
        """Receive what other nodes publish, from now on; may block until they know the topics of this node."""
        if self._adapter is not adapter:
            self._adapter = adapter
            for topic in [*self._topics, *(self._held - self._topics.keys())]:
                if self._adapter is adapter:  # else it was detached meanwhile
                    self._request(adapter, topic)
                    self._release(topic)  # if it has been left meanwhile

    def detach(self) -> None:
        """Receive the broadcasts of this node alone."""
        self._adapter = None
        self._confirmed.clear()

    def subscribe(self, topic: str, subscriber: Subscriber, timeout: float | None = None) -> None:
        """Give a subscriber the broadcasts of a topic from now on; may block until the other nodes know.

        :param timeout: seconds that it may block, where the adapter's own limit is too long; the adapter goes on.
        """
        if timeout is None:
            self._confirm(topic)
        elif self._adapter is not None and topic not in self._confirmed:
            confirming = Context().run(gevent.spawn, self._try_to_confirm, topic)
            confirming.join(max(0.0, timeout))
            if not confirming.ready():
                log.warning("%s is not confirmed in time: until it is, what other nodes say is missed", shown(topic))
            elif confirming.value is not None:
                raise confirming.value
        self.add(topic, subscriber)

    def _confirm(self, topic: str) -> None:
        while self._adapter is not None and topic not in self._confirmed:  # another one may be attached meanwhile
            self._request(self._adapter, topic)

    def _try_to_confirm(self, topic: str) -> Exception | None:
        """Return the failure, for whoever still waits."""
        try:
            self._confirm(topic)
        except Exception as failure:
            return failure
        return None

    def add(self, topic: str, subscriber: Subscriber) -> None:
        """Give a subscriber the broadcasts of a topic that is held; never blocks."""
        groups = self._topics.setdefault(topic, {})
        key = subscriber.kind
        if key not in groups:
            groups[key] = Group(*key)
        groups[key].add(subscriber)

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """End a subscription, however often it was made."""
        groups = self._topics.get(topic, {})
        key = subscriber.kind
        if key not in groups:
            return
        groups[key].remove(subscriber)
        if not groups[key].members:
            del groups[key]
        if not groups:
            del self._topics[topic]
            self._release(topic)

    def hold(self, topic: str) -> None:
        """Ask for a topic until :meth:`release`, whoever subscribes to it; may block until the other nodes know."""
        self._held.add(topic)
        while self._adapter is not None and topic in self._held and topic not in self._confirmed:
            self._request(self._adapter, topic)
        self._release(topic)

    def release(self, topic: str) -> None:
        """Hold a topic no more."""
        self._held.discard(topic)
        self._release(topic)

    def subscribed(self, topic: str) -> bool:
        """Tell whether a topic has a subscriber here."""
        return topic in self._topics

    def size(self, topic: str) -> int:
        """Return how many subscribers a topic has here."""
        return sum(len(group.members) for group in list(self._topics.get(topic, {}).values()))

    def subscribers(self) -> dict[str, list[Subscriber]]:
        """Return the subscribers that each topic has here."""
        return {
            topic: [each for group in groups.values() for each in group.members]
            for topic, groups in self._topics.items()
        }

    def sizes(self) -> dict[str, int]:
        """Return how many subscribers each topic has here."""
        return {topic: sum(len(group.members) for group in groups.values()) for topic, groups in self._topics.items()}

    def tap(self, notify: Notify) -> Callable[[], None]:
        """Call a function with every broadcast here but those between nodes; return a function that ends it."""
        self._taps[notify] = None
        return lambda: self._taps.pop(notify, None)

    def takes(self, broadcast: Broadcast) -> bool:
        """Tell whether a topic has clients here, and all of them can be sent a broadcast."""
        lanes = [lane for lane, *_ in list(self._topics.get(broadcast.topic, ())) if lane is not None]
        try:
            for lane in lanes:
                lane.encode(broadcast)
        except InvalidPayload:
            return False
        return bool(lanes)

    def heard(self, topic: str) -> bool:
        """Tell whether anything here would receive a broadcast on a topic."""
        return topic in self._topics or bool(self._taps)

    def broadcast(self, broadcast: Broadcast, sender: Subscriber | None = None, stamp: Stamp | None = None) -> None:
        """Deliver a broadcast to everybody who is subscribed to its topic at this moment, except the sender.

        A client that cannot be sent it goes without; nobody else does.
        """
        for group in list(self._topics.get(broadcast.topic, {}).values()):
            self._deliver_to(group, broadcast, sender, stamp)
        if self._taps and not broadcast.topic.startswith(INTERNAL):
            self._deliver(Delivery(broadcast.topic, broadcast, list(self._taps), False))

    def read(self, broadcast: AnyBroadcast) -> AnyBroadcast:
        """Return a broadcast with a value as its payload, which is the caller's own."""
        if type(broadcast.payload) is not JsonText:
            return broadcast
        read = broadcast._replace(payload=self._loads(broadcast.payload))
        if isinstance(broadcast, Kept) and isinstance(read, Kept):
            read.ref, read.sender = broadcast.ref, broadcast.sender
        if isinstance(broadcast, Traced) and isinstance(read, Traced):
            read.trace = broadcast.trace
        return read

    def clear(self) -> None:
        """Forget all subscribers but those that tap."""
        self._topics.clear()
        self._waiting.clear()
        self._held.clear()

    def _deliver_to(self, group: Group, broadcast: Broadcast, sender: Subscriber | None, stamp: Stamp | None) -> None:
        topic, lane = broadcast.topic, group.lane
        if lane is None or broadcast.event in group.aside:
            if broadcast.event not in group.ignores and (listeners := group.listeners(sender)):
                self._deliver(Delivery(topic, broadcast, listeners, False))
        elif writers := group.writers(sender):
            try:
                due = broadcast if lane.serializer.takes_text else self.read(broadcast)
                data = lane.encode_kept(due) if lane.refs and type(due) is Kept else [lane.encode(due)]
            except InvalidPayload as error:
                group.miss(broadcast, sender, error)
            except Exception:
                log_failure(log, "%r cannot encode %s on %s", lane.serializer, shown(broadcast.event), shown(topic))
            else:
                if self.meter is not None:
                    self.meter.send(len(writers) * len(data), len(writers) * sum(map(len, data)))
                conflation = group.conflation
                if conflation is not None and lane.stream and (find_key := conflation.finder(broadcast, self.read)):
                    data = [conflated([(find_key, piece)]) for piece in data]
                for piece in data:
                    self._deliver(Delivery(topic, piece, writers, lane.stream, lane.each, stamp))

    def _request(self, adapter: Adapter, topic: str) -> None:
        self._waiting[topic] += 1
        try:
            adapter.subscribe(topic)
        except BaseException:
            self._request_ended(topic)
            self._release(topic)
            raise
        self._request_ended(topic)
        if self._adapter is adapter:
            self._confirmed.add(topic)

    def _request_ended(self, topic: str) -> None:
        self._waiting[topic] -= 1
        if not self._waiting[topic]:
            del self._waiting[topic]

    def _release(self, topic: str) -> None:
        """Unsubscribe the adapter from a topic that has no subscriber, unless a subscription is under way."""
        wanted = topic in self._topics or topic in self._waiting or topic in self._held
        if self._adapter is not None and not wanted:
            self._confirmed.discard(topic)
            try:
                self._adapter.unsubscribe(topic)
            except Exception:  # whoever leaves has left, whatever an adapter makes of it
                log.exception("the adapter failed to unsubscribe from %s", shown(topic))


class Subscription:
    """A topic that is heard from :meth:`start` to :meth:`stop`; one of them may come while another blocks."""

    def __init__(self, pubsub: PubSub, topic: str, notify: Notify) -> None:
        self._pubsub, self._topic, self._notify = pubsub, topic, notify
        #: Of this very start: in a stop and another start meanwhile, one must not end what the other needs.
        self._subscriber: Subscriber | None = None

    def start(self) -> bool:
        """Hear the topic; may block. Return whether this start has begun it, and nobody has stopped it meanwhile."""
        if self._subscriber is not None:
            return False
        subscriber = self._subscriber = Subscriber(self._notify)
        self._pubsub.subscribe(self._topic, subscriber)
        if self._subscriber is not subscriber:
            self._pubsub.unsubscribe(self._topic, subscriber)
            return False
        return True

    def stop(self) -> None:
        """Hear it no more."""
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            self._pubsub.unsubscribe(self._topic, subscriber)
