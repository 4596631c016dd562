"""What clients were told and sent, held against what was published: nothing twice, nothing missing, all in order."""

from __future__ import annotations

from collections import Counter
from typing import Any

Place = tuple[str, int]


def place(ref: str) -> Place:
    """Return the epoch and the offset of a ref."""
    epoch, _, offset = ref.rpartition(":")
    return epoch, int(offset)


class Ledger:
    """Takes the records of clients in their order; what is wrong is in :attr:`wrong`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        #: Where each client is.
        self.places: dict[str, Place] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def receipt(self, topic: str, ref: str, number: int) -> None:
        """Take a publisher's receipt."""
        self.counts["receipts"] += 1
        self._agree(topic, ref, number, "the receipt")

    def told(self, client: str, told: dict[str, Any]) -> None:
        """Take what a client was told by the reply to a join."""
        here, there = self.places.get(client), (told["epoch"], told["offset"])
        if told["recovered"]:
            self.counts["recoveries"] += 1
            if here != there:
                self.wrong.append(f"{client} was at {here}, and recovers from {there}")
        else:
            self.counts["joins" if here is None else "declared losses"] += 1
        self.places[client] = there

    def message(self, client: str, topic: str, ref: str | None, number: int) -> None:
        """Take a message that a client has got."""
        self.counts["messages"] += 1
        if ref is None:
            self.wrong.append(f"{client} got {number} without a ref")
            return
        epoch, offset = self.places[client]
        if place(ref) != (epoch, offset + 1):
            self.wrong.append(f"{client} was at {epoch}:{offset}, and got {number} at {ref}")
        self.places[client] = place(ref)
        self._agree(topic, ref, number, client)

    def _agree(self, topic: str, ref: str, number: int, who: str) -> None:
        known = self._numbers.setdefault((topic, ref), number)
        if known != number:
            self.wrong.append(f"{who} says that {ref} on {topic} is {number}, and somebody else {known}")
