"""Who is here: what an author asks, and what clients are told."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gevent

from .channel import Channel
from .codec import Json
from .engine import FAILURES, Engine
from .exceptions import AlreadyTracked, InvalidPayload, InvalidReturn, NotTracked, PhoenixError, Unsupported
from .gossip import Replica
from .host import Link, NewMeta, Tracking
from .inbox import Inbox
from .message import Broadcast
from .tracker import Diff, Diffs, Entry, Meta, Metas

log = logging.getLogger(__name__)

#: Each key with its metas, as clients get it: ``{"ada": {"metas": [{"phx_ref": ...}]}}``.
Presences = dict[str, dict[str, Any]]

DIFF, COUNT = "presence_diff", "presence_count"
#: Seconds between two counts of a topic that is only counted.
COUNT_PERIOD = 1.0


class Presence(Tracking):
    """Who is on a topic, on all nodes, with live diffs to the clients that joined it.

    ``online = phoenix.presence()``, or ``phoenix.presence(Online)`` for a subclass that overrides a hook. Clients that
    joined a topic are sent ``presence_diff`` as people come and go; the channel sends each the state to begin with:
    ``self.push("presence_state", self.presences())``.

    Everywhere, ``where`` is a channel, whose presences end with it, or the name of a topic: what is tracked there
    lasts until it is untracked, or this process ends. Keys are strings. Call it in the thread that serves.
    """

    name: str
    #: Finds the roll of the current app.
    roll: Callable[[], Roll]

    # What authors write.

    def fetch(self, topic: str, presences: Presences) -> Presences:
        """Add to what is told of each key, from a database for example; ``metas`` stays.

        Called once for each :meth:`list` and for each side of a diff that is not empty. It may block: diffs wait for
        each other and keep their order.
        """
        return presences

    def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Metas) -> None:
        """Observe a diff, on every node, behind the clients.

        :param diff: ``{"joins": presences, "leaves": presences}``, as fetched.
        :param presences: the metas of each key that is present after this diff.
        """

    def count_only(self, topic: str) -> bool:
        """Tell whether a topic is so big that clients are only told how many are there.

        They get ``presence_count``, ``{"count": keys}``, a second after a change, and no diffs.
        """
        return False

    # What authors call.

    def track(
        self, where: Channel | str, key: str, meta: dict[str, Any] | None = None, topic: str | None = None
    ) -> str:
        """Be present under a key; several channels may share one.

        :param meta: what others are told of this one: a dict of JSON.
        :param topic: where to be present, if that is not the channel's topic.
        :returns: the ``phx_ref``, by which clients tell metas apart.
        :raises AlreadyTracked: this channel is present there under the key; see :meth:`update`.
        :raises NotJoined: the join is not over.
        :raises InvalidPayload: the meta is no dict of JSON.
        """
        owner, topic = _place(where, topic)
        return self.roll().track(owner, topic, str(key), {} if meta is None else meta)

    def update(self, where: Channel | str, key: str, meta: NewMeta, topic: str | None = None) -> str:
        """Replace a meta, by another one or by what a function makes of it; clients see a leave and a join in one.

        :raises NotTracked: this channel is not present there under the key.
        :raises InvalidPayload: as :meth:`track`.
        """
        owner, topic = _place(where, topic)
        return self.roll().update(owner, topic, str(key), meta)

    def untrack(self, where: Channel | str, key: str, topic: str | None = None) -> None:
        """Be present under a key no more; it need not be tracked."""
        owner, topic = _place(where, topic)
        self.roll().untrack(owner, topic, str(key))

    def list(self, where: Channel | str) -> Presences:
        """Return who is there: each key with its metas, through :meth:`fetch`.

        :raises InvalidReturn: fetch returned no presences.
        """
        _, topic = _place(where)
        return self.fetched(topic, _presences(self.roll().replica.tracker.list(topic)))

    def get_by_key(self, where: Channel | str, key: str) -> dict[str, Any] | None:
        """Return what :meth:`list` has for a key, or None.

        :raises InvalidReturn: as :meth:`list`.
        """
        _, topic = _place(where)
        metas = self.roll().replica.tracker.get(topic, str(key))
        presence: dict[str, Any] | None = (
            self.fetched(topic, _presences({str(key): metas}))[str(key)] if metas else None
        )
        return presence

    def count(self, where: Channel | str) -> int:
        """Return how many keys are there."""
        _, topic = _place(where)
        return self.roll().replica.tracker.count(topic)

    def fetched(self, topic: str, presences: Presences) -> Presences:
        """Let :meth:`fetch` add to presences, and see that it took nothing away.

        :raises InvalidReturn: it did.
        """
        if not presences:
            return presences
        # A shallow copy is enough: what is compared are the keys, and that there are metas.
        fetched = self.fetch(topic, dict(presences))
        if not isinstance(fetched, dict) or any("metas" not in fetched.get(key, ()) for key in presences):
            raise InvalidReturn(
                f"{type(self).__name__}.fetch returned {fetched!r:.200}; expected the presences that it was given, each"
                " with its metas and what you add"
            )
        return fetched


class Roll:
    """A presence in one app and process: who owns its entries, and what clients are told of changes."""

    def __init__(self, presence: Presence, engine: Engine, json: Json, down_period: float) -> None:
        self.presence = presence
        self.engine = engine
        self.replica = Replica(engine, presence.name, self._told, down_period)
        engine.services.append(self.replica)
        self._json = json
        #: The entries of each channel, and under None those of the process, by topic and key.
        self._owned: dict[Link | None, dict[tuple[str, str], Entry]] = {}
        self._due: list[tuple[str, Diff]] = []
        self._inbox = Inbox(engine.workers)
        self._observed = type(presence).handle_metas is not Presence.handle_metas
        self._passes = self._observed or type(presence).fetch is not Presence.fetch
        #: The metas of each topic as they were told, for handle_metas.
        self._seen: dict[str, Metas] = {}
        self._to_count: set[str] = set()

    def track(self, owner: Link | None, topic: str, key: str, meta: Any) -> str:
        """Hold an entry until it is untracked, or its owner ends."""
        mine, ref = self._entries(owner), secrets.token_urlsafe(12)
        entry = Entry(topic, key, {**self._read(meta), "phx_ref": ref})
        if (topic, key) in mine:
            raise AlreadyTracked(f"{key!r} is tracked on {topic!r} already: change its meta with update()")
        if owner is None or owner in self._owned or owner.hold(lambda: self._release(owner)):
            mine[topic, key] = entry
            self._owned[owner] = mine
            self.replica.join(entry)
        return ref

    def update(self, owner: Link | None, topic: str, key: str, meta: NewMeta) -> str:
        """Replace an entry."""
        mine, ref = self._entries(owner), secrets.token_urlsafe(12)
        if (topic, key) not in mine:
            raise NotTracked(f"{key!r} is not tracked on {topic!r}: begin with track()")
        former = mine[topic, key]
        if callable(meta):
            meta = meta(dict(former.meta))
        entry = Entry(topic, key, {**self._read(meta), "phx_ref": ref, "phx_ref_prev": former.ref})
        mine[topic, key] = entry
        self.replica.update(former.ref, entry)
        return ref

    def untrack(self, owner: Link | None, topic: str, key: str) -> None:
        """Let go of an entry, if there is one."""
        entry = self._entries(owner).pop((topic, key), None)
        if entry is not None:
            self.replica.leave(entry.ref)

    def _entries(self, owner: Link | None) -> dict[tuple[str, str], Entry]:
        if self.engine.hub.elsewhere:
            raise Unsupported(
                "a presence changes in the thread that serves: from another one, tell a channel to do it (channel.send)"
            )
        self.engine.serve()
        return self._owned.get(owner, {})

    def _release(self, owner: Link) -> None:
        for entry in self._owned.pop(owner).values():
            self.replica.leave(entry.ref)

    def _read(self, meta: Any) -> dict[str, Any]:
        """Return a meta as others will get it, and as the author's later changes cannot reach it."""
        if not isinstance(meta, dict):
            raise InvalidPayload(f"a meta is a dict of JSON, which clients can tell from others; got {meta!r:.200}")
        read: dict[str, Any] = self._json.loads(self._json.dumps(meta))
        return read

    # What is told.

    def _told(self, diffs: Diffs) -> None:
        """Tell clients at the end of this turn: the state that a channel pushes behind its track comes first."""
        if not self._due and diffs:
            self.engine.hub.at_turn(self._tell)
        self._due.extend(diffs.items())

    def _tell(self) -> None:
        due, self._due = self._due, []
        for topic, diff in due:
            if self._passes:
                self._inbox.put(self._pass, (topic, diff))
            elif self.engine.pubsub.subscribed(topic):
                self._say(topic, {"joins": _presences(diff.joins), "leaves": _presences(diff.leaves)})

    def _pass(self, told: tuple[str, Diff]) -> None:
        """Let the author's hooks at a diff; what they fail at, clients get without them."""
        topic, (joins, leaves) = told
        diff = {"joins": _presences(joins), "leaves": _presences(leaves)}
        with self.engine.context():
            try:
                diff = {side: self.presence.fetched(topic, presences) for side, presences in diff.items()}
            except FAILURES:
                log.exception("%s.fetch failed at a diff on %r", self.presence.name, topic)
            self._say(topic, diff)
            if self._observed:
                self._observe(topic, diff, told[1])

    def _observe(self, topic: str, diff: dict[str, Presences], told: Diff) -> None:
        seen = self._seen.setdefault(topic, {})
        fold(seen, told)
        if not seen:
            del self._seen[topic]
        try:
            self.presence.handle_metas(topic, diff, {key: list(metas) for key, metas in seen.items()})
        except FAILURES:
            log.exception("%s.handle_metas failed at a diff on %r", self.presence.name, topic)

    def _say(self, topic: str, diff: dict[str, Presences]) -> None:
        if not self.presence.count_only(topic):
            self._broadcast(topic, DIFF, diff)
        elif topic not in self._to_count:
            self._to_count.add(topic)
            gevent.spawn_later(COUNT_PERIOD, self._count, topic)

    def _count(self, topic: str) -> None:
        self._to_count.discard(topic)
        self._broadcast(topic, COUNT, {"count": self.replica.tracker.count(topic)})

    def _broadcast(self, topic: str, event: str, payload: Any) -> None:
        try:
            self.engine.broadcast(Broadcast(topic, event, payload), local=True)
        except PhoenixError:
            log.exception("%s on %r is lost", event, topic)


def fold(metas: Metas, diff: Diff) -> None:
    """Apply a diff to what was known before it."""
    for key, joined in diff.joins.items():
        metas[key] = [*metas.get(key, ()), *joined]
    for key, left in diff.leaves.items():
        refs = {meta["phx_ref"] for meta in left}
        metas[key] = [meta for meta in metas[key] if meta["phx_ref"] not in refs]
        if not metas[key]:
            del metas[key]


def _presences(metas: Mapping[str, Iterable[Meta]]) -> Presences:
    """Write metas as clients want them; copies, that the author may add to."""
    return {key: {"metas": [dict(meta) for meta in some]} for key, some in metas.items()}


def _place(where: Channel | str, topic: str | None = None) -> tuple[Link | None, str]:
    """Return the owner and the topic."""
    if isinstance(where, Channel):
        return where.link, topic or where.topic
    if isinstance(where, str):
        return None, topic or where
    raise InvalidPayload(f"expected a channel or the name of a topic, got {where!r:.200}")
