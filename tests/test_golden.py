"""Conversations recorded from Phoenix 1.8.12, replayed against this package, frame by frame."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.golden.replay import Case, expand
from tests.processes import DEADLINE, HOST, Server, Servers

CORPUS = Path(__file__).with_name("golden") / "conversations.json"
#: The other section, L, is long polling, which this package does not offer yet.
SECTIONS = ("2", "1", "1j", "H", "M", "B")
#: They are about presence, which this package does not offer yet.
NEED_PRESENCE = ("2.40", "2.41", "1.40", "1.41")


class Decision(NamedTuple):
    """Where we decide otherwise than Phoenix happens to behave."""

    #: What we do.
    ours: str
    #: The first difference from the recording that follows.
    difference: str


DECISIONS = {
    "2.26": Decision(
        "a heartbeat is answered at once, also while a join runs",
        'step 5 (A recv): frame.text[0]: expected "1", got null',
    ),
    "1.26": Decision(
        "a heartbeat is answered at once, also while a join runs",
        'step 5 (A recv): frame.text.ref: expected "1", got "3"',
    ),
    "H.13": Decision(
        "an auth token that is not base64 is refused",
        "step 1 (A connect): status: expected 500, got 403",
    ),
    "H.19": Decision(
        "the subprotocol phoenix is answered wherever it is offered, or browsers would give up",
        'step 1 (A connect): header sec-websocket-protocol: expected null, got "phoenix"',
    ),
    "M2.22": Decision(
        "of two equal keys in an object the last wins",
        "step 5 (A recv): frame.text[4].response.a: expected 1, got 2",
    ),
    "B.6": Decision(
        "a broadcast that one subscriber cannot take is sent to nobody",
        'step 8 (A recv): frame: expected {"binary_hex":"020604656467653a626e65777344415441"},'
        ' got {"text":["1","1","edge:b","phx_error",{"reason":"channel_crash"}]}',
    ),
    "B.9": Decision(
        "an empty join_ref in a binary frame is none, not a stale one",
        'step 5 (A silence_ms): expected silence on A, got {"binary_hex":"01010106023132656467653a626f6b616263"}',
    ),
}

EVERY: dict[str, dict[str, Any]] = {case["id"]: case for case in json.loads(CORPUS.read_text("utf-8"))}
CASES = [
    name
    for name, case in EVERY.items()
    if case["section"] in SECTIONS and name not in NEED_PRESENCE and not case.get("manual")
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server that offers what the recorded one offered; the cases follow each other on the same topics."""
    servers = Servers(tmp_path_factory.mktemp("golden"))
    yield servers.start(sys.executable, "-m", "tests.golden.peer", "{port}")
    servers.stop()


def test_every_quirk_is_decided() -> None:
    assert {name for name in CASES if "quirk" in EVERY[name]} == set(DECISIONS)


def test_what_is_left_out() -> None:
    left_out = {name: case for name, case in EVERY.items() if name not in CASES}
    assert {case["section"] for name, case in left_out.items() if name not in NEED_PRESENCE} == {"L", "Z"}


@pytest.mark.parametrize("name", CASES)
def test_conversation(peer: Server, name: str) -> None:
    difference = Case((HOST, peer.port), DEADLINE / 5).run(expand(EVERY[name]["steps"]))
    expected = DECISIONS[name].difference if name in DECISIONS else None
    assert difference == expected, EVERY[name]["title"]
