"""Conversations recorded from Phoenix 1.8.12, replayed against this package, frame by frame.

Their times are those of the server's clock, which goes on when the server has nothing more to do: a slow machine
changes nothing, and nobody waits.
"""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tests.golden import replay
from tests.golden.replay import Case, expand
from tests.support.processes import DEADLINE, HOST, Server, Servers

CORPUS = Path(__file__).with_name("golden") / "conversations.json"


class Decision(NamedTuple):
    """Where we decide otherwise than Phoenix happens to behave."""

    #: What we do.
    ours: str
    #: The first difference from the recording that follows; None: the recording does not tell.
    difference: str | None


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
        "a client that cannot carry a broadcast goes without; nobody crashes",
        'step 9 (A recv): expected {"text":["1","1","edge:b","phx_error",{"reason":"channel_crash"}]},'
        " got nothing in time",
    ),
    "B.9": Decision(
        "an empty join_ref in a binary frame is none, not a stale one",
        'step 5 (A silence_ms): expected silence on A, got {"binary_hex":"01010106023132656467653a626f6b616263"}',
    ),
    "L.7": Decision(
        "bytes for a client that polls crash the channel that says them",
        r'step 5 (P5 http): body.messages[0]: expected "\u0001\u0001\u0002\u0007\u0002810edge:lpokfrom json",'
        r' got "[\"8\",\"8\",\"edge:lp\",\"phx_error\",{\"reason\":\"channel_crash\"}]"',
    ),
    "L.8": Decision(
        "bytes for a client that polls crash the channel that says them",
        "step 5 (P6 http): status: expected 500, got 200",
    ),
    "L.13": Decision(
        "malformed JSON ends the session, and its POST is answered at once",
        None,
    ),
    "L.13b": Decision(
        "so does a line that is neither JSON nor base64",
        "step 2 (A http): status: expected 500, got 200",
    ),
    "L.21": Decision(
        "a batch takes objects of vsn 1.0.0",
        "step 6 (A http): status: expected 500, got 200",
    ),
    "L.23": Decision(
        "a poll that waits is answered when its session ends",
        "step 10 (P1 http_recv): body.status: expected 204, got 410",
    ),
    "L.25": Decision(
        "an empty line in a batch is skipped",
        "step 7 (A http): body.status: expected 408, got 200",
    ),
}

#: What long polling answers instead: the response, by the number of the step; the case is replayed up to the last one.
CRASHED = {"json_text": ["8", "8", "edge:lp", "phx_error", {"reason": "channel_crash"}]}
ECHO_V1 = {"topic": "room:lp", "event": "phx_reply", "ref": "3", "payload": {"status": "ok", "response": {"n": 2}}}
ECHO_V2 = ["1", "6", "room:lp", "phx_reply", {"status": "ok", "response": {"n": 6}}]
INSTEAD: dict[str, dict[int, Any]] = {
    "L.7": {5: {"status": 200, "token": "$token1", "messages": [CRASHED]}},
    "L.8": {5: {"status": 200, "token": "$token1", "messages": [CRASHED]}},
    "L.13": {2: {"status": 408}, 4: {"status": 410, "token": "$token2", "messages": []}},
    "L.13b": {2: {"status": 408}, 3: {"status": 410, "token": "$token2", "messages": []}},
    "L.21": {6: {"status": 200}, 7: {"status": 200, "token": "$token1", "messages": [{"json_text": ECHO_V1}]}},
    "L.23": {10: {"status": 410, "token": "$token1", "messages": []}},
    "L.25": {7: {"status": 200}, 8: {"status": 200, "token": "$token1", "messages": [{"json_text": ECHO_V2}]}},
}
#: Milliseconds within which each of those comes: none of them waits for a window.
AT_ONCE = 10
#: Seconds to wait for what is expected, unless a step says another.
PATIENCE = 2.0
#: Real seconds in which most answers come; after them the server is asked whether it has anything to do.
LOOK = 0.02

EVERY: dict[str, dict[str, Any]] = {case["id"]: case for case in json.loads(CORPUS.read_text("utf-8"))}
CASES = [name for name, case in EVERY.items() if not case.get("manual")]


class Time:
    """The server's time, in the place of the replayer's module ``time``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._now = 0.0

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        end = self._now + seconds
        while self._now < end:
            self.advance(end)

    def advance(self, until: float) -> None:
        """Let the server do what it has to do, and then time pass until something is due there, or up to a moment."""
        with urlopen(self._server.url(f"/clock?until={until!r}"), timeout=DEADLINE) as answer:
            self._now = float(answer.read())


def wire_of(time: Time) -> type[replay.Wire]:
    """Return the replayer's connection, for which time passes while the server has nothing to say."""

    class Wire(replay.Wire):
        def more(self, deadline: float) -> bool:
            if not self._has_more(LOOK):
                time.advance(time.monotonic())
            while not self._has_more(0):
                if time.monotonic() >= deadline:
                    raise TimeoutError
                time.advance(deadline)
            return super().more(time.monotonic() + DEADLINE)

        def _has_more(self, seconds: float) -> bool:
            return bool(select.select([self.sock], [], [], seconds)[0])

    return Wire


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server that offers what the recorded one offered; the cases follow each other on the same topics."""
    servers = Servers(tmp_path_factory.mktemp("golden"))
    server = servers.start(sys.executable, "-m", "tests.golden.timed_peer", "{port}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replay, "time", time := Time(server))
        patched.setattr(replay, "Wire", wire_of(time))
        yield server
    servers.stop()


def test_every_quirk_is_decided() -> None:
    assert {name for name in CASES if "quirk" in EVERY[name]} == set(DECISIONS)


def test_what_is_left_out() -> None:
    assert EVERY.keys() - set(CASES) == {"Z.1"}


@pytest.mark.parametrize("name", CASES)
def test_conversation(peer: Server, name: str) -> None:
    difference = Case((HOST, peer.port), PATIENCE).run(expand(EVERY[name]["steps"]))
    expected = DECISIONS[name].difference if name in DECISIONS else None
    assert difference == expected, EVERY[name]["title"]


def test_every_decision_about_long_polling_is_spelled_out() -> None:
    assert set(INSTEAD) == {name for name in DECISIONS if EVERY[name]["section"] == "L"}


@pytest.mark.parametrize("name", INSTEAD)
def test_what_long_polling_does_instead(peer: Server, name: str) -> None:
    steps: list[dict[str, Any]] = json.loads(json.dumps(EVERY[name]["steps"][: max(INSTEAD[name])]))
    for number, content in INSTEAD[name].items():
        step = steps[number - 1]
        response = {"status": 200, "headers": {"cache-control": "no-store"}, "json": content}
        if "http" in step:
            step["http"]["response"] = response
            step["elapsed_ms"] = [0, AT_ONCE]
        else:
            step["http_recv"] = response
        step.pop("within_ms", None)
    assert Case((HOST, peer.port), PATIENCE).run(expand(steps)) is None


def test_raw_echo_compresses(peer: Server) -> None:
    """As suites that test the WebSocket protocol itself expect it."""
    with connect(f"ws://{HOST}:{peer.port}/raw/websocket", compression="deflate") as websocket:
        assert websocket.response is not None
        assert websocket.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        for frame in ("x" * 100_000, b"\x00" * 100_000, ""):
            websocket.send(frame)
            assert websocket.recv(DEADLINE) == frame
