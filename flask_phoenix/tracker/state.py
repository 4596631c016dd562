"""Who is here: the presences of all nodes as one value; every change answers with a diff.

Each node alone writes its own presences; the others hold copies. A node counts its deltas: that is its clock. Whoever
misses one asks that node for its whole state. A node's name is never used twice, not even after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from reprlib import repr as shorten
from sys import intern
from typing import Any, Literal, NamedTuple

from ..exceptions import InvalidMessage, InvalidOption

#: One device's facts: JSON, with its unique ``phx_ref``. Metas are handed out as they are held: never change one.
Meta = dict[str, Any]
#: Metas by key, in the order in which they came here.
Metas = dict[str, list[Meta]]
#: What nodes say to each other, as JSON: version (1), kind, the node's name and clock. A delta goes on with what joined
#: since the clock was one less, by topic and key, and the refs that left; a state with all there is; an ask with the
#: name of who is to answer, None for everybody.
Gossip = list[Any]
#: Gossip, and the node that is to hear it, None for every node.
Letters = list[tuple[str | None, Gossip]]
Kind = Literal["delta", "state", "ask", "heartbeat", "goodbye"]

#: An answer that has not come within this part of the ``down_period`` is taken for lost.
ASK_AGAIN = 1 / 6


class Entry(NamedTuple):
    """One presence, told apart from all others by its ref; it never changes, an update makes another."""

    topic: str
    key: str
    meta: Meta

    @property
    def ref(self) -> str:
        """The ``phx_ref`` of the meta, unique over all nodes and times."""
        return str(self.meta["phx_ref"])


class Diff(NamedTuple):
    """What has changed on a topic; no ref is on both sides."""

    joins: Metas
    leaves: Metas


#: The topics that have changed.
Diffs = dict[str, Diff]


class _Said(NamedTuple):
    """Gossip that has been read."""

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
    #: False: silent for too long; the entries are kept, but not told.
    up: bool = True
    #: When it was last heard, and when it was last asked for its state.
    seen: float = -inf
    asked: float = -inf


class Tracker:
    """The presences of all nodes, as far as they are known here.

    Its owner passes the time (in seconds, of a monotonic clock), sends what it says and tells it what has arrived.
    Gossip may get lost on the way, be doubled, delayed and shuffled.

    :param node: the name of this node, unique among all nodes and starts.
    :param down_period: seconds of silence after which a node's presences leave; they are back when it is.
    :param permdown_period: seconds of silence after which a node is forgotten.
    :raises InvalidOption: the second period is not longer than the first.
    """

    def __init__(self, node: str, down_period: float = 30.0, permdown_period: float = 1200.0) -> None:
        if not 0 < down_period < permdown_period:
            raise InvalidOption(f"permdown_period must be above down_period, got {permdown_period} and {down_period}")
        self.node = node
        self._down_period, self._permdown_period = down_period, permdown_period
        self._own = _NodeState()
        #: The own changes since the last delta.
        self._joined: dict[str, Entry] = {}
        self._left: list[str] = []
        self._over = False
        self._others: dict[str, _NodeState] = {}
        self._ended: dict[str, float] = {}
        #: What has been told: metas by topic, key and ref.
        self._topics: dict[str, dict[str, dict[str, Meta]]] = {}

    def list(self, topic: str) -> Metas:
        """Return the metas of a topic by key."""
        return {key: [*metas.values()] for key, metas in self._topics.get(topic, {}).items()}

    def get(self, topic: str, key: str) -> Sequence[Meta]:
        """Return the metas of one key."""
        return [*self._topics.get(topic, {}).get(key, {}).values()]

    def count(self, topic: str) -> int:
        """Return the number of keys on a topic."""
        return len(self._topics.get(topic, ()))

    def count_metas(self, topic: str) -> int:
        """Return the number of metas on a topic."""
        return sum(map(len, self._topics.get(topic, {}).values()))

    def topics(self) -> Sequence[str]:
        """Return the topics on which anybody is present."""
        return [*self._topics]

    def join(self, entry: Entry) -> Diffs:
        """Add a presence of this node.

        :raises ValueError: the ref is in use.
        """
        return self.update(None, entry)

    def leave(self, ref: str) -> Diffs:
        """Remove a presence of this node; one that is not here is no mistake."""
        return self._replace(ref, {})

    def update(self, ref: str | None, entry: Entry) -> Diffs:
        """Put a presence of this node in the place of another, if that is here: a leave and a join in one diff.

        :raises ValueError: the ref of the new one is in use.
        """
        joins = {entry.ref: entry}
        if entry.ref in self._own.entries or self._claims(joins, self._own):
            raise ValueError(f"the ref of a presence must be new, got {entry.ref!r}, which is in use")
        return self._replace(ref, joins)

    def _replace(self, ref: str | None, joins: dict[str, Entry]) -> Diffs:
        leaves = [ref] if ref is not None and ref in self._own.entries else []
        # What came after the last delta is left out of the next; for the others it has never been here.
        self._left += [left for left in leaves if self._joined.pop(left, None) is None]
        self._joined |= joins
        return self._change(self._own, joins, leaves)

    def flush(self) -> Gossip | None:
        """Return the own changes since the last time, for every node; None: there are none."""
        if not self._joined and not self._left:
            return None
        self._own.clock += 1
        joined, self._joined = self._joined, {}
        left, self._left = self._left, []
        return self._say("delta", _by_topic(joined.values()), left)

    def heartbeat(self) -> Gossip:
        """Return a sign of life, for every node."""
        return self._say("heartbeat")

    def hello(self) -> Gossip:
        """Return a newcomer's question for the state of every node."""
        return self._say("ask", None)

    def goodbye(self) -> Gossip:
        """Return the announcement, for every node, that this one ends; whatever it says later repeats that."""
        self._over = True
        return self._say("goodbye")

    def _say(self, kind: Kind, *rest: Any) -> Gossip:
        head = [1, "goodbye" if self._over else kind, self.node, self._own.clock]
        return head if self._over else [*head, *rest]

    def receive(self, message: Any, now: float) -> tuple[Diffs, Letters]:
        """Take what another node says; return what has changed, and what is to be sent.

        :raises InvalidMessage: no node of this version says that, or it claims refs of others; nothing has changed.
        """
        said = _read(message)
        if said.node == self.node or said.node in self._ended:
            return {}, []
        if said.kind == "goodbye":
            self._ended[said.node] = now
            return self.gone(said.node), []
        replica = self._others.get(said.node) or _NodeState()
        if self._claims(said.joins, replica):
            raise InvalidMessage(f"expected refs of {said.node!r} alone, got some of others: {shorten(message)}")
        self._others[said.node] = replica
        diffs = self._hear(replica, said, now)
        return diffs, self._reply(replica, said, now)

    def tick(self, now: float) -> Diffs:
        """Let time pass, every few seconds: silent nodes go down, and are forgotten in the end."""
        silent = [replica for replica in self._others.values() if replica.up and now - replica.seen > self._down_period]
        for replica in silent:
            replica.up = False
        self._others = {name: one for name, one in self._others.items() if now - one.seen <= self._permdown_period}
        self._ended = {name: at for name, at in self._ended.items() if now - at <= self._permdown_period}
        return self._tell((), [entry for replica in silent for entry in replica.entries.values()])

    def gone(self, node: str) -> Diffs:
        """Forget a node that has ended, as its link says; should it speak again, it is asked for its state."""
        replica = self._others.pop(node, None)
        return self._tell((), replica.entries.values()) if replica is not None and replica.up else {}

    def _claims(self, refs: Iterable[str], claimant: _NodeState) -> bool:
        others = (replica for replica in (self._own, *self._others.values()) if replica is not claimant)
        return not all(replica.entries.keys().isdisjoint(refs) for replica in others)

    def _hear(self, replica: _NodeState, said: _Said, now: float) -> Diffs:
        """Take what is new. While something is missing, a node stays as it is, even down."""
        if said.clock < replica.clock:
            return {}  # Said before what is known: late, and no sign of life.
        replica.seen = now
        leaves: Sequence[str] = ()
        if said.kind == "state":
            replica.asked = -inf
            leaves = [ref for ref in replica.entries if ref not in said.joins]
        elif said.kind == "delta" and said.clock == replica.clock + 1:
            leaves = said.leaves
        elif said.clock > replica.clock:
            return {}
        replica.clock = said.clock
        return self._change(replica, said.joins, leaves)

    def _reply(self, replica: _NodeState, said: _Said, now: float) -> Letters:
        """Ask for what is missing, unless an answer is due; tell one who asks the whole state."""
        letters: Letters = []
        if said.clock > replica.clock and now - replica.asked >= self._down_period * ASK_AGAIN:
            replica.asked = now
            letters.append((said.node, self._say("ask", said.node)))
        if said.kind == "ask" and said.to in (None, self.node):
            if (delta := self.flush()) is not None:  # So no delta ever begins in the middle of a state.
                letters.append((None, delta))
            letters.append((said.node, self._say("state", _by_topic(self._own.entries.values()))))
        return letters

    def _change(self, replica: _NodeState, joins: dict[str, Entry], leaves: Sequence[str]) -> Diffs:
        """Change a node's entries and tell what is different; of a node that was down, tell them all."""
        entries = replica.entries
        left = [entries.pop(ref) for ref in leaves if ref in entries]
        joined = {ref: entry for ref, entry in joins.items() if ref not in entries}
        entries |= joined
        was_up, replica.up = replica.up, True
        return self._tell(joined.values(), left) if was_up else self._tell(entries.values(), ())

    def _tell(self, joins: Collection[Entry], leaves: Collection[Entry]) -> Diffs:
        for topic, key, meta in leaves:
            keys = self._topics[topic]
            del keys[key][meta["phx_ref"]]
            if not keys[key]:
                del keys[key]
            if not keys:
                del self._topics[topic]
        for topic, key, meta in joins:
            self._topics.setdefault(topic, {}).setdefault(key, {})[meta["phx_ref"]] = meta
        joined, left = _by_topic(joins), _by_topic(leaves)
        return {topic: Diff(joined.get(topic, {}), left.get(topic, {})) for topic in {**left, **joined}}


def _by_topic(entries: Iterable[Entry]) -> dict[str, Metas]:
    topics: dict[str, Metas] = {}
    for topic, key, meta in entries:
        topics.setdefault(topic, {}).setdefault(key, []).append(meta)
    return topics


def _read(message: Any) -> _Said:
    """Read gossip, or raise :exc:`InvalidMessage`."""
    match message:
        case [1, "heartbeat" | "goodbye" as kind, str(node), int(clock)]:
            return _Said(kind, node, clock)
        case [1, "ask", str(node), int(clock), str() | None as to]:
            return _Said("ask", node, clock, to)
        case [1, "state", str(node), int(clock), dict(topics)] if (joins := _entries(topics)) is not None:
            return _Said("state", node, clock, None, joins)
        case [1, "delta", str(node), int(clock), dict(topics), list(left)] if (joins := _entries(topics)) is not None:
            if all(isinstance(ref, str) and ref not in joins for ref in left):
                return _Said("delta", node, clock, None, joins, left)
    raise InvalidMessage(f"expected what a node says of its presences, in version 1, got {shorten(message)}")


def _entries(topics: dict[str, Any]) -> dict[str, Entry] | None:
    """Read presences by topic and key; None: they are none, or a ref is there twice."""
    try:
        groups = [(intern(topic), key, metas) for topic, keys in topics.items() for key, metas in keys.items()]
        read = [Entry(topic, key, meta) for topic, key, metas in groups for meta in metas]
        entries = {entry.meta["phx_ref"]: entry for entry in read}
    except (AttributeError, KeyError, TypeError):
        return None
    return entries if len(entries) == len(read) and all(isinstance(ref, str) for ref in entries) else None
