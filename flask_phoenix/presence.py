"""Presence: what an author asks of those who are present, from a channel or from anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .channel import Channel
from .channel_runtime import ChannelRuntime, NewMeta, Tracking
from .exceptions import InvalidPayload
from .payloads.writing import Record
from .protocol.messages import shown
from .refusals import refuse_misfits, refuse_reserved
from .tracker.server import Hooks, Presences, TrackerServer

#: What authors write in a Presence.
CALLBACKS = ("fetch", "handle_metas", "count_only")


class Presence(Hooks, Tracking):
    """Who is present on each topic, on all nodes; the clients that joined a topic are told of each change.

    ``online = phoenix.presence()``, or ``phoenix.presence(Online)`` for a subclass that overrides a hook. Clients that
    joined a topic are sent ``presence_diff`` at each change; the channel sends the state to begin with:
    ``self.push("presence_state", self.presences())``.

    In all methods ``where`` is a channel, whose presences end with it, or the name of a topic: what is tracked there
    lasts until it is untracked, or this process ends. Keys are strings. Call ``track``, ``update`` and ``untrack`` in
    the thread that serves.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refuse_reserved(cls, Presence, CALLBACKS)
        refuse_misfits(cls, Presence, CALLBACKS)

    #: Returns what the current app and process have of this presence.
    server: Callable[[], TrackerServer]

    def track(self, where: Channel | str, key: str, meta: Record | None = None, topic: str | None = None) -> str:
        """Be present under a key; several channels may share one.

        :param meta: what others are told of this one: a dict of JSON, or a record that is written as one.
        :param topic: where to be present, if that is not the channel's topic.
        :returns: the ``phx_ref``, by which clients tell metas apart.
        :raises AlreadyTracked: this channel is present there under the key; see :meth:`update`.
        :raises NotJoined: the join is not over.
        :raises InvalidPayload: the meta is no dict of JSON, or nests more than 100 levels.
        :raises Unsupported: this is not the thread that serves, or this process has stopped serving.
        """
        owner, topic = _place(where, topic)
        return self.server().track(owner, topic, str(key), {} if meta is None else meta)

    def update(self, where: Channel | str, key: str, meta: NewMeta, topic: str | None = None) -> str:
        """Replace a meta, by another one or by what a function makes of it; clients see a leave and a join in one.

        :raises NotTracked: this channel is not present there under the key.
        :raises InvalidPayload: as :meth:`track`.
        :raises Unsupported: as :meth:`track`.
        """
        owner, topic = _place(where, topic)
        return self.server().update(owner, topic, str(key), meta)

    def track_or_update(
        self, where: Channel | str, key: str, meta: Record | None = None, topic: str | None = None
    ) -> str:
        """Be present under a key with this meta, whether this channel is present there already or not.

        :raises NotJoined: as :meth:`track`.
        :raises InvalidPayload: as :meth:`track`.
        :raises Unsupported: as :meth:`track`.
        """
        owner, topic = _place(where, topic)
        return self.server().track_or_update(owner, topic, str(key), {} if meta is None else meta)

    def untrack(self, where: Channel | str, key: str, topic: str | None = None) -> None:
        """Be present under a key no more; it need not be tracked.

        :raises Unsupported: as :meth:`track`.
        """
        owner, topic = _place(where, topic)
        self.server().untrack(owner, topic, str(key))

    def list(self, where: Channel | str) -> Presences:
        """Return who is present: each key with its metas, through :meth:`fetch`.

        :raises InvalidReturn: fetch returned no presences.
        :raises Unsupported: this process has stopped serving, or cannot start in this thread.
        :raises NotPublished: this process is none of those that serve clients, and knows no way to them.
        """
        server, topic = self._look(where)
        return server.list(topic)

    def get_by_key(self, where: Channel | str, key: str) -> dict[str, Any] | None:
        """Return what :meth:`list` has for a key, or None.

        :raises InvalidReturn: as :meth:`list`.
        """
        server, topic = self._look(where)
        return server.get_by_key(topic, str(key))

    def count(self, where: Channel | str) -> int:
        """Return how many keys are present.

        :raises Unsupported: as :meth:`list`.
        :raises NotPublished: as :meth:`list`.
        """
        server, topic = self._look(where)
        return server.tracker.count(topic)

    def _look(self, where: Channel | str) -> tuple[TrackerServer, str]:
        """Return where to look, and for which topic; asked from outside, a process that has just started waits."""
        server, (owner, topic) = self.server(), _place(where)
        if owner is None:
            server.look()
        return server, topic


def _place(where: Channel | str, topic: str | None = None) -> tuple[ChannelRuntime | None, str]:
    """Return the owner and the topic."""
    if not isinstance(where, Channel | str):
        raise InvalidPayload(f"expected a channel or the name of a topic, got {shown(where)}")
    if topic is not None and not isinstance(topic, str):
        raise InvalidPayload(f"expected the name of a topic, got {shown(topic)}")
    owner, here = (where.runtime, where.topic) if isinstance(where, Channel) else (None, where)
    return owner, here if topic is None else topic
