"""Nodes without a network: adapters that lose, double, delay and part as a test says, and clients that follow along."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, NamedTuple

import gevent

from flask_phoenix.channel import Channel, on
from flask_phoenix.exceptions import NotPublished
from flask_phoenix.presence import Presence
from flask_phoenix.protocol.json import Json
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.tracker.server import Presences, TrackerServer
from tests.processes import DEADLINE, wait_until
from tests.roads import Tab, serve, turn

#: Longer than any test: who goes before that went for another reason than silence.
LONG = 100 * DEADLINE
#: A period in which a silent node goes while a test waits.
SHORT = DEADLINE / 50


class Letter(NamedTuple):
    """What one node has published, on its way to another."""

    source: Wireless
    target: Wireless
    topic: str
    data: bytes


class Network:
    """Joins nodes; whatever is published arrives once and in order, unless the test says something else."""

    def __init__(self) -> None:
        self.nodes: list[Wireless] = []
        #: All that was published, whether it arrived or not.
        self.published: list[tuple[Wireless, str, bytes]] = []
        #: Tells how often a letter arrives: 0 loses it, 2 doubles it.
        self.copies: Callable[[Letter], int] = lambda letter: 1
        #: What is held back, where :attr:`holding` is set.
        self.held: list[Letter] = []
        self.holding = False
        self._parts: list[set[Wireless]] = []

    def part(self, *nodes: Wireless) -> None:
        """Let these hear each other alone from now on; one alone is as good as dead."""
        self._parts.append(set(nodes))

    def heal(self) -> None:
        """Let everybody hear everybody again."""
        self._parts.clear()

    def release(self, order: Callable[[list[Letter]], Iterable[Letter]] = list) -> None:
        """Deliver what was held back, in another order if need be."""
        held, self.held = self.held, []
        for letter in order(held):
            self.deliver(letter)

    def tell_gone(self, gone: Wireless) -> None:
        """Tell the others that a node is known to have ended."""
        for node in self.nodes:
            if node is not gone:
                node.loop.run_callback(node.gone, gone.node)

    def carry(self, source: Wireless, topic: str, data: bytes) -> None:
        """Take a letter to every other node; from any thread."""
        self.published.append((source, topic, data))
        for letter in [Letter(source, target, topic, data) for target in self.nodes if target is not source]:
            for _ in range(self.copies(letter) if self._joined(letter) else 0):
                if self.holding:
                    self.held.append(letter)
                else:
                    self.deliver(letter)

    def deliver(self, letter: Letter) -> None:
        """Hand a letter over in one of the next turns of the event loop."""
        letter.target.loop.run_callback_threadsafe(letter.target.hear, letter.topic, letter.data)

    def _joined(self, letter: Letter) -> bool:
        return all((letter.source in part) == (letter.target in part) for part in self._parts)


class Wireless(Adapter):
    """The adapter of one node; nobody hears of its end, unless :meth:`Network.tell_gone` says so."""

    loop: Any
    node: str

    def __init__(self, network: Network) -> None:
        self.network = network
        self.topics: set[str] = set()
        self.on = False

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Join the network."""
        self.node, self.loop, self.on = node, gevent.get_hub().loop, True
        self._receive, self._gone = receive, gone
        self.network.nodes.append(self)

    def stop(self) -> None:
        """Leave the network."""
        self.on = False
        self.network.nodes.remove(self)

    def subscribe(self, topic: str) -> None:
        """Ask for a topic."""
        self.topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        """Ask for it no more."""
        self.topics.discard(topic)

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to the network."""
        if not self.on:
            raise NotPublished("out of reach")
        self.network.carry(self, topic, data)

    def hear(self, topic: str, data: bytes) -> None:
        """Take what has arrived."""
        if self.on and topic in self.topics:
            self._receive(topic, data)

    def gone(self, node: str) -> None:
        """Take the news of another node's end."""
        if self.on:
            self._gone(node)


class Follower:
    """Keeps a client's list of who is there, by the rules of the npm client's Presence (1.8)."""

    def __init__(self) -> None:
        self.people: Presences = {}
        self._diffs: list[dict[str, Presences]] | None = []

    def join(self) -> None:
        """Join, perhaps anew: diffs wait for the state that follows."""
        self._diffs = []

    def hear(self, event: str, payload: Any) -> None:
        """Take what the server tells."""
        if event == "presence_state":
            diffs, self._diffs = self._diffs or [], None
            self._change(self._difference(payload))
            for diff in diffs:
                self._change(diff)
        elif event == "presence_diff" and self._diffs is not None:
            self._diffs.append(payload)
        elif event == "presence_diff":
            self._change(payload)

    def _difference(self, state: Presences) -> dict[str, Presences]:
        """Compare a state with what is known."""
        joins: Presences = {}
        leaves = {key: presence for key, presence in self.people.items() if key not in state}
        for key, new in state.items():
            old = self.people.get(key)
            if old is None:
                joins[key] = new
                continue
            came, went = _without(new["metas"], old["metas"]), _without(old["metas"], new["metas"])
            joins |= {key: {**new, "metas": came}} if came else {}
            leaves |= {key: {**old, "metas": went}} if went else {}
        return {"joins": joins, "leaves": leaves}

    def _change(self, diff: dict[str, Presences]) -> None:
        """Let some in, then some out; one who is known already is not let in twice."""
        for key, new in diff["joins"].items():
            known = self.people.get(key, {"metas": []})["metas"]
            self.people[key] = {**new, "metas": [*_without(known, new["metas"]), *new["metas"]]}
        for key, left in diff["leaves"].items():
            if key in self.people:
                self.people[key]["metas"] = _without(self.people[key]["metas"], left["metas"])
                if not self.people[key]["metas"]:
                    del self.people[key]


def _without(metas: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    refs = {meta["phx_ref"] for meta in others}
    return [meta for meta in metas if meta["phx_ref"] not in refs]


class Room(Channel):
    """Tells a client who is there, tracks what it is told to, and does what a test wants done."""

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
        self.topic, self.me = topic, me
        self.act: Callable[[Any], Any] = lambda channel: {}
        self.follower = Follower()
        self._refs = count(1)
        socket = serve(type(kind.__name__, (kind,), {"presence": node.online}), "*", {"member": self})
        self.tab = Tab(node.engine, socket, **options)
        self.rejoin()

    @property
    def people(self) -> Presences:
        """Who is there, as far as this client knows by now."""
        self.news()
        return self.follower.people

    def rejoin(self) -> None:
        """Join the topic, once more if it has been."""
        self.follower.join()
        self.join_ref = self.say("phx_join")

    def say(self, event: str, payload: Any = None) -> str:
        """Send an event; return its ref."""
        ref = str(next(self._refs))
        self.tab.say(ref if event == "phx_join" else self.join_ref, ref, self.topic, event, payload or {})
        return ref

    def do(self, act: Callable[[Any], Any]) -> None:
        """Have something done in a handler of the channel."""
        self.act = act
        self.say("do")

    def news(self) -> list[Any]:
        """Return what has come since the last time: events and payloads."""
        settle()
        news = [[event, payload] for _, _, topic, event, payload in self.tab.rest() if topic == self.topic]
        for event, payload in news:
            self.follower.hear(event, payload)
        return news

    def diffs(self) -> list[tuple[Any, Any]]:
        """Return the joins and leaves of the diffs among the news."""
        return [(diff["joins"], diff["leaves"]) for event, diff in self.news() if event == "presence_diff"]


class Node:
    """One process, as far as presences go: an engine, a presence, and clients."""

    def __init__(
        self,
        kind: type[Presence] = Presence,
        network: Network | None = None,
        down_period: float = LONG,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.adapter: Any = Wireless(network) if network is not None else None
        self.engine = Engine(context, Json(), lambda: self.adapter)
        self.members: list[Member] = []
        self.online: Any = self.keep(kind, "Presence", down_period)

    def keep(self, kind: type[Presence], name: str, down_period: float = LONG) -> Presence:
        """Have a presence more."""
        presence = kind()
        presence.name = name
        roll = TrackerServer(presence, self.engine, Json(), down_period)
        presence.server = lambda: roll
        self.engine.add(roll)
        return presence

    def enter(self, topic: str = "room:1", me: dict[str, Any] | None = None, **options: Any) -> Member:
        """Let a client join a topic, and hear all that it is told of that."""
        member = Member(self, topic, me or {}, **options)
        self.members.append(member)
        member.news()
        return member

    def stop(self) -> None:
        """End, behind all clients."""
        for member in self.members:
            member.tab.leave()
        settle()
        self.engine.stop()


def settle() -> None:
    """Let the event loop do what is due now, and what follows from it."""
    turn(20)


def eventually(condition: Callable[[], bool]) -> None:
    """Run the event loop until something holds.

    :raises AssertionError: it does not before the deadline.
    """
    assert wait_until(condition, lambda: gevent.sleep(0.001))


def entry(ref: str, **meta: Any) -> dict[str, Any]:
    """Spell out one key that is there once."""
    return {"metas": [{**meta, "phx_ref": ref}]}


def refs(presences: Presences) -> dict[str, list[str]]:
    """Return the refs of each key."""
    return {key: [meta["phx_ref"] for meta in each["metas"]] for key, each in presences.items()}


def alike(*states: Presences) -> bool:
    """Tell whether states are the same but for the order of keys and of metas."""
    return all(_sorted(state) == _sorted(states[0]) for state in states)


def _sorted(state: Presences) -> Presences:
    return {
        key: {**presence, "metas": sorted(presence["metas"], key=lambda meta: str(meta["phx_ref"]))}
        for key, presence in state.items()
    }


#: Makes processes, and stops them in the end.
MakeNode = Callable[..., Node]
