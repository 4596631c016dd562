"""Who is here in one process: who owns each entry, and what clients and the author's hooks are told of changes."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import gevent

from ..channel import ChannelRuntime, NewMeta
from ..exceptions import AlreadyTracked, InvalidPayload, InvalidReturn, NotTracked, PhoenixError, Unsupported
from ..protocol.json import Json
from ..protocol.messages import Broadcast
from ..runtime.engine import FAILURES, Engine
from ..runtime.inbox import Inbox
from .replica import Replica
from .state import Diff, Diffs, Entry, Meta

log = logging.getLogger(__name__)

#: Each key with its metas, as clients get it: ``{"ada": {"metas": [{"phx_ref": ...}]}}``.
Presences = dict[str, dict[str, Any]]

DIFF, COUNT = "presence_diff", "presence_count"
#: Seconds between two counts of a topic that is only counted.
COUNT_PERIOD = 1.0


class Hooks:
    """What an author may have done at changes; :class:`.Presence` is subclassed for it."""

    #: Tells this presence from the others of the app.
    name: str

    def fetch(self, topic: str, presences: Presences) -> Presences:
        """Add to what is told of each key, from a database for example; ``metas`` stays.

        Called once for each :meth:`list` and for each side of a diff that is not empty. It may block: diffs wait for
        each other and keep their order.
        """
        return presences

    def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
        """Observe a diff, on every node, behind the clients.

        :param diff: ``{"joins": presences, "leaves": presences}``, as fetched.
        :param presences: the metas of each key that is present after this diff; to be read only.
        """

    def count_only(self, topic: str) -> bool:
        """Tell whether a topic is so big that clients are only told how many are there.

        They get ``presence_count``, ``{"count": keys}``, a second after a change, and no diffs; :meth:`fetch` is not
        asked for them. Called at each change: it must not block.
        """
        return False

    def fetched(self, topic: str, presences: Presences) -> Presences:
        """Let :meth:`fetch` add to presences, and see that it took nothing away.

        :raises InvalidReturn: it did.
        """
        if not presences:
            return presences
        # What is looked at are the keys, and that there are metas; the author may have changed the rest in place.
        fetched = self.fetch(topic, dict(presences))
        if not isinstance(fetched, dict) or not all(_has_metas(fetched.get(key)) for key in presences):
            raise InvalidReturn(
                f"{type(self).__name__}.fetch returned {fetched!r:.200}; expected the presences that it was given, each"
                " with its metas and what you add"
            )
        return fetched


class TrackerServer(Replica):
    """A presence in one app and process: who owns its entries, and what clients are told of changes."""

    def __init__(self, hooks: Hooks, engine: Engine, json: Json, down_period: float) -> None:
        super().__init__(engine, hooks.name, down_period)
        self.hooks = hooks
        self._json = json
        self._inbox = Inbox(engine.runners)
        self._observed = type(hooks).handle_metas is not Hooks.handle_metas
        self._passes = self._observed or type(hooks).fetch is not Hooks.fetch
        self._forget()

    def start(self) -> None:
        """Begin, with nobody here."""
        super().start()
        self._forget()

    def stop(self) -> None:
        """End; counts that are due are not told any more."""
        super().stop()
        for timer in self._to_count.values():
            timer.close()
        self._to_count.clear()

    def _forget(self) -> None:
        #: The entries of each channel, and under None those of the process, by topic and key.
        self._owned: dict[ChannelRuntime | None, dict[tuple[str, str], Entry]] = {}
        self._due: list[tuple[str, Diff]] = []
        #: The metas of each topic as they were told, for handle_metas.
        self._seen: dict[str, dict[str, tuple[Meta, ...]]] = {}
        #: The topics whose clients will be told how many are there, and what rings then.
        self._to_count: dict[str, Any] = {}

    def track(self, owner: ChannelRuntime | None, topic: str, key: str, meta: Any) -> str:
        """Hold an entry until it is untracked, or its owner ends."""
        mine, ref = self._entries(owner), secrets.token_urlsafe(12)
        if (topic, key) in mine:
            raise AlreadyTracked(f"{key!r} is tracked on {topic!r} already: change its meta with update()")
        entry = self._entry(topic, key, meta, phx_ref=ref)
        if owner is None or owner in self._owned or owner.at_end(lambda: self._release(owner)):
            mine[topic, key] = entry
            self._owned[owner] = mine
            self.changed(self.tracker.join(entry))
        return ref

    def update(self, owner: ChannelRuntime | None, topic: str, key: str, meta: NewMeta) -> str:
        """Replace an entry."""
        if callable(meta):
            # It may take its time, in which anything may happen to the entry.
            meta = meta(deepcopy(self._find(owner, topic, key).meta))
        former, ref = self._find(owner, topic, key), secrets.token_urlsafe(12)
        entry = self._entry(topic, key, meta, phx_ref=ref, phx_ref_prev=former.ref)
        self._owned[owner][topic, key] = entry
        self.changed(self.tracker.update(former.ref, entry))
        return ref

    def untrack(self, owner: ChannelRuntime | None, topic: str, key: str) -> None:
        """Let go of an entry, if there is one."""
        entry = self._entries(owner).pop((topic, key), None)
        if entry is not None:
            self.changed(self.tracker.leave(entry.ref))

    def _find(self, owner: ChannelRuntime | None, topic: str, key: str) -> Entry:
        entry = self._entries(owner).get((topic, key))
        if entry is None:
            raise NotTracked(f"{key!r} is not tracked on {topic!r}: begin with track()")
        return entry

    def _entries(self, owner: ChannelRuntime | None) -> dict[tuple[str, str], Entry]:
        if self.engine.hub.elsewhere:
            raise Unsupported(
                "a presence changes in the thread that serves: from another one, tell a channel to do it (channel.send)"
            )
        if owner is None:
            self.engine.require_reach()
        self.engine.serve()
        return self._owned.get(owner, {})

    def _release(self, owner: ChannelRuntime) -> None:
        for entry in self._owned.pop(owner, {}).values():
            self.changed(self.tracker.leave(entry.ref))

    def _entry(self, topic: str, key: str, meta: Any, **refs: str) -> Entry:
        """Make an entry of what others will get, and what the author's later changes cannot reach."""
        if not isinstance(meta, dict):
            raise InvalidPayload(f"a meta is a dict of JSON, which clients can tell from others; got {meta!r:.200}")
        topic, key, meta = self._json.loads(self._json.dumps([topic, key, meta]))
        return Entry(topic, key, {**meta, **refs})

    # What is told.

    def told(self, diffs: Diffs) -> None:
        """Tell clients at the end of this turn: the state that a channel pushes behind its track comes first."""
        if not self._due and diffs:
            self.engine.hub.at_end_of_turn(self._tell)
        self._due.extend(diffs.items())

    def _tell(self) -> None:
        due, self._due = self._due, []
        for topic, diff in due:
            if self._passes:
                self._inbox.put(self._pass, (topic, diff))
            elif self._counts(topic):
                self._count_later(topic)
            elif self.engine.pubsub.subscribed(topic):
                self._broadcast(topic, DIFF, {"joins": presences_of(diff.joins), "leaves": presences_of(diff.leaves)})

    def _counts(self, topic: str) -> bool:
        try:
            return self.hooks.count_only(topic)
        except FAILURES:
            log.exception("%s.count_only failed for %r", self.hooks.name, topic)
            return False

    def _pass(self, told: tuple[str, Diff]) -> None:
        """Let the author's hooks at a diff; what they fail at, clients get without them."""
        topic, diff = told
        with self.engine.context():
            sides = {"joins": presences_of(diff.joins), "leaves": presences_of(diff.leaves)}
            if self._counts(topic):
                self._count_later(topic)
            else:
                sides = self._fetched(topic, sides)
            if self._observed:
                self._observe(topic, sides, diff)

    def _fetched(self, topic: str, sides: dict[str, Presences]) -> dict[str, Presences]:
        """Tell clients a diff as the author's fetch makes it, or, if that fails or is no JSON, as it was."""
        plain = deepcopy(sides)
        try:
            fetched = {side: self.hooks.fetched(topic, presences) for side, presences in sides.items()}
            self._json.dumps(fetched)
        except FAILURES:
            log.exception("%s.fetch failed at a diff on %r", self.hooks.name, topic)
            fetched = plain
        self._broadcast(topic, DIFF, fetched)
        return fetched

    def _observe(self, topic: str, sides: dict[str, Presences], diff: Diff) -> None:
        seen = self._seen.setdefault(topic, {})
        fold(seen, diff)
        if not seen:
            del self._seen[topic]
        try:
            self.hooks.handle_metas(topic, sides, MappingProxyType(seen))
        except FAILURES:
            log.exception("%s.handle_metas failed at a diff on %r", self.hooks.name, topic)

    def _count_later(self, topic: str) -> None:
        if topic not in self._to_count:
            timer = self._to_count[topic] = gevent.get_hub().loop.timer(COUNT_PERIOD)
            timer.start(self._count, topic)

    def _count(self, topic: str) -> None:
        self._to_count.pop(topic).close()
        self._broadcast(topic, COUNT, {"count": self.tracker.count(topic)})

    def _broadcast(self, topic: str, event: str, payload: Any) -> None:
        try:
            self.engine.broadcast(Broadcast(topic, event, payload), local=True)
        except PhoenixError:
            log.exception("%s on %r is lost", event, topic)


def fold(seen: dict[str, tuple[Meta, ...]], diff: Diff) -> None:
    """Apply a diff to the metas that were told before it; what is kept are copies."""
    for key, joined in diff.joins.items():
        seen[key] = (*seen.get(key, ()), *deepcopy(joined))
    for key, left in diff.leaves.items():
        refs = {meta["phx_ref"] for meta in left}
        seen[key] = tuple(meta for meta in seen.get(key, ()) if meta["phx_ref"] not in refs)
        if not seen[key]:
            del seen[key]


def presences_of(metas: Mapping[str, Iterable[Meta]]) -> Presences:
    """Write metas as clients want them; copies, that the author may change."""
    return {key: {"metas": [_copy(meta) for meta in some]} for key, some in metas.items()}


def _copy(meta: Meta) -> Meta:
    return {name: deepcopy(value) if type(value) in (dict, list) else value for name, value in meta.items()}


def _has_metas(presence: Any) -> bool:
    return isinstance(presence, dict) and isinstance(presence.get("metas"), list)
