"""Every block of code on the pages is checked: Python runs in test_docs, and each other language is read by a tool."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import flask_phoenix
from flask_phoenix import pytest_plugin, testing
from tests.docs import javascript, nginx, proxies, settings, shell
from tests.docs.pages import DOCS, PAGES, Block, blocks, read
from tests.support.processes import START

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
ELSEWHERE = {"py", "python", "text", *SCRIPTS}


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
