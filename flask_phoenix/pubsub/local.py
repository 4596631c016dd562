"""Who hears it: topics and their subscribers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..protocol.messages import INTERNAL, Broadcast, Frame, JsonText
from ..protocol.serializers import Serializer
from .adapter import Adapter

log = logging.getLogger(__name__)

#: Takes one piece of bytes (or whatever a lane makes) to one client, at once and without ever raising or blocking.
Write = Callable[[Any], None]
#: Told of a broadcast, at once; the work that follows is done elsewhere.
Notify = Callable[[Broadcast], None]


#: Gives the same data to many receivers.
Each = Callable[[Sequence[Any], Any], None]


def call_each(receivers: Sequence[Callable[[Any], Any]], data: Any) -> None:
    """Call many receivers; what one of them fails at is nobody else's."""
    for receive in receivers:
        try:
            receive(data)
        except Exception:
            log.exception("a broadcast failed at %r", receive)


class Lane(NamedTuple):
    """How a kind of client is written to: its serializer, and the framing of its transport.

    Equal lanes share one encoding of each broadcast (Phoenix calls it the fast lane).
    """

    serializer: Serializer
    to_wire: Callable[[Frame], Any]
    #: What :attr:`frame` makes is bytes of a stream: pieces may be glued together.
    stream: bool
    #: How the same piece is written to many clients of this lane.
    each: Each = call_each

    def encode(self, broadcast: Broadcast) -> Any:
        """Write a broadcast for every client of this lane.

        :raises InvalidPayload: clients of this lane cannot take the payload.
        """
        return self.to_wire(self.serializer.encode_broadcast(broadcast))


class Subscriber:
    """One who hears a topic.

    :param notify: told of broadcasts that do not take the lane: all of them, or those that are intercepted.
    :param lane: with ``write``: the road straight to a client.
    :param intercepts: events that are told to ``notify`` instead.
    """

    __slots__ = ("intercepts", "lane", "notify", "write")

    def __init__(
        self,
        notify: Notify,
        lane: Lane | None = None,
        write: Write | None = None,
        intercepts: frozenset[str] = frozenset(),
    ) -> None:
        self.notify = notify
        self.lane = lane
        self.write = write
        self.intercepts = intercepts


class Group:
    """The subscribers of a topic that hear it in one way; a broadcast is encoded once for each group's lane."""

    __slots__ = ("_writers", "intercepts", "lane", "members")

    def __init__(self, lane: Lane | None, intercepts: frozenset[str]) -> None:
        self.lane = lane
        self.intercepts = intercepts
        self.members: dict[Subscriber, int] = {}
        self._writers: list[Write] | None = None

    def add(self, subscriber: Subscriber) -> None:
        """Let a subscriber in, once more if it is here: who subscribes twice hears twice."""
        self.members[subscriber] = self.members.get(subscriber, 0) + 1
        self._writers = None

    def remove(self, subscriber: Subscriber) -> None:
        """Let a subscriber out, however often it is here."""
        self.members.pop(subscriber, None)
        self._writers = None

    def writers(self, sender: Subscriber | None) -> list[Write]:
        """Return the roads to the clients; the very same list as long as nobody comes or goes."""
        if sender in self.members:
            return [member.write for member in self.members if member is not sender and member.write]
        if self._writers is None:
            self._writers = [member.write for member in self.members if member.write]
        return self._writers

    def listeners(self, sender: Subscriber | None) -> list[Notify]:
        """Return whom to tell, for events that do not take the lane."""
        return [member.notify for member, times in self.members.items() if member is not sender for _ in range(times)]


class Delivery(NamedTuple):
    """What one group is to get of one broadcast."""

    #: The topic, or the one receiver: while this is undelivered, later frames to those concerned wait behind it.
    key: Any
    #: What each receiver is called with.
    data: Any
    receivers: list[Any]
    #: The data is bytes of a stream and may be glued to what follows for the same receiver.
    stream: bool
    each: Each = call_each


class PubSub:
    """Topics, the subscribers of this node, and the way from a broadcast to what each of them gets.

    :param deliver: takes what is due, in order: the hub.
    :param loads: reads JSON, for those who hear a broadcast of another node and take no text.
    """

    def __init__(self, deliver: Callable[[Delivery], None], loads: Callable[[str], Any]) -> None:
        self._deliver = deliver
        self._loads = loads
        self._adapter: Adapter | None = None
        #: The topics that the adapter has confirmed.
        self._confirmed: set[str] = set()
        #: How many are on their way in, by topic.
        self._entering: Counter[str] = Counter()
        self._topics: dict[str, dict[tuple[Lane | None, frozenset[str]], Group]] = {}
        self._taps: dict[Notify, None] = {}

    def attach(self, adapter: Adapter) -> None:
        """Hear the other nodes too, from now on; may block until they know of the topics here."""
        if self._adapter is not adapter:
            self._adapter = adapter
            for topic in list(self._topics):
                self._request(adapter, topic)
                self._release(topic)  # if it has been left meanwhile

    def detach(self) -> None:
        """Hear this node alone."""
        self._adapter = None
        self._confirmed.clear()

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Let a subscriber hear a topic from now on; may block until the other nodes know."""
        while self._adapter is not None and topic not in self._confirmed:  # again, should another come meanwhile
            self._request(self._adapter, topic)
        groups = self._topics.setdefault(topic, {})
        key = (subscriber.lane, subscriber.intercepts)
        if key not in groups:
            groups[key] = Group(*key)
        groups[key].add(subscriber)

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Stop it, however often it was subscribed."""
        groups = self._topics.get(topic, {})
        key = (subscriber.lane, subscriber.intercepts)
        if key not in groups:
            return
        groups[key].remove(subscriber)
        if not groups[key].members:
            del groups[key]
        if not groups:
            del self._topics[topic]
            self._release(topic)

    def subscribed(self, topic: str) -> bool:
        """Tell whether anybody here hears a topic."""
        return topic in self._topics

    def tap(self, notify: Notify) -> Callable[[], None]:
        """Tell of every broadcast here but what nodes say among themselves; the answer is a function that ends it."""
        self._taps[notify] = None
        return lambda: self._taps.pop(notify, None)

    def check(self, broadcast: Broadcast) -> None:
        """See whether everybody here can take a broadcast.

        :raises InvalidPayload: somebody cannot.
        """
        for lane, _ in list(self._topics.get(broadcast.topic, ())):
            if lane is not None:
                lane.encode(broadcast)

    def broadcast(self, broadcast: Broadcast, sender: Subscriber | None = None) -> None:
        """Hand a broadcast to everybody who hears its topic at this moment, all but the sender.

        :raises InvalidPayload: a subscriber cannot take the payload; nobody has been served then.
        :raises InvalidMessage: it comes from another node and is no JSON; the same holds.
        """
        due = [self._due(group, broadcast, sender) for group in list(self._topics.get(broadcast.topic, {}).values())]
        for delivery in due:
            if delivery.receivers:
                self._deliver(delivery)
        if self._taps and not broadcast.topic.startswith(INTERNAL):
            self._deliver(Delivery(broadcast.topic, self._read(broadcast), list(self._taps), False))

    def _read(self, broadcast: Broadcast) -> Broadcast:
        if type(broadcast.payload) is not JsonText:
            return broadcast
        return broadcast._replace(payload=self._loads(broadcast.payload))

    def _request(self, adapter: Adapter, topic: str) -> None:
        self._entering[topic] += 1
        try:
            adapter.subscribe(topic)
        except BaseException:
            self._entered(topic)
            self._release(topic)
            raise
        self._entered(topic)
        if self._adapter is adapter:
            self._confirmed.add(topic)

    def _entered(self, topic: str) -> None:
        self._entering[topic] -= 1
        if not self._entering[topic]:
            del self._entering[topic]

    def _release(self, topic: str) -> None:
        """Leave a topic, unless somebody is in it, or waits for the other nodes to know that he comes."""
        if self._adapter is not None and topic not in self._topics and topic not in self._entering:
            self._confirmed.discard(topic)
            self._adapter.unsubscribe(topic)

    def _due(self, group: Group, broadcast: Broadcast, sender: Subscriber | None) -> Delivery:
        if group.lane is None or broadcast.event in group.intercepts:
            return Delivery(broadcast.topic, self._read(broadcast), group.listeners(sender), False)
        writers = group.writers(sender)
        taken = broadcast if group.lane.serializer.takes_text else self._read(broadcast)
        data = group.lane.encode(taken) if writers else b""
        return Delivery(broadcast.topic, data, writers, group.lane.stream, group.lane.each)
