"""The lines that tell of connects, joins and handled events: their levels, their fields, and what they keep secret."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_phoenix import Channel, ConnectionFilter, InvalidOption, Phoenix, Refused, Socket, on
from flask_phoenix.runtime.logs import ParameterFilter, duration
from flask_phoenix.testing import Client

log = logging.getLogger("app")


class Visitor(Socket):
    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if "bad" in params:
            raise Refused("bad")


@Visitor.channel("room:*")
class Room(Channel):
    def join(self, payload: Any) -> None:
        if "refuse" in payload:
            raise Refused("full")

    @on("do")
    def do(self, payload: Any) -> Any:
        log.warning("done")
        return payload


@Visitor.channel("quiet:*")
class Quiet(Room):
    log_join = None
    log_handle_in = "info"


@pytest.fixture
def app(caplog: pytest.LogCaptureFixture) -> Iterator[Flask]:
    app = Flask(__name__)
    app.testing = True
    phoenix = Phoenix(app)
    phoenix.socket("/socket")(Visitor)
    phoenix.socket("/silent", log=None)(Visitor)
    caplog.set_level(logging.DEBUG, "flask_phoenix")
    yield app
    app.extensions["phoenix"].engine.stop()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return level and first words of what was logged by this package."""
    records = [record for record in caplog.records if record.name.startswith("flask_phoenix")]
    return [(record.levelname, record.getMessage().partition(" in ")[0]) for record in records]


def test_lines_and_their_levels(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with Client(app) as client:
        room = client.join("room:1")
        room.call("do", {"n": 1})
        client.join("quiet:1").call("do", {})
        with pytest.raises(Refused):
            client.join("room:2", {"refuse": True})
    with pytest.raises(Refused):
        Client(app, params={"bad": "1"})
    with Client(app, "/silent"):
        pass
    assert lines(caplog) == [
        ("INFO", "CONNECTED TO Visitor by websocket"),
        ("INFO", "JOINED 'room:1'"),
        ("DEBUG", "HANDLED 'do' INCOMING ON 'room:1' (Room)"),
        ("INFO", "HANDLED 'do' INCOMING ON 'quiet:1' (Quiet)"),
        ("INFO", "REFUSED JOIN 'room:2'"),
        ("INFO", "REFUSED CONNECTION TO Visitor by websocket"),
    ]


def test_fields_and_secrets(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with Client(app, params={"userToken": "abc"}) as client:
        client.join("room:1").call("do", {"body": "hi", "deep": [{"password": "abc"}]})
    assert "abc" not in caplog.text
    connected, joined, handled = [r for r in caplog.records if r.name.startswith("flask_phoenix")]
    assert (vars(connected)["phoenix_mount"], vars(connected)["phoenix_transport"]) == ("/socket", "websocket")
    assert vars(joined)["phoenix_outcome"] == "ok"
    found = {name: value for name, value in vars(handled).items() if name.startswith("phoenix_")}
    assert 0 <= found.pop("phoenix_seconds") < 10
    assert found.pop("phoenix_connection") == vars(connected)["phoenix_connection"]
    assert found == {
        "phoenix_mount": "/socket",
        "phoenix_topic": "room:1",
        "phoenix_pattern": "room:*",
        "phoenix_event": "do",
        "phoenix_outcome": "ok",
        "phoenix_parameters": {"body": "hi", "deep": [{"password": "[FILTERED]"}]},
    }


def test_lines_of_an_author_know_the_connection(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConnectionFilter, "used", False)
    with monkeypatch.context() as context:
        context.setattr(caplog.handler, "filters", [ConnectionFilter()])
        with Client(app) as client:
            client.join("room:1").call("do", {})
        log.warning("over")
    done, over = [record for record in caplog.records if record.name == "app"]
    numbers = {vars(each)["phoenix_connection"] for each in caplog.records if each.name != "app"}
    assert ({vars(done)["phoenix_connection"]}, vars(over)["phoenix_connection"]) == (numbers, "-")


def test_what_is_filtered() -> None:
    value = {"PASSWORD_2": 1, "url": "/?token=1", "list": [{"token": {}}, "x"], "data": b"123", 1: None}
    assert ParameterFilter()(value) == {
        "PASSWORD_2": "[FILTERED]",
        "url": "[FILTERED]",
        "list": [{"token": "[FILTERED]"}, "x"],
        "data": "<3 bytes>",
        1: None,
    }
    assert ParameterFilter({"keep": ["body"]})({"body": {"a": 1}, "deep": {"body": 2, "x": [3]}}) == {
        "body": {"a": 1},
        "deep": {"body": 2, "x": ["[FILTERED]"]},
    }
    with pytest.raises(InvalidOption, match="PHOENIX_FILTER_PARAMETERS"):
        ParameterFilter("password")


def test_a_level_that_is_none() -> None:
    with pytest.raises(InvalidOption, match="log is a level"):
        Phoenix().socket("/socket", log="loud")(Visitor)
    with pytest.raises(InvalidOption, match=r"Loud\.log_join is"):
        type("Loud", (Room,), {"log_join": "loud"})


def test_durations_are_written_as_in_phoenix() -> None:
    assert [duration(seconds) for seconds in (0.000045, 0.001, 0.0021)] == ["45µs", "1000µs", "2ms"]
