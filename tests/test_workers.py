"""The workers of one host: their directory, adapters in this process and in others, and publishing from outside."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from gevent.server import StreamServer

from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.pubsub.unix import adapter as workers
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.pubsub.unix.directory import directory_of_server
from flask_phoenix.pubsub.unix.frames import (
    HELLO,
    PUBLISH,
    SUBSCRIBE,
    SYNC,
    SYNCED,
    FrameDecoder,
    PeerFrame,
    encode_frame,
)
from flask_phoenix.pubsub.unix.peer import Line, listen
from flask_phoenix.pubsub.unix.publisher import WorkersPublisher
from tests.support.contract import LARGE, TOPICS, Cut, LossContract, MakeAdapter, Node
from tests.support.loop import in_thread
from tests.support.processes import DEADLINE, ROOT, START, wait_until
from tests.support.worker_process import GONE, SAID

#: Bytes that may wait for one worker, in tests of what happens when more does.
SMALL = 1024 * 1024
MakeWorker = Callable[..., Node]


@pytest.fixture
def directory(short_path: Path) -> Path:
    return short_path / "workers"


@pytest.fixture
def make_worker(directory: Path) -> Iterator[MakeWorker]:
    """Make workers of this process, and stop them in the end."""
    nodes: list[Node] = []

    def make(name: str, *topics: str, **options: Any) -> Node:
        nodes.append(Node(WorkersAdapter(directory, **options), name))
        return nodes[-1].start(*topics)

    yield make
    for node in nodes:
        node.adapter.stop()


class TestWorkersAdapter(LossContract):
    tells_end = True

    @pytest.fixture
    def make_adapter(self, directory: Path) -> MakeAdapter:
        return lambda: WorkersAdapter.from_url(f"workers://{directory}")

    @pytest.fixture
    def cut(self) -> Cut:
        def cut() -> Callable[[], object]:
            for line in [each for each in gc.get_objects() if type(each) is Line]:
                line.close()
            return lambda: None

        return cut


# Frames


def test_a_frame_to_the_byte() -> None:
    assert encode_frame(PUBLISH, "caf\u00e9", b"\x01\x02") == b"\x05\0\0\0\x05\0\0\0\x02caf\xc3\xa9\x01\x02"


@pytest.mark.parametrize("size", [1, 9, 10, 1000])
def test_frames_come_in_any_pieces(size: int) -> None:
    frames: list[PeerFrame] = [(HELLO, "node", b""), (SUBSCRIBE, "", b""), (SYNC, "", b"17")]
    frames += [(PUBLISH, "two words\n", b"\0\xff"), (PUBLISH, "caf\u00e9 \ud800", b"x" * 300)]
    stream, decoder = b"".join(encode_frame(*frame) for frame in frames), FrameDecoder()
    read = [decoder.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
    assert [frame for some in read for frame in some] == frames


# The directory


@pytest.fixture
def runtime(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of this user for what lives while it runs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    return short_path


@pytest.mark.parametrize(
    "url", ["workers:", "workers://run/myapp", "workers:run", "redis:///run", "/run", "workers:///run?x=1"]
)
@pytest.mark.parametrize("kind", [WorkersAdapter, WorkersPublisher])
def test_a_url_that_names_no_directory(url: str, kind: type[WorkersAdapter | WorkersPublisher]) -> None:
    with pytest.raises(InvalidOption, match="workers:///run/myapp"):
        kind.from_url(url)


def test_a_directory_is_made_for_this_user_alone(short_path: Path) -> None:
    node = Node(WorkersAdapter.from_url(f"workers://{short_path}/my%20app/"), "node").start()
    assert (short_path / "my app").stat().st_mode & 0o777 == 0o700
    node.adapter.stop()


@pytest.mark.parametrize("kind", [WorkersAdapter, WorkersPublisher])
def test_a_url_whose_directory_is_too_long(kind: type[WorkersAdapter | WorkersPublisher]) -> None:
    with pytest.raises(InvalidOption, match=r"more than 80 bytes.*workers:///run/myapp"):
        kind.from_url(f"workers:///{80 * 'x'}")


def others_may_enter(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o701)


def link_elsewhere(directory: Path) -> None:
    directory.symlink_to(directory.parent)


def belong_to_another(directory: Path) -> None:
    directory.mkdir(0o700)
    os.chown(directory, os.geteuid() + 1, -1)


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        ("workers", others_may_enter, "chmod 700"),
        ("workers", link_elsewhere, "is no directory"),
        ("workers", belong_to_another, "belongs to user"),
        ("no/where", None, "cannot make"),
        ("x" * 100, None, "AF_UNIX path too long"),
    ],
)
def test_a_directory_that_cannot_be_used(
    short_path: Path, name: str, spoil: Callable[[Path], None] | None, complaint: str
) -> None:
    if spoil is not None:
        spoil(short_path / name)
    node = Node(WorkersAdapter(short_path / name), "node")
    for _ in range(2):
        with pytest.raises(InvalidOption, match=rf"{complaint}.*workers:///run/myapp"):
            node.start()
    with pytest.raises(NotPublished):
        node.publish("t", b"")
    node.adapter.stop()


def test_no_place_for_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._get_default_tempdir", Mock(side_effect=FileNotFoundError("no usable directory")))
    node = Node(WorkersAdapter(lambda: directory_of_server("app")), "node")
    with pytest.raises(InvalidOption, match=r"no usable directory.*workers:///run/myapp"):
        node.start()


PRINT = "from flask_phoenix.pubsub.unix.directory import directory_of_server; print(directory_of_server(chr(97)))"


def ask_directory(program: str = PRINT) -> Path:
    """Return the directory of a server as a process that is started now sees it."""
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=START).stdout
    return Path(said.strip())


def test_the_workers_of_one_server_find_each_other(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, same = ask_directory(), ask_directory()
    another_server = ask_directory(f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{PRINT}'''])")
    assert one == same != another_server
    assert one.parent == another_server.parent == runtime
    assert one.name.startswith(f"phoenix-{os.geteuid()}-{os.getpid()}-")
    assert directory_of_server("one") == directory_of_server("one") != directory_of_server("other")
    assert len(str(directory_of_server("x" * 1000)).encode()) < len(str(runtime)) + 60
    for unusable in ("", "relative", str(runtime / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        monkeypatch.setattr("tempfile.tempdir", str(runtime / "tmp"))
        assert directory_of_server("app").parent == runtime / "tmp"


def test_what_dead_servers_have_left_is_removed(runtime: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait(DEADLINE)
    living, own = directory_of_server("other"), directory_of_server("app")
    prefix = f"phoenix-{os.geteuid()}"
    left = [runtime / f"{prefix}-{dead.pid}-{started}-app" for started in (12345, 0)]
    left.append(runtime / f"{prefix}-{os.getppid()}-1-app")  # a process of that number, but another
    kept = [living, runtime / f"{prefix}-{os.getppid()}-0-app"]  # where the system does not tell when it started
    kept += [runtime / f"{prefix}x-{dead.pid}-0-app", runtime / f"phoenix-1-{dead.pid}-0-app", runtime / prefix]
    full, hidden = runtime / f"{prefix}-{dead.pid}-0-full", runtime / f"{prefix}-{dead.pid}-0-alive"
    for path in (*left, *kept, full, hidden):
        path.mkdir(0o700)
    (full / "a file").touch()
    listen(left[0], "node").close()
    listener = listen(hidden, "node")
    node = Node(WorkersAdapter(lambda: own), "node").start()
    assert {*runtime.iterdir()} == {*kept, full, hidden, own}
    listener.close()
    node.adapter.stop()
    assert not own.exists()  # it goes with its last worker


def test_what_a_dead_worker_has_left_is_removed(directory: Path, make_worker: MakeWorker) -> None:
    one = make_worker("one")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "dead.sock"))
    other = make_worker("other")
    other.publish("t", b"held for nobody")
    other.adapter.subscribe("t")
    assert not (directory / "dead.sock").exists()
    assert other.heard("t", by=one) == []
    assert other.gone.empty()
    other.adapter.stop()
    assert other.adapter.unpublished == 0


# Workers that do not answer


def test_a_worker_that_never_answers_is_not_waited_for(
    directory: Path, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "CONFIRM_TIMEOUT", 0.05)
    monkeypatch.setattr(workers, "STOP_GRACE", 0.05)
    other = make_worker("other")
    dumb = listen(directory, "dumb")
    node = make_worker("node", limit=10_000)
    other.adapter.subscribe("t")
    for number in range(100):
        node.publish("t", f"{number}".ljust(1000))
        assert other.hear() == ("t", f"{number}".ljust(1000).encode())
    assert 0 < node.adapter.unpublished < 100
    node.adapter.subscribe("u")
    node.adapter.subscribe("v")
    assert node.heard("v", by=other) == []
    node.adapter.stop()
    assert node.adapter.unpublished == 100
    assert [record.message for record in caplog.records if "dumb" in record.message or "lost" in record.message] == [
        "worker dumb takes nothing; 1 messages are lost by now",
        "worker dumb does not answer; what it publishes is missed until it does",
        "workers take nothing; 10 messages are lost as this one stops",
    ]
    dumb.close()


def test_a_worker_that_cannot_be_connected_to_is_tried_again(directory: Path, make_worker: MakeWorker) -> None:
    make_worker("other")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(directory / "full.sock"))
        full.listen(0)
        first.connect(str(directory / "full.sock"))
        node = make_worker("node")
        asking = gevent.spawn(node.adapter.subscribe, "t")
        asking.join(3 * workers.RETRY)
        assert not asking.ready()
    asking.get(timeout=DEADLINE)
    assert not (directory / "full.sock").exists()


def test_a_worker_goes_on_whatever_comes_on_a_line(
    directory: Path, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_worker("other")
    liar = StreamServer(listen(directory, "liar"), lambda sock, _: sock.sendall(encode_frame(SYNCED, data=b"x")))
    liar.start()
    node = make_worker("node", "t")
    assert wait_until(lambda: "the line to worker liar failed" in caplog.text, lambda: gevent.sleep(0.01))
    liar.stop()
    for nonsense in (b"\x05\0\0\0\1\0\0\0\0\xff", encode_frame(HELLO, "no/where") + encode_frame(SYNC, data=b"x")):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(directory / "node.sock"))
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            in_thread(stranger.recv, 1)
    assert "a line is closed" in caplog.text
    assert node.heard("t", by=other) == []


def test_a_worker_without_descriptors_waits_for_some(
    directory: Path, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    node = make_worker("node", "t")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as stranger:
        free = os.dup(stranger.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            stranger.connect(str(directory / "node.sock"))
            assert wait_until(lambda: "cannot connect to this one" in caplog.text, lambda: gevent.sleep(0.01))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stranger.sendall(encode_frame(PUBLISH, "t", b"patience"))
        assert node.hear() == ("t", b"patience")


# Real processes


class Process:
    """A worker in a process of its own: see :mod:`tests.support.worker_process`."""

    def __init__(self, boss: Boss, name: str, *options: str) -> None:
        self.boss = boss
        self.name = name
        self.log = boss.directory.with_name(f"{name}.log")
        command = [sys.executable, "-m", "tests.support.worker_process"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, str(boss.directory), name, str(SMALL), *options], cwd=ROOT, stdout=output, stderr=output
            )

    def tell(self, *order: Any) -> None:
        """Give an order, and go on."""
        self.boss.publish(self.name, json.dumps(order))

    def do(self, *order: Any) -> Any:
        """Give an order, and return what came of it."""
        self.tell(*order)
        return self.boss.hear_from(self.name)

    def await_heard(self, number: int) -> list[str]:
        """Return all that it has heard, once there is so much."""
        heard: list[str] = []
        assert wait_until(lambda: len(heard) >= number, lambda: heard.extend(self.do("report")))
        return heard


class Boss(Node):
    """The worker in this process, which gives orders to the others."""

    def __init__(self, directory: Path) -> None:
        super().__init__(WorkersAdapter(directory, SMALL), "boss")
        self.directory = directory
        self.processes: list[Process] = []
        self.said: dict[str, list[Any]] = {}
        self.start(SAID)

    def hire(self, *names: str, options: tuple[str, ...] = ()) -> list[Process]:
        """Start processes, all at once; return when they are ready."""
        hired = [Process(self, name, *options) for name in names]
        self.processes.extend(hired)
        for name in names:
            assert self.hear_from(name, START) == "ready"
        return hired

    def hear_from(self, name: str, within: float = DEADLINE) -> Any:
        """Return what a worker says next."""
        while not self.said.setdefault(name, []):
            _, data = self.hear(within)
            sender, what = json.loads(data)
            self.said.setdefault(sender, []).append(what)
        return self.said[name].pop(0)

    def stop(self) -> None:
        self.adapter.stop()
        for each in self.processes:
            each.process.kill()
            each.process.wait(DEADLINE)


@pytest.fixture
def boss(directory: Path) -> Iterator[Boss]:
    boss = Boss(directory)
    yield boss
    boss.stop()


@pytest.mark.parametrize("options", [(), ("patched",)], ids=["plain", "patched"])
def test_processes_that_start_at_one_moment_hear_each_other(boss: Boss, options: tuple[str, ...]) -> None:
    hired = boss.hire(*[f"worker{number}" for number in range(4)], options=options)
    for each in hired:
        each.do("subscribe", "t")
    for each in hired:
        assert each.do("publish", "t", 0, 1000) == 0
    for each in hired:
        heard = each.await_heard(3000)
        for other in hired:
            mine = [text for text in heard if text.startswith(f"{other.name} ")]
            assert mine == [f"{other.name} {number}" for number in range(1000) if other is not each]


def test_a_killed_worker_is_missed_at_once(boss: Boss) -> None:
    one, other = boss.hire("one", "other")
    boss.adapter.subscribe(GONE)
    other.do("subscribe", "t")
    other.process.kill()
    assert boss.gone.get(timeout=DEADLINE) == "other"
    assert boss.hear() == (GONE, b'["one", "other"]')
    assert not (boss.directory / "other.sock").exists()
    boss.publish("t", b"to nobody")
    assert boss.adapter.unpublished == 0
    (another,) = boss.hire("another")
    another.do("subscribe", "t")
    one.do("publish", "t", 0, 1)
    assert another.await_heard(1) == ["one 0"]
    assert boss.gone.empty()


def test_a_process_forked_from_a_worker_does_not_stand_in_for_it(boss: Boss) -> None:
    one, other = boss.hire("one", "other")
    child = other.do("fork")
    try:
        one.do("subscribe", "t")
        other.do("publish", "t", 0, 100)
        other.process.kill()
        assert boss.gone.get(timeout=DEADLINE) == "other"
        os.kill(child, 0)
        assert one.await_heard(100) == [f"other {number}" for number in range(100)]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stopped_worker_delays_nobody_and_comes_back(
    boss: Boss, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "CONFIRM_TIMEOUT", 0.1)
    one, stopped = boss.hire("one", "stopped")
    one.do("subscribe", "t")
    stopped.do("subscribe", "t")
    stopped.process.send_signal(signal.SIGSTOP)
    for number in range(100):
        boss.publish("t", f"{number}".ljust(64 * 1024))
        assert one.await_heard(1) == [str(number)]
    lost = boss.adapter.unpublished
    assert 0 < lost < 100
    boss.adapter.subscribe("u")
    boss.adapter.subscribe("v")
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "worker stopped takes nothing",
        "worker stopped does not answer",
    ]
    assert boss.gone.empty()

    stopped.process.send_signal(signal.SIGCONT)
    assert hear_again(boss, stopped) == [str(number) for number in range(100 - lost)]
    assert boss.adapter.unpublished >= lost
    assert "the line from worker boss broke" in stopped.log.read_text()
    boss.adapter.subscribe("w")
    stopped.tell("publish", "w", 0, 1)
    assert boss.hear() == ("w", b"stopped 0")


def hear_again(boss: Boss, worker: Process) -> list[str]:
    """Ask a worker for a report until the order gets through; return what it has heard."""

    def ask() -> None:
        worker.tell("report")
        with suppress(gevent.Timeout), gevent.Timeout(0.05):
            heard.append(boss.hear_from(worker.name))

    heard: list[list[str]] = []
    assert wait_until(lambda: bool(heard), ask)
    return heard[0]


# Publishing from outside


@pytest.fixture
def publisher(directory: Path) -> Iterator[WorkersPublisher]:
    publisher = WorkersPublisher(directory)
    yield publisher
    publisher.close()


def test_every_worker_hears_what_comes_from_outside(make_worker: MakeWorker, publisher: WorkersPublisher) -> None:
    one, other = make_worker("one", *TOPICS), make_worker("other", "t")
    for topic in TOPICS:
        in_thread(publisher.publish, topic, b"\0\xff")
        assert one.received.get_nowait() == (topic, b"\0\xff")
    one.adapter.subscribe("t")
    in_thread(publisher.publish, "t", LARGE)
    assert one.received.get_nowait() == other.received.get_nowait() == ("t", LARGE)
    other.adapter.stop()
    newcomer = make_worker("newcomer", "t")
    in_thread(publisher.publish, "t", b"1")
    assert one.received.get_nowait() == newcomer.received.get_nowait() == ("t", b"1")
    assert other.received.empty()


def test_several_threads_may_publish(make_worker: MakeWorker, publisher: WorkersPublisher) -> None:
    node = make_worker("node", "t")

    def speak(name: str) -> None:
        for number in range(100):
            publisher.publish("t", f"{name} {number}".encode())

    threads = [threading.Thread(target=speak, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    heard = node.hear_all(300)
    for name in "abc":
        mine = [data for data in heard if data.startswith(name.encode())]
        assert mine == [f"{name} {number}".encode() for number in range(100)]
    for thread in threads:
        in_thread(thread.join)


def test_no_worker_is_there(directory: Path, make_worker: MakeWorker, publisher: WorkersPublisher) -> None:
    with pytest.raises(NotPublished, match=rf"PHOENIX_PUBSUB_URL=workers://{directory}"):
        publisher.publish("t", b"")
    node = make_worker("node")
    in_thread(publisher.publish, "a topic that nobody asks for", b"")
    directory.chmod(0o755)
    with pytest.raises(InvalidOption, match="chmod 700"):
        publisher.publish("t", b"")
    directory.chmod(0o700)
    node.adapter.stop()
    listen(directory, "dead").close()
    with pytest.raises(NotPublished, match="no worker listens"):
        publisher.publish("t", b"")


def test_a_worker_that_ends_meanwhile(directory: Path, make_worker: MakeWorker, publisher: WorkersPublisher) -> None:
    node = make_worker("node", "t")
    ending = StreamServer(listen(directory, "ending"), lambda sock, address: sock.recv(1))
    ending.start()
    in_thread(publisher.publish, "t", b"hello")
    assert node.hear() == ("t", b"hello")
    ending.stop()


def test_a_worker_that_takes_nothing_is_waited_for_once(directory: Path, make_worker: MakeWorker) -> None:
    node = make_worker("node", "t")
    publisher = WorkersPublisher(directory, timeout=0.5)
    stuck = [listen(directory, name) for name in ("stuck", "too")]

    def speak(data: bytes) -> float:
        began = time.monotonic()
        with pytest.raises(NotPublished, match=r"worker stuck, too takes nothing.* 1 others have it"):
            publisher.publish("t", data)
        return time.monotonic() - began

    assert in_thread(speak, LARGE) >= 0.5
    assert sum(in_thread(speak, b"%d" % number) for number in range(20)) < 5
    assert node.hear_all(21) == [LARGE, *(b"%d" % number for number in range(20))]
    for listener in stuck:
        listener.close()
    in_thread(publisher.publish, "t", b"they have ended")
    assert node.hear() == ("t", b"they have ended")
    publisher.close()


def test_a_stopped_worker_that_goes_on_is_published_to_again(boss: Boss) -> None:
    (stopped,) = boss.hire("stopped")
    stopped.do("subscribe", "t")
    publisher = WorkersPublisher(boss.directory, timeout=0.2)

    def takes() -> bool:
        with suppress(NotPublished):
            in_thread(publisher.publish, "t", b"taken")
            return True
        return False

    stopped.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        with pytest.raises(NotPublished, match="worker stopped takes nothing"):
            in_thread(publisher.publish, "t", LARGE)
    stopped.process.send_signal(signal.SIGCONT)
    assert wait_until(takes, lambda: None)
    # The first was under way when it stopped; the others were told to have gone without.
    assert [len(text) for text in stopped.await_heard(2)] == [len(LARGE.decode("latin-1").rstrip()), len("taken")]
    publisher.close()
