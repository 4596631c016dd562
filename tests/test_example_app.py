"""The example keeps its promises, seen through its views and through clients in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import dist
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app, views
from example_app.city import LINES, SIZE, SPEED, Line
from example_app.history import KEPT
from example_app.rooms import LONGEST_NICKNAME, LONGEST_TEXT
from example_app.sockets import phoenix
from example_app.trams import TICK, Fleet, tell
from flask_phoenix import Broadcaster, NotPublished, Refused, Reply
from flask_phoenix.testing import Client, Joined
from tests.clients import driver
from tests.processes import DEADLINE, Servers

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
    app.extensions["phoenix"].engine.hub.stop()


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
    messages: list[dict[str, Any]] = joined.expect("history")["messages"]
    return messages


def bodies(joined: Joined) -> list[str]:
    return [message["body"] for message in history(joined)]


def room_of(joined: Joined) -> dict[str, Any]:
    """Return who was there when somebody came."""
    state: dict[str, Any] = joined.expect("presence_state")
    return state


def change(joined: Joined, side: str, nickname: str) -> dict[str, Any]:
    """Wait until somebody comes or goes, or has another status; return the meta."""
    while nickname not in (diff := joined.expect("presence_diff"))[side]:
        pass
    (meta,) = diff[side][nickname]["metas"]
    found: dict[str, Any] = meta
    return found


# The pages


def test_page_offers_the_rooms(http: FlaskClient) -> None:
    page = http.get("/").text
    assert 'data-room="lobby"' in page
    assert page.count("data-room=") == 4
    assert page.count("data-locked") == 1
    assert CODE not in page
    assert "npm ci" not in page


@pytest.mark.parametrize("path", ["/", "/map"])
def test_page_needs_no_other_host(http: FlaskClient, path: str) -> None:
    assert "//" not in http.get(path).text


def test_map_offers_the_lines(http: FlaskClient) -> None:
    page = http.get("/map").text
    assert [f'data-line="{number}"' in page for number in range(10)] == [number in LINES for number in range(10)]
    assert page.count("<polyline") == len(LINES)


def test_pages_lead_to_each_other(http: FlaskClient) -> None:
    assert 'href="/map"' in http.get("/").text
    assert 'href="/"' in http.get("/map").text


def test_page_and_server_agree_on_lengths(http: FlaskClient) -> None:
    page = http.get("/").text
    assert f'maxlength="{LONGEST_NICKNAME}"' in page
    assert f'maxlength="{LONGEST_TEXT}"' in page


def test_client_is_the_installed_one(http: FlaskClient) -> None:
    with http.get("/vendor/phoenix.mjs") as response:
        assert response.mimetype == "text/javascript"
        assert response.data == (views.CLIENT / "phoenix.mjs").read_bytes()
    assert '"phoenix": "/vendor/phoenix.mjs"' in http.get("/").text


@pytest.mark.parametrize("path", ["/", "/map"])
def test_page_says_how_to_install_the_client(
    http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    assert "npm ci" not in http.get(path).text
    monkeypatch.setattr(views, "CLIENT", tmp_path)
    assert "npm ci" in http.get(path).text
    assert http.get("/vendor/phoenix.mjs").status_code == 404


def test_nothing_else_of_the_folder_is_served(http: FlaskClient) -> None:
    assert http.get("/vendor/phoenix.js").status_code == 404
    assert http.get("/vendor/../package.json").status_code == 404


# Who may connect


def test_nickname_is_trimmed(enter: Enter) -> None:
    ada, grace = enter("  Ada ").join(LOBBY), enter("Grace").join(LOBBY)
    ada.call("new_msg", {"body": "hello"})
    assert grace.expect("new_msg")["nickname"] == "Ada"


@pytest.mark.parametrize("nickname", ["", "  ", "x" * (LONGEST_NICKNAME + 1), "two\nlines", "turned\u202earound"])
def test_unfit_nickname_is_refused(enter: Enter, nickname: str) -> None:
    with pytest.raises(Refused):
        enter(nickname)


@pytest.mark.parametrize("params", [{}, {"nickname[]": "Ada"}, {"nickname[first]": "Ada"}])
def test_nickname_is_wanted_as_text(app: Flask, params: dict[str, str]) -> None:
    with pytest.raises(Refused):
        Client(app, params=params)


# Joining


def test_history_greets_the_newcomer(enter: Enter) -> None:
    ada = enter("Ada").join(LOBBY)
    sent = [ada.call("new_msg", {"body": body}).response["id"] for body in ("one", "two")]
    messages = history(enter("Grace").join(LOBBY))
    assert [message["id"] for message in messages] == sent
    assert [(message["nickname"], message["body"]) for message in messages] == [("Ada", "one"), ("Ada", "two")]
    assert messages[0]["at"] <= messages[1]["at"]


def test_history_begins_empty_and_is_bounded(enter: Enter) -> None:
    ada = enter("Ada").join(LOBBY)
    assert bodies(ada) == []
    for number in range(KEPT + 3):
        ada.call("new_msg", {"body": str(number)})
    assert bodies(enter("Grace").join(LOBBY)) == [str(number) for number in range(3, KEPT + 3)]


def test_each_room_has_a_history_of_its_own(enter: Enter) -> None:
    ada = enter("Ada")
    ada.join(LOBBY).call("new_msg", {"body": "in the lobby"})
    assert bodies(ada.join("room:kitchen")) == []


def test_workers_share_the_history_of_their_database(enter: Enter, database: str, tmp_path: Path) -> None:
    enter("Ada").join(LOBBY).call("new_msg", {"body": "here"})
    for path, expected in ((database, ["here"]), (str(tmp_path / "other.db"), [])):
        other = create_app({"DATABASE": path})
        stranger = Client(other, params={"nickname": "Stranger"})
        assert bodies(stranger.join(LOBBY)) == expected
        stranger.close()
        other.extensions["phoenix"].engine.hub.stop()


def test_unknown_room_is_refused(enter: Enter) -> None:
    with pytest.raises(Refused) as refused:
        enter("Ada").join("room:nowhere")
    assert refused.value.response == {"reason": "no such room"}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, "locked"),
        ([], "locked"),
        ("text", "locked"),
        ({"code": None}, "locked"),
        ({"code": 7}, "locked"),
        ({"code": ""}, "wrong code"),
        ({"code": f"{CODE} "}, "wrong code"),
        ({"code": "ö🔑"}, "wrong code"),
    ],
)
def test_locked_room_is_refused(enter: Enter, payload: Any, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        enter("Ada").join(STAFF, payload)
    assert refused.value.response == {"reason": reason}


def test_code_opens_the_locked_room(enter: Enter) -> None:
    ada = enter("Ada").join(STAFF, {"code": CODE})
    change(ada, "joins", "Ada")
    ada.call("new_msg", {"body": "between us"})
    grace = enter("Grace")
    with pytest.raises(Refused):
        grace.join(STAFF)
    ada.refute("presence_diff")
    assert bodies(grace.join(STAFF, {"code": CODE})) == ["between us"]


def test_refused_client_hears_nothing_of_the_room(enter: Enter, caplog: pytest.LogCaptureFixture) -> None:
    ada, grace = enter("Ada").join(STAFF, {"code": CODE}), enter("Grace")
    with pytest.raises(Refused):
        grace.join(STAFF)
    ada.call("new_msg", {"body": "between us"})
    grace.refute(lambda message: True)
    assert caplog.messages == []


def test_code_comes_from_the_environment_too(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_STAFF_CODE", "swordfish")
    monkeypatch.setenv("FLASK_DATABASE", database)
    assert create_app().config["STAFF_CODE"] == "swordfish"


# Talking


def test_message_reaches_everybody_with_its_true_sender(enter: Enter) -> None:
    ada, grace = enter("Ada").join(LOBBY), enter("Grace").join(LOBBY)
    reply = ada.call("new_msg", {"body": " <b>hello</b>\n", "nickname": "Grace", "id": "1"})
    told = ada.expect("new_msg")
    assert told == grace.expect("new_msg")
    assert {"nickname": "Ada", "body": "<b>hello</b>", "id": reply.response["id"]}.items() <= told.items()


@pytest.mark.parametrize(
    ("payload", "response"),
    [
        ({}, {"reason": "empty"}),
        ([], {"reason": "empty"}),
        (b"hello", {"reason": "empty"}),
        ({"body": None}, {"reason": "empty"}),
        ({"body": {"html": "hello"}}, {"reason": "empty"}),
        ({"body": " \n\t "}, {"reason": "empty"}),
        ({"body": "x" * (LONGEST_TEXT + 1)}, {"reason": "too long", "longest": LONGEST_TEXT}),
    ],
)
def test_unfit_message_is_refused(enter: Enter, payload: Any, response: dict[str, Any]) -> None:
    ada, grace = enter("Ada").join(LOBBY), enter("Grace").join(LOBBY)
    assert ada.call("new_msg", payload) == Reply("error", response)
    grace.refute("new_msg")
    assert bodies(enter("Linus").join(LOBBY)) == []


def test_longest_message_is_taken(enter: Enter) -> None:
    ada = enter("Ada").join(LOBBY)
    assert ada.call("new_msg", {"body": "ö" * LONGEST_TEXT}).status == "ok"


# Who is here


def test_newcomer_is_told_who_is_here(enter: Enter) -> None:
    enter("Ada").join(LOBBY)
    state = room_of(enter("Grace").join(LOBBY))
    assert state.keys() == {"Ada", "Grace"}
    (meta,) = state["Ada"]["metas"]
    assert (meta["away"], meta["typing"]) == (False, False)
    assert 0 < meta["at"] <= state["Grace"]["metas"][0]["at"]


def test_others_are_told_who_came_and_who_went(enter: Enter) -> None:
    ada, client = enter("Ada").join(LOBBY), enter("Grace")
    change(ada, "joins", "Ada")
    grace = client.join(LOBBY)
    change(ada, "joins", "Grace")
    grace.leave()
    change(ada, "leaves", "Grace")
    client.join(LOBBY)
    change(ada, "joins", "Grace")
    client.close()
    change(ada, "leaves", "Grace")


def test_second_tab_is_the_same_person(enter: Enter) -> None:
    tab = enter("Ada").join(LOBBY)
    enter("Ada").join(LOBBY)
    state = room_of(enter("Grace").join(LOBBY))
    assert {nickname: len(presence["metas"]) for nickname, presence in state.items()} == {"Ada": 2, "Grace": 1}
    tab.leave()
    assert len(room_of(enter("Linus").join(LOBBY))["Ada"]["metas"]) == 1


def test_status_is_told(enter: Enter) -> None:
    ada, grace = enter("Ada").join(LOBBY), enter("Grace").join(LOBBY)
    change(grace, "joins", "Grace")
    ada.push("status", {"typing": True})
    typing = change(grace, "joins", "Ada")
    assert (typing["typing"], typing["away"]) == (True, False)
    ada.push("status", {"away": True, "typing": False})
    away = change(grace, "joins", "Ada")
    assert (away["typing"], away["away"], away["phx_ref_prev"]) == (False, True, typing["phx_ref"])
    assert away["at"] == typing["at"]


@pytest.mark.parametrize("payload", [{}, [], "text", b"bytes", {"away": "yes", "typing": 1}, {"nickname": "Grace"}])
def test_unfit_status_changes_nothing(enter: Enter, payload: Any) -> None:
    ada = enter("Ada").join(LOBBY)
    before = change(ada, "joins", "Ada")
    ada.push("status", payload)
    after = change(ada, "joins", "Ada")
    assert {**before, "phx_ref": after["phx_ref"], "phx_ref_prev": before["phx_ref"]} == after


def test_status_stays_in_its_room(enter: Enter) -> None:
    ada, grace = enter("Ada"), enter("Grace").join(LOBBY)
    change(grace, "joins", "Grace")
    ada.join("room:kitchen").push("status", {"typing": True})
    grace.refute("presence_diff")


# Announcing


@pytest.mark.parametrize("how", ["data", "json"])
def test_announcement_reaches_everybody(http: FlaskClient, enter: Enter, how: str) -> None:
    ada, grace = enter("Ada").join(LOBBY), enter("Grace").join(LOBBY)
    response = http.post("/announce", **{how: {"text": " Supper is ready "}})
    assert (response.status_code, response.json) == (200, {"text": "Supper is ready"})
    assert ada.expect("announcement") == grace.expect("announcement") == {"text": "Supper is ready"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "empty"),
        ({"data": {"text": "  "}}, "empty"),
        ({"json": {"text": 7}}, "empty"),
        ({"json": ["text"]}, "empty"),
        ({"data": "{", "content_type": "application/json"}, "empty"),
        ({"data": {"text": "x" * (LONGEST_TEXT + 1)}}, "too long"),
    ],
)
def test_unfit_announcement_is_refused(http: FlaskClient, enter: Enter, content: dict[str, Any], reason: str) -> None:
    ada = enter("Ada").join(LOBBY)
    response = http.post("/announce", **content)
    assert response.status_code == 400
    assert response.get_json()["reason"] == reason
    ada.refute("announcement")


def test_announcement_is_posted(http: FlaskClient) -> None:
    assert http.get("/announce").status_code == 405


# The map


def test_watchers_are_told_of_each_other(enter: Enter) -> None:
    ada = enter("Ada").join("map")
    assert ada.response == {"worker": os.getpid()}
    assert room_of(ada).keys() == {"Ada"}
    change(ada, "joins", "Ada")
    enter("Grace").join("map")
    change(ada, "joins", "Grace")
    assert room_of(enter("Linus").join(LOBBY)).keys() == {"Linus"}


def test_watcher_hears_the_lines_that_were_joined(app: Flask, enter: Enter) -> None:
    ada = enter("Ada")
    second, third = ada.join("map:2"), ada.join("map:3")
    with app.app_context():
        for line in (1, 2):
            phoenix.broadcast(f"map:{line}", "positions", {"line": line})
    assert second.expect("positions") == {"line": 2}
    third.refute("positions")


@pytest.mark.parametrize("line", ["", "0", "9", "02", "Ring"])
def test_unknown_line_is_refused(enter: Enter, line: str) -> None:
    with pytest.raises(Refused) as refused:
        enter("Ada").join(f"map:{line}")
    assert refused.value.response == {"reason": "no such line"}


@pytest.mark.parametrize("line", LINES.values(), ids=lambda line: str(line.number))
def test_trams_run_from_stop_to_stop_and_back(line: Line) -> None:
    places = [line.place(second / 10) for second in range(round(line.period * 10))]
    steps = [dist(one[:2], other[:2]) for one, other in zip(places, [*places[1:], places[0]], strict=True)]
    turns = sorted(steps)[-2:]  # at both ends a tram changes to the other rail
    assert all(step < 0.2 * SPEED for step in sorted(steps)[:-2])
    assert all(step < 12 for step in turns)
    assert all(0 < x < SIZE[0] and 0 < y < SIZE[1] for x, y, _ in places)
    assert line.place(1000) == pytest.approx(line.place(1000 + 7 * line.period))
    for stop in line.stops:
        assert min(dist(line.along(stop)[:2], place[:2]) for place in places) < 6


def test_trams_keep_to_the_right() -> None:
    eastwards, middle, back = (LINES[1].along(100, direction) for direction in (1, 0, -1))
    assert (eastwards.heading, back.heading) == (0, 180)
    assert eastwards.y > middle.y > back.y


def test_fleet_is_the_same_in_each_process() -> None:
    told = [Fleet(300).told(line, 1000.0) for line in LINES]
    assert told == [Fleet(300).told(line, 1000.0) for line in LINES]
    assert len({tram[0] for trams in told for tram in trams}) == sum(map(len, told)) == 300
    moved = [Fleet(300).told(line, 1000.0 + TICK) for line in LINES]
    before, after = ([tram for trams in each for tram in trams] for each in (told, moved))
    assert 150 < sum(one != other for one, other in zip(before, after, strict=True)) < 300


def test_nobody_hears_trams_where_nobody_serves(tmp_path: Path) -> None:
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


def test_one_worker_does_without_gunicorn(servers: Servers) -> None:
    server = servers.start(*LAUNCH, "--workers", "1", **driver.STRICT)
    server.wait_for_log("/map ")
    children = family(server.pid)
    assert server.stop() == 0
    assert (len(children), [pid for pid in children if runs(pid)]) == (2, [])
    assert "gunicorn" not in server.logs()


def test_all_end_with_one(servers: Servers) -> None:
    server = servers.start(*LAUNCH, **driver.STRICT)
    server.wait_for_log("/map ")
    children = family(server.pid)
    (trams,) = (pid for pid in children if b"example_app.trams" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(trams, signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 1
    assert [pid for pid in children if runs(pid)] == []
    assert "has ended" in server.logs()


def test_taken_port_is_told(servers: Servers) -> None:
    server = servers.start(*LAUNCH, "--workers", "1", **driver.STRICT)
    command = [word.format(port=server.port) for word in LAUNCH]
    second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert second.returncode == 1
    assert second.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{server.port}: Address already in use")
