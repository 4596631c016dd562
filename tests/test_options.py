"""Options of a mount: defaults, the app's configuration, arguments, and values that are refused."""

from __future__ import annotations

from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

import pytest
from flask import Flask

from flask_phoenix import InvalidOption, Phoenix, Refused, Socket
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.serializers import V2Serializer
from flask_phoenix.transports.options import INFO_KEYS, TRANSPORTS, Mount, Options, make_mounts
from flask_phoenix.transports.origin import RequestOrigin

HERE = RequestOrigin("http", "localhost", 80)


def ignore(refused: Refused) -> str:
    return "no"


#: For each option: its default, another value, and a third.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "path": ("/websocket", "/ws", "/other"),
    "check_origin": (True, ["//example.com"], ":conn"),
    "check_csrf": (True, False, True),
    "csrf_token_key": ("_csrf_token", "k", "l"),
    "auth_token": (False, True, False),
    "subprotocols": (None, ("sip",), ("mqtt", "sip")),
    "connect_info": ((), ("uri",), ("session", "uri")),
    "serializer": (None, [(V2Serializer, "~> 2.0.0")], [(V2Serializer(Json()), "~> 3.0.0")]),
    "vsn": (None, ("2.0.0",), ("1.0.0", "2.0.0")),
    "timeout": (60.0, 1.5, None),
    "max_frame_size": (1_000_000, 1024, 2048),
    "outbox_limit": (1 << 20, 1000, 2000),
    "inbox_limit": (1 << 20, 1000, 2000),
    "join_timeout": (60.0, 1.5, None),
    "expiry_notice": (60.0, 1.5, 30),
    "max_name_length": (1024, 10, 20),
    "outbox_timeout": (30.0, 1.5, None),
    "conflate": (True, False, True),
    "log": ("info", None, "debug"),
    "compress": (False, True, False),
    "error_handler": (None, ignore, str),
    "max_channels": (100, 1, 500),
    "window": (10.0, 0.5, 20),
    "pubsub_timeout": (2.0, 0.5, 3),
    "token_max_age": (1_209_600, 60, 3600),
    "messages_per_second": (None, 50, 0.5),
    "max_body_size": (8_000_000, 1000, 2000),
    "body_timeout": (10.0, 0.5, 20),
}
OPTIONS = [field.name for field in fields(Options)]


def mounts(given: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> dict[str, Mount]:
    """Mount a socket; return its mounts by transport."""
    return {mount.transport: mount for mount in make_mounts("/socket", Socket, given or {}, config or {})}


def options(given: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> Options:
    """Return the options of a WebSocket's mount."""
    return mounts(given, config)["websocket"].options


def test_each_option_is_an_argument_of_phoenix_socket() -> None:
    parameters = signature(Phoenix.socket).parameters.values()
    arguments = [each.name for each in parameters if each.kind is Parameter.KEYWORD_ONLY]
    assert arguments == ["blueprint", *TRANSPORTS, *OPTIONS]


@pytest.mark.parametrize("name", OPTIONS)
def test_argument_wins_over_configuration_over_default(name: str) -> None:
    default, value, other = VALUES[name]
    config = {f"PHOENIX_{name.upper()}": value, name.upper(): other, "PHOENIX_OF_MY_OWN": other}
    assert getattr(options(), name) == default
    assert getattr(options({name: value}), name) == value
    assert getattr(options(config=config), name) == value
    assert getattr(options({name: other}, config), name) == other
    assert [getattr(options({name: value}), rest) for rest in OPTIONS if rest != name] == [
        VALUES[rest][0] for rest in OPTIONS if rest != name
    ]


def test_lists_are_kept_as_they_were() -> None:
    protocols, info = ["sip"], ["uri"]
    kept = options({"subprotocols": protocols, "connect_info": info})
    protocols.append("mqtt")
    info.append("session")
    assert (kept.subprotocols, kept.connect_info) == (("sip",), ("uri",))


def test_configuration_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_PHOENIX_PATH", "/ws")
    monkeypatch.setenv("FLASK_PHOENIX_VSN", '["2.0.0"]')
    app = Flask(__name__)
    app.config.from_prefixed_env()
    Phoenix(app).socket("/socket")(Socket)
    (endpoint,) = app.extensions["phoenix"].endpoints
    assert (endpoint.mount.url, endpoint.mount.options.vsn) == ("/socket/ws", ("2.0.0",))


@pytest.mark.parametrize(
    ("path", "transport", "url"),
    [
        ("/socket", "/websocket", "/socket/websocket"),
        ("socket", "websocket", "/socket/websocket"),
        ("/socket/", "/websocket/", "/socket/websocket"),
        ("/", "/websocket", "/websocket"),
        ("", "", "/"),
        ("/shop/<shop_id>", "/nested/<int:project_id>", "/shop/<shop_id>/nested/<int:project_id>"),
    ],
)
def test_url(path: str, transport: str, url: str) -> None:
    (mount,) = make_mounts(path, Socket, {"path": transport}, {})
    assert mount.url == url


@pytest.mark.parametrize(
    ("given", "config", "urls"),
    [
        ({}, {}, ["/socket/websocket"]),
        ({"longpoll": True}, {}, ["/socket/websocket", "/socket/longpoll"]),
        ({"longpoll": {}, "websocket": {}}, {}, ["/socket/websocket", "/socket/longpoll"]),
        ({"longpoll": True, "websocket": False}, {}, ["/socket/longpoll"]),
        ({}, {"PHOENIX_LONGPOLL": True, "PHOENIX_WEBSOCKET": False}, ["/socket/longpoll"]),
        ({"longpoll": False, "websocket": True}, {"PHOENIX_LONGPOLL": True}, ["/socket/websocket"]),
        ({}, {"PHOENIX_LONGPOLL": {"path": "/lp"}}, ["/socket/websocket", "/socket/lp"]),
        ({"path": "/ws", "longpoll": True}, {}, ["/socket/ws", "/socket/longpoll"]),
        ({"longpoll": True}, {"PHOENIX_PATH": "/ws"}, ["/socket/ws", "/socket/longpoll"]),
        (
            {"path": "/one", "longpoll": {"path": "/a/lp"}, "websocket": {"path": "/a/ws"}},
            {},
            ["/socket/a/ws", "/socket/a/lp"],
        ),
    ],
)
def test_transports(given: dict[str, Any], config: dict[str, Any], urls: list[str]) -> None:
    assert [mount.url for mount in mounts(given, config).values()] == urls


def test_options_of_one_transport() -> None:
    config = {"PHOENIX_WINDOW": 1, "PHOENIX_OUTBOX_LIMIT": 1}
    given = {"timeout": 5, "outbox_limit": 2, "longpoll": {"max_channels": 3}, "websocket": {"timeout": 7}}
    given |= {"check_origin": ["//a.example"]}
    given["longpoll"]["check_origin"] = ["//b.example"]  # type: ignore[index]
    both = mounts(given, config)
    websocket, longpoll = both["websocket"].options, both["longpoll"].options
    assert (websocket.timeout, websocket.outbox_limit, websocket.max_channels) == (7, 2, 100)
    assert (longpoll.timeout, longpoll.outbox_limit, longpoll.max_channels, longpoll.window) == (5, 2, 3, 1)
    for mount, host in ((both["websocket"], "a"), (both["longpoll"], "b")):
        allowed = [origin for origin in "ab" if mount.origin.allows(f"http://{origin}.example", HERE)]
        assert allowed == [host]


# What is refused


@pytest.mark.parametrize("value", [None, 1, "yes", ["window"]])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_transport_is_on_off_or_a_dict(transport: str, value: Any) -> None:
    for given, config in [({transport: value}, {}), ({}, {f"PHOENIX_{transport.upper()}": value})]:
        with pytest.raises(InvalidOption, match=f"{transport} is True, False, or a dict of options"):
            mounts(given, config)


def test_a_mount_that_serves_nothing() -> None:
    with pytest.raises(InvalidOption, match="serves nothing: websocket is False, and longpoll is off"):
        mounts({"websocket": False})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timout", "did you mean 'timeout'"),
        ("window_ms", "did you mean 'window'"),
        ("long_poll", "did you mean 'longpoll'"),
        ("hibernate", "known are path"),
    ],
)
def test_unknown_option(name: str, hint: str) -> None:
    with pytest.raises(InvalidOption, match=f"no option '{name}'; {hint}"):
        Phoenix().socket("/socket", **dict[str, Any]({name: 1}))(Socket)
    with pytest.raises(InvalidOption, match=repr(name)):
        mounts({"longpoll": {name: True}})


@pytest.mark.parametrize(
    ("config", "given"),
    [
        ({}, {"check_origin": False, "check_csrf": False}),
        ({"PHOENIX_CHECK_ORIGIN": False}, {"check_csrf": False}),
        ({"PHOENIX_CHECK_CSRF": False}, {"check_origin": False}),
        ({}, {"check_csrf": False, "longpoll": {"check_origin": False}}),
    ],
)
def test_both_checks_off(config: dict[str, Any], given: dict[str, Any]) -> None:
    app = Flask(__name__)
    app.config.update(config)
    phoenix = Phoenix(app)
    with pytest.raises(InvalidOption, match="one of check_origin and check_csrf must be set for '/shop'"):
        phoenix.socket("/shop", **given)(Socket)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("timeout", value) for value in (0, -1, "60", float("nan"), True, [60])],
        *[("max_frame_size", value) for value in (0, -1, None, 1.5, "1000", True)],
        *[("outbox_limit", value) for value in (0, None, 1e6)],
        *[("outbox_timeout", value) for value in (0, -1, "30", True)],
        *[("max_channels", value) for value in (0, None, float("inf"))],
        *[("window", value) for value in (0, -1, None, "10", float("nan"), True)],
        *[("pubsub_timeout", value) for value in (0, -0.5, None)],
        *[("token_max_age", value) for value in (0, None, 0.5)],
        *[("messages_per_second", value) for value in (0, -1, "50", True)],
        *[("max_body_size", value) for value in (0, None, 0.5)],
        *[("body_timeout", value) for value in (0, None, "10")],
        *[("connect_info", value) for value in ("uri", {"salt": "x"}, ["auth_token"], [7], 7)],
        *[("subprotocols", value) for value in ("sip", {"sip"}, 7)],
        *[("serializer", value) for value in ("x", [], [V2Serializer], [(1, "~> 2.0.0")], [(V2Serializer, 2)])],
        *[("vsn", value) for value in ([], 2, ["2.0.0", 2])],
        *[("check_origin", value) for value in ("example.com", ["example.com"], None, 1)],
        *[("error_handler", value) for value in (429, "refuse")],
    ],
)
def test_impossible_value(name: str, value: Any) -> None:
    for given, config in [({name: value}, {}), ({}, {f"PHOENIX_{name.upper()}": value})]:
        with pytest.raises(InvalidOption, match=name):
            options(given, config)


def test_connect_info_lists_what_there_is() -> None:
    with pytest.raises(InvalidOption) as mistake:
        options({"connect_info": ["cookies"]})
    assert all(known in str(mistake.value) for known in INFO_KEYS)


@pytest.mark.parametrize("vsn", ["3.0.0", "2.0", ["2.0.0", "2.1.0"]])
def test_version_that_no_serializer_speaks(vsn: Any) -> None:
    app = Flask(__name__)
    with pytest.raises(InvalidOption, match="names a version that no serializer speaks"):
        Phoenix(app).socket("/socket", vsn=vsn)(Socket)


@pytest.mark.parametrize("requirement", ["~> 2", "2.0.0"])
def test_requirement_of_a_version(requirement: str) -> None:
    app = Flask(__name__)  # which an extension does not keep alive
    mounting = Phoenix(app).socket("/socket", serializer=[(V2Serializer, requirement)])
    with pytest.raises(InvalidOption, match=requirement):
        mounting(Socket)
