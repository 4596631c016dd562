"""The package as others install, import and type it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flask_phoenix

FACE = Path(flask_phoenix.__file__)


def run(code: str) -> str:
    """Run Python in a process of its own, and return what it writes."""
    return subprocess.run((sys.executable, "-c", code), check=True, capture_output=True, text=True).stdout


def test_types_and_interpreter_know_the_same_names() -> None:
    typed = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(FACE.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert sorted(name for name in typed if name) == vars(flask_phoenix)["__all__"]
    for name, module in typed.items():
        assert getattr(flask_phoenix, str(name)).__module__ == f"flask_phoenix.{module}"
        assert name in dir(flask_phoenix)


def test_a_publisher_loads_no_flask_and_no_gevent() -> None:
    code = "import sys, flask_phoenix; flask_phoenix.Broadcaster; print({'flask', 'gevent'} & set(sys.modules))"
    assert run(code) == "set()\n"


def test_a_module_is_there_without_an_import_of_its_own() -> None:
    assert run("import flask_phoenix; print(flask_phoenix.exceptions.Refused.__name__)") == "Refused\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'flask_phoenix' has no attribute 'Chanel'"):
        flask_phoenix.Chanel  # type: ignore[attr-defined]  # noqa: B018


def test_without_redis_py_its_adapter_alone_is_missing() -> None:
    code = """
import sys
sys.modules["redis"] = None
from flask_phoenix import *
try:
    from flask_phoenix import RedisAdapter
except ImportError as error:
    print(Channel.__name__, "RedisAdapter" in dir(), error)
"""
    assert run(code) == "Channel False RedisAdapter needs redis-py; type: pip install 'flask_phoenix[redis]'\n"
