"""What tests share: servers in processes of their own, and a detector of what they leave behind."""

from __future__ import annotations

import gc
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import gevent
import pytest
from gevent.hub import Hub as EventLoop
from greenlet import getcurrent, greenlet
from hypothesis import settings

from flask_phoenix.protocol.json import Json
from flask_phoenix.pubsub.hub import Hub
from flask_phoenix.runtime import watchdog
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.runners import Runner
from tests.support import processes
from tests.support.clients import KINDS, Site
from tests.support.presence import MakeNode, Node
from tests.support.redis_server import RedisCluster, RedisServer
from tests.support.slow import SlowAdapter

# A busy machine is slow, and no test of values is about time.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: How long a test's greenlets and descriptors may take to end after it.
GRACE = processes.DEADLINE / 5
#: Tests of values start nothing; to look through all objects around each of their many cases would take minutes.
VALUES_ONLY = {
    "test_exceptions",
    "test_json",
    "test_serializers",
    "test_origin",
    "test_protocol",
    "test_tracker",
}
#: The files whose tests take longest, with those that start servers, node and browsers: begun last, one of them would
#: run on alone when all others are done.
LONGEST = (
    "test_clients",
    "test_servers_real",
    "test_faults",
    "test_disks",
    "test_clocks",
    "test_pages",
    "test_many_processes",
    "test_processes",
    "test_docs",
    "test_example_app",
    "test_pytest_plugin",
    "test_cli",
    "test_server",
    "test_package",
    "test_tutorial",
    "test_hosts",
    "test_redis",
)
#: A greenlet that waits in one of these, and no deeper, is idle; like the event loop it lives as long as its process.
IDLE = {Hub._run.__code__, Runner._run.__code__}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def untold_holds() -> Iterator[None]:
    """Let no app under debug tell that the event loop was held: between tests it is, and a busy machine holds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "HOLD", math.inf)
        yield


@pytest.fixture
def free_port() -> int:
    """Return a port on which nobody listens."""
    return processes.free_port()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Make a directory whose path leaves room for the names of Unix sockets, as pytest's own may not."""
    with TemporaryDirectory(prefix="phoenix") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a Redis of a module's own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis: RedisServer) -> str:
    """Return a URL of that Redis with a prefix of a test's own: it hears nothing of another."""
    return f"{redis.url}?prefix={uuid4().hex}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Return three Redis that share the topics."""
    servers = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield servers
    servers.kill()


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}")
def lasting_site(request: pytest.FixtureRequest) -> Site:
    """Make an app once for all tests: Werkzeug takes its time to compile the rules."""
    return Site(request.param)


@pytest.fixture
def site(lasting_site: Site) -> Iterator[Site]:
    """Return an app whose clients use each transport in each version of the wire format."""
    yield lasting_site
    lasting_site.close()


@pytest.fixture
def slow() -> SlowAdapter:
    """Return an adapter whose subscriptions wait until the test confirms them."""
    return SlowAdapter()


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}")
def slow_site(request: pytest.FixtureRequest, slow: SlowAdapter) -> Iterator[Site]:
    """Return such an app with that adapter."""
    site = Site(request.param, slow)
    yield site
    site.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Return the engine of one node alone."""
    engine = Engine(nullcontext, Json())
    yield engine
    engine.stop()


@pytest.fixture
def far(slow: SlowAdapter) -> Iterator[Engine]:
    """Return an engine with the slow adapter."""
    engine = Engine(nullcontext, Json(), lambda: slow)
    yield engine
    engine.stop()


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """Make nodes that have a presence, and stop them in the end."""
    nodes: list[Node] = []

    def make_node(*arguments: Any, **options: Any) -> Node:
        nodes.append(Node(*arguments, **options))
        return nodes[-1]

    yield make_node
    for node in nodes:
        node.stop()


@pytest.fixture
def node(make_node: MakeNode) -> Node:
    """Return a node without others."""
    return make_node()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[processes.Servers]:
    """Starts commands that serve: ``servers.start(sys.executable, "-m", "example_app", "--port", "{port}")``."""
    started = processes.Servers(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="session", autouse=True)
def event_loop() -> None:
    """Let gevent open what it keeps open, before anybody counts."""
    gevent.get_hub().threadpool.apply(int)


@pytest.fixture(autouse=True)
def no_leaks(event_loop: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves greenlets or file descriptors behind."""
    if request.module.__name__.rpartition(".")[2] in VALUES_ONLY:
        yield
        return
    gc.collect()
    gc.freeze()  # what is there by now is not among gc.get_objects(): nobody looks through it again
    old_descriptors = _descriptors()

    def leaks() -> list[str]:
        return [
            *map(_describe, _greenlets()),
            *(f"descriptor {number}: {target}" for number, target in sorted(_descriptors() - old_descriptors)),
        ]

    yield
    left = _settle(leaks)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


def _settle(leaks: Callable[[], list[str]]) -> list[str]:
    """Run the event loop until nothing is left, or for the time of grace; return what is left."""
    deadline = time.monotonic() + GRACE
    while (found := leaks()) and time.monotonic() < deadline:
        gc.collect()
        gevent.wait(timeout=0.01)
    return found


def _greenlets() -> list[greenlet]:
    """Return the started, unfinished greenlets of this thread that do this test's work."""
    # issubclass: isinstance would ask proxies, which answer for others or raise.
    every: list[greenlet] = [each for each in gc.get_objects() if issubclass(type(each), greenlet)]
    return [each for each in every if each and _root(each) is _root() and not _belongs_to_process(each)]


def _belongs_to_process(each: greenlet) -> bool:
    idle = each.gr_frame is not None and each.gr_frame.f_code in IDLE
    return idle or each.parent is None or isinstance(each, EventLoop)


def _root(start: greenlet | None = None) -> greenlet:
    """Return the main greenlet of a greenlet's thread."""
    root = start or getcurrent()
    while root.parent:
        root = root.parent
    return root


def _describe(leaked: greenlet) -> str:
    frames = traceback.format_stack(leaked.gr_frame) if leaked.gr_frame else ["  no frame of Python\n"]
    return f"{leaked!r} at\n{''.join(frames[-4:])}"


def _descriptors() -> set[tuple[int, str]]:
    """Return the open file descriptors and what they are; none where the system does not tell."""
    found = set()
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # the descriptor of the listing itself
                found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found
