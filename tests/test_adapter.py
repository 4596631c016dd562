"""What carries broadcasts: the interface, and the adapters that packages publish, found by the scheme of a URL."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from flask_phoenix.exceptions import InvalidOption
from flask_phoenix.pubsub.adapter import GROUP, Adapter, Publisher, adapter_class, remedy
from flask_phoenix.pubsub.redis.adapter import RedisAdapter
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from tests.processes import DEADLINE, ROOT


def test_interfaces_are_for_others_to_write() -> None:
    adapter, publisher = Adapter(), Publisher()
    calls: list[Callable[[], Any]] = [
        lambda: adapter.start("node", lambda topic, data: None, lambda node: None),
        adapter.stop,
        lambda: adapter.subscribe("t"),
        lambda: adapter.unsubscribe("t"),
        lambda: adapter.publish("t", b""),
        lambda: Adapter.from_url("workers:///run/myapp"),
        adapter.publisher,
        lambda: publisher.publish("t", b""),
        publisher.close,
    ]
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()
    assert adapter.unpublished == 0


@pytest.mark.parametrize(
    ("schemes", "adapter"),
    [(("workers",), WorkersAdapter), (("redis", "rediss", "redis+cluster", "rediss+cluster", "unix"), RedisAdapter)],
)
def test_a_url_names_its_adapter(schemes: tuple[str, ...], adapter: type[Adapter]) -> None:
    for scheme in schemes:
        assert adapter_class(f"{scheme}:///run/myapp") is adapter
        assert adapter_class(f"{scheme}:") is adapter  # what it makes of the rest is its own business


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("kafka://user:secret@localhost", "kafka"),
        ("", ""),
        ("none", "none"),
        ("/run/myapp", "/run/myapp"),
        ("workers ://x", "workers "),
        ("Workers:///run/myapp", "Workers"),
        (":", ""),
        (7, "7"),
    ],
)
def test_an_unknown_scheme_names_those_that_are_known(url: Any, scheme: str) -> None:
    with pytest.raises(InvalidOption) as mistake:
        adapter_class(url)
    said = str(mistake.value)
    assert re.search(r"\['redis', .*'rediss', .*'workers'\]", said)
    assert said.endswith(f"got {scheme!r}")
    assert "secret" not in said


# What other packages publish


Publish = Callable[..., None]

MODULE = """
from flask_phoenix.pubsub.adapter import Adapter

class Pigeons(Adapter):
    pass

def make():
    return Pigeons()

"""


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Install a package with adapters: each keyword is a scheme and what is said to carry it."""

    def publish(**adapters: str) -> None:
        about = tmp_path / "pigeons-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeons\nVersion: 1.0\n")
        lines = [f"[{GROUP}]", *(f"{scheme} = {place}" for scheme, place in adapters.items())]
        (about / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / "pigeon_post.py").write_text(MODULE)
        (tmp_path / "pigeon_loft.py").write_text("import a_package_that_nobody_has")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "pigeon_post", raising=False)

    return publish


def test_a_package_may_publish_an_adapter(publish: Publish) -> None:
    with pytest.raises(InvalidOption):
        adapter_class("pigeons://loft")
    publish(zeppelins="pigeon_post:Zeppelins", pigeons="pigeon_post:Pigeons")
    found = adapter_class("pigeons://loft")
    assert issubclass(found, Adapter)
    assert found.__name__ == "Pigeons"
    assert adapter_class("workers:///run/myapp") is WorkersAdapter
    with pytest.raises(InvalidOption, match=r"\['pigeons', 'redis', .*'workers', 'zeppelins'\]"):
        adapter_class("crows://tree")


@pytest.mark.parametrize("place", ["pigeon_post:make", "pigeon_post", "builtins:dict", "math:pi"])
def test_what_is_published_has_to_be_an_adapter(publish: Publish, place: str) -> None:
    publish(pigeons=place)
    with pytest.raises(InvalidOption, match=r"the entry point 'pigeons' of flask_phoenix\.adapters is no Adapter: "):
        adapter_class("pigeons://loft")


@pytest.mark.parametrize(
    ("place", "cure"),
    [
        ("pigeon_loft:Pigeons", "see what pigeons needs"),
        ("pigeon_loft:Pigeons [post]", "type: pip install 'pigeons[post]'"),
        ("pigeon_loft:Pigeons [post,grain]", "type: pip install 'pigeons[post,grain]'"),
    ],
)
def test_an_adapter_whose_package_is_missing_names_the_remedy(publish: Publish, place: str, cure: str) -> None:
    publish(pigeons=place)
    with pytest.raises(InvalidOption) as mistake:
        adapter_class("pigeons://loft")
    assert isinstance(mistake.value.__cause__, ImportError)
    said = str(mistake.value)
    assert said.startswith("pigeons: ")
    assert "a_package_that_nobody_has" in said
    assert said.endswith(f"; {cure}")


def test_a_remedy_for_what_no_package_has_published() -> None:
    point = EntryPoint("pigeons", "pigeon_loft.adapters:Pigeons [post]", GROUP)
    assert remedy(point) == "type: pip install 'pigeon_loft[post]'"


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
from flask import Flask
from flask_phoenix import Broadcaster, InvalidOption, Phoenix
app = Flask("app")
app.config["PHOENIX_PUBSUB_URL"] = sys.argv[1]
for use in (Broadcaster, lambda url: Phoenix(app)):
    try:
        use(sys.argv[1])
    except InvalidOption as error:
        print(error)
"""


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster", "unix"])
def test_without_redis_the_remedy_is_one_that_helps(scheme: str) -> None:
    command = [sys.executable, "-c", WITHOUT_REDIS, f"{scheme}://localhost"]
    said = subprocess.run(command, cwd=ROOT, timeout=DEADLINE, capture_output=True, text=True, check=True).stdout
    lines = said.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{scheme}: ")
        assert "pip install 'flask_phoenix[redis]'" in line
