"""What waits for an author's code is bounded in bytes: of a client, of a process, of a channel and of a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from flask_phoenix import Channel, Socket
from flask_phoenix.handlers import on
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.runtime import channel_server, listener, turns
from flask_phoenix.runtime.channel_connection import LARGE
from flask_phoenix.runtime.connection import Bounds
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.settings import Settings
from tests.support.clients import KINDS, MemoryClient, Site, serve
from tests.support.loop import turn
from tests.support.processes import DEADLINE, wait_until

SIZE = 10_000
COUNT = 20
BOUNDS = Bounds(inbox_limit=5 * SIZE)


@pytest.fixture
def gate() -> Iterator[Event]:
    """Return what a slow callback waits for; it is opened in the end."""
    gate = Event()
    yield gate
    gate.set()


@pytest.fixture
def slow(gate: Event) -> type[Socket]:
    """Return a socket whose channels wait at the gate: in a join that asks for it, and in each event."""

    class Slow(Channel):
        def join(self, payload: Any) -> None:
            if "slow" in payload:
                assert gate.wait(DEADLINE)

        @on("do")
        def do(self, payload: Any) -> Any:
            assert gate.wait(DEADLINE)
            return {"n": payload["n"]}

        @on("crash")
        def crash(self, payload: Any) -> Any:
            assert gate.wait(DEADLINE)
            raise RuntimeError

    return serve(Slow)


def push_all(client: MemoryClient, rooms: str, count: int = COUNT, event: str = "do", size: int = SIZE) -> None:
    """Push large messages, to one room after another."""
    for number in range(count):
        room = rooms[number % len(rooms)]
        client.say(room, number, f"room:{room}", event, {"n": number, "pad": "x" * size})


@pytest.mark.parametrize("rooms", ["1", "123"])
@pytest.mark.parametrize("joins", [{}, {"slow": True}], ids=["slow handlers", "slow joins"])
def test_a_client_is_read_no_further_than_its_bytes(
    engine: Engine, slow: type[Socket], gate: Event, rooms: str, joins: dict[str, Any]
) -> None:
    client = MemoryClient(engine, slow, bounds=BOUNDS)
    for room in rooms:
        client.say(room, f"join {room}", f"room:{room}", "phx_join", joins)
    reading = gevent.spawn(push_all, client, rooms)
    turn()
    waiting = engine.budget.total
    gate.set()
    reading.get(timeout=DEADLINE)
    refs = [client.hear()[1] for _ in range(COUNT + len(rooms))]
    assert sorted(ref for ref in refs if isinstance(ref, int)) == list(range(COUNT))
    assert BOUNDS.inbox_limit <= waiting <= BOUNDS.inbox_limit + 2 * SIZE
    assert wait_until(lambda: engine.budget.total == 0, turn)


def test_who_has_taken_its_time_goes_after_those_for_whom_something_comes() -> None:
    shared, log = turns.Turns(), list[str]()
    ours, theirs = socket.socketpair()
    loop = gevent.get_hub().loop
    newcomer = loop.io(ours.fileno(), 1)

    def come() -> None:
        newcomer.close()
        log.append("newcomer")
        loop.run_callback(log.append, "its answer")

    newcomer.start(come)

    def flood() -> None:
        theirs.sendall(b"1")
        shared.wait()
        log.append("flood")

    gevent.spawn(flood).get(timeout=DEADLINE)
    assert wait_until(lambda: len(log) == 3, turn)
    assert log == ["newcomer", "its answer", "flood"]
    ours.close()
    theirs.close()


def test_who_has_had_a_turn_to_its_end_goes_behind_who_has_not() -> None:
    shared, log = turns.Turns(), list[str]()

    def take(wait: Callable[[], None], name: str) -> None:
        wait()
        log.append(name)

    greedy = [gevent.spawn(take, shared.wait_late, "greedy") for _ in range(3)]
    modest = [gevent.spawn(take, shared.wait, "modest") for _ in range(3)]
    gevent.joinall([*greedy, *modest], timeout=DEADLINE)
    assert log == ["modest"] * 3 + ["greedy"] * 3


def test_those_who_read_much_go_on_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONG_TURN", -1.0)
    shared, log = turns.Turns(), list[int]()

    def read(number: int) -> None:
        for _ in range(3):
            shared.share()
            log.append(number)

    gevent.joinall([gevent.spawn(read, number) for number in range(3)], timeout=DEADLINE)
    assert log == [0, 1, 2] * 3


def test_a_client_whose_message_took_long_to_decode_rests(
    engine: Engine, gate: Event, slow: type[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.set()
    monkeypatch.setattr(turns, "LONG_TURN", 0.0)
    monkeypatch.setattr(turns, "REST", 1e9)
    greedy, other, modest = (MemoryClient(engine, slow) for _ in range(3))
    for client in (greedy, other, modest):
        client.join()
    reading = [gevent.spawn(push_all, client, "1", size=LARGE) for client in (greedy, other)]
    turn()
    assert [[message[1] for message in client.rest()] for client in (greedy, other)] == [[0], [0]]
    push_all(modest, "1", size=LARGE // 2)
    assert len(modest.rest()) == COUNT
    gevent.killall(reading)


@pytest.mark.parametrize("event", ["crash", "phx_leave", "no such channel"])
def test_what_waits_is_counted_until_it_is_gone(engine: Engine, slow: type[Socket], gate: Event, event: str) -> None:
    client = MemoryClient(engine, slow, bounds=BOUNDS)
    client.join()
    client.say("2", "2", "room:2", "phx_join", {"slow": True})
    reading = gevent.spawn(push_all, client, "12", event=event)
    turn()
    client.hang_up()
    reading.get(timeout=DEADLINE)
    assert engine.budget.total == 0  # nobody else pays for handlers that go on
    gate.set()
    assert wait_until(lambda: not engine.runners.busy, turn)
    assert engine.budget.total == 0


def test_the_client_with_the_most_is_closed(
    engine: Engine, slow: type[Socket], gate: Event, caplog: pytest.LogCaptureFixture
) -> None:
    engine.configure(Settings(inbox_total=10 * SIZE))
    greedy, modest = (MemoryClient(engine, slow) for _ in range(2))
    for client, count in ((modest, 3), (greedy, 8)):
        client.join()
        push_all(client, "1", count)
    assert (greedy.carrier.closed, modest.carrier.closed) == ((1013, "too much waits"), None)
    assert (engine.limits["inbox_total"], caplog.text.count("PHOENIX_INBOX_TOTAL=100000")) == (1, 1)
    gate.set()
    assert [modest.hear()[1] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("held", [False, True])
def test_names_have_a_length(engine: Engine, slow: type[Socket], held: bool, caplog: pytest.LogCaptureFixture) -> None:
    client = MemoryClient(engine, slow)
    client.say("1", "1", "room:1", "phx_join", {"slow": True} if held else {})
    for ref, (topic, event) in enumerate([("room:1", "e" * 1025), ("room:" + "t" * 1020, "phx_join")] * 2):
        client.say("1", ref, topic, event, {})
    client.say("1", "last", "room:" + "t" * 1019, "e" * 1024, {})
    answers = client.rest()[not held :]
    assert [answer[:2] for answer in answers] == [*([["1", ref] for ref in range(4)]), [None, "last"]]
    reasons = [answer[4]["response"]["reason"] for answer in answers]
    assert reasons == ["topic or event too long"] * 4 + ["unmatched topic"]
    assert engine.limits["max_name_length"] == 4
    assert caplog.text.count("max_name_length") == 1


@pytest.mark.parametrize("replaces", [False, True])
def test_a_join_that_takes_too_long_is_answered_and_ended(
    engine: Engine, slow: type[Socket], gate: Event, replaces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client = MemoryClient(engine, slow, bounds=Bounds(join_timeout=0.01))
    if replaces:
        client.join()
    client.say("2", "2", "room:1", "phx_join", {"slow": True})
    client.say("2", "3", "room:1", "do", {"n": 1})
    no = {"status": "error", "response": {"reason": "join timed out"}}
    assert client.hear() == ["2", "2", "room:1", "phx_reply", no]
    if replaces:
        assert client.hear() == ["1", "1", "room:1", "phx_close", {}]
    assert client.hear()[4]["response"] == {"reason": "unmatched topic"}
    gate.set()
    assert client.rest() == []
    assert not engine.pubsub.subscribed("room:1")
    assert (engine.limits["join_timeout"], "join_timeout" in caplog.text, engine.budget.total) == (1, True, 0)
    client.join()


def test_broadcasts_wait_within_bytes(engine: Engine, gate: Event, caplog: pytest.LogCaptureFixture) -> None:
    class Other(Channel):
        def join(self, payload: Any) -> None:
            return None

        def after_join(self) -> None:
            self.subscribe("news")

        def handle_info(self, message: Any) -> None:
            assert gate.wait(DEADLINE)
            self.push("told", {"n": message.payload["n"]})

    client = MemoryClient(engine, serve(Other), bounds=BOUNDS)
    client.join()
    turn()
    for number in range(COUNT):
        engine.broadcast(Broadcast("news", "told", {"n": number, "pad": "x" * SIZE}))
        turn()
    gate.set()
    heard = [client.hear() for _ in range(2)]
    assert [frame[3] for frame in heard] == ["told", "phx_error"]
    assert (engine.limits["inbox_limit"], "slower than its broadcasts" in caplog.text) == (1, True)


def test_what_a_channel_sends_itself_is_bounded(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty(Channel):
        def join(self, payload: Any) -> None:
            for number in range(payload["n"]):
                self.send(number)

        def handle_info(self, message: Any) -> None:
            self.push("told", {"n": message})

    monkeypatch.setattr(channel_server, "SEND_LIMIT", 5)
    client = MemoryClient(engine, serve(Hasty))
    client.say("1", "1", "room:1", "phx_join", {"n": 5})
    assert [frame[3] for frame in client.rest()] == ["phx_reply", *["told"] * 5]
    client.say("2", "2", "room:2", "phx_join", {"n": 7})
    assert client.rest()[-1][3] == "phx_error"
    assert (engine.limits["send_limit"], caplog.text.count("5 messages wait")) == (1, 1)


def test_a_slow_function_loses_broadcasts_and_says_so(
    gate: Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LISTENER_LIMIT", 5 * SIZE)
    site, heard = Site(KINDS[0]), list[int]()
    site.enter()

    def hear(broadcast: Broadcast) -> None:
        assert gate.wait(DEADLINE)
        heard.append(broadcast.payload["n"])

    end = site.phoenix.subscribe("news", hear)
    for number in range(COUNT):
        site.phoenix.broadcast("news", "told", {"n": number, "pad": "x" * SIZE})
        turn()
    gate.set()
    assert wait_until(lambda: len(heard) == 6, turn)
    site.phoenix.broadcast("news", "told", {"n": 99})
    assert wait_until(lambda: heard == [0, 1, 2, 3, 4, 5, 99], turn)
    assert ("further ones are lost" in caplog.text, "has lost 14 broadcasts" in caplog.text) == (True, True)
    end()
    site.close()
