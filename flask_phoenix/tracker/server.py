"""One presence in one process: which channel owns each entry, and what clients and the author's hooks are told."""

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

log = logging.getLogger("flask_phoenix.presence")

#: Each key with its metas, as clients get it: ``{"ada": {"metas": [{"phx_ref": ...}]}}``.
Presences = dict[str, dict[str, Any]]

DIFF_EVENT, COUNT_EVENT = "presence_diff", "presence_count"
#: Seconds between a change on a topic that is only counted, and the count.
COUNT_PERIOD = 1.0


class Hooks:
    """What :class:`.Presence` lets an author override."""

    #: Identifies this presence among those of the app.
    name: str

    def fetch(self, topic: str, presences: Presences) -> Presences:
        """Add to what is told of each key, from a database for example; ``metas`` stays.

        Called once for each :meth:`list` and for each side of a diff that is not empty. It may block: diffs wait for
        each other and keep their order.
        """
        return presences

    def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
        """Observe a diff, on every node, after the clients were told.

        :param diff: ``{"joins": presences, "leaves": presences}``, as fetched.
        :param presences: the metas of each key that is present after this diff; to be read only.
        """

    def count_only(self, topic: str) -> bool:
        """Tell whether a topic is so big that clients are told only how many are present.

        They get ``presence_count``, ``{"count": keys}``, a second after a change, and no diffs; :meth:`fetch` is not
        called for these. Called at each change: it must not block.
        """
        return False


class TrackerServer(Replica):
    """One presence in one app and process.

    Entries belong to the channel that tracked them, and end with it; those without a channel belong to the process.
    """

    def __init__(self, hooks: Hooks, engine: Engine, json: Json, down_period: float) -> None:
        super().__init__(engine, hooks.name, down_period)
        self._hooks = hooks
        self._json = json
        self._inbox = Inbox(engine.runners)
        self._observes = type(hooks).handle_metas is not Hooks.handle_metas
        self._has_hooks = self._observes or type(hooks).fetch is not Hooks.fetch
        self._clear()

    def start(self) -> None:
        """Begin, with no entries."""
        super().start()
        self._clear()

    def stop(self) -> None:
        """End; counts that wait are dropped."""
        super().stop()
        for timer in self._count_timers.values():
            timer.close()
        self._count_timers.clear()

    def _clear(self) -> None:
        #: The entries of each channel, and under None those of the process, by topic and key.
        self._owned: dict[ChannelRuntime | None, dict[tuple[str, str], Entry]] = {}
        #: The diffs of this turn of the event loop.
        self._diffs: list[tuple[str, Diff]] = []
        #: The metas of each topic after the last diff that handle_metas was given.
        self._observed: dict[str, dict[str, tuple[Meta, ...]]] = {}
        #: By topic, what will tell its clients how many are present.
        self._count_timers: dict[str, Any] = {}

    # What an author asks, through the presence.

    def track(self, owner: ChannelRuntime | None, topic: str, key: str, meta: Any) -> str:
        """Add an entry, until it is untracked or its owner ends; return its ref."""
        entries, ref = self._entries_of(owner), secrets.token_urlsafe(12)
        if (topic, key) in entries:
            raise AlreadyTracked(f"{key!r} is tracked on {topic!r} already: change its meta with update()")
        entry = self._entry(topic, key, meta, phx_ref=ref)
        if owner is None or owner in self._owned or owner.at_end(lambda: self._release(owner)):
            entries[topic, key] = entry
            self._owned[owner] = entries
            self.changed(self.tracker.join(entry))
        return ref

    def update(self, owner: ChannelRuntime | None, topic: str, key: str, meta: NewMeta) -> str:
        """Replace an entry by one with another meta; return the new ref."""
        if callable(meta):
            # It may block, and the entry be changed meanwhile.
            meta = meta(deepcopy(self._find(owner, topic, key).meta))
        former, ref = self._find(owner, topic, key), secrets.token_urlsafe(12)
        entry = self._entry(topic, key, meta, phx_ref=ref, phx_ref_prev=former.ref)
        self._owned[owner][topic, key] = entry
        self.changed(self.tracker.update(former.ref, entry))
        return ref

    def untrack(self, owner: ChannelRuntime | None, topic: str, key: str) -> None:
        """Remove an entry, if there is one."""
        entry = self._entries_of(owner).pop((topic, key), None)
        if entry is not None:
            self.changed(self.tracker.leave(entry.ref))

    def list(self, topic: str) -> Presences:
        """Return each key of a topic with its metas, through ``fetch``."""
        return self._fetch(topic, presences_of(self.tracker.list(topic)))

    def get_by_key(self, topic: str, key: str) -> dict[str, Any] | None:
        """Return one key with its metas, through ``fetch``; None: it is not present."""
        metas = self.tracker.get(topic, key)
        return self._fetch(topic, presences_of({key: metas}))[key] if metas else None

    def _find(self, owner: ChannelRuntime | None, topic: str, key: str) -> Entry:
        entry = self._entries_of(owner).get((topic, key))
        if entry is None:
            raise NotTracked(f"{key!r} is not tracked on {topic!r}: begin with track()")
        return entry

    def _entries_of(self, owner: ChannelRuntime | None) -> dict[tuple[str, str], Entry]:
        if self.engine.hub.elsewhere:
            raise Unsupported(
                "a presence changes in the thread that serves: from another one, tell a channel to do it (channel.send)"
            )
        if owner is None:
            self.engine.warn_if_alone("what is tracked here is told to nobody else")
        self.engine.serve()
        return self._owned.get(owner, {})

    def _release(self, owner: ChannelRuntime) -> None:
        for entry in self._owned.pop(owner, {}).values():
            self.changed(self.tracker.leave(entry.ref))

    def _entry(self, topic: str, key: str, meta: Any, **refs: str) -> Entry:
        """Make an entry of a copy of the meta, as JSON brings it to the others."""
        if not isinstance(meta, dict):
            raise InvalidPayload(f"a meta is a dict of JSON, which clients can tell from others; got {meta!r:.200}")
        topic, key, meta = self._json.loads(self._json.dumps([topic, key, meta]))
        return Entry(topic, key, {**meta, **refs})

    # What clients and hooks are told.

    def tell(self, diffs: Diffs) -> None:
        """Tell clients at the end of this turn: the state that a channel pushes after its track comes first."""
        if not self._diffs and diffs:
            self.engine.hub.at_end_of_turn(self._tell_clients)
        self._diffs.extend(diffs.items())

    def _tell_clients(self) -> None:
        diffs, self._diffs = self._diffs, []
        for topic, diff in diffs:
            if self._has_hooks:
                self._inbox.put(self._call_hooks, (topic, diff))
            elif self._counts_only(topic):
                self._count_later(topic)
            elif self.engine.pubsub.subscribed(topic):
                self._broadcast(topic, DIFF_EVENT, _sides(diff))

    def _counts_only(self, topic: str) -> bool:
        try:
            return self._hooks.count_only(topic)
        except FAILURES:
            log.exception("%s.count_only failed for %r", self._hooks.name, topic)
            return False

    def _call_hooks(self, change: tuple[str, Diff]) -> None:
        """Tell clients a diff through ``fetch``, or count it; then call ``handle_metas``."""
        topic, diff = change
        with self.engine.context():
            sides = _sides(diff)
            if self._counts_only(topic):
                self._count_later(topic)
            else:
                sides = self._broadcast_fetched(topic, sides)
            if self._observes:
                self._observe(topic, sides, diff)

    def _broadcast_fetched(self, topic: str, sides: dict[str, Presences]) -> dict[str, Presences]:
        """Tell clients a diff as ``fetch`` returns it, or, if that fails or is no JSON, without it."""
        plain = deepcopy(sides)
        try:
            fetched = {side: self._fetch(topic, presences) for side, presences in sides.items()}
            self._json.dumps(fetched)
        except FAILURES:
            log.exception("%s.fetch failed at a diff on %r", self._hooks.name, topic)
            fetched = plain
        self._broadcast(topic, DIFF_EVENT, fetched)
        return fetched

    def _fetch(self, topic: str, presences: Presences) -> Presences:
        """Let ``fetch`` add to presences, and check that it took nothing away.

        :raises InvalidReturn: it did.
        """
        if not presences:
            return presences
        # The author may have changed the rest in place: checked are the keys, and that there are metas.
        fetched = self._hooks.fetch(topic, dict(presences))
        if not isinstance(fetched, dict) or not all(_has_metas(fetched.get(key)) for key in presences):
            raise InvalidReturn(
                f"{type(self._hooks).__name__}.fetch returned {fetched!r:.200}; expected the presences that it was"
                " given, each with its metas and what you add"
            )
        return fetched

    def _observe(self, topic: str, sides: dict[str, Presences], diff: Diff) -> None:
        observed = self._observed.setdefault(topic, {})
        _apply(observed, diff)
        if not observed:
            del self._observed[topic]
        try:
            self._hooks.handle_metas(topic, sides, MappingProxyType(observed))
        except FAILURES:
            log.exception("%s.handle_metas failed at a diff on %r", self._hooks.name, topic)

    def _count_later(self, topic: str) -> None:
        if topic not in self._count_timers:
            timer = self._count_timers[topic] = gevent.get_hub().loop.timer(COUNT_PERIOD)
            timer.start(self._count, topic)

    def _count(self, topic: str) -> None:
        self._count_timers.pop(topic).close()
        self._broadcast(topic, COUNT_EVENT, {"count": self.tracker.count(topic)})

    def _broadcast(self, topic: str, event: str, payload: Any) -> None:
        try:
            self.engine.broadcast(Broadcast(topic, event, payload), local=True)
        except PhoenixError:
            log.exception("%s on %r is lost", event, topic)


def presences_of(metas: Mapping[str, Iterable[Meta]]) -> Presences:
    """Return copies of metas in the form that clients get, which the author may change."""
    return {key: {"metas": [_copy(meta) for meta in some]} for key, some in metas.items()}


def _sides(diff: Diff) -> dict[str, Presences]:
    return {"joins": presences_of(diff.joins), "leaves": presences_of(diff.leaves)}


def _apply(observed: dict[str, tuple[Meta, ...]], diff: Diff) -> None:
    """Apply a diff to the metas of a topic; what is kept are copies."""
    for key, joined in diff.joins.items():
        observed[key] = (*observed.get(key, ()), *deepcopy(joined))
    for key, left in diff.leaves.items():
        refs = {meta["phx_ref"] for meta in left}
        observed[key] = tuple(meta for meta in observed.get(key, ()) if meta["phx_ref"] not in refs)
        if not observed[key]:
            del observed[key]


def _copy(meta: Meta) -> Meta:
    return {name: deepcopy(value) if type(value) in (dict, list) else value for name, value in meta.items()}


def _has_metas(presence: Any) -> bool:
    return isinstance(presence, dict) and isinstance(presence.get("metas"), list)
