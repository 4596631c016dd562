"""Several workers behave as one server: gunicorn with three of them, over each adapter, and what befalls them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import count
from typing import Any, TypeVar

import pytest

from tests.clients import driver
from tests.golden.replay import Case, expand
from tests.support import fleet
from tests.support.fleet import TICK, Client, Fleet, Poller, Tab
from tests.support.processes import DEADLINE, HOST, START, Server, Servers, wait_until
from tests.support.redis_server import RedisCluster, RedisServer
from tests.test_golden import CASES, DECISIONS, EVERY

#: Seconds. Longer than anything is waited for: who is gone by then is known to be gone. And short: Redis does not tell.
NEVER, SOON = 10 * DEADLINE, 1.5
DOWN_PERIODS = {"workers": NEVER, "redis": SOON, "cluster": SOON}
#: A topic for each test.
NUMBERS = count(1)
JSON = {"Content-Type": "application/json"}
#: A close code.
GOING_AWAY = 1001
#: Golden conversations that last for seconds.
LONG = ["L.10", "L.14"]

Anybody = TypeVar("Anybody", bound=Client)
ON_ALL = pytest.mark.parametrize("way", DOWN_PERIODS, indirect=True, scope="module")
OVER_REDIS = pytest.mark.parametrize("way", ["redis"], indirect=True)


class Way:
    """An adapter: what an app is told of it, and what it needs."""

    def __init__(self, name: str, redis: RedisServer | RedisCluster | None = None) -> None:
        self.redis = redis
        self.environment = {"FLASK_DOWN_PERIOD": str(DOWN_PERIODS[name])}
        if redis is not None:
            self.environment["PHOENIX_PUBSUB_URL"] = redis.url


@pytest.fixture(scope="module", params=["workers", "redis"])
def way(request: pytest.FixtureRequest) -> Way:
    """Return each adapter, or the one that a test names."""
    return Way(request.param, None if request.param == "workers" else request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def server(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a server for many tests."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield fleet.start(servers, way.environment)
    servers.stop()


@pytest.fixture
def workers(server: Fleet) -> Iterator[Fleet]:
    """Return that server's workers, and let all clients go in the end."""
    yield server
    server.close()
    server.workers()  # none boots any more, or the next test may stop one that does not hear it


@pytest.fixture(scope="module")
def another_server(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a server of the same app that loads it before it forks."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    environment = {**way.environment, "FLASK_DOWN_PERIOD": str(SOON)}
    if way.redis is not None:
        environment["PHOENIX_PUBSUB_URL"] = f"{way.redis.url}?prefix=another"
    yield fleet.start(servers, environment, "--preload")
    servers.stop()


@pytest.fixture
def others(another_server: Fleet) -> Iterator[Fleet]:
    """Return the workers of that one."""
    yield another_server
    another_server.close()
    another_server.workers()


@pytest.fixture(scope="module")
def node() -> Iterator[driver.Script]:
    """Return a Node process that plays stories."""
    script = driver.Script("stories.mjs")
    yield script
    script.close()


@pytest.fixture
def room() -> str:
    return f"room:{next(NUMBERS)}"


@pytest.fixture
def crowd() -> str:
    return f"crowd:{next(NUMBERS)}"


class NodeTab(Client):
    """A tab of the npm client, one of those that a script runs."""

    def __init__(self, script: driver.Script, number: int, topic: str) -> None:
        super().__init__()
        self.topic = topic
        self._script = script
        self._number = number
        self.joins = 0

    def drain(self) -> None:
        self.take(self.ask("states"))

    def ask(self, what: str, *values: Any) -> Any:
        """Have something done."""
        self._script.tell([what, self._number, *values])
        return self._script.hear()

    def take(self, told: Any) -> None:
        """Take what the script tells of this tab."""
        own = told[self._number]
        self.worker, self.joins, self.state = own["worker"], own["joins"], own["state"]

    def pump(self, seconds: float) -> bool:
        time.sleep(TICK)  # the processor is for those that it waits for
        self.drain()
        return True

    def await_join(self, number: int) -> None:
        """Wait until it has joined so often."""
        assert self.wait_for(lambda: self.joins >= number, START), f"it has joined {self.joins} times"


def chat(clients: list[Tab], topic: str) -> None:
    """See that whatever each says comes to all, once and in order."""
    for client in clients:
        client.join(topic)
    for number in range(5):
        for speaker, client in enumerate(clients):
            client.push("shout", {"speaker": speaker, "number": number})
    for client in clients:
        heard = [payload for _, payload in client.await_heard(5 * len(clients))]
        for speaker in range(len(clients)):
            assert [each["number"] for each in heard if each["speaker"] == speaker] == [*range(5)]


def enter(client: Anybody, topic: str, key: str | None = None, **meta: Any) -> Anybody:
    """Join a topic, and be present there; without a key only look."""
    client.join(topic, {"key": key, "meta": meta} if key else {})
    return client


@ON_ALL
def test_chat(workers: Fleet, room: str) -> None:
    chat([*workers.tabs(), *workers.tabs()], room)


@ON_ALL
def test_presence(workers: Fleet, crowd: str) -> None:
    first, second, third = workers.tabs()
    ann, bob, watcher = enter(first, crowd, "ann", n=1), enter(second, crowd, "bob", n=2), enter(third, crowd)
    workers.agree([ann, bob, watcher], {"ann": [{"n": 1}], "bob": [{"n": 2}]})
    tab = enter(workers.tab(third.worker), crowd, "ann", n=3)
    workers.agree([ann, bob, watcher, tab], {"ann": [{"n": 1}, {"n": 3}], "bob": [{"n": 2}]})
    tab.push("update", {"key": "ann", "meta": {"n": 4}})
    workers.agree([ann, bob, watcher, tab], {"ann": [{"n": 1}, {"n": 4}], "bob": [{"n": 2}]})
    ann.leave()
    workers.agree([bob, watcher, tab], {"ann": [{"n": 4}], "bob": [{"n": 2}]})
    bob.close()
    workers.agree([watcher, tab], {"ann": [{"n": 4}]})
    enter(ann, crowd, "ann", n=5)
    workers.agree([ann, watcher, tab], {"ann": [{"n": 4}, {"n": 5}]})


def test_worker_is_killed(workers: Fleet, crowd: str) -> None:
    first, second, third = workers.tabs()
    ann, bob, watcher = enter(first, crowd, "ann"), enter(second, crowd, "bob"), enter(third, crowd)
    tab = enter(workers.tab(second.worker), crowd, "ann", second=True)
    workers.agree([ann, bob, watcher, tab], {"ann": [{}, {"second": True}], "bob": [{}]})
    os.kill(bob.worker, signal.SIGKILL)
    assert (bob.closed(), tab.closed()) == (None, None)
    workers.agree([ann, watcher], {"ann": [{}]}, {ann.worker, watcher.worker})
    # gunicorn boots another in its place.
    newcomer = (workers.workers() - {ann.worker, watcher.worker}).pop()
    back = enter(workers.tab(newcomer), crowd, "bob", back=True)
    workers.agree([ann, watcher, back], {"ann": [{}], "bob": [{"back": True}]})


def test_presence_of_the_npm_client(workers: Fleet, crowd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", str(workers.size))
    keys = ["ann", "bob", "cid", "ann"]
    script = driver.Script("tabs.mjs", driver.base(workers.server), crowd, *keys)
    try:
        told = script.hear()
        tabs = [NodeTab(script, number, crowd) for number in range(len(keys))]
        for tab in tabs:
            tab.take(told)
        assert len({tab.worker for tab in tabs}) == workers.size
        live_with_npm(workers, tabs)
    finally:
        script.close()


def live_with_npm(workers: Fleet, tabs: list[NodeTab]) -> None:
    """Let everything befall tabs of the npm client that a presence has to show."""
    everybody: fleet.Expected = {"ann": [{}, {}], "bob": [{}], "cid": [{}]}
    workers.agree(tabs, everybody)
    tabs[1].ask("update", {"n": 1})
    workers.agree(tabs, {**everybody, "bob": [{"n": 1}]})
    tabs[0].ask("leave")
    workers.agree(tabs[1:], {**everybody, "ann": [{}], "bob": [{"n": 1}]})
    tabs[0].ask("join")
    os.kill(tabs[1].worker, signal.SIGKILL)
    # It joins again, as the others do that were there, and has forgotten its update.
    tabs[1].await_join(2)
    workers.agree(tabs, everybody)
    joins, old = [tab.joins for tab in tabs], workers.pids()
    os.kill(workers.server.pid, signal.SIGHUP)
    for tab, before in zip(tabs, joins, strict=True):
        tab.await_join(before + 1)
    assert wait_until(lambda: not old & workers.pids(), workers.wait_briefly, START)
    workers.agree(tabs, everybody)
    chat(workers.tabs(), f"room:of-{tabs[0].topic}")


def test_workers_without_clients(others: Fleet, room: str) -> None:
    client = others.tab(user="ann")
    client.join(room)
    spoken: list[int] = []

    def speak() -> None:
        body = json.dumps({"n": len(spoken)})
        spoken.append(others.ask("POST", "/broadcast", body, JSON, topic=room).worker)

    assert wait_until(lambda: len({*spoken}) == others.size, speak)
    heard = [payload["n"] for _, payload in client.await_heard(len(spoken))]
    assert sorted(heard) == [*range(len(spoken))]
    while others.ask("POST", "/disconnect", user="ann").worker == client.worker:
        assert client.closed() == GOING_AWAY
        client = others.tab(client.worker, user="ann")
        client.join(room)
    assert client.closed() == GOING_AWAY


def test_disconnect(workers: Fleet, room: str) -> None:
    user = f"ann of {room}"
    tabs, stranger = workers.tabs(user=user), workers.tab(user="somebody else")
    for tab in (*tabs, stranger):
        tab.join(room)
    workers.ask("POST", "/disconnect", user=user, topic=room)
    for tab in tabs:
        assert tab.await_end() == room
        tab.join(f"{room}, another")
    workers.ask("POST", "/disconnect", user=user)
    assert [tab.closed() for tab in tabs] == [GOING_AWAY] * workers.size
    stranger.push("echo")


class Speaker:
    """Has one worker tell a topic the numbers from 0 on, in a thread, until it is told to stop."""

    def __init__(self, tab: Tab, topic: str) -> None:
        tab.join("room:speakers")
        self.worker = tab.worker
        #: What comes next.
        self.number = 0
        self.stopped = threading.Event()
        self._tab, self._topic = tab, topic

    def run(self) -> None:
        while not self.stopped.is_set():
            payload = {"worker": self.worker, "number": self.number}
            self.number += 1
            self._tab.push("tell", {"topic": self._topic, "payload": payload})


def visit(workers: Fleet, topic: str, speakers: list[Speaker]) -> None:
    """Come and go on a topic: what is said after the reply to a join is heard, once and in order."""
    tab = workers.tab()
    for _ in range(4):
        tab.join(topic)
        since = {speaker.worker: speaker.number for speaker in speakers}
        heard: dict[int, list[int]] = {worker: [] for worker in since}

        def enough() -> bool:
            while tab.heard:
                _, payload = tab.heard.pop(0)
                heard[payload["worker"]].append(payload["number"])  # noqa: B023
            return all(numbers and numbers[-1] >= since[worker] for worker, numbers in heard.items())  # noqa: B023

        assert tab.wait_for(enough), heard
        tab.leave()
        enough()
        for worker, numbers in heard.items():
            assert numbers[0] <= since[worker]
            assert numbers == [*range(numbers[0], numbers[-1] + 1)]


def test_nothing_is_missed_after_a_join(workers: Fleet, room: str) -> None:
    speakers = [Speaker(tab, room) for tab in workers.tabs()]
    with ThreadPoolExecutor(16) as pool:
        speaking = [pool.submit(speaker.run) for speaker in speakers]
        try:
            for visitor in [pool.submit(visit, workers, room, speakers) for _ in range(10)]:
                visitor.result()
        finally:
            for speaker in speakers:
                speaker.stopped.set()
        for speaker_ends in speaking:
            speaker_ends.result()


def wander(workers: Fleet, poller: Poller) -> None:
    """See that requests of a client that polls have been answered by every worker."""
    assert wait_until(lambda: poller.workers == workers.pids(), lambda: poller.push("echo"))


def test_polling(workers: Fleet, room: str) -> None:
    workers.workers()
    poller, tab = workers.poller(), workers.tab()
    poller.join(room)
    tab.join(room)
    wander(workers, poller)
    assert poller.push("echo", {"n": 1}) == {"n": 1}
    for number in range(3):
        poller.push("shout", {"n": number})
    for client in (poller, tab):
        assert client.await_heard(3) == [("shout", {"n": number}) for number in range(3)]
    tab.push("shout", {"n": 3})
    assert poller.await_heard(4)[3:] == [("shout", {"n": 3})]
    poller.leave()


def test_polling_in_a_crowd(workers: Fleet, crowd: str) -> None:
    tab, poller = enter(workers.tab(), crowd, "ann"), enter(workers.poller(), crowd, "bob")
    assert poller.wait_for(lambda: poller.state.keys() == {"ann", "bob"})
    workers.agree([tab], {"ann": [{}], "bob": [{}]})
    assert fleet.ordered(poller.state) == fleet.ordered(tab.state)
    poller.leave()
    workers.agree([tab], {"ann": [{}]})


def test_sessions_end(workers: Fleet, room: str) -> None:
    pollers = [workers.poller(user=f"ann of {room}"), workers.poller(user=f"bob of {room}")]
    for poller in pollers:
        poller.join(room)
    workers.ask("POST", "/disconnect", user=f"ann of {room}")
    assert wait_until(lambda: pollers[0].request("GET").value["status"] == 410, workers.wait_briefly)
    os.kill(pollers[1].worker, signal.SIGKILL)
    assert wait_until(lambda: pollers[1].worker not in workers.pids(), workers.wait_briefly)
    # Whoever is asked, all know that they have ended; that nobody answers takes a while.
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(poller.request, method) for poller in pollers for method in ("GET", "POST") * 4]
        assert {answer.result().value["status"] for answer in asked} == {410}


STORIES = (
    "announcement_from_a_view",
    "batches_keep_their_order",
    "broadcast",
    "broadcast_to_the_others",
    "crash_and_rejoin",
    "error_reply",
    "forced_disconnect",
    "join",
    "large_message",
    "late_reply",
    "leave_and_rejoin",
    "many_in_order",
    "push_and_reply",
    "refused_connect",
    "unmatched_topic",
)


def test_npm_client_polls(way: Way, servers: Servers, node: driver.Script) -> None:
    # Each request comes on a connection of its own, to any worker.
    peer = fleet.start(servers, way.environment, "--preload", "--keep-alive", "0", app="tests.clients.server_app:app")
    for story in STORIES:
        driver.play(node, driver.base(peer.server), story, transport="longpoll")


def test_golden_conversations_of_clients_that_poll(servers: Servers, redis: RedisServer) -> None:
    names = [name for name in CASES if EVERY[name]["section"] == "L"]
    ways = (Way("workers"), Way("redis", redis))
    peers = [fleet.start(servers, way.environment, app="tests.support.scale_peer:app").server for way in ways]
    # Some wait most of the time: beside the others.
    parts = [[name for name in names if name not in LONG], *([name] for name in LONG)]
    with ThreadPoolExecutor(len(peers) * len(parts)) as pool:
        replayed = [[pool.submit(replay, peer, part) for part in parts] for peer in peers]
        differences = [{name: each for part in some for name, each in part.result().items()} for some in replayed]
        assert [*pool.map(Server.stop, peers)] == [0, 0]
    expected = {(name, DECISIONS[name].difference if name in DECISIONS else None) for name in names}
    assert [each.items() - expected for each in differences] == [set(), set()]


def replay(peer: Server, names: list[str]) -> dict[str, str | None]:
    """Replay cases, one after the other; return the first difference of each."""
    return {name: Case((HOST, peer.port), DEADLINE).run(expand(steps_of(name))) for name in names}


def steps_of(name: str) -> list[dict[str, Any]]:
    """Return a case; where the other nodes are asked before a join is answered, a heartbeat is answered meanwhile.

    What is to come meanwhile has more time than it had, and a poll may take as long as it takes.
    """
    steps: list[dict[str, Any]] = deepcopy(EVERY[name]["steps"])
    for step in steps:
        step.pop("within_ms", None)
        if "wait_ms" in step:
            step["wait_ms"] *= 2
        if "elapsed_ms" in step:
            step["elapsed_ms"][1] = 1000 * DEADLINE
    if name == "L.3":
        alternatives = steps[-1]["http"]["response"]["json"]["messages"]["any_of"]
        *others, heartbeat = alternatives[0]
        alternatives.append([heartbeat, *others])
    return steps


def test_preload(others: Fleet, room: str, crowd: str) -> None:
    chat(others.tabs(), room)
    tabs = [enter(tab, crowd, key) for key, tab in zip(("ann", "bob", "cid"), others.tabs(), strict=True)]
    others.agree(tabs, {"ann": [{}], "bob": [{}], "cid": [{}]})
    os.kill(tabs[0].worker, signal.SIGKILL)
    others.agree(tabs[1:], {"bob": [{}], "cid": [{}]})
    stop_and_continue(others, tabs[1], tabs[2])


def stop_and_continue(workers: Fleet, stopped: Client, other: Client) -> None:
    """Stop the worker of one client for longer than the down period, while another one changes, and let it go on."""
    os.kill(stopped.worker, signal.SIGSTOP)
    try:
        running = workers.workers(without={stopped.worker})
        workers.agree([other], {"cid": [{}]}, running)
        other.push("update", {"key": "cid", "meta": {"n": 1}})
        workers.agree([other], {"cid": [{"n": 1}]}, running)
    finally:
        os.kill(stopped.worker, signal.SIGCONT)
    workers.agree([stopped, other], {"bob": [{}], "cid": [{"n": 1}]})
    chat(workers.tabs(), f"room:of-{other.topic}")


def test_two_servers_of_one_app(workers: Fleet, others: Fleet, room: str) -> None:
    tabs = [(home, tab) for home in (workers, others) for tab in home.tabs()]
    for _, tab in tabs:
        tab.join(room)
    for number, (_, tab) in enumerate(tabs):
        tab.push("shout", {"n": number})
    for home, tab in tabs:
        heard = [payload["n"] for _, payload in tab.await_heard(home.size)]
        assert sorted(heard) == [number for number, (one, _) in enumerate(tabs) if one is home]


@OVER_REDIS
def test_clients_that_poll_outlive_links_that_are_cut(way: Way, workers: Fleet, room: str) -> None:
    assert isinstance(way.redis, RedisServer)
    poller, tab = workers.poller(), workers.tab()
    poller.join(room)
    tab.join(room)
    wander(workers, poller)
    with ThreadPoolExecutor(1) as pool:
        for number in range(8):  # one in three lands where the session is, and crosses no link
            polled = pool.submit(poller.wait_for, lambda: bool(poller.heard))
            time.sleep(0.1 * (number % 3))  # at any moment of it
            way.redis.execute("CLIENT", "KILL", "TYPE", ("normal", "pubsub")[number % 2], "SKIPME", "yes")
            assert wait_until(polled.done, lambda: tab.push("shout", {"n": number}))  # noqa: B023
            assert polled.result()
            assert poller.push("echo", {"n": number}) == {"n": number}
            poller.heard.clear()


def rush(workers: Fleet, topic: str) -> list[Tab]:
    """Let thirty clients come at the same moment, each under a key of its own."""
    together = threading.Barrier(30)

    def come(number: int) -> Tab:
        together.wait(DEADLINE)
        return enter(workers.tab(), topic, str(number))

    with ThreadPoolExecutor(together.parties) as pool:
        return [*pool.map(come, range(together.parties))]


@pytest.mark.parametrize("attempt", range(2))
def test_first_clients_of_fresh_workers_come_at_once(
    servers: Servers, redis: RedisServer, crowd: str, attempt: int
) -> None:
    def count_subscribers() -> int:
        return len(redis.execute("CLIENT", "LIST", "TYPE", "pubsub").splitlines())

    before = count_subscribers()
    workers = fleet.start(servers, Way("redis", redis).environment, workers=2)
    tabs = rush(workers, crowd)
    workers.agree(tabs, {str(number): [{}] for number in range(len(tabs))})
    assert count_subscribers() - before == workers.size, "each process is a node once"
    workers.close()


@OVER_REDIS
def test_redis_is_killed_and_comes_back(way: Way, workers: Fleet, room: str, crowd: str) -> None:
    assert way.redis is not None
    tabs = [enter(tab, crowd, key) for key, tab in zip(("ann", "bob", "cid"), workers.tabs(), strict=True)]
    everybody: fleet.Expected = {"ann": [{}], "bob": [{}], "cid": [{}]}
    workers.agree(tabs, everybody)
    way.redis.kill()
    dan = enter(workers.tab(tabs[0].worker), crowd, "dan")
    dan.push("shout", {"n": 1})
    assert tabs[0].await_heard(1) == [("shout", {"n": 1})]
    # Each worker is alone now, as far as it knows.
    assert tabs[0].wait_for(lambda: tabs[0].state.keys() == {"ann", "dan"})
    assert tabs[1].wait_for(lambda: tabs[1].state.keys() == {"bob"})
    tabs[1].push("update", {"key": "bob", "meta": {"n": 2}})
    way.redis.start()
    workers.agree([*tabs, dan], {**everybody, "bob": [{"n": 2}], "dan": [{}]})
    assert [tab.heard for tab in tabs[1:]] == [[], []]
    chat(workers.tabs(), room)
