"""Who plays, and the one process of all that runs the field.

Pages may be on any worker. What they steer is broadcast to the worker that runs the field, and each frame of it is
broadcast to all pages.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import ClassVar

import gevent
from flask import current_app

from example_app.game.field import TICK, Field, read
from example_app.game.payloads import Fed, Newcomer, Steer, Welcome
from example_app.history import now
from example_app.sockets import UserSocket, phoenix
from flask_phoenix import Channel, InvalidToken, Refused, on, sends

TOPIC = "game"
#: What is steered goes there, where clients cannot join.
STEERING = "game-steering"
#: Who plays, by number. Whoever was cut off is still there for a while, and goes on when the page is back.
players = phoenix.presence(name="players", grace=10)
#: How many play at once, or a few more when they come at once; a frame counts them in one byte.
MOST_PLAYERS = 40


@sends("frame", bytes)
@sends("fed", Fed)
@UserSocket.channel(TOPIC)
class GameChannel(Channel):
    """One page that plays."""

    presence = players
    # A phone that was stuck gets the newest frame when it comes back, and none of those before.
    conflate: ClassVar = {"frame": lambda frame: "of the field"}

    def join(self, payload: Newcomer) -> Welcome:
        """Give a newcomer a number, and one that comes back the number that it had."""
        if players.count(TOPIC) >= MOST_PLAYERS:
            raise Refused("full", most=MOST_PLAYERS)
        number = number_of(payload.token)
        self.assigns["number"], self.assigns["hue"] = number, payload.hue
        return Welcome(number, os.getpid(), phoenix.sign_token(number, salt=TOPIC))

    def after_join(self) -> None:
        """Tell the newcomer who plays, and the others, and the field, who came."""
        meta = {"nickname": self.assigns["nickname"], "hue": self.assigns["hue"], "at": now()}
        self.track(str(self.assigns["number"]), meta)
        self.push("presence_state", self.presences())

    @on("steer")
    def steer(self, payload: Steer) -> None:
        """Go elsewhere; there is no reply, as the frames show it."""
        phoenix.broadcast(STEERING, "steer", {"number": self.assigns["number"], "x": payload.x, "y": payload.y})


def number_of(token: str) -> int:
    """Return the number that a token proves, or a new one."""
    try:
        return int(phoenix.verify_token(token, salt=TOPIC))
    except InvalidToken:
        return secrets.randbits(32)


@phoenix.background
def watch_frames() -> None:
    """Remember the last frame in each process, for the one that takes over when the one that runs the field ends."""
    frames = current_app.extensions["example_frames"]
    phoenix.subscribe(TOPIC, lambda heard: frames.append(heard.payload) if heard.event == "frame" else None)


@phoenix.background(once_per_cluster=True)
def run_field() -> None:
    """Run the field, 20 ticks in a second, in one process of all; from the last frame on that another one has told."""
    frames = current_app.extensions["example_frames"]
    field = read(frames[-1]) if frames else Field()
    stop_hearing = phoenix.subscribe(STEERING, lambda heard: field.steer(**heard.payload))
    try:
        while True:
            tick(field)
            # To the next whole tick of the clock, or the one after it, so that what a tick takes delays no other.
            gevent.sleep((round(time.time() / TICK) + 1) * TICK - time.time())
    finally:
        stop_hearing()


def tick(field: Field) -> None:
    """Let one tick pass, and tell the pages; without any, nothing happens."""
    numbers = [int(number) for number in players.list(TOPIC)]
    for number, embers in field.step(numbers) if numbers else []:
        phoenix.broadcast(TOPIC, "fed", Fed(number, embers))
    if numbers:
        phoenix.broadcast(TOPIC, "frame", field.write())
