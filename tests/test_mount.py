"""What was chosen for a socket: defaults, the app's configuration, arguments, and what cannot be."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from flask import Flask

from flask_phoenix import InvalidOption, Phoenix, Refused, Socket
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.serializers import V2Serializer
from flask_phoenix.transports.options import INFO_KEYS, TRANSPORTS, Mount, Options, make_mounts
from flask_phoenix.transports.origin import RequestOrigin

HERE = RequestOrigin("http", "localhost", 80)


class UserSocket(Socket):
    """Lets everybody in."""


def mount(given: dict[str, Any] | None = None, config: dict[str, Any] | None = None, at: str = "/socket") -> Mount:
    """Mount the WebSocket alone."""
    (only,) = make_mounts(at, UserSocket, given or {}, config or {})
    return only


def mounts(given: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, Mount]:
    """Mount every transport that is wanted."""
    made = make_mounts("/socket", UserSocket, given, config or {})
    assert [mount.transport for mount in made] == [name for name in TRANSPORTS if name in {m.transport for m in made}]
    return {mount.transport: mount for mount in made}


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
    "timeout": (60.0, 1.5, 30),
    "max_frame_size": (1_000_000, 1024, 2048),
    "outbox_limit": (1 << 20, 1000, 2000),
    "compress": (False, True, False),
    "error_handler": (None, ignore, str),
    "max_channels": (100, 1, 500),
    "window": (10.0, 0.5, 20),
    "pubsub_timeout": (2.0, 0.5, 3),
    "token_max_age": (1_209_600, 60, 3600),
}
OPTIONS = [field.name for field in fields(Options)]


def test_every_option_is_tested() -> None:
    assert list(VALUES) == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_default(name: str) -> None:
    assert getattr(mount().options, name) == VALUES[name][0]


@pytest.mark.parametrize("name", OPTIONS)
def test_argument(name: str) -> None:
    options = mount({name: VALUES[name][1]}).options
    assert getattr(options, name) == VALUES[name][1]
    others = [other for other in OPTIONS if other != name]
    assert [getattr(options, other) for other in others] == [VALUES[other][0] for other in others]


@pytest.mark.parametrize("name", OPTIONS)
def test_configuration(name: str) -> None:
    config = {f"PHOENIX_{name.upper()}": VALUES[name][1]}
    assert getattr(mount(config=config).options, name) == VALUES[name][1]


@pytest.mark.parametrize("name", OPTIONS)
def test_argument_wins_over_configuration(name: str) -> None:
    config = {f"PHOENIX_{name.upper()}": VALUES[name][1]}
    assert getattr(mount({name: VALUES[name][2]}, config).options, name) == VALUES[name][2]


@pytest.mark.parametrize("name", ["subprotocols", "serializer", "timeout", "error_handler"])
def test_none_wins_over_configuration(name: str) -> None:
    config = {f"PHOENIX_{name.upper()}": VALUES[name][1]}
    assert getattr(mount({name: None}, config).options, name) is None


def test_other_configuration_is_left_alone() -> None:
    assert mount(config={"TIMEOUT": 1, "PHOENIX_JSON": "json", "PHOENIX_OF_MY_OWN": 1}).options == Options()


def test_lists_are_kept_as_they_were() -> None:
    protocols, info = ["sip"], ["uri"]
    options = mount({"subprotocols": protocols, "connect_info": info}).options
    protocols.append("mqtt")
    info.append("session")
    assert (options.subprotocols, options.connect_info) == (("sip",), ("uri",))


def test_connect_info() -> None:
    options = mount({"connect_info": ["uri", {"salt": "x"}, "user_agent", {"limit": 3}]}).options
    assert options.info_keys == ["uri", "user_agent"]
    assert options.info_constants == {"salt": "x", "limit": 3}


def test_origin_policies_are_kept_apart() -> None:
    one, other = (mount({"check_origin": [f"//{name}.example"]}) for name in ("one", "other"))
    assert one.origin.allows("http://one.example", HERE)
    assert not one.origin.allows("http://other.example", HERE)
    assert other.origin.allows("http://other.example", HERE)


# Where it is


@pytest.mark.parametrize(
    ("path", "transport", "url"),
    [
        ("/socket", "/websocket", "/socket/websocket"),
        ("socket", "websocket", "/socket/websocket"),
        ("/socket/", "/websocket/", "/socket/websocket"),
        ("/", "/websocket", "/websocket"),
        ("", "", "/"),
        ("/admin/socket", "nested/path", "/admin/socket/nested/path"),
        ("/shop/<shop_id>", "/project/<int:project_id>", "/shop/<shop_id>/project/<int:project_id>"),
    ],
)
def test_url(path: str, transport: str, url: str) -> None:
    assert mount({"path": transport}, at=path).url == url


def test_path_option() -> None:
    app = Flask(__name__)
    phoenix = Phoenix(app)
    phoenix.socket("/socket", path="/nested/path")(UserSocket)
    phoenix.socket("/other")(UserSocket)
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert {"/socket/nested/path", "/other/websocket"} <= rules
    assert "/socket/websocket" not in rules


# By which transports


@pytest.mark.parametrize(
    ("given", "config", "urls"),
    [
        ({}, {}, ["/socket/websocket"]),
        ({"longpoll": True}, {}, ["/socket/websocket", "/socket/longpoll"]),
        ({"longpoll": {}}, {}, ["/socket/websocket", "/socket/longpoll"]),
        ({"websocket": {}}, {}, ["/socket/websocket"]),
        ({"longpoll": True, "websocket": False}, {}, ["/socket/longpoll"]),
        ({}, {"PHOENIX_LONGPOLL": True}, ["/socket/websocket", "/socket/longpoll"]),
        ({}, {"PHOENIX_LONGPOLL": True, "PHOENIX_WEBSOCKET": False}, ["/socket/longpoll"]),
        (
            {"longpoll": False, "websocket": True},
            {"PHOENIX_LONGPOLL": True, "PHOENIX_WEBSOCKET": False},
            ["/socket/websocket"],
        ),
        ({}, {"PHOENIX_LONGPOLL": {"path": "/lp"}}, ["/socket/websocket", "/socket/lp"]),
        ({"path": "/ws", "longpoll": True}, {}, ["/socket/ws", "/socket/longpoll"]),
        ({"longpoll": True}, {"PHOENIX_PATH": "/ws"}, ["/socket/ws", "/socket/longpoll"]),
        ({"longpoll": {"path": "/a/lp"}, "websocket": {"path": "/a/ws"}}, {}, ["/socket/a/ws", "/socket/a/lp"]),
        ({"path": "/one", "websocket": {"path": "/other"}}, {}, ["/socket/other"]),
    ],
)
def test_transports(given: dict[str, Any], config: dict[str, Any], urls: list[str]) -> None:
    assert [mount.url for mount in mounts(given, config).values()] == urls


def test_options_of_one_transport() -> None:
    both = mounts({"timeout": 5, "longpoll": {"window": 1, "max_channels": 3}, "websocket": {"timeout": 7}})
    websocket, longpoll = both["websocket"].options, both["longpoll"].options
    assert (websocket.timeout, longpoll.timeout) == (7, 5)
    assert (websocket.window, longpoll.window) == (10.0, 1)
    assert (websocket.max_channels, longpoll.max_channels) == (100, 3)


def test_options_of_one_transport_win() -> None:
    config = {"PHOENIX_WINDOW": 1, "PHOENIX_OUTBOX_LIMIT": 1, "PHOENIX_MAX_CHANNELS": 1}
    given = {"outbox_limit": 2, "max_channels": 2, "longpoll": {"max_channels": 3}}
    options = mounts(given, config)["longpoll"].options
    assert (options.window, options.outbox_limit, options.max_channels) == (1, 2, 3)


def test_each_transport_has_its_origins() -> None:
    both = mounts({"check_origin": ["//a.example"], "longpoll": {"check_origin": ["//b.example"]}})
    assert both["websocket"].origin.allows("http://a.example", HERE)
    assert not both["longpoll"].origin.allows("http://a.example", HERE)
    assert both["longpoll"].origin.allows("http://b.example", HERE)


@pytest.mark.parametrize("value", [None, 1, "yes", ["window"]])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_is_no_transport(transport: str, value: Any) -> None:
    for given, config in [({transport: value}, {}), ({}, {f"PHOENIX_{transport.upper()}": value})]:
        with pytest.raises(InvalidOption, match=f"{transport} is True, False, or a dict of options"):
            mounts(given, config)


@pytest.mark.parametrize("name", ["windo", "longpoll", "websocket"])
def test_unknown_option_of_one_transport(name: str) -> None:
    with pytest.raises(InvalidOption, match=repr(name)):
        mounts({"longpoll": {name: True}})


def test_a_transport_that_is_off_is_not_looked_at() -> None:
    assert list(mounts({"longpoll": False}, {"PHOENIX_WINDOW": 1})) == ["websocket"]


# What cannot be


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timout", "'timeout'"),
        ("check_orign", "'check_origin'"),
        ("max_chanels", "'max_channels'"),
        ("window_ms", "'window'"),
        ("long_poll", "'longpoll'"),
        ("hibernate", "max_frame_size"),
    ],
)
def test_unknown_option(name: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as mistake:
        mount({name: 1})
    assert repr(name) in str(mistake.value)
    assert hint in str(mistake.value)


def test_unknown_option_is_found_at_the_mount() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'timeout'"):
        Phoenix().socket("/socket", timout=1)(UserSocket)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {"check_origin": False, "check_csrf": False}),
        ({"PHOENIX_CHECK_ORIGIN": False}, {"check_csrf": False}),
        ({"PHOENIX_CHECK_CSRF": False}, {"check_origin": False}),
        ({"PHOENIX_CHECK_ORIGIN": False, "PHOENIX_CHECK_CSRF": False}, {}),
        ({}, {"check_csrf": False, "websocket": {"check_origin": False}}),
        ({}, {"check_csrf": False, "longpoll": {"check_origin": False}}),
    ],
)
def test_both_checks_off(config: dict[str, Any], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as mistake:
        make_mounts("/shop", UserSocket, options, config)
    assert "one of check_origin and check_csrf must be set" in str(mistake.value)
    assert "'/shop'" in str(mistake.value)


@pytest.mark.parametrize("options", [{"check_origin": False}, {"check_csrf": False}])
def test_one_check_off(options: dict[str, Any]) -> None:
    assert mount(options).options != Options()


def test_both_checks_off_is_found_when_the_app_is_known() -> None:
    phoenix, app = Phoenix(), Flask(__name__)
    phoenix.socket("/socket", check_csrf=False)(UserSocket)
    app.config["PHOENIX_CHECK_ORIGIN"] = False
    with pytest.raises(InvalidOption):
        phoenix.init_app(app)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("timeout", value) for value in (0, -1, "60", float("nan"), True, [60])],
        *[("max_frame_size", value) for value in (0, -1, None, 1.5, "1000", True)],
        *[("outbox_limit", value) for value in (0, -1, None, 1e6, True)],
        *[("max_channels", value) for value in (0, -1, None, float("inf"), True)],
        *[("window", value) for value in (0, -1, None, "10", float("nan"), True)],
        *[("pubsub_timeout", value) for value in (0, -0.5, None, "2", True)],
        *[("token_max_age", value) for value in (0, -1, None, "60", True, 0.5)],
        *[("connect_info", value) for value in ("uri", {"salt": "x"}, ["cookies"], ["auth_token"], [7], 7)],
        *[("subprotocols", value) for value in ("sip", {"sip"}, 7)],
        *[("serializer", value) for value in ("x", [], [V2Serializer], [(1, "~> 2.0.0")], [(V2Serializer, 2)])],
        *[("check_origin", value) for value in ("example.com", ["example.com"], None, 1)],
        *[("error_handler", value) for value in (429, "refuse")],
    ],
)
def test_bad_values(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as mistake:
        mount({name: value})
    assert name in str(mistake.value)


def test_bad_value_of_the_configuration() -> None:
    with pytest.raises(InvalidOption, match="timeout"):
        mount(config={"PHOENIX_TIMEOUT": "60"})


def test_bad_requirement_is_found_at_the_mount() -> None:
    app = Flask(__name__)
    mounting = Phoenix(app).socket("/socket", serializer=[(V2Serializer, "~> 2")])
    with pytest.raises(InvalidOption, match="~> 2"):
        mounting(UserSocket)
    assert "phoenix" in app.extensions


@pytest.mark.parametrize("key", ["cookies", "peer", "auth_token"])
def test_unknown_connect_info_lists_what_there_is(key: str) -> None:
    with pytest.raises(InvalidOption) as mistake:
        mount({"connect_info": [key]})
    assert all(known in str(mistake.value) for known in INFO_KEYS)


def test_a_mount_that_serves_nothing() -> None:
    with pytest.raises(InvalidOption, match="serves nothing: websocket is False, and longpoll is off"):
        make_mounts("/socket", Socket, {"websocket": False}, {})
