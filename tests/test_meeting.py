"""Where workers meet: directories that may and may not be, frames, and a publisher from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.pubsub.unix import meeting
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.pubsub.unix.meeting import (
    ASK,
    DATA,
    HELLO,
    WANT,
    YES,
    Decoder,
    Frame,
    WorkersPublisher,
    check_private,
    directory_of_server,
    encode,
    leave,
    make_private,
    nodes_in,
    remove_leftovers,
)
from flask_phoenix.pubsub.unix.peer import listen
from tests.contract import LARGE, TOPICS, Node
from tests.processes import DEADLINE, ROOT

# Frames

FRAMES: list[Frame] = [
    (HELLO, "node", b""),
    (WANT, "", b""),
    (DATA, "two words\n", b"\0\xff"),
    (ASK, "", b"17"),
    (YES, "", b"17"),
    (DATA, "caf\u00e9 \ud800", b"x" * 300),
]


def test_a_frame_to_the_byte() -> None:
    assert encode(DATA, "caf\u00e9", b"\x01\x02") == b"\x05\0\0\0\x05\0\0\0\x02caf\xc3\xa9\x01\x02"


@pytest.mark.parametrize("size", [1, 2, 9, 10, 1000])
def test_frames_come_in_any_pieces(size: int) -> None:
    stream = b"".join(encode(*frame) for frame in FRAMES)
    decoder = Decoder()
    read = [decoder.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
    assert [frame for frames in read for frame in frames] == FRAMES


# The directory


@pytest.fixture
def runtime(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of this user for what lives while it runs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    return short_path


@pytest.fixture
def directory(short_path: Path) -> Path:
    return short_path / "workers"


@pytest.mark.parametrize(
    "url", ["workers:", "workers://run/myapp", "workers:run", "redis:///run", "/run", "workers:///run?x=1"]
)
def test_a_url_that_names_no_directory(url: str) -> None:
    with pytest.raises(InvalidOption, match="workers:///run/myapp"):
        WorkersAdapter.from_url(url)


def test_a_url_may_name_any_directory() -> None:
    assert meeting.directory_of_url("workers:///run/my%20app/") == Path("/run/my app")


def test_a_directory_is_made_for_this_user_alone(directory: Path) -> None:
    make_private(directory)
    make_private(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o777])
def test_a_directory_that_others_may_enter(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(InvalidOption, match="chmod 700"):
        make_private(directory)


def test_what_is_no_directory(directory: Path, short_path: Path) -> None:
    directory.symlink_to(short_path)
    with pytest.raises(InvalidOption, match=r"is no directory.*workers:///run/myapp"):
        make_private(directory)
    with pytest.raises(InvalidOption, match=r"cannot make .*workers:///run/myapp"):
        make_private(short_path / "no" / "where")
    with pytest.raises(InvalidOption, match=r"cannot look at .*workers:///run/myapp"):
        check_private(short_path / "nowhere")


def test_a_directory_of_somebody_else(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(InvalidOption, match=r"belongs to user .*workers:///run/myapp"):
        make_private(directory)


def say_directory(code: str = "") -> str:
    """Return the directory of a server as a process that is started now sees it."""
    program = (
        f"{code}\nfrom flask_phoenix.pubsub.unix.meeting import directory_of_server\nprint(directory_of_server('app'))"
    )
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=DEADLINE
    ).stdout


def test_the_workers_of_one_server_find_each_other(runtime: Path) -> None:
    one, other = (Path(say_directory().strip()) for _ in range(2))
    assert one == other
    assert one.parent == runtime
    assert one.name.startswith(f"phoenix-{os.geteuid()}-{os.getpid()}-")


def test_the_workers_of_two_servers_do_not(runtime: Path) -> None:
    master = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{PRINT}'''])"
    seen = {say_directory().strip()}
    for _ in range(2):
        command = [sys.executable, "-c", master]
        seen.add(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip())
    assert len(seen) == 3
    assert all(path.startswith(str(runtime)) for path in seen)


PRINT = "from flask_phoenix.pubsub.unix.meeting import directory_of_server; print(directory_of_server(chr(97)))"


def test_two_apps_of_one_server_do_not_meet(runtime: Path) -> None:
    assert directory_of_server("one") == directory_of_server("one") != directory_of_server("other")
    assert len(str(directory_of_server("x" * 1000)).encode()) < len(str(runtime)) + 60


def test_a_runtime_directory_that_cannot_be_used(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for unusable in ("", "relative", str(short_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        monkeypatch.setattr("tempfile.tempdir", str(short_path))
        assert directory_of_server("app").parent == short_path


def test_what_dead_servers_have_left_is_removed(runtime: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait(DEADLINE)
    living = directory_of_server("other")
    kin = f"phoenix-{os.geteuid()}"
    left = [runtime / f"{kin}-{dead.pid}-{started}-app" for started in (12345, 0)]
    left.append(runtime / f"{kin}-{os.getppid()}-1-app")  # a process of that number, but another
    left.append(runtime / f"{kin}-{living.name.split('-')[2]}9-0-app")
    kept = [living, runtime / f"{kin}x-{dead.pid}-0-app", runtime / f"phoenix-1-{dead.pid}-0-app", runtime / kin]
    kept.append(runtime / f"{kin}-{dead.pid}-0-full")
    hidden = runtime / f"{kin}-{dead.pid}-0-alive"
    for path in (*left, *kept):
        path.mkdir(0o700)
    (kept[-1] / "a file").touch()
    dead_socket = listen(left[0], "node")
    dead_socket.close()
    listener = listen(hidden, "node")
    remove_leftovers(directory_of_server("app"))
    remove_leftovers(runtime / "myapp")
    assert {path for path in runtime.iterdir() if path.is_dir()} == {*kept, hidden}
    listener.close()


def test_the_last_worker_takes_the_directory_of_its_server_with_it(runtime: Path) -> None:
    for directory, stays in ((directory_of_server("app"), False), (runtime / "phoenix", True)):
        listeners = [listen(directory, node) for node in ("one", "other")]
        leave(directory, "one")
        assert nodes_in(directory) == ["other"]
        leave(directory, "other")
        assert directory.exists() == stays
        for listener in listeners:
            listener.close()


def test_nobody_is_where_there_is_no_directory(directory: Path) -> None:
    assert nodes_in(directory) == []


# Publishing from outside


@pytest.fixture
def node(directory: Path) -> Iterator[Node]:
    """Return a worker that hears a topic."""
    node = Node(WorkersAdapter(directory), "node")
    node.start()
    node.adapter.subscribe("t")
    yield node
    node.adapter.stop()


@pytest.fixture
def publisher(directory: Path) -> Iterator[WorkersPublisher]:
    publisher = WorkersPublisher(directory)
    yield publisher
    publisher.close()


def outside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in another thread, while the event loop runs."""
    return gevent.get_hub().threadpool.apply(function, arguments)


def test_every_worker_hears_what_comes_from_outside(directory: Path, node: Node, publisher: WorkersPublisher) -> None:
    other = Node(WorkersAdapter(directory), "other")
    other.start()
    for topic in TOPICS:
        node.adapter.subscribe(topic)
        outside(publisher.publish, topic, b"\0\xff")
        assert node.received.get_nowait() == (topic, b"\0\xff")
    other.adapter.subscribe("t")
    outside(publisher.publish, "t", LARGE)
    assert node.received.get_nowait() == other.received.get_nowait() == ("t", LARGE)
    other.adapter.stop()
    outside(publisher.publish, "t", b"1")
    newcomer = Node(WorkersAdapter(directory), "newcomer")
    newcomer.start()
    newcomer.adapter.subscribe("t")
    outside(publisher.publish, "t", b"2")
    assert node.hear_all(2) == [b"1", b"2"]
    assert newcomer.received.get_nowait() == ("t", b"2")
    newcomer.adapter.stop()
    assert other.received.empty()


def test_several_threads_may_publish(node: Node, publisher: WorkersPublisher) -> None:
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
        outside(thread.join)


def test_nobody_is_there(directory: Path, publisher: WorkersPublisher) -> None:
    with pytest.raises(NotPublished, match=rf"PHOENIX_PUBSUB_URL=workers://{directory}"):
        publisher.publish("t", b"")
    node = Node(WorkersAdapter(directory), "node")
    node.start()
    outside(publisher.publish, "nobody asks for it", b"")
    node.adapter.stop()
    with pytest.raises(NotPublished, match="no worker listens"):
        publisher.publish("t", b"")
    listen(directory, "dead").close()
    with pytest.raises(NotPublished, match="no worker listens"):
        publisher.publish("t", b"")


def test_a_directory_that_is_not_private(directory: Path, node: Node, publisher: WorkersPublisher) -> None:
    directory.chmod(0o755)
    with pytest.raises(InvalidOption, match="chmod 700"):
        publisher.publish("t", b"")


def test_a_worker_that_takes_nothing(directory: Path, node: Node) -> None:
    publisher = WorkersPublisher(directory, timeout=0.1)
    stuck = listen(directory, "stuck")
    for _ in range(2):
        with pytest.raises(NotPublished, match=r"worker stuck has not taken it within 0\.1 s"):
            outside(publisher.publish, "t", LARGE)
        assert node.hear() == ("t", LARGE)
    stuck.close()
    publisher.close()


def test_a_worker_that_ends_meanwhile(directory: Path, node: Node, publisher: WorkersPublisher) -> None:
    ending = StreamServer(listen(directory, "ending"), lambda sock, address: sock.recv(1))
    ending.start()
    outside(publisher.publish, "t", b"hello")
    assert node.hear() == ("t", b"hello")
    ending.stop()


SCRIPT = """
import os, sys, threading
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
publisher = WorkersAdapter.from_url(sys.argv[1]).publisher()
publisher.publish("t", b"parent")
child = os.fork()
publisher.publish("t", b"parent again" if child else b"child")
if not child:
    os._exit(0)
os.waitpid(child, 0)
thread = threading.Thread(target=publisher.publish, args=("t", b"thread"))
thread.start()
thread.join()
publisher.close()
"""


@pytest.mark.parametrize("options", [(), ("patched",)], ids=["plain", "patched"])
def test_processes_of_many_kinds_publish(directory: Path, node: Node, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", SCRIPT, f"workers://{directory}", *options]
    done = outside(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE))
    assert done.returncode == 0, done.stderr
    heard = node.hear_all(4)
    assert (heard[0], heard[3]) == (b"parent", b"thread")
    assert sorted(heard[1:3]) == [b"child", b"parent again"]
