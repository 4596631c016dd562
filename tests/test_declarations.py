"""What an author's classes declare: topic patterns, events, interceptions, and what has to be there."""

from __future__ import annotations

from typing import Any

import pytest

from flask_phoenix import Channel, InvalidOption, Presence, RawSocket, Socket, intercept, on
from tests.support.clients import Room, Site, scripted


class Open(Channel):
    """Lets everybody in."""

    def join(self, payload: Any) -> None:
        return None


def socket(*patterns: str) -> type[Socket]:
    """Make a socket that serves patterns, each with a channel of its own."""

    class Some(Socket):
        pass

    for pattern in patterns:
        Some.channel(pattern)(type(pattern, (Open,), {}))
    return Some


def matched(kind: type[Socket], topic: str) -> tuple[str, str] | None:
    """Return the pattern that serves a topic, and what its star stands for."""
    route = kind.match(topic)
    return (route.pattern, route.subtopic(topic)) if route is not None else None


@pytest.mark.parametrize(
    ("pattern", "topic", "subtopic"),
    [
        ("system", "system", ""),
        ("room:lobby", "room:lobby", ""),
        ("room:*", "room:42", "42"),
        ("room:*", "room:", ""),
        ("room:*", "room:a:b", "a:b"),
        ("room:*", "room:*", "*"),
        ("foo*", "foo", ""),
        ("foo*", "foobar", "bar"),
        ("*", "whatever", "whatever"),
        ("*", "", ""),
        ("", "", ""),
        ("caf\u00e9:*", "caf\u00e9:\u03c0", "\u03c0"),
        ("system", "systems", None),
        ("system", "syste", None),
        ("system", "System", None),
        ("room:lobby", "room:lobby:2", None),
        ("room:*", "room", None),
        ("room:*", "aroom:1", None),
        ("foo*", "fo", None),
        ("", "a", None),
        ("*", "phx:presence:Online", None),
        ("phx:*", "phx:presence:Online", None),
        ("phx:presence:Online", "phx:presence:Online", None),
    ],
)
def test_pattern_and_topic(pattern: str, topic: str, subtopic: str | None) -> None:
    assert matched(socket(pattern), topic) == (None if subtopic is None else (pattern, subtopic))


def test_first_pattern_that_fits_wins() -> None:
    kind = socket("food*", "foo*", "foo:1", "*")
    found = [matched(kind, topic) for topic in ("food:1", "foo:1", "foo", "unknown")]
    assert found == [("food*", ":1"), ("foo*", ":1"), ("foo*", ""), ("*", "unknown")]
    assert matched(socket("foo:1", "foo*"), "foo:1") == ("foo:1", "")


@pytest.mark.parametrize("pattern", ["a*b", "*:x", "**", "room:**", "*a*", None, 7, b"room:*"])
def test_pattern_that_cannot_be(pattern: Any) -> None:
    kind = socket()
    with pytest.raises(InvalidOption, match=r"'room:\*'"):
        kind.channel(pattern)
    assert kind.channels == ()


def test_channel_without_a_join_is_refused() -> None:
    class Forgetful(Channel):
        pass

    kind = socket()
    with pytest.raises(InvalidOption, match=r"Forgetful has no join\(self, payload\)"):
        kind.channel("room:*")(Forgetful)
    assert kind.channels == ()


def test_patterns_are_inherited_and_are_those_of_one_socket() -> None:
    base = socket("foo:*")

    class Derived(base):  # type: ignore[valid-type, misc]
        pass

    assert Derived.channel("a", {"kind": "a"})(Derived.channel("b")(Open)) is Open
    assert [route.pattern for route in Derived.channels] == ["foo:*", "b", "a"]
    assert [route.assigns for route in Derived.channels] == [{}, {}, {"kind": "a"}]
    assert (len(base.channels), Socket.channels) == (1, ())


@pytest.mark.parametrize("mark", [on, intercept])
def test_mark_names_events(mark: Any) -> None:
    for wrong in ((), (7,), ("event", None), (lambda self, payload: None,)):
        with pytest.raises(InvalidOption, match=r"@on\('new_msg'\)"):
            mark(*wrong)


class Typing:
    """A mixin."""

    @on("typing")
    def typing(self, payload: Any) -> Any:
        return {"by": "Typing"}


class Base(Room):
    """Uses every mark."""

    @on("one")
    @on("two", "three")
    @intercept("news")
    def many(self, payload: Any) -> Any:
        return {"by": "Base.many"}

    @on("said")
    def said(self, payload: Any) -> Any:
        return {"by": "Base.said"}

    @intercept("first", "second")
    def handle_out(self, event: str, payload: Any) -> None:
        self.push(event, {"by": "Base"})


class Derived(Typing, Base):
    """Overrides a method by its name, an event by another method, and an interception."""

    @on("three")
    def third(self, payload: Any) -> Any:
        return {"by": "Derived.third"}

    def said(self, payload: Any) -> Any:
        return {"by": "Derived.said"}

    def handle_in(self, event: str, payload: Any) -> Any:
        return {"by": f"handle_in of {event}"}

    @intercept("second", "news")
    def again(self, payload: Any) -> None:
        self.push("again", {})


def test_marks_are_gathered_from_every_base_and_the_nearest_wins(site: Site) -> None:
    client = site.enter(Derived)
    for event, by in {
        "one": "Base.many",
        "two": "Base.many",
        "three": "Derived.third",
        "said": "Derived.said",
        "typing": "Typing",
        "echo": None,
        "nope": "handle_in of nope",
    }.items():
        assert client.call(event)["response"] == ({"by": by} if by else {})
    for event in ("first", "second", "news", "other"):
        site.phoenix.broadcast("room:1", event, {})
    heard = [message[3:] for message in client.rest()]
    assert sorted(heard, key=str) == [["again", {}], ["again", {}], ["first", {"by": "Base"}], ["other", {}]]


@pytest.mark.parametrize("verb", ["track", "update", "untrack", "presences"])
def test_channel_without_a_presence_tells_the_remedy(site: Site, verb: str, caplog: pytest.LogCaptureFixture) -> None:
    arguments: dict[str, list[Any]] = {"track": ["ann"], "update": ["ann", {}], "untrack": ["ann"]}
    client = site.enter(scripted(do=lambda channel: getattr(channel, verb)(*arguments.get(verb, []))))
    client.say("1", "2", "room:1", "do")
    assert client.hear()[3] == "phx_error"
    assert "InvalidOption: this channel has no presence: make one with" in caplog.text


API = ["push", "broadcast", "update", "track", "send", "stop", "presence", "topic", "params", "assigns", "runtime"]
API += ["transport", "subtopic", "reply", "subscribe", "handlers", "intercepts", "presences"]
CALLBACKS = ["join", "after_join", "handle_in", "handle_info", "terminate"]


def define(root: type, **body: Any) -> type:
    """Define a subclass."""
    return type("Mine", (root,), body)


@pytest.mark.parametrize("mark", [on, intercept])
@pytest.mark.parametrize("name", [*API, *CALLBACKS])
def test_name_that_is_taken_is_refused_for_the_method_of_an_event(mark: Any, name: str) -> None:
    def handler() -> Any:
        return mark("e")(lambda self, payload: None)

    remedy = rf"@on\('e'\) above def on_{name}\(self, payload\)"
    with pytest.raises(InvalidOption, match=rf"Mine\.{name} would take the place of Channel\.{name}: .*{remedy}"):
        define(Channel, **{name: handler()})
    with pytest.raises(InvalidOption, match=name):
        type("Mine", (type("Mixin", (), {name: handler()}), Channel), {})
    assert f"on_{name}" in vars(define(Channel, **{f"on_{name}": handler()}))


@pytest.mark.parametrize("name", [*API, *CALLBACKS])
def test_name_that_is_taken_is_refused_for_an_attribute(name: str) -> None:
    for value in (7, "room", None, property(lambda self: 7), {"a": 1}):
        with pytest.raises(InvalidOption, match=rf"Mine\.{name} would take the place of Channel\.{name}: "):
            define(Channel, **{name: value})


@pytest.mark.parametrize(
    ("root", "name", "remedy"),
    [
        (Socket, "id", r"it has to be a method: def id\(self\)"),
        (Socket, "connect", r"def connect\(self, params"),
        (Socket, "channel", "rename it"),
        (Socket, "channels", "rename it"),
        (Socket, "params", "rename it"),
        (Socket, "assigns", "rename it"),
        (RawSocket, "send", "rename it"),
        (RawSocket, "open", r"def open\(self\)"),
        (Presence, "fetch", r"def fetch\(self, topic"),
        (Presence, "track", "rename it"),
        (Presence, "name", "rename it"),
        (Channel, "presence", r"it has to be what phoenix.presence\(\) returns"),
    ],
)
def test_remedies(root: type, name: str, remedy: str) -> None:
    with pytest.raises(
        InvalidOption, match=rf"Mine\.{name} would take the place of {root.__name__}\.{name}: .*{remedy}"
    ):
        define(root, **{name: "mine"})


def test_methods_may_be_overridden_by_such_as_can_be_called_as_they_are() -> None:
    class Louder(Channel):
        params: dict[str, Any]
        _private = 7

        def push(self, event: str, payload: Any, *, times: int = 1) -> None:
            super().push(event, payload)

        @classmethod
        def join(cls, payload: Any) -> None:
            """Nobody is asked."""

    define(Louder, push=lambda self, *arguments: None)
    for wrong in (lambda self, event: None, lambda self, event, payload, more: None):
        with pytest.raises(InvalidOption, match=r"Mine\.push would take the place of Channel\.push: rename it"):
            define(Louder, push=wrong)
