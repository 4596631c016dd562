"""Broadcasts that leave when a transaction of SQLAlchemy commits, and only then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from .pubsub.envelope import check_key

log = logging.getLogger("flask_phoenix.pubsub")


#: Where a session has its own, by what broadcasts.
KEY = "flask_phoenix"


class AfterCommit:
    """Broadcasts of one session: each waits for the commit of the transaction in which it was asked for.

    :param broadcast: sends one.
    """

    def __init__(self, session: Session, broadcast: Callable[..., Any]) -> None:
        self._broadcast = broadcast
        #: What waits, each with its transaction: a savepoint, or None for the outermost.
        self._waiting: list[tuple[SessionTransaction | None, tuple[Any, ...], dict[str, Any]]] = []
        self._session = session
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_transaction_end", self._ended)

    def broadcast(self, topic: str, event: str, payload: Any, *, idempotency_key: str = "") -> None:
        """Send an event to everybody on a topic when the transaction has committed; a rollback drops it.

        So does a rollback of the savepoint in which this was called, and the close of a session that has not committed.

        :raises InvalidOption: the key is none.
        """
        check_key(idempotency_key)
        savepoint = self._session.get_nested_transaction()
        self._waiting.append((savepoint, (topic, event, payload), {"idempotency_key": idempotency_key}))

    def _committed(self, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        if savepoint is not None:  # a savepoint that is released belongs to what is around it
            outer = savepoint.parent if savepoint.parent is not None and savepoint.parent.nested else None
            self._waiting = [(outer if of is savepoint else of, what, how) for of, what, how in self._waiting]
            return
        waiting, self._waiting = self._waiting, []
        for _, arguments, options in waiting:
            try:
                self._broadcast(*arguments, **options)
            except Exception:  # the transaction is over; what has to arrive goes through an outbox
                log.exception("a broadcast on %r is lost after its transaction has committed", arguments[0])

    def _ended(self, session: Session, transaction: SessionTransaction) -> None:
        """Drop what still waits for a transaction that is over, however it has ended."""
        if transaction.nested:
            self._waiting = [each for each in self._waiting if each[0] is not transaction]
        elif transaction.parent is None:
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
