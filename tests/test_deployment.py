"""What the repository deploys is what the pages show, and fits together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from gunicorn.config import Config

from example_app import create_app
from tests.docs import nginx
from tests.docs.pages import Block, blocks
from tests.support.processes import ROOT

DOCKERFILE, COMPOSE, NGINX = (
    (ROOT / name).read_text("utf-8") for name in ("Dockerfile", "compose.yaml", "example_app/nginx.conf")
)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(COMPOSE)
    return read


def command() -> Any:
    """Return what the image runs, as gunicorn reads it."""
    words = json.loads(re.sub(r"\\\n", "", DOCKERFILE.partition("\nCMD ")[2]))
    known, unknown = Config().parser().parse_known_args(words[1:])
    assert (words[0], unknown) == ("gunicorn", [])
    return known


def test_page_shows_the_files() -> None:
    page = "howto/docker.md"
    shown = [next(blocks(page, language)).code for language in ("text", "yaml")]
    assert shown == [DOCKERFILE, COMPOSE]


def test_image_copies_what_is_there_and_serves_the_example() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = " ".join(copied).split()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert {Path(source).parts[0] for source in sources} == let_in
    assert (command().args, command().worker_class) == (["example_app:create_app()"], "gevent")


def test_replicas_have_time_to_drain_and_are_asked_for_their_health(compose: dict[str, Any], tmp_path: Path) -> None:
    replicas = [compose["services"][name] for name in ("one", "two")]
    (port,) = {bind.rpartition(":")[2] for bind in command().bind}
    grace = Config().settings["graceful_timeout"].get()
    (path,) = {re.search(r"http://127\.0\.0\.1:(\S+?)'", each["healthcheck"]["test"][-1])[1] for each in replicas}  # type: ignore[index]
    assert [int(each["stop_grace_period"].rstrip("s")) > grace for each in replicas] == [True, True]
    app = create_app({"DATABASE": str(tmp_path / "chat.db")})
    assert app.test_client().get(path.removeprefix(port)).status_code == 200


def test_nginx_leads_to_the_replicas(compose: dict[str, Any], tmp_path: Path) -> None:
    served = re.findall(r"server (\w+):(\d+) max_fails=0;", NGINX)
    assert [name for name, _ in served if "stop_grace_period" in compose["services"][name]] == ["one", "two"]
    assert {port for _, port in served} == {bind.rpartition(":")[2] for bind in command().bind}
    (mounted,) = compose["services"]["nginx"]["volumes"]
    assert (ROOT / mounted.partition(":")[0]).read_text("utf-8") == NGINX
    assert nginx.complaints(Block("example_app/nginx.conf", "nginx", 1, NGINX), tmp_path) == []
