"""The example keeps its promises, seen through its views and through clients in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app, views
from example_app.rooms import KEPT, LONGEST_NICKNAME, LONGEST_TEXT
from flask_phoenix import Refused, Reply
from flask_phoenix.testing import Client, Joined

CODE = "open sesame"
LOBBY = "room:lobby"
STAFF = "room:staff"

#: Lets somebody connect by a nickname.
Enter = Callable[[str], Client]


@pytest.fixture
def app() -> Iterator[Flask]:
    app = create_app({"STAFF_CODE": CODE})
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


# The page


def test_page_offers_the_rooms(http: FlaskClient) -> None:
    page = http.get("/").text
    assert 'data-room="lobby"' in page
    assert page.count("data-room=") == 4
    assert page.count("data-locked") == 1
    assert CODE not in page
    assert "npm ci" not in page


def test_page_needs_no_other_host(http: FlaskClient) -> None:
    assert "//" not in http.get("/").text


def test_page_and_server_agree_on_lengths(http: FlaskClient) -> None:
    page = http.get("/").text
    assert f'maxlength="{LONGEST_NICKNAME}"' in page
    assert f'maxlength="{LONGEST_TEXT}"' in page


def test_client_is_the_installed_one(http: FlaskClient) -> None:
    with http.get("/vendor/phoenix.mjs") as response:
        assert response.mimetype == "text/javascript"
        assert response.data == (views.CLIENT / "phoenix.mjs").read_bytes()
    assert '"phoenix": "/vendor/phoenix.mjs"' in http.get("/").text


def test_page_says_how_to_install_the_client(
    http: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "CLIENT", tmp_path)
    assert "npm ci" in http.get("/").text
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


def test_each_app_has_a_history_of_its_own(enter: Enter) -> None:
    enter("Ada").join(LOBBY).call("new_msg", {"body": "here"})
    other = create_app()
    stranger = Client(other, params={"nickname": "Stranger"})
    assert bodies(stranger.join(LOBBY)) == []
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


def test_code_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_STAFF_CODE", "swordfish")
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
