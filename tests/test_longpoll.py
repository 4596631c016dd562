"""Frames over repeated requests: what waits for a poll, who gets it, and when a session is over."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.channel import Channel, on
from flask_phoenix.exceptions import InvalidPayload
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import DISCONNECT, Broadcast
from flask_phoenix.protocol.serializers import V2Serializer
from flask_phoenix.protocol.state import Protocol
from flask_phoenix.pubsub.hub import STRIDE
from flask_phoenix.runtime.channel_connection import ChannelConnection
from flask_phoenix.runtime.connection import Connection, RawConnection
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.socket import RawSocket, Socket
from flask_phoenix.transports.longpoll import carrier as longpoll
from flask_phoenix.transports.longpoll.carrier import ABSENT_WINDOWS, LongPollCarrier
from tests.processes import DEADLINE
from tests.roads import V1, V2, in_thread, turn

#: A window that no test waits for, and one that a test may.
LONG, SHORT = 10 * DEADLINE, DEADLINE / 200
LIMIT = 1 << 20


class EchoSocket(RawSocket):
    """Echoes frames, and remembers how it ended."""

    def handle_frame(self, frame: str | bytes) -> None:
        self.send(frame)

    def terminate(self, reason: Any) -> None:
        self.assigns["reason"] = reason


class RoomSocket(Socket):
    """Has rooms."""


@RoomSocket.channel("room:*")
class RoomChannel(Channel):
    """Lets everybody in."""

    def join(self, payload: Any) -> None:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload

    @on("say")
    def say(self, payload: Any) -> Any:
        self.broadcast("said", payload)
        return {}

    @on("push_bytes")
    def push_bytes(self, payload: Any) -> None:
        self.push("pushed", b"\x01")

    @on("say_bytes")
    def say_bytes(self, payload: Any) -> None:
        self.broadcast("said", b"\x01")


class Session:
    """A session, and what is known of its end."""

    def __init__(self, make: Callable[[LongPollCarrier], Connection], window: float, limit: int) -> None:
        self.ends: list[bool] = []
        self.ended = Event()
        self.carrier = LongPollCarrier(window, limit, self._end)
        self.connection = make(self.carrier)
        self.carrier.serve(self.connection)

    def _end(self) -> None:
        self.ends.append(self.connection.open)
        self.ended.set()

    def wait(self) -> gevent.Greenlet[[], list[str]]:
        """Let a poll wait."""
        poll = gevent.spawn(self.carrier.poll)
        turn()
        return poll

    def say(self, ref: str, event: str, payload: Any = None) -> None:
        """Send a message on ``room:1``, in vsn 2.0.0."""
        self.connection.receive(json.dumps(["1", ref, "room:1", event, payload or {}]))

    def hear(self) -> list[Any]:
        """Poll for messages of vsn 2.0.0."""
        return [json.loads(frame) for frame in self.carrier.poll()]

    @property
    def reason(self) -> Any:
        """The reason of the end, as the author was told."""
        turn()
        return self.connection.socket.assigns.get("reason")


class Desk:
    """Makes sessions."""

    def __init__(self) -> None:
        self.engine = Engine(nullcontext, Json())
        self.sessions: list[Session] = []

    def echo(self, window: float = LONG, limit: int = LIMIT, id: str | None = None) -> Session:
        """Open a session of frames."""
        return self._open(
            lambda carrier: RawConnection(self.engine, EchoSocket({}, "longpoll"), id, carrier), window, limit
        )

    def member(self, window: float = LONG, serializer: V2Serializer = V2) -> Session:
        """Open a session that has joined ``room:1``, in vsn 2.0.0."""

        def make(carrier: LongPollCarrier) -> Connection:
            socket = RoomSocket({}, "longpoll")
            return ChannelConnection(self.engine, socket, None, carrier, Protocol(serializer, socket.match))

        session = self._open(make, window, LIMIT)
        session.say("1", "phx_join")
        assert session.hear() == [["1", "1", "room:1", "phx_reply", {"status": "ok", "response": {}}]]
        return session

    def clocks(self, periods: int) -> Iterator[Event]:
        """Yield events that come one after another, each when a client with a short window has stayed away too long."""
        for _ in range(periods):
            yield self.echo(SHORT).ended

    def _open(self, make: Callable[[LongPollCarrier], Connection], window: float, limit: int) -> Session:
        self.sessions.append(Session(make, window, limit))
        return self.sessions[-1]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    for session in desk.sessions:
        session.connection.close(1000, "closed")
    desk.engine.stop()


# What waits for a poll


def test_frames_wait_for_a_poll(desk: Desk) -> None:
    session = desk.echo()
    for frame in ("a", "b", "c"):
        session.connection.send(frame)
    assert session.carrier.poll() == ["a", "b", "c"]
    session.connection.send("d")
    assert session.carrier.poll() == ["d"]


def test_a_poll_that_waits_is_woken_at_once(desk: Desk) -> None:
    session = desk.echo()
    poll = session.wait()
    assert not poll.ready()
    session.connection.receive("a")
    assert poll.get(timeout=DEADLINE) == ["a"]


def test_it_takes_everything_that_is_there_when_it_wakes(desk: Desk) -> None:
    session = desk.echo()
    poll = session.wait()
    for frame in ("a", "b", "c"):
        session.connection.send(frame)
    assert poll.get(timeout=DEADLINE) == ["a", "b", "c"]


def test_a_poll_without_frames_runs_into_its_window(desk: Desk) -> None:
    session = desk.echo(SHORT)
    begin = monotonic()
    assert session.carrier.poll() == []
    assert monotonic() - begin > SHORT * 0.9
    assert session.connection.open


def test_what_comes_behind_the_window_is_for_the_next_poll(desk: Desk) -> None:
    session = desk.echo(SHORT)
    assert session.carrier.poll() == []
    session.connection.send("late")
    assert session.carrier.poll() == ["late"]


def test_a_frame_from_another_thread(desk: Desk) -> None:
    session = desk.echo()
    poll = session.wait()
    in_thread(session.connection.send, "a")
    assert poll.get(timeout=DEADLINE) == ["a"]


def test_a_burst_is_one_answer_however_many_poll(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longpoll, "BURST", DEADLINE)
    sessions = [desk.member() for _ in range(STRIDE * 2)]
    polls = [session.wait() for session in sessions]
    for n in range(10):
        desk.engine.broadcast(Broadcast("room:1", "said", {"n": n}))
    burst = [[None, None, "room:1", "said", {"n": n}] for n in range(10)]
    for poll in polls:
        assert [json.loads(frame) for frame in poll.get(timeout=DEADLINE)] == burst


# Several polls


def test_an_end_is_told_to_a_poll_whose_place_is_taken_too(desk: Desk) -> None:
    session = desk.echo()
    older, newer = session.wait(), session.wait()
    session.connection.close(1000, "over")
    assert older.get(timeout=DEADLINE) == newer.get(timeout=DEADLINE) == []


def test_a_newer_poll_takes_the_place_of_the_older(desk: Desk) -> None:
    session = desk.echo()
    older, newer = session.wait(), session.wait()
    session.connection.send("a")
    assert newer.get(timeout=DEADLINE) == ["a"]
    session.connection.send("b")
    turn()
    assert not older.ready()
    assert session.carrier.poll() == ["b"]
    older.kill()


def test_the_older_poll_runs_into_its_window_and_leaves_the_newer_alone(desk: Desk) -> None:
    session = desk.echo(DEADLINE)
    session.carrier.window = SHORT
    older = session.wait()
    session.carrier.window = LONG
    newer = session.wait()
    assert older.get(timeout=DEADLINE) == []
    assert not newer.ready()
    session.connection.send("a")
    assert newer.get(timeout=DEADLINE) == ["a"]


def test_a_poll_that_comes_while_the_older_one_wakes_gets_the_frames(desk: Desk) -> None:
    session = desk.echo()
    older = session.wait()
    session.connection.send("a")
    assert session.carrier.poll() == ["a"]
    assert older.get(timeout=DEADLINE) == []


def test_a_poll_that_is_cut_short_takes_nothing(desk: Desk) -> None:
    session = desk.echo()
    session.wait().kill()
    session.connection.send("a")
    assert session.carrier.poll() == ["a"]


# How long a client may stay away


def test_a_client_that_never_polls_is_gone(desk: Desk) -> None:
    session = desk.echo(SHORT)
    assert session.ended.wait(DEADLINE)
    assert not session.connection.open
    assert session.reason == "inactive"


def test_it_may_stay_away_for_a_window_and_a_half(desk: Desk) -> None:
    session = desk.echo(SHORT)
    begin = monotonic()
    assert session.carrier.poll() == []
    assert session.ended.wait(DEADLINE)
    # Timers count from the turn of the loop in which they are set.
    assert monotonic() - begin > SHORT * ABSENT_WINDOWS * 0.9


def test_a_client_that_polls_again_and_again_is_there(desk: Desk) -> None:
    session = desk.echo(SHORT)
    for clock in desk.clocks(3):
        while not clock.is_set():
            assert session.carrier.poll() == []
            assert session.connection.open
    assert session.ended.wait(DEADLINE)


def test_polls_that_are_answered_at_once_count(desk: Desk) -> None:
    session = desk.echo(SHORT)
    for clock in desk.clocks(3):
        while not clock.wait(SHORT / 10):
            session.connection.send("a")
            assert session.carrier.poll() == ["a"]
    assert session.connection.open


def test_a_poll_that_waits_is_not_inactive(desk: Desk) -> None:
    session = desk.echo(SHORT)
    # A poll that outlasts the period, as when a busy loop comes late to the end of a window.
    session.carrier.window = LONG
    poll = session.wait()
    session.carrier.window = SHORT
    for clock in desk.clocks(3):
        assert clock.wait(DEADLINE)
    assert session.connection.open
    session.connection.send("a")
    assert poll.get(timeout=DEADLINE) == ["a"]


def test_a_poll_that_is_cut_short_waits_no_more(desk: Desk) -> None:
    session = desk.echo(SHORT)
    session.wait().kill()
    assert session.ended.wait(DEADLINE)
    assert session.reason == "inactive"


def test_what_a_client_sends_is_no_poll(desk: Desk) -> None:
    session = desk.echo(SHORT)
    while not session.ended.wait(SHORT / 10):
        session.connection.receive("a")
    assert session.reason == "inactive"


# How much may wait


def test_too_much_that_waits_ends_the_session(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    session = desk.echo(limit=10)
    session.connection.send("x" * 5)
    session.connection.send("y" * 5)
    assert session.connection.close in desk.engine.connections
    poll = gevent.spawn(session.carrier.poll)
    session.connection.send("z")
    assert not session.connection.open
    assert session.reason == "too slow"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "EchoSocket polls too slowly: 10 characters wait (outbox_limit)" in caplog.text
    assert poll.get(timeout=DEADLINE) == ["x" * 5, "y" * 5]


def test_one_message_may_be_larger(desk: Desk) -> None:
    session = desk.echo(limit=10)
    session.connection.send("x" * 100)
    assert session.carrier.poll() == ["x" * 100]
    poll = session.wait()
    session.connection.send("y" * 100)
    assert poll.get(timeout=DEADLINE) == ["y" * 100]
    assert session.connection.open


def test_what_was_fetched_waits_no_more(desk: Desk) -> None:
    session = desk.echo(limit=10)
    for _ in range(5):
        session.connection.send("x" * 10)
        assert session.carrier.poll() == ["x" * 10]
    assert session.connection.open


def test_each_session_has_its_own_bound(desk: Desk) -> None:
    slow, other = desk.echo(limit=1), desk.echo(limit=1)
    slow.connection.send("xy")
    slow.connection.send("z")
    assert (slow.connection.open, other.connection.open) == (False, True)


# Bytes


def test_bytes_raise_where_they_are_sent(desk: Desk) -> None:
    session = desk.echo()
    with pytest.raises(InvalidPayload, match="bytes cannot go to a client that polls"):
        session.connection.send(b"\x01")
    session.connection.send("a")
    assert session.carrier.poll() == ["a"]


@pytest.mark.parametrize("event", ["push_bytes", "say_bytes"])
def test_a_channel_that_says_bytes_crashes(desk: Desk, event: str) -> None:
    session = desk.member()
    session.say("2", event)
    assert session.hear() == [["1", "1", "room:1", "phx_error", {"reason": "channel_crash"}]]
    assert session.connection.open


def test_a_broadcast_of_bytes_reaches_nobody(desk: Desk) -> None:
    one, other = desk.member(), desk.member()
    with pytest.raises(InvalidPayload, match="let it use a WebSocket"):
        desk.engine.broadcast(Broadcast("room:1", "said", b"\x01"))
    desk.engine.broadcast(Broadcast("room:1", "said", {"n": 1}))
    assert one.hear() == other.hear() == [[None, None, "room:1", "said", {"n": 1}]]


def test_bytes_may_be_received(desk: Desk) -> None:
    session = desk.member()
    session.connection.receive(b"\x00\x01\x01\x06\x0312room:1say\x01")
    assert session.hear() == [["1", "1", "room:1", "phx_error", {"reason": "channel_crash"}]]


# The end


@pytest.mark.parametrize(("code", "reason"), [(1001, "disconnected"), (1012, "draining"), (1000, "closed")])
def test_an_end_wakes_the_poll(desk: Desk, code: int, reason: str) -> None:
    session = desk.echo()
    poll = session.wait()
    session.connection.close(code, reason)
    assert poll.get(timeout=DEADLINE) == []
    assert session.reason == reason
    assert session.connection.close not in desk.engine.connections


def test_what_was_said_before_the_end_is_fetched_by_the_poll_that_waits(desk: Desk) -> None:
    session = desk.echo()
    poll = session.wait()
    session.connection.send("last words")
    session.connection.close(1001, "disconnected")
    assert poll.get(timeout=DEADLINE) == ["last words"]


def test_a_poll_behind_the_end_does_not_wait(desk: Desk) -> None:
    session = desk.echo()
    session.connection.close(1001, "disconnected")
    assert session.wait().get(timeout=DEADLINE) == []


def test_nothing_is_kept_behind_the_end(desk: Desk) -> None:
    session = desk.echo(limit=1)
    session.connection.close(1001, "disconnected")
    session.connection.send("too late, and too much")
    assert session.carrier.poll() == []


def test_it_ends_once(desk: Desk) -> None:
    session = desk.echo(SHORT)
    session.connection.close(1001, "disconnected")
    session.connection.close(1012, "draining")
    turn()
    assert session.ends == [False]
    assert session.reason == "disconnected"
    for clock in desk.clocks(2):
        assert clock.wait(DEADLINE)
    assert session.ends == [False]


def test_disconnecting_by_id(desk: Desk) -> None:
    session, other = desk.echo(id="user:7"), desk.echo(id="user:8")
    poll = session.wait()
    desk.engine.broadcast(Broadcast("user:7", DISCONNECT, {}))
    assert poll.get(timeout=DEADLINE) == []
    assert (session.reason, other.connection.open) == ("disconnected", True)


# Channels


def test_what_a_handler_says_comes_before_its_reply(desk: Desk) -> None:
    session = desk.member()
    session.say("2", "say", {"n": 1})
    session.say("3", "echo", {"n": 2})
    turn()
    assert session.hear() == [
        [None, None, "room:1", "said", {"n": 1}],
        ["1", "2", "room:1", "phx_reply", {"status": "ok", "response": {}}],
        ["1", "3", "room:1", "phx_reply", {"status": "ok", "response": {"n": 2}}],
    ]


def test_sessions_share_one_encoding(desk: Desk) -> None:
    class Counting(V2Serializer):
        """Counts what it writes."""

        written = 0

        def encode_broadcast(self, broadcast: Broadcast) -> Any:
            self.written += 1
            return super().encode_broadcast(broadcast)

    serializer = Counting(Json())
    sessions = [desk.member(serializer=serializer) for _ in range(3)]
    desk.engine.broadcast(Broadcast("room:1", "said", {}))
    assert [session.hear() for session in sessions] == [[[None, None, "room:1", "said", {}]]] * 3
    assert serializer.written == 1


def test_each_version_has_its_own_lane(desk: Desk) -> None:
    one, other = desk.echo().carrier, desk.echo().carrier
    assert one.lane(V2) == other.lane(V2) != one.lane(V1)
    assert (one.transport, one.stream) == ("longpoll", False)
