"""The sessions of one mount in this process, found by their tokens; clients that use none of theirs are slowed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from gevent.event import Event
from itsdangerous import BadData, URLSafeTimedSerializer

from ... import clock
from ...exceptions import PhoenixError, Unsupported
from ...runtime.engine import Engine
from ..options import Options
from .carrier import LongPollCarrier
from .remote import OtherNodes, RemoteSession, RequestsOfOthers
from .session import LocalSession, Session

log = logging.getLogger("flask_phoenix.longpoll")

#: Sessions of one client that may be unused; the next one has to wait for so many seconds.
UNUSED_SESSIONS = 4
UNUSED_DELAY = 2.0

UNUSED = (
    "a client that polls has begun %d sessions and used none: something of the app may refuse what it sends, such as a"
    " check against forged requests (CSRF), from which the path of the mount is to be exempted; it has to wait now"
)


class Sessions:
    """The sessions of one mount in this process, by their tokens.

    :param keys: returns the app's secret keys, the one to sign with last.
    """

    def __init__(self, engine: Engine, salt: str, keys: Callable[[], list[Any]], options: Options) -> None:
        self._engine = engine
        self._salt = salt
        self._keys = keys
        self._options = options
        self._local: dict[str, LocalSession] = {}
        #: Tokens that were made here, so that nobody need look at their signatures: their keys, and until when.
        self._tokens: dict[str, tuple[LocalSession, Any, float]] = {}
        self._nodes = OtherNodes()
        engine.node.add(self._nodes)
        self.unused = UnusedSessions()
        #: What answers the requests that other nodes hand over, by the ids of the sessions.
        self._requests: dict[str, RequestsOfOthers] = {}

    def open(self, client: Hashable, ended: Callable[[], None]) -> tuple[LongPollCarrier, str, str]:
        """Make a carrier, its id, and the token by which its client finds it again.

        :param ended: called when the session has ended.
        """
        id, options = secrets.token_urlsafe(16), self._options
        token = self._signer().dumps([self._engine.node.name, id])

        def end() -> None:
            self._forget(client, id, token)
            ended()

        carrier = LongPollCarrier(options.window, options.outbox_limit, end)
        session = LocalSession(carrier, options.max_frame_size, lambda: self.unused.discard(client, id))
        self._local[id] = session
        self._tokens[token] = session, self._keys()[-1], clock.monotonic() + options.token_max_age
        if self._engine.node.adapter is not None:
            requests = self._requests[id] = RequestsOfOthers(self._engine, id, session)
            requests.open()
        return carrier, id, token

    def hand_out(self, client: Hashable, id: str) -> None:
        """Count a session, which its client is told of now, until it is used."""
        if id in self._local:
            self.unused.add(client, id)

    def find(self, token: str, ask: bool = True) -> Session | None:
        """Return the session of a token; None when it is gone, forged, too old, or out of reach.

        :param ask: whether to ask another node if it still has the session; else its next answer tells.
        """
        if token in self._tokens:
            session, key, until = self._tokens[token]
            return session if key in self._keys() and clock.monotonic() < until else None
        try:
            (node, id), signed_at = self._signer().loads(token, return_timestamp=True)
        except (BadData, ValueError):
            return None
        # Not by max_age, which refuses a token of the future: a clock was set back, or that of another host is ahead.
        if clock.time() - signed_at.timestamp() > self._options.token_max_age:
            return None
        if id in self._local:
            return self._local[id]
        with suppress(PhoenixError):  # said when its client begins anew
            self._engine.serve()  # this may be the first request of this process, and the session another node's
        if node == self._engine.node.name or self._engine.node.adapter is None or self._nodes.has_ended(node):
            return None
        remote = RemoteSession(self._engine, self._nodes, node, id, self._options)
        return remote if not ask or remote.alive() else None

    def _signer(self) -> URLSafeTimedSerializer:
        keys = self._keys()
        if not keys[-1]:
            raise Unsupported(
                "long polling signs its tokens: set app.secret_key (SECRET_KEY), the same in every process"
            )
        return URLSafeTimedSerializer(keys, salt=self._salt)

    def _forget(self, client: Hashable, id: str, token: str) -> None:
        self._local.pop(id, None)
        self._tokens.pop(token, None)
        self.unused.discard(client, id)
        requests = self._requests.pop(id, None)
        if requests is not None:
            requests.close()


class UnusedSessions:
    """The sessions that clients have begun, and not used yet: those who begin many are slowed.

    A client does so whose messages are refused on their way, as by a check against forged requests: it begins again as
    soon as that is noticed, hundreds of times in ten seconds.
    """

    def __init__(self) -> None:
        self._ids: dict[Hashable, set[str]] = {}
        self._logged: set[Hashable] = set()
        self._waiting: dict[Hashable, set[Event]] = {}

    def add(self, client: Hashable, id: str) -> None:
        """Take in a session."""
        self._ids.setdefault(client, set()).add(id)

    def discard(self, client: Hashable, id: str) -> None:
        """Forget a session, which is used, or has ended."""
        ids = self._ids.get(client)
        if ids is None:
            return
        ids.discard(id)
        if not ids:
            del self._ids[client]
            self._logged.discard(client)
        for event in self._waiting.get(client, ()):
            event.set()

    def are_many(self, client: Hashable) -> bool:
        """Tell whether a client has begun so many that the next one has to wait."""
        return len(self._ids.get(client, ())) >= UNUSED_SESSIONS

    def wait(self, client: Hashable) -> None:
        """Wait until there are fewer, for :data:`UNUSED_DELAY` seconds at most."""
        if client not in self._logged:
            self._logged.add(client)
            log.warning(UNUSED, UNUSED_SESSIONS)
        freed = Event()
        waiting = self._waiting.setdefault(client, set())
        waiting.add(freed)
        deadline = clock.monotonic() + UNUSED_DELAY
        while self.are_many(client) and (left := deadline - clock.monotonic()) > 0:
            freed.clear()
            freed.wait(left)
        waiting.discard(freed)
        if not waiting:
            self._waiting.pop(client, None)
