"""Health, metrics and traces, as those who run an app see them."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from flask import Flask
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families as parse
from websockets.sync.client import connect

from flask_phoenix import Adapter, Channel, InvalidOption, Phoenix, Socket, intercept, on
from flask_phoenix.testing import Client, MemoryAdapter
from tests.docs.pages import DOCS, rows
from tests.support.loop import turn
from tests.support.processes import HOST, ROOT, START, Servers, wait_until
from tests.support.two_nodes import two_nodes
from tests.test_signals import Visitor, exercise


def serve(adapter: Adapter) -> Flask:
    """Make an app that is measured, and asked for its health."""
    app = Flask(__name__)
    app.testing = True
    phoenix = Phoenix(app, adapter)
    phoenix.socket("/socket")(Visitor)
    phoenix.presence(name="online")
    app.register_blueprint(phoenix.metrics_blueprint())
    app.register_blueprint(phoenix.health_blueprint(max_lag=60.0))
    return app


@pytest.fixture
def apps() -> Iterator[list[Flask]]:
    with two_nodes(serve) as apps:
        yield apps


def scrape(app: Flask) -> dict[tuple[str, ...], float]:
    """Return the samples of an app by their name and the sorted values of their labels."""
    return samples(app.test_client().get("/metrics").text)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Read an exposition."""
    return {(s.name, *sorted(s.labels.values())): s.value for family in parse(text) for s in family.samples}


def test_what_is_counted_and_measured(apps: list[Flask]) -> None:
    app, other = apps
    with Client(app) as client, Client(other):
        exercise(app, app.extensions["phoenix"])
        room = client.join("room:1")
        other.extensions["phoenix"].broadcast("room:1", "news", {})
        room.assert_broadcast("news")
        turn()
        found = scrape(app)
    assert {key: found[key] for key in found if key[0] == "phoenix_handle_in_seconds_count"} == {
        ("phoenix_handle_in_seconds_count", *sorted(["/socket", "room:*", outcome])): 1.0
        for outcome in ("ok", "error", "noreply", "crashed")
    }
    expected = {
        ("phoenix_join_seconds_count", "/socket", "ok", "room:*"): 3,
        ("phoenix_join_seconds_count", "/socket", "refused", "room:*"): 1,
        ("phoenix_broadcast_seconds_count", "local", "room:*"): 1,
        ("phoenix_broadcast_seconds_count", "remote", "room:*"): 1,
        ("phoenix_connects_total", "/socket", "websocket"): 2,
        ("phoenix_refusals_total", "/socket", "origin", "websocket"): 1,
        ("phoenix_disconnects_total", "/socket", "1006"): 1,
        ("phoenix_crashes_total", "/socket", "room:*"): 2,
        ("phoenix_connections",): 1,
        ("phoenix_channels",): 1,
        ("phoenix_adapter_up",): 1,
        ("phoenix_presence_entries", "online"): 0,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["phoenix_messages_in_total",] >= 9
    assert found["phoenix_bytes_out_total",] > found["phoenix_messages_out_total",]
    assert 0 <= found["phoenix_broadcast_seconds_sum", "remote", "room:*"] < 10


def test_the_page_and_the_dashboard_name_what_there_is(apps: list[Flask]) -> None:
    families = list(parse(apps[0].test_client().get("/metrics").text))
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    there = {name for name in names if not name.endswith("_created")}
    assert {name for name, *_ in rows("reference/telemetry.md", "metric", "labels", "counts or measures")} == there
    dashboard = json.loads((DOCS / "grafana.json").read_text("utf-8"))
    asked = {
        re.sub("_(bucket|count)$", "", name)
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"phoenix_\w+", target["expr"])
    }
    assert asked == there


def test_health(apps: list[Flask]) -> None:
    app, phoenix = apps[0], apps[0].extensions["phoenix"]
    with Client(app):
        answer: Any = app.test_client().get("/health")
        assert (answer.status_code, answer.json["status"], answer.json["connections"]) == (200, "ok", 1)
        phoenix.engine.node.adapter.tell_lost(True, "gone")
        phoenix.engine.draining = True
        answer = app.test_client().get("/health")
        assert (answer.status_code, answer.json["reasons"]) == (503, ["draining", "adapter lost"])
        phoenix.engine.node.adapter.tell_lost(False)


def test_metrics_need_an_app_with_phoenix() -> None:
    with pytest.raises(InvalidOption, match="init_app"):
        Flask(__name__).register_blueprint(Phoenix().metrics_blueprint())


class Traced(Socket):
    pass


@Traced.channel("room:*")
class Tracing(Channel):
    trace_key = "trace"

    def join(self, payload: Any) -> None:
        return None

    @on("say")
    def say(self, payload: Any) -> None:
        self.broadcast("said", {})

    @on("crash")
    def crash(self, payload: Any) -> None:
        raise RuntimeError("crash")

    @intercept("said")
    def said(self, payload: Any) -> None:
        self.push("said", payload)


def test_traces_go_on_from_clients_and_through_broadcasts() -> None:
    exporter, provider, network = InMemorySpanExporter(), TracerProvider(), list[MemoryAdapter]()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    apps = [Flask(__name__), Flask(__name__)]
    for app in apps:
        app.testing = True
        phoenix = Phoenix(app, MemoryAdapter(network))
        phoenix.socket("/socket")(Traced)
        phoenix.traces(app, provider=provider, broadcasts=True)
    shaken, told = (f"00-{digit * 32}-{digit * 16}-01" for digit in "ab")
    with Client(apps[0], headers={"traceparent": shaken}) as client, Client(apps[1]) as other:
        far, near = other.join("room:1"), client.join("room:1")
        near.push("say", {})
        far.assert_push("said")
        near.push("say", {"trace": told})
        far.assert_push("said")
        near.push("crash", {})
        near.assert_push("phx_error")
    spans = [
        (span.name, f"{span.context.trace_id:x}"[0], span.status.status_code is not StatusCode.ERROR)
        for span in exporter.get_finished_spans()
    ]
    said = [("handle_in room:* say", True), ("handle_out room:* said", True), ("handle_out room:* said", True)]
    expected = [(name, digit, ok) for digit in "ab" for name, ok in said]
    assert sorted(spans) == sorted([*expected, ("handle_in room:* crash", "a", False)])
    for app in apps:
        app.extensions["phoenix"].engine.stop()


APP = """
from flask import Flask
from flask_phoenix import Channel, Phoenix, Socket

phoenix = Phoenix()

@phoenix.socket("/socket")
class Visitor(Socket):
    pass

@Visitor.channel("room:*")
class Room(Channel):
    def join(self, payload):
        return None

def create_app():
    app = Flask(__name__)
    phoenix.init_app(app)
    app.register_blueprint(phoenix.metrics_blueprint())
    return app
"""
#: Enough for both workers to have some.
CLIENTS = 12
JOIN = '["1","1","room:1","phx_join",{}]'


def test_workers_of_gunicorn_answer_for_each_other(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "measured.py").write_text(APP)
    values = tmp_path / "values"
    values.mkdir()
    server = servers.start(
        *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"{HOST}:{{port}}"),
        "measured:create_app()",
        PROMETHEUS_MULTIPROC_DIR=str(values),
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    url = server.url("/socket/websocket?vsn=2.0.0", "ws")

    def seen() -> dict[tuple[str, ...], float]:
        with urlopen(server.url("/metrics"), timeout=START) as answer:
            return samples(answer.read().decode())

    with ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(connect(url, open_timeout=START))
            client.send(JOIN)
            client.recv(START)
        assert wait_until(lambda: seen()["phoenix_connections",] == CLIENTS, lambda: time.sleep(0.1), START)
        found = seen()
    assert found["phoenix_connects_total", "/socket", "websocket"] == CLIENTS
    assert found["phoenix_join_seconds_count", "/socket", "ok", "room:*"] == CLIENTS
