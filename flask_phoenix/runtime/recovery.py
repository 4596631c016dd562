"""What a client that comes back has missed, and what it is told of it in the reply to its join."""

from __future__ import annotations

import secrets
from typing import Any

from ..exceptions import InvalidReturn
from ..protocol.messages import RECOVERY, Kept, Reply, shown
from ..pubsub.history import Position, read_position

#: The key of a join's payload in which a client hands back its position.
SINCE = "since"
#: The characters of a name that a client may hand back.
NAME_LIMIT = 64


class Recovery:
    """A client that tells positions, and what it has missed.

    It sends ``since`` with its join: None when it comes first, then what the reply to its join said, with the ref of
    the last message that it has got in it, or that ref alone.
    """

    __slots__ = ("has_read", "missed", "name", "position", "recovered", "since")

    def __init__(self, since: Any) -> None:
        fields = since if isinstance(since, dict) else {"ref": since}
        name = fields.get("sender")
        self.since = read_position(fields.get("ref"))
        #: By what the histories know this client: what it sends to all others, it does not get when it comes back.
        self.name = name if isinstance(name, str) and 0 < len(name) <= NAME_LIMIT else secrets.token_hex(8)
        #: Where the topic was when the author's ``join`` read its history for this client; None: it did not.
        self.has_read: Position | None = None
        self.recovered = False
        self.missed: list[Kept] = []
        #: Where the client is when it has been answered: what follows the answer comes after that.
        self.position = Position("", 0)

    @property
    def starts(self) -> list[Position]:
        """After which positions the client can go on: where it was; else, what its join has read."""
        return [start for start in (self.since, self.has_read) if start is not None]

    def go_on(self, start: Position, missed: list[Kept]) -> None:
        """Let the client go on after one of its starts, by what came since."""
        self.recovered, self.position = start == self.since, start
        self.missed = [message for message in missed if message.sender != self.name]

    def begin(self, position: Position) -> None:
        """Let the client begin where the topic is: what came before cannot be had."""
        self.position = position

    def skip(self, events: frozenset[str]) -> None:
        """Leave out what the client is not given."""
        self.missed = [message for message in self.missed if message.event not in events]

    def tell(self, reply: Reply) -> Reply:
        """Add to the reply to a join what became of the position.

        :raises InvalidReturn: the reply has no place for it.
        """
        if not isinstance(reply.response, dict):
            raise InvalidReturn(
                f"a join answered {shown(reply.response)} to a client that sent {SINCE!r}: where there is a history,"
                " the response of a join is a dict"
            )
        epoch, offset = self.position
        told = {
            "recovered": self.recovered,
            "epoch": epoch,
            "offset": offset,
            "missed": len(self.missed),
            "ref": str(self.position),
            "sender": self.name,
        }
        return reply._replace(response={**reply.response, RECOVERY: told})


def without_position(payload: Any) -> Any:
    """Return the payload of a join as an app knows it that knows nothing of positions."""
    if isinstance(payload, dict) and SINCE in payload:
        return {key: value for key, value in payload.items() if key != SINCE}
    return payload


def recovery_of(payload: Any) -> Recovery | None:
    """Return the recovery that a join asks for with its payload; None: it asks for none."""
    return Recovery(payload[SINCE]) if isinstance(payload, dict) and SINCE in payload else None
