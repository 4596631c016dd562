"""What declarations give to those who write clients: an AsyncAPI document, and TypeScript that type-checks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pydantic
import pytest
from click.testing import Result
from flask import Flask

from flask_phoenix import Channel, Phoenix, Socket, on, sends
from flask_phoenix.cli.commands import phoenix as commands
from flask_phoenix.schema.asyncapi import asyncapi
from flask_phoenix.schema.compatibility import incompatible_changes
from flask_phoenix.schema.declarations import read_declarations
from tests.support.declared import create_app
from tests.support.processes import ROOT, START

CLIENTS = ROOT / "tests" / "clients"
MODULES = CLIENTS / "node_modules"


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app()


def invoke(app: Flask, *words: str) -> Result:
    result: Result = app.test_cli_runner().invoke(commands, words)
    return result


def test_asyncapi_document_is_valid(app: Flask) -> None:
    document = json.loads(invoke(app, "asyncapi").output)
    schema = json.loads((MODULES / "@asyncapi/specs/schemas/3.0.0.json").read_bytes())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(document)
    document["operations"]["UserSocket_room_any_new_msg"]["action"] = "shout"
    assert not validator.is_valid(document)


def test_asyncapi_document_tells_what_is_declared(app: Flask) -> None:
    document = json.loads(invoke(app, "asyncapi", "--title", "Chat", "--version", "2.1.0").output)
    assert (document["info"]["title"], document["info"]["version"]) == ("Chat", "2.1.0")
    (server,) = document["servers"].values()
    assert (server["pathname"], server["description"]) == ("/shop/{id}/socket/websocket", "A visitor.")
    room = document["channels"]["UserSocket_room_any"]
    assert (room["address"], room["title"], room["description"]) == ("room:{subtopic}", "Room", "A room.")
    assert room["bindings"]["ws"]["query"]["properties"] == {"user": {"type": "integer"}}
    operations = document["operations"]
    assert {(each["action"], key) for key, each in operations.items() if "any" in key} == {
        *(("receive", f"UserSocket_room_any_{name}") for name in ("phx_join", "new_msg", "act", "frame")),
        *(("receive", f"UserSocket_room_any_{name}") for name in ("article", "articles")),
        *(("send", f"UserSocket_room_any_sends_{name}") for name in ("new_msg", "frame")),
    }
    assert operations["UserSocket_room_any_new_msg"]["description"] == "Say something."
    messages = room["messages"]
    assert messages["new_msg"]["payload"] == {"$ref": "#/components/schemas/tests.support.declared.Message"}
    assert messages["new_msg_reply"]["payload"]["properties"]["response"] == {"$ref": "#/components/schemas/Saved"}
    assert messages["sends_frame_binary"]["contentType"] == "application/octet-stream"
    schemas = document["components"]["schemas"]
    author = schemas["Article"]["properties"]["author"]["$ref"]
    assert schemas[author.removeprefix("#/components/schemas/")]["required"] == ["name"]


def test_two_types_of_one_name_and_one_type_of_two_kinds(app: Flask) -> None:
    document = json.loads(invoke(app, "asyncapi").output)
    schemas = document["components"]["schemas"]
    assert {name: list(schemas[name]["properties"]) for name in schemas if "Message" in name or "Author" in name} == {
        "tests.support.declared.Message": ["body", "reply_to"],
        "tests.support.declared_elsewhere.Message": ["text"],
        "Author-Input": ["name"],
        "Author-Output": ["pen_name"],
    }
    assert schemas["Colour"] == {
        "title": "Colour",
        "description": "A colour.",
        "enum": ["blue", "red"],
        "type": "string",
    }
    assert [name for name in schemas if "Colour" in name] == ["Colour"]
    assert list(schemas["Priced-Input"]["properties"]) == ["net", "colour", "next"]
    assert list(schemas["Priced-Output"]["properties"]) == ["gross", "colour", "next", "shown"]


def test_typescript_checks_good_code_and_bad_code(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "declared.ts").write_text(invoke(app, "types").output)
    for name in ("good.ts", "bad.ts"):
        shutil.copy(CLIENTS / "types" / name, tmp_path)
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "esnext", "moduleResolution": "bundler"}
    options |= {
        "lib": ["es2022"],
        "skipLibCheck": True,
        "types": [],
        "paths": {"phoenix": [f"{MODULES}/@types/phoenix"]},
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["good.ts", "bad.ts"]}))
    compiler = (MODULES / ".bin" / "tsc", "--project", tmp_path, "--pretty", "false")
    done = subprocess.run(compiler, cwd=tmp_path, capture_output=True, text=True, timeout=START, check=False)
    lines = (tmp_path / "bad.ts").read_text().splitlines()
    wrong = {("bad.ts", number) for number, line in enumerate(lines, 1) if line.endswith("// wrong")}
    found = re.findall(r"^([\w.]+)\((\d+),\d+\): error", done.stdout, re.MULTILINE)
    assert {(file, int(line)) for file, line in found} == wrong, done.stdout


@pytest.mark.parametrize("command", ["asyncapi", "types"])
def test_check_fails_where_the_file_is_stale(app: Flask, tmp_path: Path, command: str) -> None:
    held = tmp_path / "held"
    held.write_text(invoke(app, command).output)
    assert invoke(app, command, "--check", str(held)).exit_code == 0
    held.write_text(held.read_text().replace("What is said.", "What was said."))
    result = invoke(app, command, "--check", str(held))
    assert result.exit_code == 1
    assert "What was said." in result.output
    assert f"held is stale; type: flask phoenix {command} > " in result.output


def test_check_tells_what_is_incompatible(app: Flask, tmp_path: Path) -> None:
    held = tmp_path / "held.json"
    held.write_text(
        invoke(app, "asyncapi").output.replace('"required": [\n          "nick"\n        ]', '"required": []')
    )
    for option, status in (("--check", 1), ("--compatible", 1)):
        result = invoke(app, "asyncapi", option, str(held))
        assert result.exit_code == status
        assert "room:{subtopic} phx_join.nick: the field is required now" in result.output
    held.write_text(invoke(app, "asyncapi").output.replace("What is said.", "What was said."))
    assert invoke(app, "asyncapi", "--compatible", str(held)).exit_code == 0
    held.write_text("{}")
    assert "held.json is no document of flask phoenix asyncapi" in invoke(app, "asyncapi", "--check", str(held)).output


class Late(Channel):
    """Takes what is not there."""

    def join(self, payload: Any) -> Any:
        return None

    @on("said")
    def said(self, payload: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Cannot be called."""


def test_commands_tell_what_is_missing() -> None:
    assert "call phoenix.init_app(app)" in invoke(Flask(__name__), "types").output
    app = Flask(__name__)
    Phoenix(app).socket("/socket")(socket_of(Late))
    result = invoke(app, "types")
    assert result.exit_code == 1
    assert "Late.said takes Nowhere: name 'Nowhere' is not defined; define it or import it at the top" in result.output


class Callback(pydantic.BaseModel):
    call: Callable[[], None]


def test_model_without_a_schema_is_named() -> None:
    app = Flask(__name__)
    channel: type[Channel] = type("Calling", (Taking,), {})
    Phoenix(app).socket("/socket")(socket_of(sends("callback", Callback)(channel)))
    result = invoke(app, "asyncapi")
    assert (result.exit_code, "Error: Callback has no JSON Schema" in result.output) == (1, True)


def socket_of(channel: type[Channel]) -> type[Socket]:
    """Make a socket that serves a channel."""
    kind: type[Socket] = type("Some", (Socket,), {})
    kind.channel("room:*")(channel)
    return kind


def document(take: Any = Any, send: Any = dict[str, Any], answer: Any = dict[str, Any], event: str = "said") -> Any:
    """Write the document of an app with one channel."""

    class Room(Channel):
        def join(self, payload: Any) -> Any:
            return None

        def said(self, payload: Any) -> Any:
            return None

        said.__annotations__.update({"payload": take, "return": answer})
        on(event)(said)

    return asyncapi(read_declarations([("/socket", socket_of(sends("told", send)(Room)))]), "App", "1.0.0")


def struct(*fields: Any, name: str = "Payload", **options: Any) -> type:
    return msgspec.defstruct(name, fields, **options)


def a(kind: Any) -> type:
    """Make a type with one field."""
    return struct(("a", kind))


#: Of each two types the second takes less; what is said where clients send them, and where they are sent them.
NARROWINGS: list[tuple[Any, Any, str, str]] = [
    (list[Any], list[int], "[...]: not everything is taken any more", "[...]: anything may be sent now"),
    (a(int | str), a(str), ".a: integer is not taken any more, where it is string", ".a: integer may be sent now,"),
    (a(float), a(int), ".a: number is not taken any more, where it is integer", ".a: number may be sent now,"),
    (a(str | None), a(str), ".a: null is not taken any more", ".a: null may be sent now"),
    (a(Literal["x", "y"]), a(Literal["x"]), ".a: 'y' is not taken any more", ".a: 'y' may be sent now"),
    (a(list[int | str]), a(list[str]), ".a[...]: integer is not taken", ".a[...]: integer may be sent"),
    (a(dict[str, int | str]), a(dict[str, str]), ".a[...]: integer is not taken", ".a[...]: integer may be sent"),
    (a(str), a(Annotated[str, msgspec.Meta(max_length=3)]), ".a: maxLength is 3", ".a: maxLength was 3"),
    (a(str), a(Literal["x"]), ".a: not everything is taken any more", ".a: anything may be sent now"),
    (a(list[str]), a(list[datetime]), ".a[...]: format is date-time", ".a[...]: format was date-time"),
    (a(dict[str, str | None]), a(dict[str, time | None]), ".a[...]: format is time", ".a[...]: format was time"),
    (
        a(Annotated[int, msgspec.Meta(ge=0)]),
        a(Annotated[int, msgspec.Meta(gt=0)]),
        ".a: exclusiveMinimum is 0",
        ".a: exclusiveMinimum was 0",
    ),
    (
        a(Annotated[int, msgspec.Meta(le=9)]),
        a(Annotated[int, msgspec.Meta(le=8)]),
        ".a: maximum is 8",
        ".a: maximum was 8",
    ),
    (struct(("a", int, 0)), a(int), ".a: the field is required now", ".a: the field may be missing now"),
    (
        struct(("inner", struct(("b", int | str), name="Inner"))),
        struct(("inner", struct(("b", str), name="Inner"))),
        ".inner.b: integer is not taken",
        ".inner.b: integer may be sent",
    ),
    (
        struct(("a", int), ("b", int, 0), forbid_unknown_fields=True),
        struct(("a", int), forbid_unknown_fields=True),
        ".b: the field is not taken any more",
        ".b: the field may be sent now",
    ),
    (
        bytes | dict[str, Any],
        dict[str, Any],
        ": a payload of octet-stream is not taken any more",
        ": a payload of octet-stream may be sent now",
    ),
]


@pytest.mark.parametrize(("wide", "narrow", "taken", "sent"), NARROWINGS)
def test_what_breaks_clients(wide: Any, narrow: Any, taken: str, sent: str) -> None:
    changes = incompatible_changes(document(wide), document(narrow))
    changes += incompatible_changes(document(send=narrow), document(send=wide))
    changes += incompatible_changes(document(answer=narrow), document(answer=wide))
    expected = (f"said{taken}", f"told{sent}", f"said reply{'' if sent[:3] == ': a' else '.response'}{sent}")
    assert len(changes) == 3
    for change, beginning in zip(changes, expected, strict=True):
        assert change.startswith(f"room:{{subtopic}} {beginning}")
    assert incompatible_changes(document(narrow), document(wide)) == []
    assert incompatible_changes(document(send=wide), document(send=narrow)) == []
    assert incompatible_changes(document(answer=wide), document(answer=narrow)) == []


def test_what_is_gone() -> None:
    old, new = document(), document(event="spoke")
    assert incompatible_changes(old, new) == ["room:{subtopic} said: the event is not handled any more"]
    silent = json.loads(json.dumps(old))
    del silent["operations"]["Some_room_any_sends_told"]
    assert incompatible_changes(old, silent) == ["room:{subtopic} told: the event is not sent any more"]
    assert incompatible_changes(silent, old) == []
    del silent["channels"]["Some_room_any"]
    assert incompatible_changes(old, silent) == ["room:{subtopic}: the topics are gone"]
    mute = document(answer=None)
    assert incompatible_changes(document(answer=Payload), mute) == ["room:{subtopic} said reply: none is sent any more"]
    assert incompatible_changes(mute, mute) == []


class Payload(msgspec.Struct):
    n: int


class Taking(Channel):
    """Takes whatever comes."""

    def join(self, payload: Any) -> Any:
        return None

    def handle_in(self, event: str, payload: Any) -> Any:
        return None


def topics(pattern: str) -> Any:
    """Write the document of an app with one pattern."""

    class Desk(Channel):
        def join(self, payload: Any, **variables: Any) -> Any:
            return None

        @on("move")
        def move(self, payload: Payload) -> None:
            """Move."""

    socket: type[Socket] = type("Some", (Socket,), {})
    socket.channel(pattern)(Desk)
    return asyncapi(read_declarations([("/socket", socket)]), "App", "1.0.0")


def test_what_other_events_and_other_paths_mean_to_clients() -> None:
    def written(channel: type[Channel], path: str = "/socket") -> Any:
        return asyncapi(read_declarations([(path, socket_of(channel))]), "App", "1.0.0")

    named: type[Channel] = type("Named", (Taking,), {"said": on("said")(lambda self, payload: None)})
    strict: type[Channel] = type("Strict", (named,), {"handle_in": Channel.handle_in})
    assert incompatible_changes(written(named), written(Taking)) == []
    assert incompatible_changes(written(named), written(strict)) == [
        "room:{subtopic}: other events are not handled any more"
    ]
    assert incompatible_changes(written(Taking, "/<int:shop>/socket"), written(Taking, "/<shop>/socket")) == []
    old, new, other = (topics(pattern) for pattern in ("desk:<int:desk>", "desk:<int:table>", "desk:<table>"))
    assert incompatible_changes(old, new) == []
    assert incompatible_changes(old, other) == ["desk:{desk}: the topics are gone"]
    assert incompatible_changes(written(Taking), written(Taking, "/sock")) == ["/socket/websocket: the socket is gone"]
