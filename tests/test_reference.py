"""The pages of the reference list all that there is: close codes, reasons, limits, keys, and the wire to the byte."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from websockets.frames import CloseCode

from flask_phoenix import Broadcast, Json, Message, Reply
from flask_phoenix.broadcaster import SETTING
from flask_phoenix.payloads.errors import INVALID
from flask_phoenix.protocol import messages, state
from flask_phoenix.protocol.serializers import V1Serializer, V2Serializer
from flask_phoenix.runtime.logs import SECRETS
from flask_phoenix.runtime.logs import SETTING as FILTER_SETTING
from flask_phoenix.runtime.recovery import Recovery
from flask_phoenix.transports.longpoll.carrier import ABSENT_WINDOWS
from flask_phoenix.transports.longpoll.endpoint import BATCH
from flask_phoenix.transports.longpoll.session import GONE, NOT_TAKEN, NOTHING, TAKEN
from flask_phoenix.transports.options import Options
from tests.docs.pages import blocks, read, rows
from tests.test_architecture import MODULES, text, tree

V1, V2 = V1Serializer(Json()), V2Serializer(Json())


@cache
def nodes() -> list[ast.AST]:
    """Return the whole package as syntax."""
    return [node for module in MODULES for node in ast.walk(tree(module))]


def calls() -> Iterator[ast.Call]:
    return (node for node in nodes() if isinstance(node, ast.Call))


def constants() -> set[str]:
    """Return the strings that the code writes."""
    return {node.value for node in nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def texts(call: ast.expr) -> list[str]:
    arguments = call.args if isinstance(call, ast.Call) else []
    return [arg.value for arg in arguments if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]


# Close codes.


def test_close_codes() -> None:
    page = rows("reference/close-codes.md", "code", "reason", "who gets it", "what to do")
    said = {(int(code), reason) for code, reason, *_ in page}
    known = {name: int(code) for name, code in CloseCode.__members__.items()}
    for module in MODULES:
        for name, value in re.findall(r"^([A-Z_]+) = (\d+)$", text(module), re.MULTILINE):
            known.setdefault(name, int(value))
    closing = [call for call in calls() if name_of(call) in ("close", "_close", "_fail") and len(call.args) == 2]
    codes = [ast.unparse(call.args[0]).split(".")[-1] for call in closing]
    found = {
        (known.get(code) or int(code), *texts(call)) for code, call in zip(codes, closing, strict=True) if texts(call)
    }
    assert found
    assert found - {OF_A_POLL} <= said


#: A client that polls gets no close code; the signals tell one.
OF_A_POLL = (1000, "inactive")


# Limits.


def test_names_of_limits() -> None:
    said = {name for name, _ in rows("reference/limits.md", "name", "set by")}
    reaching = ("reach", "_reach", "refuse")
    assert {text for call in calls() if name_of(call) in reaching for text in texts(call)[:1]} <= said
    fields = {
        node.target.id for node in nodes() if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert not said - constants() - fields


# Configuration.


def test_keys_of_the_app() -> None:
    said = {key: default for key, default, _ in rows("reference/options.md", "key", "default", "meaning")}
    assert set(said) == {SETTING, FILTER_SETTING, "PHOENIX_JSON"}
    assert ast.literal_eval(said[FILTER_SETTING]) == list(SECRETS)


def test_every_key_that_the_code_names_is_on_the_page() -> None:
    keys = {name for name in constants() if re.fullmatch(r"PHOENIX_[A-Z_]+[A-Z]", name)}
    assert keys
    assert not {key for key in keys if f"`{key}`" not in read("reference/options.md")}


# Log lines.

LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def values(module: str) -> dict[str, ast.expr]:
    """Return what a module gives a name once."""
    return {
        target.id: node.value
        for node in tree(module).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def template(expression: ast.expr | None) -> str:
    """Return a line as the page shows it; nothing for one that is made elsewhere."""
    parts = expression.values if isinstance(expression, ast.JoinedStr) else [expression]
    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in parts)
    return re.sub(r"%[.0-9]*[srdf]", "…", text)


def logged() -> Iterator[tuple[str, str, str]]:
    """Yield what the code may log: the logger, the level, the line. One word alone is told in another way."""
    for module in MODULES:
        known = values(module)
        loggers = {name: texts(value)[0] for name, value in known.items() if is_logger(value)}
        for call in (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)):
            words = [ast.unparse(word) for word in (call.func, *call.args)]
            for word, following in zip(words, call.args, strict=False):  # the words begin with the function
                name, _, method = word.rpartition(".")
                if word == "log_failure":
                    name, method, following = words[1], "error", call.args[1]
                line = template(known.get(following.id) if isinstance(following, ast.Name) else following)
                if name in loggers and method in LEVELS and len(re.findall(r"[A-Za-z]{2,}", line)) > 1:
                    yield loggers[name], LEVELS[method], line


def is_logger(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and name_of(value) == "getLogger"


def listed() -> set[tuple[str, str, str]]:
    sections = read("reference/log-lines.md").split("\n## ")[1:]
    return {
        (section.partition("\n")[0], level, line)
        for section in sections
        for line, level in re.findall(r"^\| `(.*?)` \| (\w+) \|", section, re.MULTILINE)
    }


def test_log_lines() -> None:
    """Where the page cuts a line, it says so by three dots."""
    said, there = listed(), set(logged())
    cut = {entry: [line for line in there if fits(entry, line)] for entry in said}
    assert not [entry for entry, lines in cut.items() if not lines], "no code logs them"
    assert not there - {line for lines in cut.values() for line in lines}, "docs/reference/log-lines.md lacks them"


def fits(entry: tuple[str, str, str], line: tuple[str, str, str]) -> bool:
    beginning, cut, _ = entry[2].partition(" ...")
    return entry == line or (bool(cut) and entry[:2] == line[:2] and line[2].startswith(beginning))


# The wire.


def parts(cell: str) -> tuple[list[Any], bytes]:
    """Return the strings, and the payload, of a cell that shows a binary frame."""
    names, payload = re.findall(r"(\[.*\])`, payload `(\w+)", cell)[0]
    return json.loads(names), bytes.fromhex(payload)


def test_binary_frames_of_a_client() -> None:
    table = rows("reference/wire.md", "bytes from the client", "are")
    for data, cell in table:
        names, payload = parts(cell)
        assert V2.decode(bytes.fromhex(data)) == Message._make([*names, payload])
    assert len(table) == 2


def test_binary_frames_of_the_server() -> None:
    push, reply, broadcast = rows("reference/wire.md", "bytes from the server", "are")
    names, payload = parts(push[1])
    assert V2.encode(Message._make([*names, payload])) == bytes.fromhex(push[0])
    (join_ref, ref, topic, status), payload = parts(reply[1])
    assert V2.encode_reply(join_ref, ref, topic, Reply(status, payload)) == bytes.fromhex(reply[0])
    (_, _, topic, event), payload = parts(broadcast[1])
    assert V2.encode_broadcast(Broadcast(topic, event, payload)) == bytes.fromhex(broadcast[0])


def test_text_frames() -> None:
    array, object_, poll = (block.code for block in blocks("reference/wire.md", "json"))
    assert V2.decode(array) == Message("3", "5", "room:1", "new_msg", {"body": "hi"})
    assert V1.decode(object_) == Message(None, "5", "room:1", "new_msg", {"body": "hi"})
    (frame,) = json.loads(poll)["messages"]
    assert frame == V2.encode_broadcast(Broadcast("room:1", "new_msg", {"body": "hi"}))


def test_reasons_of_errors() -> None:
    said = {reason for reason, *_ in rows("reference/wire.md", "reason", "to", "because")}
    replies = [value for value in vars(state).values() if isinstance(value, Reply) and value.status == "error"]
    assert said == {reply.response["reason"] for reply in replies} | {INVALID}


def test_statuses_of_polls() -> None:
    table = rows("reference/wire.md", "request", "`status`", "means")
    assert {int(status) for _, status, _ in table} == {TAKEN, NOTHING, NOT_TAKEN, GONE, 403}


def test_what_a_client_that_comes_back_is_told() -> None:
    (table,) = read("reference/wire.md").split("The response of the reply then has `phx_history`:")[1:]
    told = Recovery({"ref": "a:1"}).tell(Reply("ok", {})).response[messages.RECOVERY]
    assert re.findall(r"^\| `(\w+)` \|", table.partition("\nFrom then on")[0], re.MULTILINE) != []
    assert set(re.findall(r"^\| `(\w+)` \|", table.partition("\nFrom then on")[0], re.MULTILINE)) == set(told)


@pytest.mark.parametrize("name", ["JOIN", "LEAVE", "REPLY", "ERROR", "CLOSE", "OFFSET", "RECOVERY", "EXPIRING"])
def test_reserved_names_are_explained(name: str) -> None:
    assert f"`{getattr(messages, name)}`" in read("reference/wire.md")


def test_numbers_of_the_wire() -> None:
    text = " ".join(read("reference/wire.md").split())
    assert f"for `timeout`, {Options.timeout:.0f} seconds unless set" in text
    assert f"the `window`, {Options.window:.0f} seconds unless set" in text
    assert f"holds up to {BATCH} frames" in text
    assert (ABSENT_WINDOWS, "has not polled for one and a half windows" in text) == (1.5, True)
