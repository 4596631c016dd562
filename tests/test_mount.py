"""What was chosen for a socket: defaults, the app's configuration, arguments, and what cannot be."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from flask import Flask

from flask_phoenix import InvalidOption, Phoenix, Refused, Socket
from flask_phoenix.codec import Json
from flask_phoenix.mount import INFO_KEYS, Mount, Options, make_mount
from flask_phoenix.origin import RequestOrigin
from flask_phoenix.serializer import V2Serializer

HERE = RequestOrigin("http", "localhost", 80)


class UserSocket(Socket):
    """Lets everybody in."""


def mount(given: dict[str, Any] | None = None, config: dict[str, Any] | None = None, at: str = "/socket") -> Mount:
    return make_mount(at, UserSocket, given or {}, config or {})


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
    assert mount(at=path).url(transport) == url


def test_path_option() -> None:
    app = Flask(__name__)
    phoenix = Phoenix(app)
    phoenix.socket("/socket", path="/nested/path")(UserSocket)
    phoenix.socket("/other")(UserSocket)
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert {"/socket/nested/path", "/other/websocket"} <= rules
    assert "/socket/websocket" not in rules


# What cannot be


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timout", "'timeout'"),
        ("check_orign", "'check_origin'"),
        ("max_chanels", "'max_channels'"),
        ("window_ms", "max_frame_size"),
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
    ],
)
def test_both_checks_off(config: dict[str, Any], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as mistake:
        mount(options, config, "/shop")
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
