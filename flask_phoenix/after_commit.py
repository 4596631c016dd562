"""Broadcasts that leave when a transaction of SQLAlchemy commits, and only then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, scoped_session

log = logging.getLogger("flask_phoenix.pubsub")


#: Where a session has its own, by what broadcasts.
KEY = "flask_phoenix"


class AfterCommit:
    """Broadcasts of one session: each waits for the commit of the transaction in which it was asked for.

    :param broadcast: sends one.
    """

    def __init__(self, session: Session, broadcast: Callable[..., Any]) -> None:
        self._broadcast = broadcast
        self._waiting: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_rollback", self._rolled_back)

    def broadcast(self, topic: str, event: str, payload: Any, *, idempotency_key: str = "") -> None:
        """Send an event to everybody on a topic when the transaction has committed; a rollback drops it."""
        self._waiting.append(((topic, event, payload), {"idempotency_key": idempotency_key}))

    def _committed(self, session: Session) -> None:
        waiting, self._waiting = self._waiting, []
        for arguments, options in waiting:
            try:
                self._broadcast(*arguments, **options)
            except Exception:  # the transaction is over; what has to arrive goes through an outbox
                log.exception("a broadcast on %r is lost after its transaction has committed", arguments[0])

    def _rolled_back(self, session: Session) -> None:
        self._waiting.clear()


def after_commit(session: Session | scoped_session[Any], broadcast: Callable[..., Any]) -> AfterCommit:
    """Return what broadcasts when a session commits; a session has one.

    :param session: of SQLAlchemy, or a ``scoped_session``, as Flask-SQLAlchemy's ``db.session``.
    """
    own: Session = session() if isinstance(session, scoped_session) else session
    found: dict[Any, AfterCommit] = own.info.setdefault(KEY, {})
    if broadcast not in found:
        found[broadcast] = AfterCommit(own, broadcast)
    return found[broadcast]
