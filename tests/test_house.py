"""What keeps the house standing: the import list, the bars, a test file for each room, the face, and the README."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import flask_phoenix
from flask_phoenix import Refused, Reply
from flask_phoenix.testing import Client

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flask_phoenix"

#: The house, from the ground up: a module imports only modules that stand before it.
GROUND = ["exceptions", "message", "codec", "serializer", "envelope", "origin", "protocol", "tracker"]
RUNTIME = ["adapter", "broadcaster", "pubsub", "hub", "inbox", "host", "engine", "channel", "socket", "connection"]
RUNTIME += ["ties", "standing", "link", "multiplexer", "outbox", "gossip", "roll", "presence"]
CARRIERS = ["mount", "handshake", "websocket", "longpoll", "session", "meeting", "neighbour", "workers", "bridge"]
CARRIERS += ["rediswire", "redisear", "redis"]
FACE = ["server", "endpoint", "polling", "cli", "extension"]
ROOMS = [*GROUND, *RUNTIME, *CARRIERS, *FACE, "testing", "__init__"]

#: The ground does no I/O and has no clock; of what is not in the standard library, JSON's module alone.
BARRED_FROM_GROUND = {"asyncio", "io", "os", "select", "selectors", "socket", "subprocess", "threading", "time"}
WEBSOCKET_LIBRARIES = {"geventwebsocket", "websockets"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


@cache
def tree(room: str) -> ast.Module:
    """Return the syntax tree of a room."""
    return ast.parse((PACKAGE / f"{room}.py").read_text("utf-8"))


def imports(room: str) -> Iterator[str]:
    """Yield what a room imports: ``.room`` for one of the house, the top-level name for anything else."""
    for node in ast.walk(tree(room)):
        if isinstance(node, ast.Import):
            yield from (home(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level and not node.module:
            yield from (f".{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield home("." * node.level + (node.module or ""))


def home(name: str) -> str:
    """Return ``.room`` for a module of the house, however it is called, and the top-level name of any other."""
    if name.startswith("."):
        return name
    package, _, module = name.partition(".")
    return f".{module or '__init__'}" if package == "flask_phoenix" else package


def outside(room: str) -> set[str]:
    """Return the packages from outside the house that a room imports."""
    return {name for name in imports(room) if not name.startswith(".")}


def functions(room: str) -> Iterator[tuple[str, int]]:
    """Yield each function of a room and its length; the docstring does not count."""
    for node in ast.walk(tree(room)):
        if isinstance(node, Function):
            docstring = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{room}.{node.name}", lines - (docstring.count("\n") + 1 if docstring else 0)


def public(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, Documented]]:
    """Yield a module and its public classes, functions and methods, each with its full name."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child, f"{name}.{child.name}")
        elif isinstance(child, Function) and not child.name.startswith("_"):
            yield f"{name}.{child.name}", child


def tracked() -> list[Path]:
    """Return the files that git keeps, and those that it would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def test_every_room_is_on_the_list() -> None:
    assert {path.stem for path in PACKAGE.rglob("*.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    below = {f".{name}" for name in ROOMS[: ROOMS.index(room)]}
    assert {name for name in imports(room) if name.startswith(".")} <= below


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_hides(room: str) -> None:
    inside = [node for part in ast.walk(tree(room)) if isinstance(part, Function) for node in ast.walk(part)]
    assert not [node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "TYPE_CHECKING" not in (PACKAGE / f"{room}.py").read_text("utf-8")


@pytest.mark.parametrize("room", GROUND)
def test_the_ground_stands_on_the_standard_library(room: str) -> None:
    allowed = (sys.stdlib_module_names - BARRED_FROM_GROUND) | ({"ujson"} if room == "codec" else set())
    assert outside(room) <= allowed


@pytest.mark.parametrize("room", RUNTIME)
def test_the_runtime_knows_no_flask(room: str) -> None:
    assert not outside(room) & {"flask", "werkzeug"}


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in {"websocket", "server"}])
def test_two_rooms_alone_know_the_websocket_libraries(room: str) -> None:
    assert not outside(room) & WEBSOCKET_LIBRARIES


@pytest.mark.parametrize("room", [*FACE, "__init__"])
def test_the_face_does_not_need_the_test_client(room: str) -> None:
    assert ".testing" not in imports(room)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_too_big(room: str) -> None:
    assert len((PACKAGE / f"{room}.py").read_text("utf-8").splitlines()) <= 300


def test_functions_are_short() -> None:
    lengths = [each for room in ROOMS for each in functions(room)]
    over_twenty = [each for each in lengths if each[1] > 20]
    assert not [each for each in over_twenty if each[1] > 50]
    assert len(over_twenty) <= len(lengths) / 10, over_twenty


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "__init__"])
def test_every_room_has_its_tests(room: str) -> None:
    assert (ROOT / "tests" / f"test_{room}.py").is_file()


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room: str) -> None:
    docstrings = {name: ast.get_docstring(node) for name, node in public(tree(room), room)}
    assert not [name for name, docstring in docstrings.items() if not docstring]


def test_the_face_is_reexports_alone() -> None:
    docstring, *statements = tree("__init__").body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(each, ast.ImportFrom) and each.level == 1 and len(each.names) == 1 for each in statements)


@pytest.mark.parametrize("name", [alias.name for node in tree("__init__").body for alias in getattr(node, "names", ())])
def test_the_face_is_public_and_documented(name: str) -> None:
    assert not name.startswith("_")
    assert getattr(flask_phoenix, name).__doc__


def test_the_readme_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    app: Flask = namespace["app"]
    with Client(app, params={"name": "Ada"}) as ada:
        lobby = ada.join("room:lobby")
        assert lobby.call("new_msg", {"body": "Hello"}) == Reply("ok", {"saved": True})
        assert lobby.expect("new_msg") == {"from": "Ada", "body": "Hello"}
        assert app.test_client().post("/announce").status_code == 204
        assert lobby.expect("new_msg") == {"from": "the server", "body": "Lunch!"}
        with pytest.raises(Refused, match="unauthorized"):
            ada.join("room:secret")


def test_nothing_is_left_lying_about() -> None:
    leftover = re.compile("|".join([r"(?<![\w.])/(?:home|root|work)/", r"\bTO" r"DO\b", r"\bFIX" r"ME\b"]))
    found = {str(path.relative_to(ROOT)): leftover.findall(path.read_text("utf-8", "replace")) for path in tracked()}
    assert not {name: matches for name, matches in found.items() if matches}
