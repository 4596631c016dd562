"""Who is present, as a client knows it from the events that it got: the rules of the npm client's Presence."""

from __future__ import annotations

from typing import Any, NamedTuple

#: Each key with its metas, as clients get it.
Presences = dict[str, dict[str, Any]]


class Change(NamedTuple):
    """A key that came, or went, with the metas that did."""

    key: str
    metas: list[dict[str, Any]]


class Follower:
    """Keeps a client's list of who is present; diffs wait for the state."""

    def __init__(self) -> None:
        #: Who is present.
        self.presences: Presences = {}
        #: What has come and gone, and was not asked for yet.
        self.joins: list[Change] = []
        self.leaves: list[Change] = []
        #: The diffs that wait for the state, as they do from each join on; None: it has come.
        self.waiting: list[dict[str, Presences]] | None = []

    def hear(self, event: str, payload: Any) -> None:
        """Take what the server tells."""
        if event == "presence_state":
            diffs, self.waiting = self.waiting or [], None
            self._take_state(payload)
            for diff in diffs:
                self._take(diff)
        elif event == "presence_diff" and self.waiting is not None:
            self.waiting.append(payload)
        elif event == "presence_diff":
            self._take(payload)

    def _take_state(self, state: Presences) -> None:
        """Know those of a state alone, as after the client has come back."""
        leaves = {
            key: {**known, "metas": gone}
            for key, known in self.presences.items()
            if (gone := _without(known["metas"], state.get(key, {"metas": []})["metas"]))
        }
        self._take({"joins": state, "leaves": leaves})

    def _take(self, diff: dict[str, Presences]) -> None:
        """Let some in, then some out; a meta that is known already is not added twice."""
        for key, new in diff["joins"].items():
            known = self.presences.get(key, {"metas": []})["metas"]
            self.presences[key] = {**new, "metas": [*_without(known, new["metas"]), *new["metas"]]}
            if come := _without(new["metas"], known):
                self.joins.append(Change(key, come))
        for key, left in diff["leaves"].items():
            if key in self.presences:
                self.presences[key]["metas"] = _without(self.presences[key]["metas"], left["metas"])
                self.leaves.append(Change(key, left["metas"]))
                if not self.presences[key]["metas"]:
                    del self.presences[key]


def _without(metas: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    refs = {meta["phx_ref"] for meta in others}
    return [meta for meta in metas if meta["phx_ref"] not in refs]
