"""The rules of docs/architecture.md: the modules that it lists, and the order in which they import each other."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import flask_phoenix

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flask_phoenix"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")

#: What stands beside each other on a floor, from the ground up.
(ORDER,) = re.findall(r"^exceptions <- .*$", PAGE, re.MULTILINE)
FLOOR = {name: floor for floor, names in enumerate(ORDER.split(" <- ")) for name in names.split(", ")}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)

#: The wire and its rules do no I/O, and have no clock; JSON's module alone is not of the standard library.
IMPURE = {"asyncio", "gevent", "greenlet", "io", "os", "select", "socket", "subprocess", "threading", "time"}


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of the package that a module imports."""
    folder = module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) + 1 - node.level], *(node.module or "").split(".")]
            name = ".".join(filter(None, base))
            found |= {name} if name in MODULES else {f"{name}.{alias.name}".lstrip(".") for alias in node.names}
    return frozenset(found)


def outside(module: str) -> set[str]:
    """Return the packages from outside that a module imports."""
    names = [alias.name for node in ast.walk(tree(module)) if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module or "" for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom) and not node.level
    ]
    return {name.partition(".")[0] for name in names}


def test_the_page_lists_the_modules() -> None:
    listed = re.findall(r"^\| `([\w/]+)` \|", PAGE, re.MULTILINE)
    assert sorted(name.replace("/", ".") for name in listed) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_down(module: str) -> None:
    floor = FLOOR[module.partition(".")[0]]
    assert imports(module) <= set(MODULES)
    assert not [name for name in imports(module) if FLOOR[name.partition(".")[0]] > floor]


def test_no_imports_run_in_a_circle() -> None:
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_imports_stand_at_the_top(module: str) -> None:
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]
    inside = [node.lineno for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    assert not inside
    assert "TYPE_CHECKING" not in (PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8")


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("protocol.", "tracker.state"))])
def test_the_rules_are_pure(module: str) -> None:
    allowed = (sys.stdlib_module_names - IMPURE) | ({"ujson"} if module == "protocol.json" else set())
    assert outside(module) <= allowed


@pytest.mark.parametrize("module", [module for module in MODULES if FLOOR[module.partition(".")[0]] < FLOOR["server"]])
def test_the_runtime_knows_no_flask(module: str) -> None:
    assert not outside(module) & {"flask", "werkzeug", "geventwebsocket", "websockets"}


def test_loggers_have_names_of_their_own() -> None:
    text = "".join((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8") for module in MODULES)
    assert "getLogger(__name__)" not in text
    listed = re.findall(
        r"^\| `flask_phoenix\.(\w+)` \|", (ROOT / "docs" / "logging.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(set(re.findall(r'getLogger\("flask_phoenix\.(\w+)"\)', text)))


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module: str) -> None:
    nodes: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [tree(module)]
    for node in nodes:
        assert ast.get_docstring(node), f"{module}: {getattr(node, 'name', 'the module')}"
        public = [
            each for each in node.body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name[0] != "_"
        ]
        nodes += [] if isinstance(node, ast.FunctionDef) else public


@pytest.mark.parametrize("name", vars(flask_phoenix)["__all__"])
def test_the_face_is_documented(name: str) -> None:
    assert getattr(flask_phoenix, name).__doc__
