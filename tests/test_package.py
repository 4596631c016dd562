"""The package as others install, import and type it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import flask_phoenix
from flask_phoenix import (
    Broadcast,
    Broadcaster,
    Channel,
    Message,
    Phoenix,
    Presence,
    RawSocket,
    Refused,
    Reply,
    Socket,
    testing,
)
from flask_phoenix.testing import Client, Clients, Clock, Joined, LiveClient, LiveServer
from tests.support.face import public
from tests.support.processes import ROOT, START

FACE = Path(flask_phoenix.__file__)
TYPING = Path("tests/typing")
#: What type checkers find nothing wrong with.
USER_CODE = TYPING / "user_code.py", TYPING / "user_tests.py"
#: What users subclass and call.
OFFERED = [Phoenix, Socket, RawSocket, Channel, Presence, Broadcaster, Reply, Broadcast, Message, Refused]
OFFERED += [Client, Clients, Joined, Clock, LiveServer, LiveClient]


def run(*words: str | Path, cwd: Path = ROOT, path: Path = ROOT, status: int = 0) -> str:
    """Run Python in a process of its own, and return what it writes."""
    done = subprocess.run(
        (sys.executable, *words),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        timeout=START,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


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
    assert run("-c", code) == "set()\n"


def test_a_module_is_there_without_an_import_of_its_own() -> None:
    assert run("-c", "import flask_phoenix; print(flask_phoenix.exceptions.Refused.__name__)") == "Refused\n"


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
    assert run("-c", code) == "Channel False RedisAdapter needs redis-py; type: pip install 'flask_phoenix[redis]'\n"


@pytest.mark.parametrize(
    "checker", [("mypy", "--strict"), ("pyright", "--pythonpath", sys.executable)], ids=lambda checker: checker[0]
)
def test_types_of_user_code(checker: tuple[str, ...]) -> None:
    lines = (ROOT / TYPING / "mistakes.py").read_text("utf-8").splitlines()
    wrong = [("mistakes.py", str(number)) for number, line in enumerate(lines, 1) if line.endswith("# wrong")]
    said = run("-m", *checker, *USER_CODE, TYPING / "mistakes.py", status=1)
    assert sorted(set(re.findall(r"/(\w+\.py):(\d+)[:\d]* -? ?error: ", said))) == sorted(wrong), said


def test_user_code_uses_all_that_is_offered() -> None:
    names = {name for name in vars(testing) if name[0].isupper()} | set(vars(flask_phoenix)["__all__"])
    offered = names.union(*map(public, OFFERED))
    written = {word for path in USER_CODE for word in re.findall(r"\w+", (ROOT / path).read_text("utf-8"))}
    assert offered - written == set()


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a distribution from a tree, and return its path."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run("-c", code, out, cwd=source)
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Return what the repository holds."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no repository, and nobody can tell what belongs to it")
    return subprocess.check_output(("git", "ls-files"), cwd=ROOT, text=True).splitlines()


def test_distributions_hold_everything(sources: list[str], tmp_path: Path) -> None:
    for name in sources:
        target = tmp_path / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    with tarfile.open(build("sdist", tmp_path / "tree", tmp_path / "out")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("flask_phoenix-*")
    assert {name for name in sources if not (unpacked / name).is_file()} == set()

    with ZipFile(build("wheel", unpacked, tmp_path / "out")) as wheel:
        wheel.extractall(tmp_path / "installed")
        package = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert package == {name for name in sources if name.startswith("flask_phoenix/")}
    code = "import flask_phoenix, flask_phoenix.testing as t; print(flask_phoenix.Phoenix, t.Client, t.__file__)"
    assert str(tmp_path / "installed") in run("-c", code, cwd=tmp_path, path=tmp_path / "installed")


def test_the_targets_of_make_are_described() -> None:
    page = (ROOT / "docs/project/contributing.md").read_text("utf-8")
    helped = subprocess.check_output(("make", "help"), cwd=ROOT, text=True)
    assert re.findall(r"^\| `(make \w+)`", page, re.MULTILINE) == re.findall(
        r"^  (make (?!help)\w+)", helped, re.MULTILINE
    )
    for folder in re.findall(r"`(flask_phoenix/[\w/.]*)`", page):
        assert (ROOT / folder).exists(), folder
