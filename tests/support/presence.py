"""Nodes that have a presence, and clients that follow it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import gevent
import pytest
from flask import Flask

from flask_phoenix import Adapter, Channel, Phoenix, PhoenixError, Presence, Socket, on
from flask_phoenix.testing import presence
from flask_phoenix.testing.presence import Presences
from tests.support.clients import MemoryClient
from tests.support.network import Network, NetworkAdapter
from tests.support.processes import DEADLINE, wait_until

#: Longer than any test: an entry that goes before that went for another reason than silence.
LONG = 100 * DEADLINE
#: A period in which a silent node goes down while a test waits.
SHORT = DEADLINE / 50


class Follower(presence.Follower):
    """Keeps a client's list of who is present, and notes who has left it."""

    def __init__(self) -> None:
        super().__init__()
        #: The keys that have left as a whole, one after another.
        self.left: list[str] = []

    def _take(self, diff: dict[str, Presences]) -> None:
        before = list(self.presences)
        super()._take(diff)
        self.left += [key for key in before if key not in self.presences]


class Room(Channel):
    """Tracks what it is told to, pushes the state, and does what a test wants done."""

    def join(self, payload: Any) -> Any:
        self.assigns["member"].channel = self
        return None

    def after_join(self) -> None:
        for key, meta in self.assigns["member"].me.items():
            self.track(key, meta)
        self.push("presence_state", self.presences())

    @on("do")
    def do(self, payload: Any) -> Any:
        return self.assigns["member"].act(self)

    def handle_info(self, message: Any) -> None:
        message(self)


class Member:
    """A client that has joined a topic.

    :param me: the keys under which it is present from the start, and their metas.
    """

    channel: Channel

    def __init__(self, node: Node, topic: str, me: dict[str, Any], kind: type[Channel] = Room, **options: Any) -> None:
        class Visitor(Socket):
            pass

        Visitor.channel("*", {"member": self})(type(kind.__name__, (kind,), {"presence": node.online}))
        self.topic, self.me = topic, me
        self.act: Callable[[Any], Any] = lambda channel: {}
        self.follower = Follower()
        self._refs = count(1)
        self.client = MemoryClient(node.engine, Visitor, **options)
        self.join()

    def join(self) -> None:
        """Join the topic, once more if it has been: diffs wait for the state."""
        self.follower.waiting = []
        self.join_ref = self.say("phx_join")

    def leave(self) -> None:
        """Go away, as when a page is closed."""
        self.client.hang_up()

    def say(self, event: str, payload: Any = None) -> str:
        """Send an event; return its ref."""
        ref = str(next(self._refs))
        self.client.say(ref if event == "phx_join" else self.join_ref, ref, self.topic, event, payload or {})
        return ref

    def do(self, act: Callable[[Any], Any]) -> None:
        """Have something done in a handler of the channel."""
        self.act = act
        self.say("do")

    def news(self) -> list[Any]:
        """Return what has come since the last time: events and payloads."""
        settle()
        news = [[event, payload] for _, _, topic, event, payload in self.client.rest() if topic == self.topic]
        for event, payload in news:
            self.follower.hear(event, payload)
        return news

    def diffs(self) -> list[tuple[Any, Any]]:
        """Return the joins and leaves of the diffs among the news."""
        return [(diff["joins"], diff["leaves"]) for event, diff in self.news() if event == "presence_diff"]

    def changes(self) -> list[tuple[str, str]]:
        """Return the keys that joined, and those that left, with each diff among the news."""
        return [(" ".join(joins), " ".join(leaves)) for joins, leaves in self.diffs()]

    @property
    def keys_that_left(self) -> list[str]:
        """The keys that this client saw leave as a whole."""
        return self.follower.left

    @property
    def people(self) -> Presences:
        """Who is present, as far as this client knows by now."""
        self.news()
        return self.follower.presences


class Node:
    """One process with a presence, ``online``, and its clients."""

    def __init__(
        self,
        kind: type[Presence] = Presence,
        network: Network | None = None,
        down_period: float = LONG,
        adapter: Adapter | None = None,
        grace: float = 0.0,
    ) -> None:
        self.adapter: Any = NetworkAdapter(network) if network is not None else adapter
        self.app = Flask(__name__)
        self.app.testing = True
        self.phoenix = Phoenix(self.app, adapter=self.adapter)
        self.online: Any = self.phoenix.presence(kind, name="Online", down_period=down_period, grace=grace)
        self.engine = self.app.extensions["phoenix"].engine
        self.members: list[Member] = []

    def enter(self, topic: str = "room:1", me: dict[str, Any] | None = None, **options: Any) -> Member:
        """Let a client join a topic, and hear all that it is told of that."""
        member = Member(self, topic, me or {}, **options)
        self.members.append(member)
        member.news()
        return member

    def present(self, topic: str = "room:1") -> list[str]:
        """Return the keys that are present, in order."""
        return sorted(self.online.list(topic))

    def stop(self) -> None:
        """End, after all clients."""
        for member in self.members:
            member.leave()
        settle()
        self.engine.stop()


def settle() -> None:
    """Let the event loop do what is due now, and what follows from it."""
    for _ in range(20):
        gevent.sleep(0)


def eventually(condition: Callable[[], object]) -> None:
    """Run the event loop until something holds.

    :raises AssertionError: it does not before the deadline.
    """
    assert wait_until(lambda: bool(condition()), lambda: gevent.sleep(0.001))


def raised(function: Callable[..., Any], *arguments: Any) -> PhoenixError:
    """Return what a call raises."""
    with pytest.raises(PhoenixError) as caught:
        function(*arguments)
    return caught.value


def entry(ref: str, **meta: Any) -> dict[str, Any]:
    """Spell out one key that is present once."""
    return {"metas": [{**meta, "phx_ref": ref}]}


def nested(levels: int) -> Any:
    """Make a meta of so many levels of dicts and lists."""
    value: Any = "the end"
    for level in range(levels, 0, -1):
        value = {"deeper": value} if level % 2 else [value]
    return value


def refs(presences: Presences) -> dict[str, list[str]]:
    """Return the refs of each key."""
    return {key: [meta["phx_ref"] for meta in each["metas"]] for key, each in presences.items()}


#: Makes processes, and stops them in the end.
MakeNode = Callable[..., Node]
