"""One presence in one process: which channel owns each entry, and what clients and the author's hooks are told."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gevent

from ..channel_runtime import ChannelRuntime, NewMeta
from ..exceptions import AlreadyTracked, InvalidMessage, InvalidPayload, InvalidReturn, NotTracked, Unsupported
from ..payloads.writing import is_record
from ..protocol.json import Json
from ..protocol.messages import Broadcast, shown
from ..pubsub.failures import log_failure
from ..pubsub.hub import MOMENT
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
#: Keys whose metas are copied before others may run: about two milliseconds of work.
COPIES_PER_TURN = 1000
#: Levels of dicts and lists in a meta. What is told of it wraps it in a few more, and JSON has bounds of its own.
MAX_META_DEPTH = 100

_CONTAINERS = frozenset({dict, list})

WRONG_THREAD = "a presence changes in the thread that serves: from another one, tell a channel to do it (channel.send)"


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
        :param presences: the metas of each key that is present after this diff, as long as this call lasts.
        """

    def count_only(self, topic: str) -> bool:
        """Tell whether a topic is so big that clients are told only how many are present.

        They get ``presence_count``, ``{"count": keys}``, a second after a change, and no diffs; :meth:`fetch` is not
        called for these. Called at each change: it should not block.
        """
        return False


class TrackerServer(Replica):
    """One presence in one app and process.

    Entries belong to the channel that tracked them, and end with it; those without a channel belong to the process.
    """

    def __init__(self, hooks: Hooks, engine: Engine, json: Json, down_period: float, grace: float = 0.0) -> None:
        super().__init__(engine, hooks.name, down_period, grace)
        self._hooks = hooks
        self._json = json
        self._inbox = Inbox(engine.runners)
        kind = type(hooks)
        self._observes = kind.handle_metas is not Hooks.handle_metas
        self._has_hooks = self._observes or (kind.fetch, kind.count_only) != (Hooks.fetch, Hooks.count_only)
        self._clear()

    def start(self) -> None:
        """Begin, with no entries."""
        super().start()
        self._clear()

    def stop(self) -> None:
        """End; diffs and counts that wait are dropped."""
        for timer in self._count_timers.values():
            timer.close()
        self._count_timers.clear()
        self._inbox.clear()
        super().stop()

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
        # Starting and reading the meta may block; nothing does after that.
        self._start(owner)
        topic, key, meta = self._read(topic, key, meta)
        if (topic, key) in self._owned.get(owner, {}):
            raise AlreadyTracked(f"{shown(key)} is tracked on {shown(topic)} already: change its meta with update()")
        return self._add(owner, topic, key, meta)

    def track_or_update(self, owner: ChannelRuntime | None, topic: str, key: str, meta: Any) -> str:
        """Add an entry, or replace it by one with another meta; return its ref."""
        self._start(owner)
        topic, key, meta = self._read(topic, key, meta)
        former = self._owned.get(owner, {}).get((topic, key))
        return self._add(owner, topic, key, meta) if former is None else self._replace(owner, former, meta)

    def _add(self, owner: ChannelRuntime | None, topic: str, key: str, meta: Meta) -> str:
        entries, ref = self._owned.get(owner, {}), secrets.token_urlsafe(12)
        entry = Entry(topic, key, {**meta, "phx_ref": ref})
        if owner is None or owner in self._owned or owner.at_end(lambda: self._release(owner)):
            entries[topic, key] = entry
            self._owned[owner] = entries
            self.changed(self.tracker.join(entry))
        return ref

    def update(self, owner: ChannelRuntime | None, topic: str, key: str, meta: NewMeta) -> str:
        """Replace an entry by one with another meta; return the new ref."""
        # To call a function and to read the meta may block, and the entry be changed meanwhile.
        self._start(owner)
        former = self._find(owner, topic, key)
        topic, key, meta = self._read(topic, key, meta(_copy(former.meta)) if callable(meta) else meta)
        return self._replace(owner, self._find(owner, topic, key), meta)

    def _replace(self, owner: ChannelRuntime | None, former: Entry, meta: Meta) -> str:
        ref = secrets.token_urlsafe(12)
        entry = Entry(former.topic, former.key, {**meta, "phx_ref": ref, "phx_ref_prev": former.ref})
        self._owned[owner][former.topic, former.key] = entry
        self.changed(self.tracker.update(former.ref, entry))
        return ref

    def untrack(self, owner: ChannelRuntime | None, topic: str, key: str) -> None:
        """Remove an entry, if there is one."""
        self._start(owner)
        entry = self._owned.get(owner, {}).pop((topic, key), None)
        if entry is not None:
            self.changed(self.tracker.leave(entry.ref))

    def list(self, topic: str) -> Presences:
        """Return each key of a topic with its metas, through ``fetch``."""
        return self._fetch(topic, self._list(topic))

    def _list(self, topic: str) -> Presences:
        """Copy what is present: as it is when this returns, though others run while much is copied."""
        metas = self.tracker.list(topic)
        if len(metas) <= COPIES_PER_TURN or not self._may_wait():
            return presences_of(metas)
        copies: Presences = {}
        keys = list(metas)
        for start in range(0, len(keys), COPIES_PER_TURN):
            copies.update(presences_of({key: metas[key] for key in keys[start : start + COPIES_PER_TURN]}))
            gevent.sleep(MOMENT)
        now = self.tracker.list(topic)
        new = presences_of({key: some for key, some in now.items() if some != metas.get(key)})
        return {key: new.get(key) or copies[key] for key in now}

    def _may_wait(self) -> bool:
        hub = self.engine.hub
        return hub.running and not hub.elsewhere and gevent.getcurrent() is not gevent.get_hub()

    def get_by_key(self, topic: str, key: str) -> dict[str, Any] | None:
        """Return one key with its metas, through ``fetch``; None: it is not present."""
        metas = self.tracker.get(topic, key)
        return self._fetch(topic, presences_of({key: metas}))[key] if metas else None

    def look(self) -> None:
        """Let this process hear from the other nodes, if it does not yet.

        :raises Unsupported: it has stopped serving, or cannot start in this thread.
        :raises NotPublished: it is none of those that serve clients, and knows no way to them.
        """
        if not self.engine.hub.elsewhere:
            self.engine.node.require_reach()
            self.engine.serve()
            self.settle()

    def _start(self, owner: ChannelRuntime | None) -> None:
        """Start what a change needs."""
        if self.engine.hub.elsewhere:
            raise Unsupported(WRONG_THREAD)
        if owner is None:
            self.engine.node.warn_if_alone("what is tracked here is told to nobody else")
        self.engine.serve()

    def _find(self, owner: ChannelRuntime | None, topic: str, key: str) -> Entry:
        entry = self._owned.get(owner, {}).get((topic, key))
        if entry is None:
            raise NotTracked(f"{shown(key)} is not tracked on {shown(topic)}: begin with track()")
        return entry

    def _release(self, owner: ChannelRuntime) -> None:
        refs = [entry.ref for entry in self._owned.pop(owner, {}).values()]
        if not owner.left:
            self.depart(refs)
            return
        for ref in refs:
            self.changed(self.tracker.leave(ref))

    def _read(self, topic: str, key: str, meta: Any) -> tuple[str, str, Meta]:
        """Return what an entry is made of, as JSON brings it to the others."""
        if not isinstance(meta, dict) and not is_record(meta):
            raise InvalidPayload(f"a meta is a dict of JSON, which clients can tell from others; got {shown(meta)}")
        try:
            read: tuple[str, str, Meta] = self._json.loads(self._json.dumps([topic, key, meta]), MAX_META_DEPTH + 1)
        except (InvalidPayload, InvalidMessage) as error:
            raise InvalidPayload(f"a meta is JSON of at most {MAX_META_DEPTH} levels: {error}") from error
        return read

    # What clients and hooks are told.

    def tell(self, diffs: Diffs) -> None:
        """Tell clients at the end of this turn: the state that a channel pushes after its track comes first."""
        if diffs:
            self._diffs.extend(diffs.items())
            self.engine.hub.at_end_of_turn(self._tell_clients)

    def _tell_clients(self) -> None:
        """Tell the diffs of this turn; what fails costs one topic its diff, and no other."""
        diffs, self._diffs = self._diffs, []
        for topic, diff in diffs if self._has_hooks else merged(diffs):
            if self._has_hooks:
                self._inbox.put(self._call_hooks, (topic, diff))
            elif self.engine.pubsub.subscribed(topic):
                self._tell_plain(topic, diff)

    def _tell_plain(self, topic: str, diff: Diff) -> dict[str, Presences]:
        """Tell clients a diff without ``fetch``; return it."""
        sides = _sides(diff)
        self._tell(topic, DIFF_EVENT, sides)
        return sides

    def _call_hooks(self, change: tuple[str, Diff]) -> None:
        """Tell clients a diff through the hooks, and observe it. Whatever fails, clients are told."""
        topic, diff = change
        told: list[dict[str, Presences]] = []
        if self._observes:
            self._keep_observed(topic, diff)
        try:
            with self.engine.context():
                told.append(self._tell_counted(topic, diff) or self._tell_fetched(topic, diff))
                self._observe(topic, told[0])
        except FAILURES as failure:  # of the app's, where it makes or ends a context
            self._report("the app context", topic, failure)
            if not told:
                self._tell_plain(topic, diff)

    def _tell_counted(self, topic: str, diff: Diff) -> dict[str, Presences] | None:
        """Let clients be told how many are present, if that is all they are told."""
        try:
            if not self._hooks.count_only(topic):
                return None
        except FAILURES as failure:
            self._report("count_only", topic, failure)
            return None
        self._count_later(topic)
        return _sides(diff)

    def _tell_fetched(self, topic: str, diff: Diff) -> dict[str, Presences]:
        """Tell clients a diff as ``fetch`` returns it, or, if that fails or is no JSON, without it."""
        try:
            fetched = {side: self._fetch(topic, presences) for side, presences in _sides(diff).items()}
            self.engine.broadcast(Broadcast(topic, DIFF_EVENT, fetched), local=True)
        except FAILURES as failure:
            self._report("fetch", topic, failure)
            return self._tell_plain(topic, diff)
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
                f"{type(self._hooks).__name__}.fetch returned {shown(fetched)}; expected the presences that it was"
                " given, each with its metas and what you add"
            )
        return fetched

    def _observe(self, topic: str, sides: dict[str, Presences]) -> None:
        try:
            self._hooks.handle_metas(topic, sides, _Present(self._observed.get(topic, {})))
        except FAILURES as failure:
            self._report("handle_metas", topic, failure)

    def _keep_observed(self, topic: str, diff: Diff) -> None:
        """Apply a diff to what ``handle_metas`` is told to be present."""
        observed = self._observed.setdefault(topic, {})
        for key, joined in diff.joins.items():
            observed[key] = (*observed.get(key, ()), *joined)
        for key, left in diff.leaves.items():
            refs = {meta["phx_ref"] for meta in left}
            observed[key] = tuple(meta for meta in observed.get(key, ()) if meta["phx_ref"] not in refs)
            if not observed[key]:
                del observed[key]
        if not observed:
            del self._observed[topic]

    def _report(self, what: str, topic: str, failure: BaseException) -> None:
        """Log that something of the author's has failed, and let the app know."""
        log.error("%s of %s failed at a diff on %s", what, self._hooks.name, shown(topic), exc_info=failure)
        self.engine.report(failure)
        self.engine.caught(failure)

    def _count_later(self, topic: str) -> None:
        if topic not in self._count_timers and self.engine.node.name:
            timer = self._count_timers[topic] = gevent.get_hub().loop.timer(COUNT_PERIOD)
            timer.start(self._count, topic)

    def _count(self, topic: str) -> None:
        self._count_timers.pop(topic).close()
        self._tell(topic, COUNT_EVENT, {"count": self.tracker.count(topic)})

    def _tell(self, topic: str, event: str, payload: Any) -> None:
        try:
            self.engine.broadcast(Broadcast(topic, event, payload), local=True)
        except BaseException:
            log_failure(log, "%s on %s is lost", event, shown(topic))


class _Present(Mapping[str, Sequence[Meta]]):
    """The metas by key that a hook is given: it gets copies, of those keys that it looks at."""

    def __init__(self, metas: Mapping[str, Sequence[Meta]]) -> None:
        self._metas = metas

    def __getitem__(self, key: str) -> Sequence[Meta]:
        return tuple(map(_copy, self._metas[key]))

    def __contains__(self, key: object) -> bool:
        return key in self._metas

    def __iter__(self) -> Iterator[str]:
        return iter(self._metas)

    def __len__(self) -> int:
        return len(self._metas)


def presences_of(metas: Mapping[str, Iterable[Meta]]) -> Presences:
    """Return copies of metas in the form that clients get, which the author may change."""
    return {key: {"metas": [_copy(meta) for meta in some]} for key, some in metas.items()}


def merged(diffs: Iterable[tuple[str, Diff]]) -> list[tuple[str, Diff]]:
    """Make one of the diffs of a topic that follow each other and only join, or only leave: of many at once."""
    some: list[tuple[str, Diff]] = []
    last: dict[str, Diff] = {}
    for topic, diff in diffs:
        former = last.get(topic)
        if former is None or ((former.joins or diff.joins) and (former.leaves or diff.leaves)):
            last[topic] = diff
            some.append((topic, diff))
            continue
        for side, others in zip(former, diff, strict=True):
            for key, metas in others.items():
                side.setdefault(key, []).extend(metas)
    return some


def _sides(diff: Diff) -> dict[str, Presences]:
    return {"joins": presences_of(diff.joins), "leaves": presences_of(diff.leaves)}


def _copy(meta: Meta) -> Meta:
    """Copy a value of JSON, without recursion: the depth of what clients send must not matter."""
    if _CONTAINERS.isdisjoint(map(type, meta.values())):
        return dict(meta)  # as most are
    copies: list[Any] = [dict(meta)]
    for copy in copies:
        for name, value in copy.items() if type(copy) is dict else enumerate(copy):
            if type(value) in (dict, list):
                copy[name] = value.copy()
                copies.append(copy[name])
    return copies[0]  # type: ignore[no-any-return]


def _has_metas(presence: Any) -> bool:
    return isinstance(presence, dict) and isinstance(presence.get("metas"), list)
