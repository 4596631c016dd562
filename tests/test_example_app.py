"""The example keeps its promises, seen through its views and through clients in memory."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from math import dist
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import channels, create_app, views
from example_app.city import LINES, SIZE, SPEED, Line
from example_app.game import channel
from example_app.history import KEPT
from example_app.rooms import LONGEST_NICKNAME, LONGEST_TEXT
from example_app.sockets import phoenix
from example_app.trams import TICK, Fleet, tell
from flask_phoenix import Broadcaster, NotPublished, Refused, Reply
from flask_phoenix.testing import Client, Joined
from tests.clients import driver
from tests.support.loop import turn
from tests.support.processes import DEADLINE, Servers
from tests.support.wire import Entry

CODE = "open sesame"
LOBBY = "room:lobby"
STAFF = "room:staff"

#: Lets somebody connect by a nickname.
Enter = Callable[[str], Client]


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "instance" / "chat.db")


@pytest.fixture
def app(database: str) -> Iterator[Flask]:
    app = create_app({"STAFF_CODE": CODE, "DATABASE": database})
    yield app
    app.extensions["phoenix"].engine.stop()


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def enter(app: Flask) -> Iterator[Enter]:
    clients = []

    def connect(nickname: str) -> Client:
        clients.append(Client(app, params={"nickname": nickname}))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def history(joined: Joined) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = joined.assert_push("history")["messages"]
    return messages


def change(joined: Joined, side: str, nickname: str) -> dict[str, Any]:
    """Wait until somebody comes or goes, or has another status; return the meta."""
    while nickname not in (diff := joined.assert_push("presence_diff"))[side]:
        pass
    (meta,) = diff[side][nickname]["metas"]
    found: dict[str, Any] = meta
    return found


# The pages


def test_page_offers_the_rooms_and_asks_no_other_host(http: FlaskClient) -> None:
    page, city = http.get("/chat").text, http.get("/map").text
    assert 'data-room="lobby"' in page
    assert (page.count("data-room="), page.count("data-locked"), page.count(CODE)) == (4, 1, 0)
    assert f'maxlength="{LONGEST_NICKNAME}"' in page
    assert f'maxlength="{LONGEST_TEXT}"' in page
    assert [f'data-line="{number}"' in city for number in range(10)] == [number in LINES for number in range(10)]
    assert ("//" in page, "//" in city, 'href="/map"' in page, 'href="/chat"' in city) == (False, False, True, True)


def test_start_page_shows_the_code_at_work(http: FlaskClient) -> None:
    page = http.get("/").text
    said = unescape(re.sub(r"<[^>]+>", "", page))
    at_work = (channels.RoomChannel, channels.LineChannel, channels.MapChannel, tell, channel.GameChannel, channel.tick)
    assert [inspect.getsource(part) in said for part in at_work] == [True] * 6
    assert [f'href="/{name}"' in page for name in ("chat", "map", "game")] == [True] * 3
    assert "//" not in page


def test_client_is_the_installed_one(http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.get("/vendor/phoenix.mjs") as response:
        assert response.mimetype == "text/javascript"
        assert response.data == (views.CLIENT / "phoenix.mjs").read_bytes()
    assert http.get("/vendor/../package.json").status_code == 404
    assert "npm ci" not in http.get("/").text
    monkeypatch.setattr(views, "CLIENT", tmp_path)
    assert "npm ci" in http.get("/").text
    assert http.get("/vendor/phoenix.mjs").status_code == 404


# The rooms


@pytest.mark.parametrize("nickname", ["", "  ", "x" * (LONGEST_NICKNAME + 1), "two\nlines", "turned\u202earound"])
def test_unfit_nickname_is_refused(app: Flask, enter: Enter, nickname: str) -> None:
    with pytest.raises(Refused):
        enter(nickname)
    with pytest.raises(Refused):
        Client(app, params={"nickname[]": "Ada"})


def test_history_greets_the_newcomer(enter: Enter, database: str) -> None:
    ada = enter("  Ada ").join(LOBBY)
    assert history(ada) == []
    for number in range(KEPT + 3):
        ada.call("new_msg", {"body": str(number)})
    messages = history(enter("Grace").join(LOBBY))
    assert [message["body"] for message in messages] == [str(number) for number in range(3, KEPT + 3)]
    assert {message["nickname"] for message in messages} == {"Ada"}
    assert history(enter("Grace").join("room:kitchen")) == []
    other = create_app({"DATABASE": database})  # another worker's
    with Client(other, params={"nickname": "Linus"}) as linus:
        assert history(linus.join(LOBBY)) == messages
    other.extensions["phoenix"].engine.stop()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [({}, "locked"), ([], "locked"), ({"code": 7}, "locked"), ({"code": f"{CODE} "}, "wrong code")],
)
def test_locked_room(enter: Enter, payload: Any, reason: str) -> None:
    ada, grace = enter("Ada").join(STAFF, {"code": CODE}), enter("Grace")
    with pytest.raises(Refused) as refused:
        grace.join(STAFF, payload)
    assert refused.value.response == {"reason": reason}
    with pytest.raises(Refused, match="no such room"):
        grace.join("room:nowhere")
    ada.call("new_msg", {"body": "between us"})
    grace.refute(lambda message: True)


def test_code_comes_from_the_environment_too(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_STAFF_CODE", "swordfish")
    monkeypatch.setenv("FLASK_DATABASE", database)
    assert create_app().config["STAFF_CODE"] == "swordfish"


def test_message_reaches_everybody_with_its_true_sender(enter: Enter) -> None:
    ada, grace = enter("Ada").join(LOBBY), enter("Grace").join(LOBBY)
    reply = ada.call("new_msg", {"body": " <b>hello</b>\n", "nickname": "Grace", "id": "1"})
    told = ada.assert_push("new_msg")
    assert told == grace.assert_push("new_msg")
    assert {"nickname": "Ada", "body": "<b>hello</b>", "id": reply.response["id"]}.items() <= told.items()
    assert ada.call("new_msg", {"body": "\u00f6" * LONGEST_TEXT}).status == "ok"


@pytest.mark.parametrize("payload", [{}, [], b"hello", {"body": None}, {"body": " \n\t "}])
def test_unfit_message_is_refused(enter: Enter, payload: Any) -> None:
    ada, grace = enter("Ada").join(LOBBY), enter("Grace").join(LOBBY)
    assert ada.call("new_msg", payload) == Reply("error", {"reason": "empty"})
    too_long = {"reason": "too long", "longest": LONGEST_TEXT}
    assert ada.call("new_msg", {"body": "x" * (LONGEST_TEXT + 1)}) == Reply("error", too_long)
    grace.refute_push("new_msg")


def test_everybody_is_told_who_is_here_and_how(enter: Enter) -> None:
    ada, client = enter("Ada").join(LOBBY), enter("Grace")
    change(ada, "joins", "Ada")
    enter("Ada").join(LOBBY)
    grace = client.join(LOBBY)
    state = grace.assert_push("presence_state")
    assert {nickname: len(presence["metas"]) for nickname, presence in state.items()} == {"Ada": 2, "Grace": 1}
    before = change(ada, "joins", "Grace")
    assert (before["typing"], before["away"]) == (False, False)
    for payload, typing in (({"typing": True}, True), ({"away": "yes", "typing": 0, "nickname": "Ada"}, True)):
        grace.push("status", payload)
        after = change(ada, "joins", "Grace")
        assert (after["typing"], after["at"], after["phx_ref_prev"]) == (typing, before["at"], before["phx_ref"])
        before = after
    grace.push("status", [])
    change(ada, "joins", "Grace")
    grace.leave()
    change(ada, "leaves", "Grace")
    client.join(LOBBY)
    client.close()
    change(ada, "leaves", "Grace")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"data": {"text": " Supper "}}, None),
        ({"json": {"text": "Supper"}}, None),
        ({}, "empty"),
        ({"json": ["text"]}, "empty"),
        ({"data": "{", "content_type": "application/json"}, "empty"),
        ({"data": {"text": "x" * (LONGEST_TEXT + 1)}}, "too long"),
    ],
)
def test_announcement(http: FlaskClient, enter: Enter, content: dict[str, Any], reason: str | None) -> None:
    ada = enter("Ada").join(LOBBY)
    response = http.post("/announce", **content)
    if reason is None:
        assert (response.status_code, response.json) == (200, {"text": "Supper"})
        assert ada.assert_push("announcement") == {"text": "Supper"}
    else:
        assert (response.status_code, response.get_json()["reason"]) == (400, reason)
        ada.refute_push("announcement")
    assert http.get("/announce").status_code == 405


# The map


def test_watcher_hears_the_lines_that_were_joined(app: Flask, enter: Enter) -> None:
    client = enter("Ada")
    ada, second, third = client.join("map"), client.join("map:2"), client.join("map:3")
    assert ada.response == {"worker": os.getpid()}
    assert ada.assert_push("presence_state").keys() == {"Ada"}
    with app.app_context():
        for line in (1, 2):
            phoenix.broadcast(f"map:{line}", "positions", {"line": line})
    assert second.assert_push("positions") == {"line": 2}
    third.refute_push("positions")
    for name in ("", "0", "9", "02", "Ring"):
        with pytest.raises(Refused, match="no such line"):
            client.join(f"map:{name}")


def test_stuck_phone_gets_the_newest_positions(app: Flask) -> None:
    entry = Entry(app, "/socket/websocket?vsn=2.0.0&nickname=Ada")
    phone = entry.wire
    phone.text('["1","1","map:4","phx_join",{}]')
    assert '"status":"ok"' in str(phone.data())
    for at in range(3000):
        with app.app_context():
            phoenix.broadcast("map:4", "positions", {"at": at, "trams": [[4000, 1.0, 2.0, 3]]})
        turn()
    heard: list[int] = []
    while not heard or heard[-1] < 2999:
        heard.append(json.loads(phone.data())[4]["at"])
    assert heard[:-1] == [*range(len(heard) - 1)], "what the network had taken, and then the newest"
    assert len(heard) < 2000
    entry.close()


@pytest.mark.parametrize("line", LINES.values(), ids=lambda line: str(line.number))
def test_trams_run_from_stop_to_stop_and_back(line: Line) -> None:
    places = [line.place(second / 10) for second in range(round(line.period * 10))]
    steps = [dist(one[:2], other[:2]) for one, other in zip(places, [*places[1:], places[0]], strict=True)]
    turns = sorted(steps)[-2:]  # at both ends a tram changes to the other rail
    assert all(step < 0.2 * SPEED for step in sorted(steps)[:-2])
    assert all(step < 12 for step in turns)
    assert all(0 < x < SIZE[0] and 0 < y < SIZE[1] for x, y, _ in places)
    assert line.place(1000) == pytest.approx(line.place(1000 + 7 * line.period))
    assert all(min(dist(line.along(stop)[:2], place[:2]) for place in places) < 6 for stop in line.stops)


def test_trams_keep_to_the_right() -> None:
    eastwards, middle, back = (LINES[1].along(100, direction) for direction in (1, 0, -1))
    assert (eastwards.heading, back.heading) == (0, 180)
    assert eastwards.y > middle.y > back.y


def test_fleet_is_the_same_in_each_process(tmp_path: Path) -> None:
    told = [Fleet(300).told(line, 1000.0) for line in LINES]
    assert told == [Fleet(300).told(line, 1000.0) for line in LINES]
    moved = [Fleet(300).told(line, 1000.0 + TICK) for line in LINES]
    before, after = ([tram for trams in each for tram in trams] for each in (told, moved))
    assert 150 < sum(one != other for one, other in zip(before, after, strict=True)) < len(before) == 300
    with Broadcaster(f"workers://{tmp_path}") as broadcaster, pytest.raises(NotPublished):
        tell(broadcaster, Fleet(10), 1000.0)


# All processes of it

LAUNCH = (sys.executable, "-m", "example_app", "--port", "{port}")


def family(pid: int) -> set[int]:
    """Return what a process has started, and what that has."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    young = {int(child) for child in children.read_text().split()}
    return young.union(*map(family, young))


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def meeting_place(pid: int) -> Path:
    """Return the directory of which a process was told."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    (url,) = (setting for setting in environment if setting.startswith("PHOENIX_PUBSUB_URL="))
    return Path(url.partition("://")[2])


def test_workers_are_one_town(servers: Servers) -> None:
    server = servers.start(*LAUNCH, "--workers", "3", **driver.STRICT)
    counted: set[int] = set()
    script = driver.Script("town.mjs", driver.base(server))
    try:
        driver.assert_good(script.result({"count": lambda: counted.update(family(server.pid))}))
    finally:
        script.close()
    assert len(counted) == 5  # the workers, their master, and the trams
    folder = meeting_place(max(counted))
    assert folder.is_dir()
    assert server.stop(signal.SIGINT) == 0
    assert [pid for pid in counted if runs(pid)] == []
    assert not folder.exists()
    assert "Traceback" not in server.logs()
    assert f"http://127.0.0.1:{server.port}/map " in server.logs()


def test_all_end_with_one(servers: Servers) -> None:
    server = servers.start(*LAUNCH, **driver.STRICT)
    server.wait_for_log("/map ")
    server.wait_for_log("hears signals", 2)
    children = family(server.pid)
    (trams,) = (pid for pid in children if b"example_app.trams" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(trams, signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 1
    assert [pid for pid in children if runs(pid)] == []
    assert "has ended" in server.logs()


def test_one_worker_does_without_gunicorn_and_a_taken_port_is_told(servers: Servers) -> None:
    server = servers.start(*LAUNCH, "--workers", "1", **driver.STRICT)
    server.wait_for_log("/map ")
    children = family(server.pid)
    command = [word.format(port=server.port) for word in LAUNCH]
    second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert second.returncode == 1
    assert second.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{server.port}: Address already in use")
    assert server.stop() == 0
    assert (len(children), [pid for pid in children if runs(pid)]) == (2, [])
    assert "gunicorn" not in server.logs()
