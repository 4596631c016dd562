"""What operators ask of all nodes, who may ask, and the commands that do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask

from flask_phoenix import Channel, InvalidOption, Phoenix, Socket, clock
from flask_phoenix.extension import State
from flask_phoenix.operations import answers, requests
from flask_phoenix.operations.cluster import Cluster
from flask_phoenix.operations.requests import REQUEST, TOPIC, Request, write
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.testing import Client, MemoryAdapter
from tests.support.loop import turn

SECRET = "the secret of the app"
#: Seconds for nodes that are in the same process.
SOON = 0.05


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
        return self.stack.enter_context(state_of(app).cluster(SOON))

    def publish(self, **about: Any) -> None:
        """Publish a request as anybody might who reaches the other nodes."""
        state_of(self.asker).engine.broadcast(Broadcast(TOPIC, REQUEST, about))
        turn()

    @property
    def refused(self) -> int:
        return state_of(self.apps[0]).engine.limits["operator_requests"]


@pytest.fixture
def town() -> Iterator[Town]:
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
        count, connections = town.cluster.connections(**filters)
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
    assert town.cluster.topics("room:*", limit=1) == (2, {"room:1": 3})


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
    now = clock.time()
    monkeypatch.setattr(clock, "time", lambda: now - seconds)
    token = write(request, SECRET)
    monkeypatch.undo()
    town.publish(token=token)
    assert town.ann.closed is None
    assert town.refused == 1


def test_more_requests_than_are_remembered_are_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REMEMBERED", 2)
    assert [len(town.cluster.reports()) for _ in range(3)] == [2, 2, 0]


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
    assert town.cluster.topics("room:*") == (2, {"room:1": 3, "room:2": 1})
    assert town.cluster.connections()[0] == 3
