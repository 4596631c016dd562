"""The example's game: its field, its channel, and the types of its page."""

from __future__ import annotations

import json
import os
import random
import subprocess
from math import dist
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.cli import FlaskGroup

from example_app import create_app
from example_app.game import channel
from example_app.game.field import EMBERS, HEARTH, MOST, SIZE, TICK, Field, Flame, read
from example_app.sockets import phoenix
from flask_phoenix import Refused, Reply
from flask_phoenix.testing import Client, Clock, Joined
from tests.support.processes import ROOT, START

MODULES = ROOT / "tests" / "clients" / "node_modules"
STATIC = ROOT / "example_app" / "static"
TYPES = ROOT / "example_app" / "phoenix-types.d.ts"


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return create_app({"DATABASE": str(tmp_path / "chat.db"), "TESTING": True})


def play(connect: Any, nickname: str, hue: int = 20) -> Joined:
    client: Client = connect(params={"nickname": nickname})
    return client.join("game", {"hue": hue})


def latest(joined: Joined) -> Field:
    """Return the field as the last frame tells it."""
    frame: bytes = joined.client.messages("game", "frame")[-1].payload
    return read(frame)


# The field


def test_flame_goes_where_it_is_steered_and_stays_on_the_field() -> None:
    field = Field(random.Random(1), warmth=100)
    field.step([7])
    flame = field.flames[7]
    start = flame.x, flame.y
    field.steer(7, 0, 1)
    field.steer(8, 1, 1)  # has left, or is on its way
    for _ in range(100):
        field.step([7])
    assert (flame.x, flame.y) == (start[0], SIZE[1])
    field.steer(7, -1, -1)
    field.step([7])
    assert flame.aim == pytest.approx((-(0.5**0.5), -(0.5**0.5))), "no faster along the diagonal"
    field.step([])
    assert field.flames == {}


def test_cold_makes_slow() -> None:
    ways = []
    for warmth in (100, 0):
        field = Field(warmth=warmth, flames={1: Flame(0, 100, aim=(1, 0))})
        field.step([1])
        ways.append(field.flames[1].x)
    assert ways[0] > 2 * ways[1] > 0


def test_embers_are_carried_to_the_hearth() -> None:
    field = Field(random.Random(1), warmth=50, embers=[(100.0, 100.0)] * (MOST + 1))
    field.flames[1] = flame = Flame(110, 110)
    assert field.step([1]) == []
    assert (flame.carries, flame.score, field.embers.count((100, 100))) == (MOST, 0, 1)
    assert all(dist(place, HEARTH) > 200 for place in field.embers)
    flame.x, flame.y = HEARTH
    cold = field.warmth
    assert field.step([1]) == [(1, MOST)]
    assert (flame.carries, flame.score) == (0, MOST)
    assert field.warmth > cold
    assert field.step([1]) == []


def test_frame_tells_the_field() -> None:
    field = Field(random.Random(1), warmth=61.4)
    field.step([2**32 - 1, 5])
    field.flames[5].score, field.flames[5].carries = 65535, 3
    told = read(field.write())
    assert len(field.write()) < 150
    assert (told.warmth, len(told.embers), sorted(told.flames)) == (61, EMBERS, [5, 2**32 - 1])
    flame = told.flames[5]
    assert (flame.score, flame.carries) == (65535, 3)
    assert flame.x == pytest.approx(field.flames[5].x, abs=0.1)


# The channel


def test_player_steers_and_everybody_sees_it(phoenix_clock: Clock, phoenix_client: Any) -> None:
    ada, grace = play(phoenix_client, "Ada"), play(phoenix_client, "Grace", 200)
    number = ada.response["number"]
    assert ada.response == {"number": number, "worker": os.getpid(), "token": ada.response["token"]}
    ada.assert_presence_join(str(grace.response["number"]), {"nickname": "Grace", "hue": 200})
    phoenix_clock.advance(2 * TICK)
    before = latest(grace).flames[number]
    ada.push("steer", {"x": 0.5, "y": 0})
    phoenix_clock.advance(1)
    after = latest(grace).flames
    assert after[number].x > before.x + 50
    assert after[number].y == before.y
    assert len(after) == 2
    ada.leave()
    phoenix_clock.advance(TICK)
    assert latest(grace).flames.keys() == {grace.response["number"]}


def test_there_are_20_frames_in_a_second_and_none_without_players(
    app: Flask, phoenix_clock: Clock, phoenix_client: Any
) -> None:
    heard: list[Any] = []
    watcher = phoenix_client(params={"nickname": "Linus"})
    watcher.join("map")
    with app.app_context():
        phoenix.subscribe("game", heard.append)
    phoenix_clock.advance(60)
    assert heard == []
    ada = play(phoenix_client, "Ada")
    phoenix_clock.advance(10)
    assert sum(each.event == "frame" for each in heard) == pytest.approx(200, abs=1)
    ada.leave()
    phoenix_clock.advance(1)
    heard.clear()
    phoenix_clock.advance(10)
    assert heard == []


def test_who_feeds_the_hearth_is_told(
    phoenix_clock: Clock, phoenix_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wherever a flame begins, one is within its reach.
    row = [(HEARTH[0] + x, HEARTH[1] + 130.0) for x in range(-60, 61, 30)]
    monkeypatch.setattr(Field, "__post_init__", lambda field: field.embers.extend(row))
    ada = play(phoenix_client, "Ada")
    for _ in range(3):
        ada.push("steer", {"x": 0, "y": -1})
        phoenix_clock.advance(1)
    assert ada.assert_push("fed")["number"] == ada.response["number"]
    assert latest(ada).flames[ada.response["number"]].score >= 1


@pytest.mark.parametrize("payload", [{"x": 2, "y": 0}, {"x": 0}, {"x": "1", "y": 0}, [], b"\x01"])
def test_unfit_steering_is_refused(phoenix_client: Any, payload: Any) -> None:
    ada = play(phoenix_client, "Ada")
    reply: Reply = ada.call("steer", payload)
    assert (reply.status, reply.response["reason"]) == ("error", "invalid payload")
    ada.refute_broadcast("steer")


def test_unfit_newcomers_are_refused(phoenix_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = phoenix_client(params={"nickname": "Ada"})
    for payload in ({}, {"hue": 360}, {"hue": "red"}):
        with pytest.raises(Refused, match="invalid payload"):
            client.join("game", payload)
    with pytest.raises(Refused, match="unmatched topic"):
        client.join(channel.STEERING)
    monkeypatch.setattr(channel, "MOST_PLAYERS", 1)
    client.join("game", {"hue": 20})
    with pytest.raises(Refused, match="full"):
        play(phoenix_client, "Grace")


def test_whoever_runs_the_field_next_goes_on_from_the_last_frame(
    phoenix_clock: Clock, phoenix_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = play(phoenix_client, "Ada")
    phoenix_clock.advance(TICK)
    ada.push("steer", {"x": 1, "y": 0})
    phoenix_clock.advance(1)
    before, frames = latest(ada), len(ada.client.messages("game", "frame"))
    with monkeypatch.context() as broken:
        broken.setattr(channel, "tick", lambda field: 1 / 0)
        phoenix_clock.advance(TICK)
    phoenix_clock.advance(2)
    assert len(ada.client.messages("game", "frame")) > frames
    assert (latest(ada).flames, latest(ada).embers) == (before.flames, before.embers)


def test_a_page_that_was_cut_off_comes_back_as_the_same_flame(phoenix_clock: Clock, phoenix_client: Any) -> None:
    ada, grace = play(phoenix_client, "Ada"), play(phoenix_client, "Grace")
    number, token = ada.response["number"], ada.response["token"]
    phoenix_clock.advance(TICK)
    ada.push("steer", {"x": 1, "y": 0})
    phoenix_clock.advance(1)
    before = latest(grace).flames[number]
    ada.client.close()
    phoenix_clock.advance(3)
    back = phoenix_client(params={"nickname": "Ada"}).join("game", {"hue": 20, "token": token})
    phoenix_clock.advance(20)
    assert back.response["number"] == number
    assert latest(grace).flames.keys() == {number, grace.response["number"]}
    assert latest(grace).flames[number].x >= before.x
    back.client.close()
    phoenix_clock.advance(20)
    assert latest(grace).flames.keys() == {grace.response["number"]}
    stranger = phoenix_client(params={"nickname": "Mallory"}).join("game", {"hue": 20, "token": f"{token}x"})
    assert stranger.response["number"] != number


# The page


def test_page_offers_colours_and_asks_no_other_host(app: Flask) -> None:
    page = app.test_client().get("/game").text
    assert page.count('name="hue"') == 8
    assert ("//" in page, 'href="/"' in page, 'aria-current="page"' in page) == (False, True, True)


def test_declarations_for_the_page_are_fresh(app: Flask) -> None:
    result = app.test_cli_runner().invoke(FlaskGroup(), ["phoenix", "types", "--check", str(TYPES)])
    assert result.exit_code == 0, result.output


def test_page_keeps_to_what_the_channel_declares(tmp_path: Path) -> None:
    options = {
        "strict": True,
        "noEmit": True,
        "allowJs": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "lib": ["es2022", "dom", "dom.iterable"],
        "skipLibCheck": True,
        "types": [],
        "paths": {"phoenix": [f"{MODULES}/@types/phoenix"]},
    }
    config = {"compilerOptions": options, "files": [str(STATIC / "game.js")]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    compiler = (MODULES / ".bin" / "tsc", "--project", tmp_path, "--pretty", "false")
    done = subprocess.run(compiler, capture_output=True, text=True, timeout=START, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    for name in ("game.js", "game-view.js", "embers.js", "steering.js", "autopilot.js"):
        assert (STATIC / name).read_text().startswith("// @ts-check\n"), "or it was not looked at"
