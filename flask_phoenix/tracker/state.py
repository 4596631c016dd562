"""The presences of all nodes as a value (pure); each change returns diffs.

Each node alone changes its own entries; the others hold copies. A node counts its deltas: that is its clock. A node
that misses a delta of another asks it for its whole state. A node's name is never used twice, not even after a restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from reprlib import repr as shorten
from sys import intern
from typing import Any, Literal, NamedTuple

from ..exceptions import InvalidMessage

#: The facts of one device: JSON, with its unique ``phx_ref``. Metas are returned as they are held: never change one.
Meta = dict[str, Any]
#: Metas by key, in the order in which they arrived here.
Metas = dict[str, list[Meta]]
#: What nodes tell each other, as JSON: version (1), kind, the node's name and clock. After these, a delta has the
#: entries that joined since the clock was one less, by topic and key, and the refs that left; a state has all entries;
#: an ask has the name of the node that is to answer, None for all nodes.
Gossip = list[Any]
#: Gossip to send, each with the node that is to receive it, None for all nodes.
Outgoing = list[tuple[str | None, Gossip]]
Kind = Literal["delta", "state", "ask", "heartbeat", "goodbye"]

#: The share of the ``down_period`` after which an answer that has not arrived is asked for again.
ASK_AGAIN_SHARE = 1 / 6


class Entry(NamedTuple):
    """One presence, identified by its ref. It never changes: an update makes another."""

    topic: str
    key: str
    meta: Meta

    @property
    def ref(self) -> str:
        """The ``phx_ref`` of the meta, unique among all nodes and times."""
        return str(self.meta["phx_ref"])


class Diff(NamedTuple):
    """What has changed on a topic; no ref is on both sides."""

    joins: Metas
    leaves: Metas


#: The changes, by topic.
Diffs = dict[str, Diff]


class _Message(NamedTuple):
    """Gossip that has been read and checked."""

    kind: Kind
    node: str
    clock: int
    to: str | None = None
    joins: dict[str, Entry] = {}  # noqa: RUF012 - read only
    leaves: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class _NodeState:
    """What is known of one node."""

    clock: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    #: False: it was silent for too long; its entries are kept, but not shown.
    up: bool = True
    #: When it was last heard, and when it was last asked for its state.
    seen: float = -inf
    asked: float = -inf


class Tracker:
    """The presences of all nodes, as far as they are known here.

    Its owner passes the time (seconds of a monotonic clock), sends the gossip that it returns, and hands it the gossip
    that arrives. Gossip may be lost, doubled, delayed and reordered on its way.

    :param node: the name of this node, unique among all nodes and starts.
    :param down_period: seconds of silence after which a node is down: its entries leave until it is heard again.
    :param permdown_period: seconds of silence after which a node is forgotten; more than the ``down_period``.
    :param grace: seconds for which what departs is still shown, unless its key is taken up again on its topic before.
    """

    def __init__(
        self, node: str, down_period: float = 30.0, permdown_period: float = 1200.0, grace: float = 0.0
    ) -> None:
        self.node = node
        self._grace = grace
        #: What departs: by topic and key, the node of each ref; and the same in the order in which it is over.
        self._departing: dict[tuple[str, str], dict[str, _NodeState]] = {}
        self._departures: deque[tuple[float, Entry]] = deque()
        self._down_period, self._permdown_period = down_period, permdown_period
        self._own = _NodeState()
        #: The changes of this node since its last delta.
        self._joined: dict[str, Entry] = {}
        self._left: list[str] = []
        self._over = False
        self._others: dict[str, _NodeState] = {}
        #: When each node said goodbye.
        self._ended: dict[str, float] = {}
        #: What is shown: metas by topic, key and ref.
        self._topics: dict[str, dict[str, dict[str, Meta]]] = {}

    def list(self, topic: str) -> Metas:
        """Return the metas of a topic by key."""
        # Copied first, in one go: another thread may ask, while this one changes it.
        return {key: [*metas.values()] for key, metas in self._topics.get(topic, {}).copy().items()}

    def get(self, topic: str, key: str) -> Sequence[Meta]:
        """Return the metas of one key."""
        return [*self._topics.get(topic, {}).get(key, {}).values()]

    def count(self, topic: str) -> int:
        """Return the number of keys on a topic."""
        return len(self._topics.get(topic, ()))

    @property
    def size(self) -> int:
        """How many entries are shown, of all topics."""
        return sum(len(replica.entries) for replica in (self._own, *self._others.values()) if replica.up)

    def join(self, entry: Entry) -> Diffs:
        """Add an entry of this node.

        :raises ValueError: its ref is in use.
        """
        return self.update(None, entry)

    def leave(self, ref: str) -> Diffs:
        """Remove an entry of this node; without one of that ref, nothing changes."""
        return self._replace(ref, {})

    def depart(self, ref: str, now: float) -> Diffs:
        """Let an entry of this node leave when its grace is over; a new one of its key replaces it before that."""
        if not self._grace or ref not in self._own.entries:
            return self.leave(ref)
        self._put_down(self._own, [self._own.entries[ref]], now)
        return {}

    def expire(self, now: float) -> Diffs:
        """Remove what departed, and was not taken up in its grace."""
        over = []
        while self._departures and self._departures[0][0] <= now:
            over.append(self._departures.popleft()[1])
        return self._show((), [left for entry in over for left in self._drop((entry.topic, entry.key), entry.ref)])

    @property
    def next_expiry(self) -> float | None:
        """When :meth:`expire` has something to do; None: nothing departs."""
        return self._departures[0][0] if self._departing else None

    @property
    def hands_over(self) -> bool:
        """Whether entries of this node depart, which other nodes may take up."""
        return any(self._own in refs.values() for refs in self._departing.values())

    @property
    def changed(self) -> bool:
        """Whether :meth:`flush` has something to tell."""
        return bool(self._joined or self._left)

    def update(self, ref: str | None, entry: Entry) -> Diffs:
        """Replace an entry of this node by another: a leave and a join in one diff; without one of that ref, a join.

        :raises ValueError: the ref of the new entry is in use.
        """
        joins = {entry.ref: entry}
        if entry.ref in self._own.entries or self._overlaps(joins, self._own):
            raise ValueError(f"the ref of a presence must be new, got {entry.ref!r}, which is in use")
        return self._replace(ref, joins)

    def _replace(self, ref: str | None, joins: dict[str, Entry]) -> Diffs:
        leaves = [ref] if ref is not None and ref in self._own.entries else []
        self._note_left(leaves)
        self._joined |= joins
        return self._change(self._own, joins, leaves)

    def _note_left(self, refs: Iterable[str]) -> None:
        """Tell of refs in the next delta; what joined after the last one is left out: nobody ever knew it."""
        self._left += [ref for ref in refs if self._joined.pop(ref, None) is None]

    def flush(self) -> Gossip | None:
        """Return the changes of this node since the last time, for all nodes; None: there are none."""
        if not self.changed:
            return None
        self._own.clock += 1
        joined, self._joined = self._joined, {}
        left, self._left = self._left, []
        return self._gossip("delta", _by_topic(joined.values()), left)

    def heartbeat(self) -> Gossip:
        """Return a sign of life, for all nodes."""
        return self._gossip("heartbeat")

    def hello(self) -> Gossip:
        """Return the question of a node that has just started, for the state of each node."""
        return self._gossip("ask", None)

    def goodbye(self) -> Gossip:
        """Return the announcement that this node ends, for all nodes; all gossip after it repeats it."""
        self._over = True
        return self._gossip("goodbye")

    def _gossip(self, kind: Kind, *rest: Any) -> Gossip:
        head = [1, "goodbye" if self._over else kind, self.node, self._own.clock]
        return head if self._over else [*head, *rest]

    def receive(self, gossip: Any, now: float) -> tuple[Diffs, Outgoing]:
        """Take the gossip of another node; return what has changed, and what is to be sent.

        :raises InvalidMessage: it is no gossip of this version, or has refs of another node; nothing has changed.
        """
        message = _read(gossip)
        if message.node == self.node or message.node in self._ended:
            return {}, []
        if message.kind == "goodbye":
            self._ended[message.node] = now
            return self.gone(message.node, now), []
        replica = self._others.get(message.node) or _NodeState()
        if self._overlaps(message.joins, replica):
            raise InvalidMessage(f"expected refs of {message.node!r} alone, got some of others: {shorten(gossip)}")
        self._others[message.node] = replica
        diffs = self._apply(replica, message, now)
        return diffs, self._answers(replica, message, now)

    def tick(self, now: float) -> Diffs:
        """Let time pass, every few seconds: silent nodes go down, and are forgotten in the end."""
        silent = [replica for replica in self._others.values() if replica.up and now - replica.seen > self._down_period]
        for replica in silent:
            replica.up = False
        self._others = {name: one for name, one in self._others.items() if now - one.seen <= self._permdown_period}
        self._ended = {name: at for name, at in self._ended.items() if now - at <= self._permdown_period}
        return self._show((), [entry for replica in silent for entry in replica.entries.values()])

    def gone(self, node: str, now: float) -> Diffs:
        """Forget a node whose end the adapter has seen; when it is heard again, it is asked for its state."""
        replica = self._others.pop(node, None)
        if replica is None or not replica.up:
            return {}
        if not self._grace:
            return self._show((), replica.entries.values())
        self._put_down(replica, replica.entries.values(), now)
        return {}

    # What departs: it is shown until its grace is over, or its key is taken up.

    def _put_down(self, replica: _NodeState, entries: Iterable[Entry], now: float) -> None:
        for entry in entries:
            self._departing.setdefault((entry.topic, entry.key), {})[entry.ref] = replica
            self._departures.append((now + self._grace, entry))

    def _drop(self, place: tuple[str, str], ref: str) -> Sequence[Entry]:
        """Let an entry depart no more, and forget it; return it, if it was shown."""
        refs = self._departing.get(place, {})
        replica = refs.pop(ref, None)
        if not refs:
            self._departing.pop(place, None)
        if replica is None or (entry := replica.entries.pop(ref, None)) is None:
            return ()
        if replica is self._own:
            self._note_left([ref])
        return [entry] if replica.up else ()

    def _take_up(self, joined: dict[str, Entry]) -> tuple[dict[str, Entry], Sequence[Entry]]:
        """Let each entry that joins replace one of its key that departs; return what is new, and what leaves for it.

        An entry that was taken for gone, with its node, and is heard of again, goes on as if nothing had been.
        """
        if not self._departing:
            return joined, []
        places = {ref: (entry.topic, entry.key) for ref, entry in joined.items()}
        back = {ref for ref, place in places.items() if self._drop(place, ref)}
        new = {ref: entry for ref, entry in joined.items() if ref not in back}
        return new, [left for ref in new for left in self._drop_oldest(places[ref])]

    def _drop_oldest(self, place: tuple[str, str]) -> Sequence[Entry]:
        refs = self._departing.get(place)
        return self._drop(place, next(iter(refs))) if refs else ()

    def _overlaps(self, refs: Iterable[str], replica: _NodeState) -> bool:
        """Tell whether some of a node's refs are those of another node."""
        others = (other for other in (self._own, *self._others.values()) if other is not replica)
        return not all(other.entries.keys().isdisjoint(refs) for other in others)

    def _apply(self, replica: _NodeState, message: _Message, now: float) -> Diffs:
        """Apply what is new. While a delta is missing, the entries of a node stay as they are, even if it was down."""
        if message.clock < replica.clock:
            return {}  # It was sent before what is known: late, and no sign of life.
        replica.seen = now
        leaves: Sequence[str] = ()
        if message.kind == "state":
            replica.asked = -inf
            leaves = [ref for ref in replica.entries if ref not in message.joins]
        elif message.kind == "delta" and message.clock == replica.clock + 1:
            leaves = message.leaves
        elif message.clock > replica.clock:
            return {}
        replica.clock = message.clock
        return self._change(replica, message.joins, leaves)

    def _answers(self, replica: _NodeState, message: _Message, now: float) -> Outgoing:
        """Ask for what is missing, unless an answer is awaited; send this node's state where it is asked for."""
        answers: Outgoing = []
        if message.clock > replica.clock and now - replica.asked >= self._down_period * ASK_AGAIN_SHARE:
            replica.asked = now
            answers.append((message.node, self._gossip("ask", message.node)))
        if message.kind == "ask" and message.to in (None, self.node):
            if (delta := self.flush()) is not None:  # so that a state is always that of a clock
                answers.append((None, delta))
            answers.append((message.node, self._gossip("state", _by_topic(self._own.entries.values()))))
        return answers

    def _change(self, replica: _NodeState, joins: dict[str, Entry], leaves: Sequence[str]) -> Diffs:
        """Change the entries of a node and return the differences; of a node that was down, all its entries join."""
        entries = replica.entries
        left = [entries.pop(ref) for ref in leaves if ref in entries]
        joined = {ref: entry for ref, entry in joins.items() if ref not in entries}
        new, replaced = self._take_up(joined)
        entries |= joined
        was_up, replica.up = replica.up, True
        return self._show(new.values(), [*left, *replaced]) if was_up else self._show(entries.values(), replaced)

    def _show(self, joins: Collection[Entry], leaves: Collection[Entry]) -> Diffs:
        """Change what is shown, and return that as diffs."""
        for topic, key, meta in joins:
            self._topics.setdefault(topic, {}).setdefault(key, {})[meta["phx_ref"]] = meta
        for topic, key, meta in leaves:
            keys = self._topics[topic]
            del keys[key][meta["phx_ref"]]
            if not keys[key]:
                del keys[key]
            if not keys:
                del self._topics[topic]
        joined, left = _by_topic(joins), _by_topic(leaves)
        return {topic: Diff(joined.get(topic, {}), left.get(topic, {})) for topic in {**left, **joined}}


def _by_topic(entries: Iterable[Entry]) -> dict[str, Metas]:
    topics: dict[str, Metas] = {}
    for topic, key, meta in entries:
        topics.setdefault(topic, {}).setdefault(key, []).append(meta)
    return topics


def _read(gossip: Any) -> _Message:
    """Read and check gossip.

    :raises InvalidMessage: it is none.
    """
    match gossip:
        case [1, "heartbeat" | "goodbye" as kind, str(node), int(clock)]:
            return _Message(kind, node, clock)
        case [1, "ask", str(node), int(clock), str() | None as to]:
            return _Message("ask", node, clock, to)
        case [1, "state", str(node), int(clock), dict(topics)] if (joins := _entries(topics)) is not None:
            return _Message("state", node, clock, None, joins)
        case [1, "delta", str(node), int(clock), dict(topics), list(left)] if (joins := _entries(topics)) is not None:
            if all(isinstance(ref, str) and ref not in joins for ref in left):
                return _Message("delta", node, clock, None, joins, left)
    raise InvalidMessage(f"expected what a node tells of its presences, in version 1, got {shorten(gossip)}")


def _entries(topics: dict[str, Any]) -> dict[str, Entry] | None:
    """Read entries by topic and key; None: they are none, or a ref is there twice."""
    try:
        groups = [(intern(topic), key, metas) for topic, keys in topics.items() for key, metas in keys.items()]
        read = [Entry(topic, key, meta) for topic, key, metas in groups for meta in metas]
        entries = {entry.meta["phx_ref"]: entry for entry in read}
    except (AttributeError, KeyError, TypeError):
        return None
    return entries if len(entries) == len(read) and all(isinstance(ref, str) for ref in entries) else None
