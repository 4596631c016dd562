"""What operators ask of all nodes, who may ask, and the commands that do."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from gevent import monkey

from flask_phoenix import Channel, InvalidOption, Phoenix, Socket, clock
from flask_phoenix.app_state import State
from flask_phoenix.cli.commands import phoenix
from flask_phoenix.cli.tail import as_text
from flask_phoenix.operations import answers, requests
from flask_phoenix.operations import cluster as asking
from flask_phoenix.operations.cluster import Cluster
from flask_phoenix.operations.requests import REQUEST, TOPIC, Request, write
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.testing import Client, MemoryAdapter
from tests.support import fleet
from tests.support.loop import turn
from tests.support.processes import DEADLINE, ROOT, START, Servers, wait_until

SECRET = "the secret of the app"


class Visitor(Socket):
    def id(self) -> str | None:
        return self.params.get("name")


@Visitor.channel("room:*")
class Room(Channel):
    def join(self, payload: Any) -> None:
        """Let in."""


def serve(network: list[MemoryAdapter], secret: str | None = SECRET) -> Flask:
    app = Flask(__name__)
    app.testing = True
    app.secret_key = secret
    Phoenix(app, MemoryAdapter(network)).socket("/socket")(Visitor)
    return app


def state_of(app: Flask) -> State:
    state: State = app.extensions["phoenix"]
    return state


class Town:
    """Two nodes that serve, with clients, and one that asks."""

    def __init__(self, stack: ExitStack) -> None:
        network: list[MemoryAdapter] = []
        self.apps = [serve(network), serve(network)]
        self.asker = serve(network)
        self.network = network
        self.stack = stack
        for app in (self.asker, *self.apps):
            stack.callback(state_of(app).engine.stop)
        self.ann = stack.enter_context(Client(self.apps[0], params={"name": "ann"}))
        self.ben = stack.enter_context(Client(self.apps[1], params={"name": "ben"}))
        self.eve = stack.enter_context(Client(self.apps[1]))
        for client in (self.ann, self.ben, self.eve):
            client.join("room:1")
        self.ben.join("room:2")
        self.cluster = self.ask_as(self.asker)

    def ask_as(self, app: Flask) -> Cluster:
        """Return what asks, from an app's process."""
        state_of(app).engine.node.become()
        return self.stack.enter_context(state_of(app).cluster())

    def publish(self, **about: Any) -> None:
        """Publish a request as anybody might who reaches the other nodes."""
        state_of(self.asker).engine.broadcast(Broadcast(TOPIC, REQUEST, about))
        turn()

    @property
    def refused(self) -> int:
        return state_of(self.apps[0]).engine.limits["operator_requests"]


class Answered:
    """In the place of the event that is waited for: all nodes are in this process, and need no more than its turns."""

    def wait(self, timeout: float) -> None:
        turn(20)

    def set(self) -> None:
        """Wait no longer, and no less long."""


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setattr(asking, "Event", Answered)
    with ExitStack() as stack:
        yield Town(stack)


def test_each_node_reports(town: Town) -> None:
    first, second = town.cluster.reports()
    assert {first["node"], second["node"]} == {state_of(app).engine.node.name for app in town.apps}
    assert sorted(report["connections"] for report in (first, second)) == [1, 2]
    assert first["slowest"] == []


def test_a_node_that_asks_itself_answers_too(town: Town) -> None:
    with Client(town.asker):
        assert len(town.ask_as(town.asker).reports()) == 3


def test_connections_are_found_by_what_they_are(town: Town) -> None:
    def found(**filters: str) -> list[Any]:
        count, connections = town.cluster.connections(100, **filters)
        assert count == len(connections)
        return sorted(str(each["id"]) for each in connections)

    assert found() == ["None", "ann", "ben"]
    assert found(id="ann") == ["ann"]
    assert found(topic="room:2") == ["ben"]
    assert found(topic="room:*") == ["None", "ann", "ben"]
    assert found(topic="room:1", id="ben") == ["ben"]
    assert found(mount="/other") == found(transport="longpoll") == []
    _, (ben,) = town.cluster.connections(id="ben")
    assert found(connection=ben["connection"]) == ["ben"]
    assert (ben["channels"], ben["topics"], ben["socket"]) == (2, ["room:1", "room:2"], "Visitor")


def test_no_more_are_named_than_asked_for(town: Town) -> None:
    count, connections = town.cluster.connections(limit=1)
    assert (count, len(connections)) == (3, 1)
    assert town.cluster.topics(limit=1) == (2, {"room:1": 3})


def test_topics_of_a_pattern_the_largest_first(town: Town) -> None:
    assert town.cluster.topics("room:*") == (2, {"room:1": 3, "room:2": 1})
    assert town.cluster.topics("room:2") == (1, {"room:2": 1})


def test_one_connection_is_closed_or_all_that_the_filters_leave(town: Town) -> None:
    (eve,) = (each for each in town.cluster.connections()[1] if each["id"] is None)
    assert town.cluster.disconnect(connection=eve["connection"]) == 1
    assert town.eve.closed is not None
    assert town.ben.closed is None
    assert town.cluster.disconnect(topic="room:*") == 2
    assert town.cluster.connections() == (0, [])


def test_nothing_is_closed_where_no_filter_is_given(town: Town) -> None:
    with pytest.raises(InvalidOption, match="say which connections: connection, id, mount, topic, transport"):
        town.cluster.disconnect()
    assert town.cluster.connections()[0] == 3


@pytest.mark.parametrize("about", [{"limit": 0}, {"limit": "9"}, {"limit": True}, {"id": 7}, {"topic": ["a"]}])
def test_what_cannot_be_asked_is_answered_with_the_reason(town: Town, about: dict[str, Any]) -> None:
    answered = town.cluster.ask("connections", **about).by_node.values()
    assert len(answered) == 2
    assert all(next(iter(about)) in answer["error"] for answer in answered)


def test_a_request_of_a_later_version_is_answered(town: Town) -> None:
    (answer, _) = town.cluster.ask("everything").by_node.values()
    assert "older version" in answer["error"]


def test_a_node_that_has_ended_is_missed_once(town: Town) -> None:
    town.cluster.reports()
    state_of(town.apps[0]).engine.stop()
    answers = town.cluster.ask("report")
    assert (len(answers.by_node), len(answers.missing)) == (1, 1)
    assert town.cluster.ask("report").missing == set()


def test_who_has_another_secret_is_not_answered(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    app = serve(town.network, "a guess")
    town.stack.callback(state_of(app).engine.stop)
    other = town.ask_as(app)
    assert other.reports() == other.reports() == []
    assert town.refused == 2
    assert [record.message for record in caplog.records if "refused" in record.message] == [
        "a request of an operator was refused, and others may follow: the token was not signed with this SECRET_KEY and"
        " salt: use those of sign_token (an old key may stand in SECRET_KEY_FALLBACKS)"
    ] * 2  # of each node


@pytest.mark.parametrize("token", [None, 7, "", "a.b.c", "x" * 100_000])
def test_what_is_no_request_is_refused(town: Town, token: Any) -> None:
    town.publish(token=token)
    assert town.refused == 1
    assert len(town.cluster.reports()) == 2


def test_a_request_does_its_work_once(town: Town) -> None:
    town.cluster.reports()
    token = write(Request("an id", "phx:operator:x", "disconnect", {"id": "ann"}), SECRET)
    town.publish(token=token)
    assert town.ann.closed is not None
    with Client(town.apps[0], params={"name": "ann"}) as again:
        town.publish(token=token)
        assert again.closed is None
        assert town.refused == 1


@pytest.mark.parametrize("seconds", [31, -31])
def test_a_request_is_refused_that_is_old_or_of_the_future(
    town: Town, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request("an id", "phx:operator:x", "disconnect", {"id": "ann"})
    then = clock.time() - seconds
    with monkeypatch.context() as patched:
        patched.setattr(clock, "time", lambda: then)
        token = write(request, SECRET)
    town.publish(token=token)
    assert town.ann.closed is None
    assert town.refused == 1


def test_more_requests_than_are_remembered_are_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REMEMBERED", 2)
    assert [len(town.cluster.reports()) for _ in range(3)] == [2, 2, 0]


def test_a_clock_that_is_set_back_lets_requests_be_forgotten(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REMEMBERED", 3)
    now = clock.time()
    for at in (now, now - 3600, now - 3600, now - 3600 + 2.1 * requests.MAX_SKEW):
        monkeypatch.setattr(clock, "time", lambda at=at: at)
        assert len(town.cluster.reports()) == 2


def test_no_client_can_join_the_topics_of_operators(town: Town) -> None:
    with pytest.raises(Exception, match="unmatched topic"):
        town.ann.join(TOPIC)


def test_an_app_without_a_secret_hears_no_request_and_sends_none(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    bare = serve(town.network, None)
    with Client(bare):
        assert not state_of(bare).engine.pubsub.subscribed(TOPIC)
        with pytest.raises(InvalidOption, match="SECRET_KEY"):
            town.ask_as(bare)
    state_of(bare).engine.stop()
    assert caplog.get_records("call") == [r for r in caplog.get_records("call") if r.levelno < logging.WARNING]


def test_what_is_walked_over_lets_others_have_their_turn(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE", 1)
    assert town.cluster.topics() == (2, {"room:1": 3, "room:2": 1})
    assert town.cluster.connections()[0] == 3


# The commands, as the asker's process runs them.


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command run in this process, which it does not patch."""
    monkeypatch.setattr(monkey, "patch_all", lambda: None)


def run(town: Town, *words: str, app: Flask | None = None) -> Result:
    return CliRunner().invoke(phoenix, words, obj=ScriptInfo(create_app=lambda: app or town.asker))


@pytest.mark.usefixtures("here")
def test_sockets_lists_and_closes(town: Town) -> None:
    listed = run(town, "sockets", "--id", "ben").output.splitlines()
    assert listed[0].split() == ["CONNECTION", "ID", "MOUNT", "BY", "AGE", "WAITS", "TOPICS"]
    assert [word for number, word in enumerate(listed[1].split()) if number not in (0, 4)] == [
        "ben",
        "/socket",
        "websocket",
        "0B",
        "room:1",
        "room:2",
    ]
    assert listed[2] == "1 of 1 connections on 2 processes"
    closed = run(town, "sockets", "--id", "ben", "--disconnect", "--yes")
    assert (closed.exit_code, closed.stderr) == (0, "1 closed\n")
    assert town.ben.closed is not None
    assert town.ann.closed is None


@pytest.mark.usefixtures("here")
def test_sockets_asks_before_it_closes(town: Town) -> None:
    assert run(town, "sockets", "--topic", "room:*", "--disconnect").exit_code == 1
    assert town.ann.closed is town.ben.closed is None


@pytest.mark.usefixtures("here")
def test_sockets_closes_nobody_without_a_filter(town: Town) -> None:
    closed = run(town, "sockets", "--disconnect", "--yes")
    assert (closed.exit_code, "say which connections to close" in closed.stderr) == (2, True)


@pytest.mark.usefixtures("here")
def test_sockets_writes_json(town: Town) -> None:
    found = json.loads(run(town, "sockets", "--json", "--limit", "1").output)
    assert (found["count"], len(found["connections"])) == (3, 1)


@pytest.mark.usefixtures("here")
def test_top_writes_json_and_draws(town: Town) -> None:
    (line,) = run(town, "top", "--once", "--json", "--every", "0.5").output.splitlines()
    assert [node["connections"] for node in json.loads(line)["nodes"]] in ([1, 2], [2, 1])
    drawn = run(town, "top", "--every", "0.5").output
    assert "2 processes  3 connections  4 channels" in drawn
    assert re.search(r"^ +3  room:1\s*$", drawn, re.MULTILINE)
    assert "\x1b" not in drawn
    assert max(map(len, drawn.splitlines())) <= 80


@pytest.mark.usefixtures("here")
def test_top_says_what_it_lacks(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flask_phoenix.cli.picture", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert "pip install 'flask-phoenix[top]'" in run(town, "top", "--once").stderr
    assert "top" in run(town, "--help").output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("topic", ["room:1", "room:*"])
def test_tail_shows_what_is_broadcast(town: Town, topic: str) -> None:
    running = gevent.spawn(run, town, "tail", "--json", topic)
    engine = state_of(town.asker).engine
    assert wait_until(lambda: engine.pubsub.subscribed("room:1"), turn, DEADLINE)
    state_of(town.apps[0]).broadcast("room:1", "news", {"n": 1})
    state_of(town.apps[1]).broadcast("room:1", "file", b"\x01\xff")
    turn()
    running.kill(KeyboardInterrupt, block=False)
    result = running.get(timeout=DEADLINE)
    assert result.exit_code == 0
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["topic"], each["event"], each.get("payload"), each.get("hex")) for each in told] == [
        ("room:1", "news", {"n": 1}, None),
        ("room:1", "file", None, "01ff"),
    ]


@pytest.mark.usefixtures("here")
def test_tail_writes_for_people(town: Town) -> None:
    running = gevent.spawn(run, town, "tail", "room:1")
    assert wait_until(lambda: state_of(town.asker).engine.pubsub.subscribed("room:1"), turn, DEADLINE)
    state_of(town.apps[0]).broadcast("room:1", "news", {"text": "ä" * 500})
    turn()
    running.kill(KeyboardInterrupt, block=False)
    (line,) = running.get(timeout=DEADLINE).stdout.splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{3}  room:1  news  \{"text": "ä+…', line)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("topic", ["room:\x1b]0;owned\x07", "room:1\nroom:2", "room:\x9b31m"])
def test_what_a_client_chooses_does_nothing_to_the_terminal(town: Town, topic: str) -> None:
    shown = ascii(topic)[1:-1]
    with Client(town.apps[0]) as mallory:
        mallory.join(topic)
        for words in (("sockets", "--topic", topic), ("top", "--once")):
            lines = run(town, *words).output.splitlines()
            assert [line for line in lines if shown in line], words
            assert all(line.isprintable() for line in lines), words
    line = as_text(Broadcast(topic, topic, {"text": topic}))
    assert line.isprintable()
    assert line.count(shown) >= 2


def test_an_answer_is_bounded_whatever_topics_are_called(town: Town) -> None:
    with Client(town.apps[0], params={"name": "zoe"}) as zoe:
        for number in range(30):
            zoe.join(f"room:{number:02}{'x' * 900}")
        _, (listed,) = town.cluster.connections(id="zoe")
        assert (listed["channels"], sum(map(len, listed["topics"]))) == (30, answers.NAMED_CHARACTERS)
        _, (opened,) = town.cluster.connections(connection=listed["connection"])
        assert [len(topic) for topic in opened["topics"]] == [907] * answers.NAMED_TOPICS


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [("top", "--once"), ("sockets",), ("tail", "room:1")])
def test_who_has_no_secret_is_shown_nothing(town: Town, words: tuple[str, ...]) -> None:
    for secret, why in (("a guess", "no process has answered"), (None, "SECRET_KEY")):
        result = run(town, *words, app=serve(town.network, secret))
        assert (result.exit_code, why in result.stderr, result.stdout) == (1, True, "")


@pytest.mark.usefixtures("here")
def test_a_command_that_reaches_nobody_says_what_to_set() -> None:
    app = Flask(__name__)
    app.secret_key = SECRET
    Phoenix(app)
    result = CliRunner().invoke(phoenix, ["sockets"], obj=ScriptInfo(create_app=lambda: app))
    assert (result.exit_code, "set PHOENIX_PUBSUB_URL" in result.stderr) == (1, True)


class Commands:
    """Commands in processes of their own, of the app that a fleet serves."""

    def __init__(self, stack: ExitStack, environment: dict[str, str]) -> None:
        self._stack = stack
        self._environment = {**os.environ, **environment}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin one; it is ended with the test, if it has not been before."""
        command = (sys.executable, "-m", "flask", "--app", fleet.APP, "phoenix", *words)
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=self._environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def run(self, *words: str) -> tuple[str, str]:
        """Run one to its good end; return what it has written."""
        process = self.start(*words)
        told = process.communicate(timeout=START)
        assert process.returncode == 0, told
        return told


def test_a_command_reaches_the_workers_of_gunicorn(servers: Servers, short_path: Path) -> None:
    environment = {"PHOENIX_PUBSUB_URL": f"workers://{short_path}/nodes"}
    clients = fleet.start(servers, environment, workers=2).tabs()
    with ExitStack() as stack:
        listed = Commands(stack, environment).run("sockets", "--json")[0]
    assert json.loads(listed)["count"] == len(clients) == 2


def test_commands_reach_the_processes_that_serve_over_redis(servers: Servers, redis_url: str) -> None:
    environment = {"PHOENIX_PUBSUB_URL": redis_url}
    served = fleet.start(servers, environment, workers=2)
    clients = served.tabs(user="ann")
    for client in clients:
        client.join("room:1")
    with ExitStack() as stack:
        commands = Commands(stack, environment)
        (line,) = commands.run("top", "--once", "--json", "--every", "0.5")[0].splitlines()
        nodes = json.loads(line)["nodes"]
        assert {node["pid"]: node["connections"] for node in nodes} == dict.fromkeys(served.workers(), 1)
        assert [node["largest_topics"] for node in nodes] == [[{"topic": "room:1", "subscribers": 1}]] * 2

        tail = commands.start("tail", "--json", "room:*")
        assert tail.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda output: lines.extend(iter(output.readline, "")), args=[tail.stdout])
        reader.start()
        # What is broadcast before it listens, it does not show.
        assert wait_until(lambda: len(lines) > 1, lambda: clients[0].push("shout", {"n": 1}), START)
        tail.terminate()
        reader.join(DEADLINE)
        assert (tail.wait(DEADLINE), tail.stderr and tail.stderr.read()) == (0, "")
        told = [json.loads(line) for line in lines]
        assert {(each["topic"], each["event"], each["payload"]["n"]) for each in told} == {("room:1", "shout", 1)}

        listed = json.loads(commands.run("sockets", "--json", "--id", "ann")[0])
        assert (listed["count"], [each["topics"] for each in listed["connections"]]) == (2, [["room:1"]] * 2)
        assert commands.run("sockets", "--topic", "room:*", "--disconnect", "--yes")[1] == "2 closed\n"
        assert [client.closed() for client in clients] == [1001, 1001]
