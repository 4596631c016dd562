"""What a process shares with its connections and with other nodes: how it starts, what it broadcasts, how it ends."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix.channel import Channel
from flask_phoenix.exceptions import InvalidMessage, InvalidOption, InvalidPayload, NotPublished, PhoenixError
from flask_phoenix.handlers import on
from flask_phoenix.protocol.messages import Broadcast, JsonText
from flask_phoenix.protocol.serializers import V1Serializer, V2Serializer
from flask_phoenix.pubsub import hub as hubs
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.pubsub.envelope import pack, unpack
from flask_phoenix.pubsub.local import Lane, Subscriber
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.node import Service
from tests.support.adapters import HELLO, JSON, PACKED, Outside, Recording
from tests.support.clients import MemoryClient, serve
from tests.support.contract import Node
from tests.support.loop import in_greenlet, in_plain_thread, in_thread, turn
from tests.support.processes import DEADLINE, ROOT, START
from tests.values import VALUES


class Noting(Service):
    """Writes down what it is told, where the adapter does."""

    def __init__(self, engine: Engine, log: list[Any], gate: Event | None = None) -> None:
        self.engine = engine
        self.log = log
        self.gate = gate

    def start(self) -> None:
        assert self.engine.hub.running
        assert self.engine.node.name
        self.log.append("begin")

    def greet(self) -> None:
        if self.gate is not None:
            assert self.gate.wait(DEADLINE)
        self.log.append("greet")

    def farewell(self) -> None:
        self.log.append("farewell")

    def stop(self) -> None:
        assert self.engine.node.name
        self.log.append("end")

    def gone(self, node: str) -> None:
        self.log.append(("gone", node))


@pytest.fixture
def adapter() -> Recording:
    return Recording()


@pytest.fixture
def engine(adapter: Recording) -> Iterator[Engine]:
    """Return an engine that has a way to other nodes."""
    engine = Engine(nullcontext, JSON, lambda: adapter)
    yield engine
    engine.stop()


@pytest.fixture
def lonely() -> Iterator[Engine]:
    """Return an engine that has none."""
    engine = Engine(nullcontext, JSON)
    yield engine
    engine.stop()


def hear(engine: Engine, topic: str = "room:1") -> list[Broadcast]:
    """Subscribe to a topic; return the list of what comes."""
    heard: list[Broadcast] = []
    engine.pubsub.subscribe(topic, Subscriber(lambda broadcast: heard.append(engine.pubsub.read(broadcast))))
    return heard


def call_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, as a script does."""
    return function(*arguments)


def read(engine: Engine, vsn: type[V1Serializer | V2Serializer] = V2Serializer) -> list[Any]:
    """Subscribe a client; return the list of its frames."""
    frames: list[Any] = []
    lane = Lane(vsn(JSON), lambda frame: frame, False)
    engine.pubsub.subscribe("room:1", Subscriber(lambda _: None, lane, frames.append))
    return frames


# The format between nodes

ENVELOPES = [
    ("hello", {"n": 1}, b'J\x00\x05hello{"n":1}'),
    ("", {}, b"J\x00\x00{}"),
    ("\u03c0", {"a": "\u00e9"}, b'J\x00\x02\xcf\x80{"a":"\xc3\xa9"}'),
    ("blob", b"\xde\xad\xbe\xef", b"B\x00\x04blob\xde\xad\xbe\xef"),
    ("blob", b"", b"B\x00\x04blob"),
    ("e" * 300, {}, b"J\x01\x2c" + b"e" * 300 + b"{}"),
    ("e" * 65_535, b"", b"B\xff\xff" + b"e" * 65_535),
]


@pytest.mark.parametrize(("event", "payload", "data"), ENVELOPES, ids=range(len(ENVELOPES)))
def test_a_broadcast_between_nodes(event: str, payload: Any, data: bytes) -> None:
    assert pack(Broadcast("room:1", event, payload), JSON) == data
    assert unpack("room:1", data) == Broadcast(
        "room:1", event, data[-2:].decode() if payload == {} else unread(payload)
    )


def unread(payload: Any) -> Any:
    """Write a payload as it comes from another node."""
    return payload if isinstance(payload, bytes) else JsonText(JSON.dumps(payload))


@given(st.text(max_size=200), VALUES | st.binary())
def test_a_broadcast_is_read_as_it_was_written(event: str, payload: Any) -> None:
    assert unpack("t", pack(Broadcast("t", event, payload), JSON)) == Broadcast("t", event, unread(payload))


@pytest.mark.parametrize(
    "data", [b"", b"J", b"J\0", b"J\0\5hell", b"B\xff\xffshort", b"X\0\1e{}", b"J\0\1e\xff", b"B\0\1\xff"]
)
def test_what_no_node_has_written(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="expected a broadcast"):
        unpack("t", data + b"\xff" * 1000 if data[:1] == b"X" else data)


PLACE = b"K\1e" + bytes(8)


@pytest.mark.parametrize(
    "data", [b"K", b"K\1\xff", PLACE, PLACE + b"\1\xff", PLACE + b"\0", PLACE + b"\0J\0\1e\xff", (PLACE + b"\0") * 2000]
)
def test_what_no_history_has_kept(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="expected"):
        unpack("t", data)


# Broadcasts

IMPOSSIBLE = [
    *[(7, "e", {}), (None, "e", {}), ("t", None, {}), ("t", b"e", {}), ("\ud800", "e", {}), ("t", "\ud800", b"")],
    *[("t", "e" * 65_536, {}), ("t", "\u03c0" * 32_768, {}), ("t" * 256, "e", b""), ("t", "\u03c0" * 128, b"")],
    *[
        ("room:1", "e", payload)
        for payload in ([1], "text", None, object(), {"a": {1}}, {"a": b""}, {"a": float("nan")})
    ],
]


@pytest.mark.parametrize(("topic", "event", "payload"), IMPOSSIBLE)
@pytest.mark.parametrize("kind", [V1Serializer, V2Serializer, None])
def test_what_no_client_of_vsn_2_could_take_raises_at_the_author_whoever_is_there(
    engine: Engine, adapter: Recording, kind: Any, topic: Any, event: Any, payload: Any
) -> None:
    if kind:
        engine.serve()
        frames = read(engine, kind)
    heard = hear(engine)
    with pytest.raises(InvalidPayload):
        engine.broadcast(Broadcast(topic, event, payload))
    turn()
    assert heard == (frames if kind else []) == []
    assert not any(isinstance(each, tuple) for each in adapter.asked)


@pytest.mark.parametrize("payload", [[1], "text", None])
def test_json_that_is_no_object_reaches_clients_of_vsn_1_where_there_are_no_others(
    lonely: Engine, payload: Any
) -> None:
    broadcast = HELLO._replace(payload=payload)
    with pytest.raises(InvalidPayload, match="is a dict"):
        lonely.broadcast(broadcast)
    frames = read(lonely, V1Serializer)
    lonely.broadcast(broadcast)
    assert json.loads(frames[0])["payload"] == payload
    read(lonely)
    with pytest.raises(InvalidPayload, match="is a dict"):
        lonely.broadcast(broadcast)
    assert len(frames) == 1


def test_a_broadcast_reaches_subscribers_here_and_then_other_nodes(engine: Engine, adapter: Recording) -> None:
    engine.serve()
    heard, other = hear(engine), hear(engine, "room:2")
    engine.broadcast(HELLO)
    engine.broadcast(HELLO._replace(payload=b"\x01"))
    engine.broadcast(HELLO, local=True)
    engine.publish(HELLO)
    turn()
    assert (heard, other) == ([HELLO, HELLO._replace(payload=b"\x01"), HELLO], [])
    assert adapter.asked == ["start", "+room:1", "+room:2", PACKED, ("room:1", b"B\x00\x04said\x01"), PACKED]


def test_without_other_nodes_a_broadcast_reaches_subscribers_here(lonely: Engine) -> None:
    heard = hear(lonely)
    lonely.publish(HELLO)
    lonely.broadcast(HELLO)
    in_greenlet(lonely.broadcast, HELLO)
    turn()
    assert (heard, lonely.node.adapter) == ([HELLO, HELLO], None)


@pytest.mark.parametrize("serves", [True, False])
def test_a_broadcast_that_cannot_be_published_has_reached_subscribers_here(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, serves: bool
) -> None:
    def publish(self: Any, topic: str, data: bytes) -> None:
        raise NotPublished("out of reach")

    for kind in (Recording, Outside):
        monkeypatch.setattr(kind, "publish", publish)
    heard = hear(engine)
    if serves:
        engine.serve()
    with pytest.raises(NotPublished, match="out of reach"):
        engine.broadcast(HELLO)
    turn()
    assert heard == [HELLO]


@pytest.mark.parametrize("run", [lambda call: call(), in_thread], ids=["here", "another thread"])
def test_a_broadcast_is_what_it_was_when_it_was_made(
    engine: Engine, adapter: Recording, run: Callable[[Callable[[], Any]], Any]
) -> None:
    engine.serve()
    frames, heard = read(engine), hear(engine)

    def talk() -> None:
        payload = {"n": 0}
        for number in range(3):
            payload["n"] = number
            engine.broadcast(HELLO._replace(payload=payload))
        with pytest.raises(InvalidPayload):
            engine.broadcast(HELLO._replace(payload=[1]))

    run(talk)
    turn()
    assert frames == [f'[null,null,"room:1","said",{{"n":{number}}}]' for number in range(3)]
    assert [broadcast.payload["n"] for broadcast in heard] == [0, 1, 2]
    assert [data[-7:] for _, data in adapter.asked[2:]] == [b'{"n":%d}' % number for number in range(3)]


def test_what_comes_from_another_node_is_delivered_here_alone(
    engine: Engine, adapter: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    engine.serve()
    heard, frames = hear(engine), read(engine)
    for data in (b"nonsense", b"J\x00\x04said[1]", b'J\x00\x04said{"n" : 1}', b"", b"J\x00\x04said\xff"):
        adapter.receive("room:1", data)
    adapter.receive("room:2", PACKED[1])
    turn()
    assert frames == ['[null,null,"room:1","said",{"n" : 1}]']
    assert heard[-1] == HELLO
    assert adapter.asked == ["start", "+room:1"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


def test_what_comes_from_another_node_waits_until_there_is_room(
    engine: Engine, adapter: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "WAITING_LIMIT", 0)
    engine.serve()
    frames = read(engine)
    for count in range(3):
        adapter.receive("room:1", b"J\x00\x04said{}")
        assert len(frames) == count  # each waits for those before it
    turn()
    assert len(frames) == 3


class Blob(Channel):
    """Broadcasts bytes, and lets one event pass through."""

    def join(self, payload: Any) -> None:
        pass

    @on("blob")
    def blob(self, payload: Any) -> None:
        self.broadcast("blob", b"\x01")


@pytest.mark.parametrize("far", [True, False], ids=["from another node", "here"])
def test_a_client_that_cannot_carry_bytes_goes_without_and_is_logged_once(
    engine: Engine, adapter: Recording, caplog: pytest.LogCaptureFixture, far: bool
) -> None:
    socket = serve(Blob)
    old, new = MemoryClient(engine, socket, V1Serializer(JSON)), MemoryClient(engine, socket)
    old.connection.receive('{"topic":"room:1","event":"phx_join","payload":{},"ref":"1"}')
    old.hear()
    new.join("room:1")
    for _ in range(2):
        if far:
            adapter.receive("room:1", b"B\0\4blob\1")
        else:
            new.say("1", "2", "room:1", "blob", {})
        assert new.hear() == b"\x02\x06\x04room:1blob\x01"
    turn()
    assert old.rest() == []
    assert [record.name for record in caplog.records] == ["flask_phoenix.connection"]
    assert "goes without 'blob' on 'room:1'" in caplog.text
    assert engine.missed == 2
    for client in (old, new):
        client.hang_up()


# How a process becomes a node, and which do not


def test_nothing_starts_before_the_first_connection(engine: Engine, adapter: Recording) -> None:
    heard = hear(engine)
    assert (adapter.asked, engine.node.name, engine.hub.running) == ([], "", False)
    names = set()
    for _ in range(2):
        for _ in range(2):
            engine.serve()
        names.add(engine.node.name)
        assert engine.node.name == adapter.node
        engine.broadcast(HELLO)
        turn()
        for _ in range(2):
            engine.stop()
        assert adapter.asked == ["start", "+room:1", PACKED, "stop"]
        adapter.asked.clear()
    assert (engine.node.name, engine.node.adapter, len(names), len(heard)) == ("", None, 2, 2)


def test_services_live_as_long_as_the_node(
    engine: Engine, adapter: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    hear(engine)
    for _ in range(2):
        engine.node.add(Noting(engine, adapter.asked))
    engine.node.farewell()
    engine.serve()
    engine.node.add(Noting(engine, adapter.asked))  # one that comes late begins at once
    assert adapter.asked == ["start", "begin", "begin", "+room:1", "greet", "greet", "begin", "greet"]
    with caplog.at_level("INFO"):
        adapter.gone("another")
    assert "node another has ended" in caplog.text
    engine.node.farewell()
    engine.stop()
    assert adapter.asked[8:] == [("gone", "another")] * 3 + ["farewell"] * 3 + ["end"] * 3 + ["stop"]
    adapter.gone("another")
    assert len(adapter.asked) == 18


@pytest.mark.parametrize("where", ["start", "subscribe"])
def test_thirty_clients_that_come_together_wait_for_one_start(engine: Engine, adapter: Recording, where: str) -> None:
    hear(engine)
    engine.node.add(Noting(engine, adapter.asked))
    adapter.gates[where].clear()
    order: list[str] = []

    def come() -> None:
        engine.serve()
        order.append("served")

    clients = [gevent.spawn(come) for _ in range(30)]
    clients.append(gevent.spawn(lambda: engine.broadcast(HELLO) and None))
    turn()
    assert order == []
    adapter.gates[where].set()
    gevent.joinall(clients, DEADLINE, raise_error=True)
    assert order == ["served"] * 30
    assert [word for word in adapter.asked if word != PACKED] == ["start", "begin", "+room:1", "greet"]


@pytest.mark.parametrize("how", ["fails", "is killed"])
def test_a_start_that_ends_midway_is_tried_again_by_the_next_who_waits(
    engine: Engine, adapter: Recording, how: str
) -> None:
    hear(engine)
    engine.node.add(Noting(engine, adapter.asked))
    adapter.gates["subscribe"].clear()
    clients = [gevent.spawn(engine.serve) for _ in range(3)]
    turn()
    if how == "fails":
        adapter.failure = NotPublished("out of reach")
    else:
        clients[0].kill()
    adapter.gates["subscribe"].set()
    gevent.joinall(clients, DEADLINE)
    assert [client.exception is None for client in clients] == [how == "is killed", True, True]
    assert [each for each in adapter.asked if each != "+room:1"] == [
        "start",
        "begin",
        "end",
        "stop",
        "start",
        "begin",
        "greet",
    ]
    assert adapter.asked[-2] == "+room:1"


@pytest.mark.parametrize("where", ["start", "subscribe", "greet"])
def test_a_stop_may_come_while_a_node_starts(engine: Engine, adapter: Recording, where: str) -> None:
    hear(engine)
    engine.node.add(Noting(engine, adapter.asked, adapter.gates["greet"]))
    adapter.gates[where].clear()
    clients = [gevent.spawn(engine.serve) for _ in range(3)]
    turn()
    stopping = gevent.spawn(engine.stop)
    turn()
    adapter.gates[where].set()
    stopping.get(timeout=DEADLINE)
    for client in clients:
        with pytest.raises(PhoenixError, match="stopped while"):
            client.get(timeout=DEADLINE)
    assert adapter.asked.count("start") == adapter.asked.count("stop") == 1
    assert adapter.asked.count("begin") == adapter.asked.count("end") == (0 if where == "start" else 1)
    assert (engine.node.name, engine.node.adapter, engine.hub.running) == ("", None, False)
    engine.serve()
    assert engine.node.name


def test_a_client_that_comes_while_a_node_stops_finds_a_new_one(engine: Engine, adapter: Recording) -> None:
    engine.serve()
    adapter.gates["stop"].clear()
    stopping = gevent.spawn(engine.stop)
    turn()
    coming = gevent.spawn(engine.serve)
    turn()
    assert adapter.asked == ["start"]
    adapter.gates["stop"].set()
    gevent.joinall([stopping, coming], DEADLINE, raise_error=True)
    assert adapter.asked == ["start", "stop", "start"]
    assert engine.node.name == adapter.node


def test_a_service_may_fail_and_may_ask_for_the_start_that_it_belongs_to(engine: Engine, adapter: Recording) -> None:
    class Asking(Noting):
        def greet(self) -> None:
            self.engine.serve()
            super().greet()

        def stop(self) -> None:
            raise RuntimeError("on purpose")

        def gone(self, node: str) -> None:
            self.stop()

    for kind in (Asking, Noting):
        engine.node.add(kind(engine, adapter.asked))
    engine.serve()
    adapter.gone("another")
    engine.node.farewell()
    engine.stop()
    told = [("gone", "another"), "farewell", "farewell", "end"]
    assert adapter.asked == ["start", *["begin"] * 2, *["greet"] * 2, *told, "stop"]


@pytest.mark.parametrize("start", [lambda engine: engine.serve(), lambda engine: in_greenlet(engine.broadcast, HELLO)])
def test_a_start_that_fails_is_tried_again_by_the_next(start: Callable[[Engine], Any]) -> None:
    adapter = Recording(NotPublished("out of reach"), InvalidOption("nowhere"))
    engine = Engine(nullcontext, JSON, lambda: adapter)
    hear(engine)
    for failure in (NotPublished, InvalidOption):
        with pytest.raises(failure):
            start(engine)
        assert (engine.node.name, engine.node.adapter, adapter.asked) == ("", None, [])
    start(engine)
    assert adapter.asked[:2] == ["start", "+room:1"]
    engine.stop()
    assert adapter.asked[-1] == "stop"


def test_an_adapter_that_cannot_be_found_leaves_nothing_that_runs() -> None:
    def find() -> Adapter:
        raise InvalidOption("nowhere")

    engine = Engine(nullcontext, JSON, find)
    for _ in range(2):
        with pytest.raises(InvalidOption):
            engine.serve()
    engine.stop()
    assert not engine.hub.running


def test_a_greenlet_publishes_as_a_node(engine: Engine, adapter: Recording) -> None:
    heard = hear(engine)
    for _ in range(2):
        in_greenlet(engine.broadcast, HELLO)
    engine.broadcast(HELLO)  # it is a node by now, whoever speaks
    turn()
    assert adapter.asked == ["start", "+room:1", PACKED, PACKED, PACKED]
    assert len(heard) == 3


@pytest.mark.parametrize("run", [in_plain_thread, in_thread, call_here], ids=["thread", "pool", "script"])
def test_others_publish_from_outside_until_the_process_is_a_node(
    engine: Engine, adapter: Recording, run: Callable[..., Any]
) -> None:
    heard, outside = hear(engine), ("from outside", *PACKED)
    for _ in range(2):
        run(engine.broadcast, HELLO)
    assert (adapter.asked, engine.node.name, engine.node.adapter) == (["publisher", outside, outside], "", None)
    engine.serve()
    run(engine.broadcast, HELLO)
    turn()
    assert adapter.asked[3:] == ["start", "close", "+room:1", PACKED]
    assert len(heard) == 3


def test_what_published_from_outside_is_closed_with_the_engine(engine: Engine, adapter: Recording) -> None:
    for _ in range(2):
        engine.broadcast(HELLO)
        for _ in range(2):
            engine.stop()
        assert adapter.asked == ["publisher", ("from outside", *PACKED), "close"]
        adapter.asked.clear()


def test_nothing_keeps_an_engine_that_has_stopped() -> None:
    engine = Engine(nullcontext, JSON, Recording)
    engine.broadcast(HELLO)
    engine.stop()
    engine.serve()
    engine.stop()
    kept = weakref.ref(engine)
    del engine
    gc.collect()
    assert kept() is None


# Failures of an author's code


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_that_asks_for_the_end_stops_the_server(lonely: Engine, error: BaseException) -> None:
    stopped: list[bool] = []
    lonely.stop_server = lambda: stopped.append(True)
    for harmless in (RuntimeError(), gevent.Timeout(), CancelledError(), None):
        lonely.caught(harmless)
    assert stopped == []
    lonely.caught(error)
    assert stopped == [True]
    lonely.stop_server = None
    lonely.caught(error)
    with pytest.raises(type(error)):
        gevent.sleep(DEADLINE)


# The end


@pytest.mark.parametrize("busy", ["transport", "author's code", "nothing", "for too long"])
def test_a_stop_can_wait_until_all_is_quiet(lonely: Engine, busy: str) -> None:
    gate = Event()

    def carry() -> None:
        with lonely.transports:
            gate.wait(DEADLINE)

    def hold(_: Any) -> None:
        gate.wait(DEADLINE)

    if busy == "author's code":
        lonely.runners.take().spawn(hold, None)
    elif busy != "nothing":
        gevent.spawn(carry)
    turn()
    waiter = gevent.spawn(lonely.wait_until_quiet, 0.001 if busy == "for too long" else DEADLINE)
    turn()
    if busy in ("transport", "author's code"):
        assert not waiter.dead
        gate.set()
    waiter.get(timeout=DEADLINE)
    gate.set()
    turn()


def run_script(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, while the event loop goes on."""
    command = [sys.executable, "-W", "error", "-c", *words]
    run = partial(subprocess.run, cwd=ROOT, timeout=START, capture_output=True, text=True)
    done: subprocess.CompletedProcess[str] = in_thread(run, command)
    return done


#: What happens to an adapter is printed at the very end.
AT_EXIT = """
import atexit, os, gevent
from contextlib import nullcontext
from flask_phoenix.runtime.engine import Engine
from tests.support.adapters import HELLO, JSON, Recording
words = Recording().asked
atexit.register(lambda: print(*(word[0] if isinstance(word, tuple) else word for word in words)))
def find(): adapter = Recording(); adapter.asked = words; return adapter
def speak(): engine.broadcast(HELLO)
engine = Engine(nullcontext, JSON, find)
"""

OUT, IN = "from outside", "room:1"
ENDS = {
    "start stop": "engine.serve()",
    f"start {IN} stop": "gevent.spawn(speak).get()",
    f"publisher {OUT} {OUT} close": "speak(); speak()",
    f"publisher {OUT} start close {IN} stop": "speak(); engine.serve(); speak()",
    "start stop end": "engine.serve(); engine.stop(); words.append('end')",
    f"publisher {OUT} close end": "speak(); engine.stop(); words.append('end')",
    "start stop start stop": "engine.serve(); engine.stop(); engine.serve()",
    "": "engine.stop()",
    "start child\nstart stop": "engine.serve()\nif os.fork(): os.wait()\nelse: words.append('child')",
    f"start publisher {OUT} close\nstart {IN} stop": "engine.serve()\nif os.fork(): os.wait()\nspeak()",
}


@pytest.mark.parametrize("expected", ENDS)
def test_an_adapter_ends_once_and_with_the_process_that_has_started_it(expected: str) -> None:
    done = run_script(AT_EXIT + ENDS[expected])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{expected}\n"


LAST_WORDS = """
import sys, gevent
from contextlib import nullcontext
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.runtime.engine import Engine
from tests.support.adapters import HELLO, JSON
def speak():
    for number in range(300):
        engine.broadcast(HELLO._replace(payload={"n": number, "filler": "x" * 10_000}))
engine = Engine(nullcontext, JSON, lambda: WorkersAdapter(sys.argv[1]))
if sys.argv[2] == "serving": engine.serve()
if sys.argv[2] == "in a greenlet": gevent.spawn(speak).get()
else: speak()
if sys.argv[2] == "exiting": sys.exit(7)
"""


@pytest.mark.parametrize("how", ["speaking", "in a greenlet", "serving", "exiting"])
def test_what_is_broadcast_just_before_a_process_ends_arrives(short_path: Path, how: str) -> None:
    listener = Node(WorkersAdapter(short_path / "workers"), "listener")
    listener.start()
    listener.adapter.subscribe("room:1")
    done = run_script(LAST_WORDS, str(short_path / "workers"), how)
    assert (done.returncode, done.stderr) == (7 if how == "exiting" else 0, "")
    assert [json.loads(data[7:])["n"] for data in listener.hear_all(300)] == list(range(300))
    listener.adapter.stop()


CHILD = """
from gevent import monkey
monkey.patch_all()
import os, sys, gevent
from gevent.event import Event
from contextlib import nullcontext
from flask_phoenix import Channel, History, Socket
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.runtime.engine import Engine
from tests.support.adapters import HELLO, JSON
class User(Socket): pass
@User.channel("room:*")
class Room(Channel):
    history = History(size=int(sys.argv[2]))
    def join(self, payload): pass
def hear(broadcast):
    print("parent" if os.getpid() == parent else "child", broadcast.event, flush=True)
    heard.set()
parent, heard = os.getpid(), Event()
engine = Engine(nullcontext, JSON, lambda: WorkersAdapter(sys.argv[1]))
engine.histories.sockets.append(User)
engine.serve()
engine.histories.enter("room:1", Room.history, Subscriber(hear), None, print)
if os.fork():
    heard.wait(10)
    os.wait()
    engine.broadcast(HELLO._replace(event="last"))
    gevent.sleep(0)
else:
    engine.broadcast(HELLO._replace(event="first"))
    gevent.sleep(0)
    os._exit(0)
"""


@pytest.mark.parametrize("size", ["0", "9"])
def test_a_child_of_a_node_publishes_from_outside_alone(short_path: Path, size: str) -> None:
    done = run_script(CHILD, str(short_path / "workers"), size)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["parent first", "parent last", ""]
