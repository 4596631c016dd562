"""Payloads of declared types: what clients send is checked, what the app says is written as it declares."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any, Generic, Literal, Optional, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
from flask import Flask

from flask_phoenix import Broadcast, Channel, InvalidOption, InvalidPayload, Phoenix, Refused, Reply, Socket, on, sends
from flask_phoenix.testing import Client

T = TypeVar("T")
Short = Annotated[str, msgspec.Meta(min_length=1, max_length=9)]


class Body(msgspec.Struct):
    text: Short


class StructMessage(msgspec.Struct):
    body: Body
    at: Optional[datetime] = None  # noqa: UP045


@dataclass
class DataBody:
    text: str


@dataclass
class DataMessage:
    body: DataBody
    tags: list[str] = field(default_factory=list)


class DictBody(TypedDict):
    text: str


class DictMessage(TypedDict, total=False):
    body: DictBody


class ModelBody(pydantic.BaseModel):
    text: str = pydantic.Field(min_length=1, max_length=9)


class ModelMessage(pydantic.BaseModel):
    body: ModelBody
    at: datetime | None = None


@dataclass
class Mixed:
    """Holds a model."""

    model: ModelBody


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Move(msgspec.Struct, tag="move", tag_field="type"):
    x: int


class Stop(msgspec.Struct, tag="stop", tag_field="type"):
    why: Literal["tired", "bored"]


KINDS = (StructMessage, DataMessage, DictMessage, ModelMessage)


def echo(annotation: Any) -> type[Channel]:
    """Make a channel that answers with what it was given."""

    class Room(Channel):
        given: list[Any] = []  # noqa: RUF012

        def join(self, payload: Any) -> None:
            return None

        def echo(self, payload: Any) -> Any:
            self.given.append(payload)
            return Reply("ok", payload)

        echo.__annotations__["payload"] = annotation
        on("echo")(echo)

    return Room


class Site:
    """An app that is tested, and what joins a channel of it."""

    def __init__(self) -> None:
        self.app = Flask(__name__)
        self.app.testing = True
        self.phoenix = Phoenix(self.app)
        self.socket: Any = self.phoenix.socket("/socket")(type("Visitor", (Socket,), {}))
        self.clients = ExitStack()

    def enter(self, channel: type[Channel], payload: Any = None) -> Any:
        self.socket.channels = ()
        self.socket.channel("room:*")(channel)
        return self.clients.enter_context(Client(self.app)).join("room:1", payload)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.clients:
        yield site
    site.app.extensions["phoenix"].engine.stop()


def invalid(*errors: tuple[str, str]) -> dict[str, Any]:
    return {
        "reason": "invalid payload",
        "errors": [{"path": path, "message": message} for path, message in errors],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_payload_is_converted_and_written_back(site: Site, kind: type) -> None:
    channel = echo(kind)
    reply = site.enter(channel).call("echo", {"body": {"text": "hi"}, "more": 1})
    (given,) = channel.given  # type: ignore[attr-defined]
    assert isinstance(given, dict if kind is DictMessage else kind)
    assert (reply.status, reply.response["body"]) == ("ok", {"text": "hi"})


@pytest.mark.parametrize("kind", KINDS)
def test_payload_of_another_type_is_answered_and_not_handled(site: Site, kind: type) -> None:
    channel = echo(kind)
    room = site.enter(channel)
    for payload, path in (
        ({"body": {"text": 7}}, "body.text"),
        ({"body": {}}, "body.text"),
        ({"body": 7}, "body"),
        ([], ""),
    ):
        status, response = room.call("echo", payload)
        assert (status, response["reason"]) == ("error", "invalid payload")
        assert [error["path"] for error in response["errors"]] == [path]
    assert channel.given == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("annotation", "payload", "errors"),
    [
        (list[Body], [{"text": "a"}, {"text": ""}], [("[1].text", "Expected `str` of length >= 1")]),
        (Page[Body], {"items": [{"text": "a"}, {}]}, [("items[1].text", "Object missing required field `text`")]),
        (Move | Stop, {"type": "move", "x": "1"}, [("x", "Expected `int`, got `str`")]),
        (Move | Stop, {"type": "run"}, [("type", "Invalid value 'run'")]),
        (dict[str, int], {"a": "1"}, [("[...]", "Expected `int`, got `str`")]),
        (Short, "0123456789", [("", "Expected `str` of length <= 9")]),
        (bytes, {}, [("", "Expected a binary payload, got JSON")]),
        (Body, b"{}", [("", "Expected JSON, got a binary payload")]),
        (Annotated[bytes, msgspec.Meta(max_length=2)], b"abc", [("", "Expected `bytes` of length <= 2")]),
        (
            Mixed,
            {"model": {"text": ""}},
            [("model.text", "String should have at least 1 character")],
        ),
        (
            ModelMessage,
            {"body": {"text": ""}, "at": "noon"},
            [
                ("body.text", "String should have at least 1 character"),
                ("at", "Input should be a valid datetime or date, input is too short"),
            ],
        ),
        (list[ModelBody], [{}], [("[0].text", "Field required")]),
    ],
)
def test_errors_tell_where_and_what(site: Site, annotation: Any, payload: Any, errors: list[tuple[str, str]]) -> None:
    assert site.enter(echo(annotation)).call("echo", payload) == ("error", invalid(*errors))


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (Move | Stop, {"type": "stop", "why": "bored"}),
        (list[Body | None], [None, {"text": "a"}]),
        (Page[Body], {"items": [{"text": "a"}]}),
        (bytes, b"\x00"),
        (bytes | Body, b"\x00"),
        (bytes | Body, {"text": "a"}),
        (ModelBody | None, {"text": "a"}),
        (Mixed, {"model": {"text": "a"}}),
        ("list[Body]", [{"text": "a"}]),
        (T, [7]),
    ],
)
def test_types_that_are_built_of_others(site: Site, annotation: Any, payload: Any) -> None:
    assert site.enter(echo(annotation)).call("echo", payload) == ("ok", payload)


def test_many_errors_are_told_in_part(site: Site) -> None:
    _, response = site.enter(echo(list[ModelBody])).call("echo", [{}] * 1000)
    assert len(response["errors"]) == 20


@pytest.mark.parametrize(
    "annotation", [Any, object, dict, dict[str, Any], "dict[str, Any] | bytes", dict[str, Any] | None]
)
def test_type_that_takes_everything_costs_nothing(annotation: Any) -> None:
    channel = echo(annotation)
    assert channel.entrances == channel.handlers == {"echo": "echo"}
    assert echo(Body).entrances != {"echo": "echo"}


class Untyped(Channel):
    def join(self, payload):  # type: ignore[no-untyped-def]
        return None

    @on("said")
    def said(self, payload: Body) -> Any:
        return Reply("ok", payload.text)

    @on("later")
    def later(self, payload: Later) -> Any:
        return Reply("ok", payload.n)

    @on("never")
    def never(self, payload: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Cannot be called."""


class Derived(Untyped):
    """Overrides a method by its name."""

    def said(self, payload: Move) -> Any:  # type: ignore[override]
        return Reply("ok", payload.x)


class Later(msgspec.Struct):
    n: int


class Far(msgspec.Struct):
    """Names a class that is defined further down."""

    further: Further


def test_the_nearest_method_declares(site: Site) -> None:
    assert site.enter(Untyped).call("said", {"text": "a"}) == ("ok", "a")
    room = site.enter(Derived)
    assert room.call("said", {"type": "move", "x": 7}) == ("ok", 7)
    assert room.call("said", {"text": "a"}).status == "error"


def test_annotation_may_name_what_is_defined_further_down(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    room = site.enter(Untyped)
    assert room.call("later", {"n": 7}) == ("ok", 7)
    room.push("never", {})
    room.assert_push("phx_error")
    assert "Untyped.never, whose payload is annotated with Nowhere, cannot be called: name 'Nowhere'" in caplog.text
    assert "Define it or import it at the top of tests.test_payloads" in caplog.text


class Plain:
    """Nothing that JSON has."""


@pytest.mark.parametrize("annotation", [Plain, list[Plain], Body | DataBody, 7, "7"])
def test_type_that_nothing_can_be_read_into(annotation: Any) -> None:
    with pytest.raises(InvalidOption, match=r"dataclass, a TypedDict, a msgspec.Struct, a model of pydantic"):
        echo(annotation)


class Strict(Channel):
    """Its join is typed."""

    def join(self, payload: Body) -> StructMessage:
        return StructMessage(payload, datetime(2026, 1, 2, tzinfo=timezone.utc))


def test_join_is_typed(site: Site) -> None:
    assert site.enter(Strict, {"text": "a"}).response == {"body": {"text": "a"}, "at": "2026-01-02T00:00:00Z"}
    with pytest.raises(Refused) as refused:
        site.enter(Strict, {"text": ""})
    assert refused.value.response == invalid(("text", "Expected `str` of length >= 1"))


class Params(msgspec.Struct, forbid_unknown_fields=True):
    user: int
    tags: list[str] = []


def test_connect_is_typed(site: Site) -> None:
    seen: list[Params] = []

    class Visitor(Socket):
        def connect(self, params: Any, info: dict[str, Any]) -> None:
            seen.append(params)

    Visitor.connect.__annotations__["params"] = Params
    site.phoenix.socket("/typed")(type("Typed", (Visitor,), {}))
    Client(site.app, "/typed", {"user": "7", "tags[]": "a"}).close()
    assert seen == [Params(7, ["a"])]
    with pytest.raises(Refused) as refused:
        Client(site.app, "/typed", {"user": "ada"})
    assert refused.value.response == invalid(("user", "Expected `int`, got `str`"))
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert site.app.test_client().get("/typed/websocket?vsn=2.0.0&user=ada", headers=headers).status_code == 403


VALUES: list[Callable[[], Any]] = [
    lambda: StructMessage(Body("a"), datetime(2026, 1, 2, tzinfo=timezone.utc)),
    lambda: DataMessage(DataBody("a")),
    lambda: ModelMessage(body=ModelBody(text="a")),
    lambda: {"body": Body("a"), "nested": [DataBody("b"), ModelBody(text="c"), uuid.UUID(int=7)]},
]


@pytest.mark.parametrize("make", VALUES)
def test_what_the_app_says_may_be_of_such_types(site: Site, make: Callable[[], Any]) -> None:
    class Speaker(Channel):
        def join(self, payload: Any) -> Any:
            return make()

        @on("speak")
        def speak(self, payload: Any) -> None:
            self.push("pushed", make())
            self.broadcast("told", make())
            ref = self.socket_ref()
            self.reply(ref, make())

        @on("once")
        def pays(self, payload: Any) -> Any:
            return self.once("key", make)

    heard: list[Broadcast] = []
    site.phoenix.subscribe("room:1", heard.append)
    room = site.enter(Speaker)
    written = room.response
    assert written["body"] == {"text": "a"}
    assert room.call("speak") == room.call("once") == room.call("once") == ("ok", written)
    site.phoenix.broadcast("room:1", "outside", make())
    assert [room.assert_push(event) for event in ("pushed", "told", "outside")] == [written] * 3
    assert [broadcast.payload for broadcast in heard] == [written] * 2


@sends("new_msg", StructMessage)
@sends("beat", bytes)
@sends("far", Far)
class Declared(Channel):
    """Declares what it sends."""

    def join(self, payload: Any) -> None:
        return None

    @on("push")
    def pushes(self, payload: Any) -> None:
        self.push(*payload)

    @on("broadcast")
    def broadcasts(self, payload: Any) -> None:
        self.broadcast(*payload)


class Further(msgspec.Struct):
    n: int


GOOD = {"body": {"text": "a"}}
WRONG: list[tuple[str, Any, str]] = [
    ("new_msg", {"body": {"text": 7}}, r"Declared sends 'new_msg' .* StructMessage, .* body\.text: Expected `str`"),
    ("new_msg", {**GOOD, "at": datetime(2026, 1, 2)}, "at: Invalid RFC3339"),  # Flask writes it in another way
    ("new_msg", DataMessage(DataBody("")), r"body\.text: Expected `str` of length >= 1"),
    ("beat", {}, "Expected a binary payload"),
    ("far", {"further": {"n": "7"}}, r"further\.n: Expected `int`"),
    ("old_msg", GOOD, r"Declared does not declare that it sends 'old_msg'.* @sends\('old_msg', ...\)"),
]


@pytest.mark.parametrize(("event", "payload", "message"), WRONG)
def test_what_is_sent_is_held_to_what_is_declared(site: Site, event: str, payload: Any, message: str) -> None:
    site.enter(Declared)
    for send in (site.phoenix.broadcast, site.phoenix.local_broadcast):
        with pytest.raises(InvalidPayload, match=message):
            send("room:1", event, payload)
    site.app.testing = False
    site.phoenix.broadcast("room:1", event, payload)


def test_channel_is_held_to_what_it_declares(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for verb in ("push", "broadcast"):
        room = site.enter(Declared)
        room.push(verb, ["new_msg", GOOD])
        assert room.assert_push("new_msg") == GOOD
        room.push(verb, ["presence_state", {}])
        room.assert_push("presence_state")
        room.push(verb, ["new_msg", {}])
        room.assert_push("phx_error")
    assert caplog.text.count("body: Object missing required field `body`") == 2
    site.app.testing = False
    site.enter(Declared).push("push", ["new_msg", {}])


def test_declarations_are_inherited_and_are_those_of_one_class() -> None:
    derived: type[Channel] = sends("more", Body)(type("Derived", (Declared,), {}))
    assert sorted(derived.declared_events) == ["beat", "far", "more", "new_msg"]
    assert sorted(Declared.declared_events) == ["beat", "far", "new_msg"]
    assert Channel.declared_events == {}


def test_sends_on_the_wrong_thing() -> None:
    for event, payload, target in (
        (7, Body, Declared),
        ("e", Plain, Declared),
        ("e", Body, Socket),
        ("e", Body, print),
    ):
        with pytest.raises(InvalidOption, match=r"@sends|msgspec\.Struct"):
            sends(event, payload)(target)  # type: ignore[arg-type, type-var]
