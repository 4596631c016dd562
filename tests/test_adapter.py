"""How a URL names what joins the nodes, what other packages publish for it, and the adapter of a test's own process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from flask_phoenix import Broadcaster
from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.pubsub.adapter import ADAPTERS, PUBLISHERS, Adapter, adapter_class, make_publisher, remedy
from flask_phoenix.pubsub.redis.adapter import RedisAdapter
from flask_phoenix.pubsub.redis.publisher import RedisPublisher
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.pubsub.unix.publisher import WorkersPublisher
from flask_phoenix.testing import MemoryAdapter
from tests.support.contract import AdapterContract, MakeAdapter, Node
from tests.support.processes import ROOT, START


class TestMemoryAdapter(AdapterContract):
    tells_end = True

    @pytest.fixture
    def make_adapter(self) -> MakeAdapter:
        network: list[MemoryAdapter] = []
        return lambda: MemoryAdapter(network)


def test_publishing_to_a_network_in_memory() -> None:
    node = Node(MemoryAdapter([]), "node")
    publisher = node.adapter.publisher()
    with pytest.raises(NotPublished, match="serves anybody yet"):
        publisher.publish("t", b"too early")
    node.start("t")
    publisher.publish("u", b"unheard")
    publisher.publish("t", b"hello")
    assert node.hear() == ("t", b"hello")
    publisher.close()
    node.adapter.stop()


@pytest.mark.parametrize(
    ("schemes", "adapter", "publisher"),
    [
        (["workers"], WorkersAdapter, WorkersPublisher),
        (["redis", "rediss", "redis+cluster", "rediss+cluster", "unix"], RedisAdapter, RedisPublisher),
    ],
)
def test_a_url_names_its_adapter(schemes: list[str], adapter: type[Adapter], publisher: type[Any]) -> None:
    for scheme in schemes:
        assert adapter_class(f"{scheme}:") is adapter  # what it makes of the rest is its own business
        assert type(make_publisher(f"{scheme}:///run/myapp")) is publisher


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("kafka://user:secret@localhost", "kafka"),
        ("", ""),
        ("/run/myapp", "/run/myapp"),
        ("workers ://x", "workers "),
        ("Workers:///run/myapp", "Workers"),
        (7, "7"),
    ],
)
@pytest.mark.parametrize("find", [adapter_class, make_publisher])
def test_an_unknown_scheme_names_those_that_are_known(find: Callable[[Any], Any], url: Any, scheme: str) -> None:
    with pytest.raises(InvalidOption, match=r"\['redis', .*'rediss', .*'workers'\]") as mistake:
        find(url)
    assert str(mistake.value).endswith(f"got {scheme!r}")
    assert "secret" not in str(mistake.value)


# What other packages publish

Install = Callable[..., None]

MODULE = """
from flask_phoenix import Adapter, Publisher

class Pigeons(Adapter):
    @classmethod
    def from_url(cls, url):
        return cls()

    def publisher(self):
        return Post()

class Post(Publisher):
    said = []

    @classmethod
    def from_url(cls, url):
        raise AssertionError

    def publish(self, topic, data):
        self.said.append((topic, data))

    def close(self):
        self.said.append("closed")

def make():
    return Pigeons()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package: each keyword is a scheme and what is said to carry it."""

    def install(group: str = ADAPTERS, **places: str) -> None:
        about = tmp_path / "pigeons-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeons\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{scheme} = {place}" for scheme, place in places.items())]
        (about / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / "pigeon_post.py").write_text(MODULE)
        (tmp_path / "pigeon_loft.py").write_text("import a_package_that_nobody_has")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "pigeon_post", raising=False)

    return install


def test_a_package_may_bring_an_adapter_without_a_publisher(install: Install) -> None:
    with pytest.raises(InvalidOption):
        Broadcaster("pigeons://loft")
    install(pigeons="pigeon_post:Pigeons")
    with Broadcaster("pigeons://loft") as broadcaster:
        broadcaster.broadcast("t", "news", {})
    assert adapter_class("pigeons://loft").__name__ == "Pigeons"
    assert sys.modules["pigeon_post"].Post.said == [("t", b"J\0\x04news{}"), "closed"]
    with pytest.raises(InvalidOption, match=r"\['pigeons', 'redis', .*'workers'\]"):
        adapter_class("crows://tree")


@pytest.mark.parametrize(
    ("group", "place"),
    [(ADAPTERS, "pigeon_post:make"), (ADAPTERS, "pigeon_post:Post"), (PUBLISHERS, "pigeon_post:Pigeons")],
)
def test_what_a_package_brings_has_to_be_what_it_says(install: Install, group: str, place: str) -> None:
    install(group, pigeons=place)
    with pytest.raises(InvalidOption, match=rf"the entry point 'pigeons' of {group} is no (Adapter|Publisher): "):
        make_publisher("pigeons://loft")


@pytest.mark.parametrize(("extras", "cure"), [("", "see what pigeons needs"), ("[a,b]", "pip install 'pigeons[a,b]'")])
@pytest.mark.parametrize("group", [ADAPTERS, PUBLISHERS])
def test_a_missing_package_is_named_with_the_remedy(install: Install, group: str, extras: str, cure: str) -> None:
    install(group, pigeons=f"pigeon_loft:Pigeons {extras}")
    with pytest.raises(InvalidOption, match=r"^pigeons: .*a_package_that_nobody_has") as mistake:
        make_publisher("pigeons://loft")
    assert isinstance(mistake.value.__cause__, ImportError)
    assert str(mistake.value).endswith(cure)
    assert remedy(EntryPoint("pigeons", "loft.a:B [post]", group)) == "type: pip install 'loft[post]'"


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
from flask import Flask
from flask_phoenix import Broadcaster, InvalidOption, Phoenix
for scheme in sys.argv[1:]:
    app = Flask("app")
    app.config["PHOENIX_PUBSUB_URL"] = url = f"{scheme}://localhost"
    for use in (Broadcaster, lambda url: Phoenix(app)):
        try:
            use(url)
        except InvalidOption as error:
            print(error)
"""


def test_without_redis_the_remedy_is_one_that_helps() -> None:
    schemes = ["redis", "rediss", "redis+cluster", "rediss+cluster", "unix"]
    command = [sys.executable, "-c", WITHOUT_REDIS, *schemes]
    said = subprocess.run(command, cwd=ROOT, timeout=START, capture_output=True, text=True, check=True).stdout
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == [scheme for scheme in schemes for _ in range(2)]
    assert all("pip install 'flask_phoenix[redis]'" in line for line in lines)
