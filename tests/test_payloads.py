"""Payloads of declared types: what clients send is checked, what the app says is written as it declares."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any, Generic, Literal, Optional, TypedDict, TypeVar

import annotated_types
import msgspec
import pydantic
import pytest
from flask import Flask

from flask_phoenix import (
    Broadcast,
    Channel,
    InvalidOption,
    InvalidPayload,
    Phoenix,
    Refused,
    Reply,
    Socket,
    intercept,
    on,
    sends,
)
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


class Colour(enum.Enum):
    RED = "red"


class Painting(TypedDict, total=False):
    """Holds what JSON has not."""

    colour: Colour
    at: datetime
    tags: set[str]


@dataclass
class Leaf:
    text: str = "leaf"
    size: int | None = None


@dataclass
class Branch:
    """Holds such as have defaults."""

    first: Leaf
    leaves: list[Leaf]
    next: Branch | None = None
    length: int = 3


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Zoo(pydantic.BaseModel):
    pets: list[Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]]


class Priced(pydantic.BaseModel, extra="forbid"):
    """Is written otherwise than it is read."""

    price: int = pydantic.Field(validation_alias="net", serialization_alias="gross")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shown(self) -> str:
        return f"{self.price} EUR"


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
        (Zoo, {"pets": [{"kind": "dog"}]}, [("pets[0].tricks", "Field required")]),
        (
            Cat | Dog,
            {"kind": "cat", "lives": "many"},
            [
                ("lives", "Input should be a valid integer, unable to parse string as an integer"),
                ("kind", "Input should be 'dog'"),
                ("tricks", "Field required"),
            ],
        ),
        (list[pydantic.PositiveInt], [0], [("[0]", "Input should be greater than 0")]),
        (Annotated[int, annotated_types.Ge(1)], 0, [("", "Input should be greater than or equal to 1")]),
        (list[Mixed], [{"model": {"text": 7}}], [("[0].model.text", "Input should be a valid string")]),
        (bytes, "text", [("", "Expected a binary payload, got JSON")]),
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
        (Painting, {"colour": "red", "at": "2026-01-02T03:04:05Z", "tags": ["a"]}),
        (Colour, "red"),
    ],
)
def test_types_that_are_built_of_others(site: Site, annotation: Any, payload: Any) -> None:
    assert site.enter(echo(annotation)).call("echo", payload) == ("ok", payload)


def test_many_errors_are_told_in_part(site: Site) -> None:
    room = site.enter(echo(list[ModelBody]))
    assert len(room.call("echo", [{}] * 1000).response["errors"]) == 20
    assert room.call("echo", [{}] * 1001) == ("error", invalid(("", "1001 errors, too many to be told")))


def test_dataclass_has_its_defaults_wherever_it_stands(site: Site) -> None:
    channel = echo(Branch)
    leaf = {"text": "leaf", "size": None}
    reply = site.enter(channel).call(
        "echo", {"first": {}, "leaves": [{"size": 7}], "next": {"first": {}, "leaves": []}}
    )
    inner: dict[str, Any] = {"first": leaf, "leaves": [], "next": None, "length": 3}
    assert reply == ("ok", {"first": leaf, "leaves": [{**leaf, "size": 7}], "next": inner, "length": 3})
    (given,) = channel.given  # type: ignore[attr-defined]
    assert vars(given)["length"] == 3


class Watched(Channel):
    """Says what its other methods take."""

    def join(self, payload: Any) -> None:
        return None

    def handle_in(self, event: str, payload: Body) -> Any:
        self.broadcast(event, payload)
        return {"text": payload.text}

    @intercept("said")
    def said(self, payload: Body) -> None:
        self.push("said", {"heard": payload.text})

    @intercept("told")
    def handle_out(self, event: str, payload: Body) -> None:
        self.push(event, {"told": payload.text})


def test_methods_for_whatever_comes_and_for_broadcasts_are_typed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    room = site.enter(Watched)
    assert room.call("said", {"text": ""}) == ("error", invalid(("text", "Expected `str` of length >= 1")))
    assert room.call("said", {"text": "a"}) == ("ok", {"text": "a"})
    room.assert_push("said", {"heard": "a"}, exact=True)
    assert room.call("told", {"text": "b"}).status == "ok"
    room.assert_push("told", {"told": "b"}, exact=True)
    site.phoenix.broadcast("room:1", "said", {"text": 7})
    room.assert_push("phx_error")
    assert "Watched.said intercepts 'said', which is broadcast with another payload than" in caplog.text


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


@dataclass
class Constrained:
    n: pydantic.PositiveInt


class Constraining(TypedDict):
    inner: list[Constrained]


@pytest.mark.parametrize("annotation", [Constrained, Constraining, list[Constrained]])
def test_constraint_that_would_not_be_looked_at(annotation: Any) -> None:
    with pytest.raises(InvalidOption, match=r"would not look at Gt\(gt=0\)\. Write a msgspec\.Meta"):
        echo(annotation)


@pytest.mark.parametrize("annotation", [bytearray, memoryview | None])
def test_binary_payload_is_of_bytes(annotation: Any) -> None:
    with pytest.raises(InvalidOption, match="say bytes"):
        echo(annotation)


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
    lambda: {"body": Body("a"), "at": datetime(2026, 1, 2, tzinfo=timezone.utc), "colour": Colour.RED, "tags": {"a"}},
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
    assert written.get("at") in (None, "2026-01-02T00:00:00Z")


class Listing(Channel):
    def join(self, payload: Any) -> Any:
        return [Body("a")]

    @on("list")
    def bodies(self, payload: Any) -> list[Body]:
        return [Body("a"), Body("b")]


def test_list_of_records_is_an_answer(site: Site) -> None:
    room = site.enter(Listing)
    assert room.response == [{"text": "a"}]
    assert room.call("list") == ("ok", [{"text": "a"}, {"text": "b"}])


def test_times_are_written_by_the_json_provider_that_an_app_brings(site: Site) -> None:
    class Provider(type(site.app.json)):  # type: ignore[misc]
        @staticmethod
        def default(value: Any) -> Any:
            return f"<{value}>"

    site.app.json = Provider(site.app)
    room = site.enter(echo(Any))
    site.phoenix.broadcast("room:1", "at", {"uuid": uuid.UUID(int=7)})
    assert room.assert_push("at") == {"uuid": "<00000000-0000-0000-0000-000000000007>"}


@pytest.mark.parametrize("meta", [Body("a"), DataBody("a"), ModelBody(text="a")])
def test_meta_may_be_a_record(site: Site, meta: Any) -> None:
    class Tracked(Channel):
        presence = site.phoenix.presence()

        def join(self, payload: Any) -> None:
            return None

        def after_join(self) -> None:
            self.track("ada", meta)
            self.update("ada", lambda former: {**former, "also": Colour.RED})
            self.push("presence_state", self.presences())

    room = site.enter(Tracked)
    (known,) = room.assert_push("presence_state")["ada"]["metas"]
    assert (known["text"], known["also"]) == ("a", "red")


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_test_sends_and_expects_records(site: Site, vsn: str) -> None:
    site.socket.channel("room:*")(echo(StructMessage))
    with Client(site.app, vsn=vsn) as client:
        room, message = (
            client.join("room:1", Body("a")),
            StructMessage(Body("a"), datetime(2026, 1, 2, tzinfo=timezone.utc)),
        )
        room.assert_reply(room.push("echo", message), "ok", message)
        with pytest.raises(AssertionError, match=r"response\['body'\]\['text'\] is 'a', not 'b'"):
            room.assert_reply(room.push("echo", message), "ok", {"body": Body("b"), "at": message.at})


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
    ("new_msg", {**GOOD, "at": "noon"}, "at: Invalid RFC3339"),
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


@sends("priced", Priced)
class Shop(Channel):
    def join(self, payload: Any) -> None:
        return None


def test_model_may_be_written_otherwise_than_it_is_read(site: Site) -> None:
    room = site.enter(Shop)
    site.phoenix.broadcast("room:1", "priced", Priced(net=7))  # type: ignore[call-arg]
    assert room.assert_push("priced") == {"gross": 7, "shown": "7 EUR"}
    with pytest.raises(InvalidPayload, match="net: Field required"):
        site.phoenix.broadcast("room:1", "priced", {"gross": 7})
