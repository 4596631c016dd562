"""Every block of code on the pages is checked: Python runs in test_docs, and each other language is read by a tool."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import pytest

import flask_phoenix
from flask_phoenix import pytest_plugin, testing
from tests.clients import driver
from tests.docs import javascript, nginx, proxies, settings, shell
from tests.docs.pages import DOCS, PAGES, Block, blocks, read
from tests.support.processes import ROOT, START, Server, Servers

#: What checks each block of a language. ``text`` is what a program writes; ``{...}`` is Sphinx's.
CHECKS: dict[str, Callable[[Block, Path], list[str]]] = {
    "": shell.complaints,
    "bash": shell.complaints,
    "caddyfile": proxies.caddy,
    "console": shell.complaints,
    "haproxy": proxies.haproxy,
    "ini": settings.unit,
    "json": settings.json_file,
    "nginx": nginx.complaints,
    "sh": shell.complaints,
    "shell": shell.complaints,
    "toml": settings.toml_file,
    "yaml": settings.yaml_file,
}
#: What the compiler of TypeScript reads, all at once.
SCRIPTS = ("html", "javascript", "js", "ts", "typescript")
#: Code of others, beside ours.
FOREIGN = {"elixir", "php"}
ELSEWHERE = {"py", "python", "text", *FOREIGN, *SCRIPTS}


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, *languages)]


def test_each_language_has_a_check() -> None:
    known = ELSEWHERE | set(CHECKS)
    assert not [block.place for block in all_blocks() if block.language not in known and block.language[:1] != "{"]


def test_blocks_are_right(tmp_path: Path) -> None:
    found = {block.place: CHECKS[block.language](block, tmp_path) for block in all_blocks(*CHECKS)}
    assert not {place: wrong for place, wrong in found.items() if wrong}


def test_scripts_are_right(tmp_path: Path) -> None:
    assert not javascript.complaints(all_blocks(*SCRIPTS), tmp_path)


@pytest.mark.parametrize(
    ("language", "code", "says"),
    [
        ("shell", "flask --app app phoenix rooms", "there is no flask phoenix rooms"),
        ("shell", "X=1 flask phoenix routes --colour", "No such option"),
        ("console", "$ gunicorn -k gevent --wokers 4 app:app\nstarted", "gunicorn has no ['--wokers'"),
        ("shell", "cd chat && make rum", "make has no {'rum'}"),
        ("shell", "pip install 'flask_phoenix[reddis]'", "there are no extras {'reddis'}"),
        ("shell", "if true; then", "unexpected end of file"),
        ("nginx", "location / {\n    proxy_pas http://app;\n}", 'unknown directive "proxy_pas"'),
        ("ini", "[Service]\nExecStart", "[line  2]"),
        ("json", "{'a': 1}", "property name"),
        ("toml", "a = b", "Invalid value"),
        ("yaml", "a: b: c", "mapping values"),
        ("caddyfile", "a {", "a bracket is open"),
    ],
)
def test_a_wrong_block_is_found(tmp_path: Path, language: str, code: str, says: str) -> None:
    assert says in "\n".join(CHECKS[language](Block("page.md", language, 1, f"{code}\n"), tmp_path))


def test_a_wrong_script_is_found(tmp_path: Path) -> None:
    codes = ["room.psuh('a')", "new Socket('/socket', { timout: 3 })", "mine.anything(socket.connect())"]
    found = javascript.complaints([Block("p", "js", line, code) for line, code in enumerate(codes)], tmp_path)
    assert [complaint.partition(",")[0] for complaint in found] == ["p:0", "p:1"]


# Pages for a browser.


def test_pages_join_their_channel(servers: Servers, tmp_path: Path) -> None:
    """Each HTML page, served by the Python of the same document as a reader would serve it, in a real browser."""
    documents = [page for page in PAGES if any(is_whole(block) for block in blocks(page, "html"))]
    served = [serve(page, servers, tmp_path / str(number)) for number, page in enumerate(documents)]
    script = driver.Script("pages.mjs", *(server.url("/static/index.html?name=Ada") for server in served))
    told = {page: script.hear()["errors"] for page in documents}
    script.close()
    assert told
    assert not {page: errors for page, errors in told.items() if errors}


def is_whole(block: Block) -> bool:
    return block.code.startswith("<!doctype html>")


def serve(page: str, servers: Servers, folder: Path) -> Server:
    """Serve what a document ends with: the last version of each of its files."""
    (folder / "static").mkdir(parents=True)
    for block in blocks(page, "python"):
        (folder / block.filename).write_text(block.code)
    (folder / "static" / "index.html").write_text([block.code for block in blocks(page, "html") if is_whole(block)][-1])
    shutil.copy(javascript.MODULES / "phoenix" / "priv" / "static" / "phoenix.mjs", folder / "static" / "phoenix.js")
    return servers.start(sys.executable, "-m", "flask", "--app", f"{folder}/app", "run", "--port", "{port}")


# The site.


def test_the_site_builds(tmp_path: Path) -> None:
    """All but the writing of HTML: each page is read, and each link and each name is looked up."""
    words = ("-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--builder", "dummy")
    done = subprocess.run(
        (sys.executable, *words, DOCS, tmp_path), capture_output=True, text=True, timeout=2 * START, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def described(page: str) -> set[str]:
    """Return the names whose docstrings are on a page."""
    return set(re.findall(r"^\.\. auto(?:class|function|exception|data):: (\w+)$", read(page), re.MULTILINE))


def test_each_public_name_is_on_a_page() -> None:
    assert described("reference/api.md") == set(vars(flask_phoenix)["__all__"])
    fixtures = {name for name, value in vars(pytest_plugin).items() if name.startswith(("phoenix_", "live_phoenix_"))}
    public = {name for name in vars(testing) if name[0] != "_" and not inspect.ismodule(vars(testing)[name])}
    assert described("reference/api-testing.md") == public | fixtures


def test_versions() -> None:
    page = read("project/versions.md")
    clients = json.loads((ROOT / "tests" / "clients" / "package.json").read_text("utf-8"))["dependencies"]
    assert f"package from {clients['phoenix-oldest'].rpartition('@')[2]} on" in page
    assert metadata("flask_phoenix")["Requires-Python"] == f">={re.findall(r'([0-9.]+) and newer', page)[0]}"
