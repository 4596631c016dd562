"""The dashboard: who may see it, what it costs, and what its page is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, request, session
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException

from flask_phoenix import Adapter, InvalidOption, Phoenix, PhoenixError, Refused
from flask_phoenix.testing import Client, Clock, Joined
from tests.clients import driver
from tests.support.loop import turn
from tests.support.processes import Servers
from tests.support.two_nodes import two_nodes
from tests.test_signals import Visitor

PAGE = "/dashboard/"
TOPIC = "phoenix_dashboard"


def is_operator() -> bool:
    """Tell whether the current request is an operator's."""
    if "ip" in request.args:
        abort(401)
    return bool(session.get("operator"))


def serve(adapter: Adapter | None = None, **config: Any) -> Flask:
    """Make an app with a dashboard."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="secret", **config)
    app.testing = True
    phoenix = Phoenix(app, adapter)
    phoenix.socket("/socket")(Visitor)
    phoenix.presence(name="online")
    app.register_blueprint(phoenix.dashboard(allow=is_operator))
    return app


@pytest.fixture
def apps() -> Iterator[list[Flask]]:
    with two_nodes(serve) as apps:
        yield apps


@pytest.fixture
def app(apps: list[Flask]) -> Flask:
    return apps[0]


def operator(app: Flask) -> Client:
    """Connect as the page of an operator does."""
    return Client(app, "/dashboard/socket", session={"operator": True})


def http(app: Flask) -> FlaskClient:
    """Return an operator's browser."""
    client = app.test_client()
    with client.session_transaction() as values:
        values["operator"] = True
    return client


def engine(app: Flask) -> Any:
    return app.extensions["phoenix"].engine


# Who may see it.


def test_it_is_for_nobody_unless_somebody_is_named() -> None:
    phoenix: Any = Phoenix()
    for arguments in ((), (True,)):
        with pytest.raises(InvalidOption, match=r"phoenix\.dashboard\(allow="):
            phoenix.dashboard(*arguments)


def test_it_needs_an_app_with_phoenix_and_no_dashboard(app: Flask) -> None:
    with pytest.raises(PhoenixError, match="init_app"):
        Flask(__name__).register_blueprint(Phoenix().dashboard(is_operator))
    with pytest.raises(InvalidOption, match="already"):
        serve().register_blueprint(Phoenix().dashboard(is_operator, name="another"))


def test_page_and_files_are_for_those_who_are_allowed(app: Flask) -> None:
    page = http(app).get(PAGE)
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    script = page.text.partition('type="module" src="')[2].partition('"')[0]
    for path in (script, script.replace("dashboard.mjs", "phoenix.mjs")):
        file = http(app).get(path)
        assert (file.status_code, file.mimetype, "immutable" in file.headers["Cache-Control"]) == (
            200,
            "text/javascript",
            True,
        )
    old = http(app).get("/dashboard/files/old/chart.mjs")
    assert old.status_code == 404
    assert http(app).get("/dashboard/files/old/dashboard.mjs").headers["Location"] == script
    assert [app.test_client().get(path).status_code for path in (PAGE, script)] == [404, 404]
    assert app.test_client().get(PAGE, query_string={"ip": "1"}).status_code == 401


def test_its_socket_asks_again(app: Flask) -> None:
    with pytest.raises(Refused):
        Client(app, "/dashboard/socket")
    with operator(app) as client:
        assert client.join(TOPIC).response["node"] == engine(app).node.name


def test_pages_of_other_sites_are_refused_whatever_the_app_allows() -> None:
    app = serve(PHOENIX_CHECK_ORIGIN=False)
    with pytest.raises(HTTPException):
        Client(app, "/dashboard/socket", session={"operator": True}, headers={"Origin": "http://evil.example"})
    engine(app).stop()


def test_the_app_is_asked_anew_now_and_then(app: Flask, phoenix_clock: Clock) -> None:
    with operator(app) as client:
        phoenix_clock.advance(601)
        client.assert_closed()


# What it costs.


def test_nothing_is_measured_while_nobody_looks(apps: list[Flask], phoenix_clock: Clock) -> None:
    with Client(apps[0]) as client, Client(apps[1]):
        room = client.join("room:1")

        def measures() -> list[bool]:
            return [engine(app).timing is not None or engine(app).meter is not None for app in apps]

        assert measures() == [False, False]
        with operator(apps[0]) as first, operator(apps[0]) as second:
            first.join(TOPIC)
            second.join(TOPIC)
            assert measures() == [True, True]
            first.close()
            room.call("do", {"n": 1})
            phoenix_clock.advance(2)
        turn()
        assert measures() == [False, False]


def test_handlers_that_were_there_before_are_measured(app: Flask, phoenix_clock: Clock) -> None:
    with Client(app) as client, operator(app) as looking:
        room = client.join("room:1")
        page = looking.join(TOPIC)
        for _ in range(3):
            room.call("do", {"n": 1})
        totals = second(page, phoenix_clock)["totals"]
    assert totals["handlers"]["count"] == 3
    assert 0 < totals["handlers"]["p50"] <= totals["handlers"]["p99"] < 10


# What the page is told.


def second(page: Joined, phoenix_clock: Clock) -> Any:
    """Let time pass until the page is told of a second, a quarter after its end; return what it is told."""
    phoenix_clock.advance(1.26 - phoenix_clock.time() % 1)
    return page.assert_push("second")


def test_what_all_nodes_do(apps: list[Flask], phoenix_clock: Clock) -> None:
    with Client(apps[0], params={"name": "ann"}) as client, Client(apps[1]) as other, operator(apps[0]) as looking:
        page = looking.join(TOPIC)
        rooms = [client.join("room:1"), other.join("room:1"), client.join("room:2")]
        second(page, phoenix_clock)
        for room in rooms:
            room.call("do", {"n": 1})
        apps[1].extensions["phoenix"].broadcast("room:1", "news", {"n": 1})
        told = second(page, phoenix_clock)
        totals = told["totals"]
        expected = {
            "connections": 2,
            "channels": 3,
            "messages_in": 3.0,
            "nodes": 2,
            "slow_now": 0,
            "adapter": "MemoryAdapter",
        }
        assert {name: totals[name] for name in expected} == expected
        assert (totals["transports"], totals["presence"]) == ({"websocket": 2}, {"online": 0})
        assert (totals["handlers"]["count"], totals["deliveries"]["count"]) == (3, 2)
        assert told["topics"] == [["room:1", 2], ["room:2", 1]]
        assert {each["node"]: each["state"] for each in told["nodes"]} == {engine(app).node.name: "up" for app in apps}
        name = engine(apps[1]).node.name
        engine(apps[1]).stop()
        told = second(page, phoenix_clock)
        assert {each["node"]: each["state"] for each in told["nodes"]}[name] == "gone"
        assert [(each["kind"], each["node"]) for each in told["events"]] == [("gone", name)]
        past = operator(apps[0]).join(TOPIC).response["past"]
        assert [each["totals"]["connections"] for each in past] == [2, 2, 1]


def test_crashes_with_their_tracebacks(apps: list[Flask], phoenix_clock: Clock) -> None:
    with Client(apps[1], params={"token": "abc"}) as client, Client(apps[0]):
        payload = {"crash": True, "password": "hunter2", "text": "x" * 100_000}
        room = client.join("room:1")
        room.push("do", payload)
        room.assert_push("phx_error")
        with operator(apps[0]) as looking:
            page = looking.join(TOPIC)
            (crash,) = second(page, phoenix_clock)["crashes"]
            assert (crash["message"], crash["where"]) == ("RuntimeError: do", "at event 'do'")
            found: Any = page.call("crash", {"key": crash["key"]}).response
            assert page.call("crash", {"key": "none"}).status == "error"
    assert found["traceback"].endswith('raise RuntimeError("do")\nRuntimeError: do\n')
    assert "'password': '[FILTERED]'" in found["parameters"]
    assert found["params"] == "{'token': '[FILTERED]', 'vsn': '2.0.0'}"
    assert len(str(found)) < 10_000


def test_a_topic_is_opened(apps: list[Flask], phoenix_clock: Clock) -> None:
    with Client(apps[0]) as client, Client(apps[1], params={"name": "ann"}) as other, operator(apps[0]) as looking:
        page = looking.join(TOPIC)
        for each in (client, other):
            each.join("room:1")
        second(page, phoenix_clock)
        opened = looking.join(f"{TOPIC}:topic", {"topic": "room:1"})
        facts = opened.assert_push("facts")
        assert (facts["count"], facts["present"]) == (2, [])
        assert sorted(str(each["id"]) for each in facts["clients"]) == ["None", "ann"]
        for number in range(20):
            apps[1].extensions["phoenix"].broadcast("room:1", "news", {"number": number, "token": "abc"})
        apps[1].extensions["phoenix"].broadcast("room:1", "large", {"text": "x" * 20_000})
        phoenix_clock.advance(0.5)
        traffic = opened.assert_push("traffic")
        assert [each["payload"] for each in traffic["messages"]][:2] == [
            f"{{'number': {number}, 'token': '[FILTERED]'}}" for number in (0, 1)
        ]
        assert len(traffic["messages"]) + traffic["skipped"] == 21
        assert second(page, phoenix_clock)["topics"] == [["room:1", 2]]
        for topic in (TOPIC, "phx:dashboard", ""):
            with pytest.raises(Refused):
                looking.join(f"{TOPIC}:topic", {"topic": topic})


def test_a_client_is_opened_found_and_closed(apps: list[Flask], phoenix_clock: Clock) -> None:
    with Client(apps[1], params={"name": "ann"}) as client, Client(apps[0]), operator(apps[0]) as looking:
        client.join("room:1")
        page = looking.join(TOPIC)
        second(page, phoenix_clock)
        for text in ("ann", "room:1", "room:*"):
            (found,) = page.call("find", {"text": text}).response["clients"]
            assert found["connection"].startswith(engine(apps[1]).node.name)
        assert page.call("find", {"text": "nobody"}).response == {"count": 0, "clients": []}
        opened = looking.join(f"{TOPIC}:client", {"connection": found["connection"]})
        facts = opened.assert_push("facts")
        assert (facts["socket"], facts["topics"], facts["params"]) == (
            "Visitor",
            ["room:1"],
            "{'name': 'ann', 'vsn': '2.0.0'}",
        )
        opened.call("close", {})
        client.assert_closed(1001)
        phoenix_clock.advance(1)
        opened.assert_push("ended")


# In a browser.


def test_an_operator_looks_on(servers: Servers, tmp_path: Path) -> None:
    environment = {"FLASK_DASHBOARD": "true", "FLASK_DATABASE": f"{tmp_path}/chat.db"}
    server = servers.start(
        sys.executable, "-m", "example_app.serve", "--port", "{port}", **driver.STRICT, **environment
    )
    script = driver.Script("dashboard.mjs", driver.base(server))
    try:
        driver.assert_good(script.result({"go on": lambda: None}))
    finally:
        script.close()
    assert "Traceback" not in server.logs()
