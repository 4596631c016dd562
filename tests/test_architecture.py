"""The rules of docs/project/architecture.md: its modules, and the order in which they import each other."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import flask_phoenix

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flask_phoenix"
PAGE = (ROOT / "docs/project/architecture.md").read_text("utf-8")

#: What stands beside each other on a floor, from the ground up.
(ORDER,) = re.findall(r"^clock, .* <- .*$", PAGE, re.MULTILINE)
FLOOR = {name: floor for floor, names in enumerate(ORDER.split(" <- ")) for name in names.split(", ")}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)

WEB = {"flask", "werkzeug", "geventwebsocket", "websockets"}
#: The wire and its rules do no I/O, and have no clock; JSON's module alone is not of the standard library.
IMPURE = {"asyncio", "gevent", "greenlet", "io", "os", "select", "socket", "subprocess", "threading", "time"}


def text(module: str) -> str:
    """Return the code of a module."""
    return (PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8")


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(text(module))


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
    rooms = PAGE.partition("\n## The way of a message")[0]
    listed = re.findall(r"^\| `([\w/]+)` \|", rooms, re.MULTILINE)
    assert sorted(name.replace("/", ".") for name in listed) == MODULES


def test_imports_run_down() -> None:
    assert not [
        (module, name)
        for module in MODULES
        for name in imports(module)
        if name not in MODULES or FLOOR[name.partition(".")[0]] > FLOOR[module.partition(".")[0]]
    ]


def test_no_imports_run_in_a_circle() -> None:
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_imports_stand_at_the_top() -> None:
    for module in MODULES:
        functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]
        inside = [node for function in functions for node in ast.walk(function)]
        assert not [node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom)], module
        assert "TYPE_CHECKING" not in text(module), module


def test_the_rules_are_pure() -> None:
    pure = [module for module in MODULES if module.startswith("protocol.") or module == "tracker.state"]
    for module in pure:
        allowed = (sys.stdlib_module_names - IMPURE) | ({"msgspec", "ujson"} if module == "protocol.json" else set())
        assert outside(module) <= allowed, module


def test_the_runtime_knows_no_flask() -> None:
    below = [module for module in MODULES if FLOOR[module.partition(".")[0]] < FLOOR["server"]]
    assert not {name for module in below for name in outside(module)} & WEB


def test_loggers_have_names_of_their_own() -> None:
    page = (ROOT / "docs/reference/logging.md").read_text("utf-8")
    listed = re.findall(r"^\| `flask_phoenix\.(\w+)` \|", page, re.MULTILINE)
    named = {name for module in MODULES for name in re.findall(r"getLogger\((.*?)\)", text(module))}
    assert {f'"flask_phoenix.{name}"' for name in listed} == named


def test_public_names_are_documented() -> None:
    for module in MODULES:
        nodes: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [tree(module)]
        for node in nodes:
            assert ast.get_docstring(node), f"{module}: {getattr(node, 'name', 'the module')}"
            nodes += public(node)


def public(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> list[ast.ClassDef | ast.FunctionDef]:
    """Return the public classes and functions that a module or a class defines."""
    inside = [] if isinstance(node, ast.FunctionDef) else node.body
    defined = [each for each in inside if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name[0] != "_"]
    return [each for each in defined if "overload" not in map(ast.unparse, each.decorator_list)]


def test_the_face_is_documented() -> None:
    assert not [name for name in vars(flask_phoenix)["__all__"] if not getattr(flask_phoenix, name).__doc__]
