"""Any interleaving of what clients and an author's code do: the rules of one client, and connections at work."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import gevent
from gevent.event import Event as Gate
from gevent.queue import Queue
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flask_phoenix import Channel, Refused, on
from flask_phoenix.protocol.messages import Broadcast, Frame, Message
from flask_phoenix.protocol.state import (
    JOIN_CRASHED,
    OK,
    Answered,
    Event,
    Held,
    JoinReceived,
    LeaveReceived,
    Membership,
    MessageReceived,
    Protocol,
    Status,
)
from flask_phoenix.runtime.connection import Bounds
from flask_phoenix.server.drain import drain
from tests.support.clients import KINDS, V1, V2, MemoryClient, Site
from tests.support.loop import turn
from tests.support.processes import DEADLINE, wait_until
from tests.support.slow import SlowAdapter

#: More of them take minutes.
EXAMPLES = int(os.environ.get("PHOENIX_TEST_EXAMPLES", "100"))
TOPICS = st.sampled_from(["room:a", "room:b", "room:c"])
#: A client may name the join that it means, or another, or none.
JOIN_REFS = st.sampled_from([1, 1, 1, 2, None])


def named(joins: list[str], at: int | None) -> str | None:
    """Return the ref of the last join, or of the one before, or none."""
    return None if at is None else ["none", "none", *joins][-at]


class Rules(RuleBasedStateMachine):
    """The protocol, with a runtime that decides joins, leaves and crashes when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol = Protocol(V2, lambda topic: topic, max_channels=2)
        self.refs = 0
        #: The refs that have an answer by now, and those of messages which the runtime has been given.
        self.answered, self.given = Counter[str](), set[str]()
        #: The refs of joins, by topic; joins under way; channels at work, one for each topic at most.
        self.joins: dict[str, list[str]] = {}
        self.deciding: list[JoinReceived] = []
        self.live: dict[str, Membership] = {}
        self.leaving: list[LeaveReceived] = []
        self.held = Counter[str]()

    @rule(topic=TOPICS)
    def join(self, topic: str) -> None:
        ref = self.say(topic, "phx_join", None)
        self.joins.setdefault(topic, []).append(ref)

    @rule(topic=TOPICS, event=st.sampled_from(["phx_leave", "do"]), at=JOIN_REFS)
    def message(self, topic: str, event: str, at: int | None) -> None:
        self.say(topic, event, named(self.joins.get(topic, []), at))

    @rule()
    def heartbeat(self) -> None:
        ref = self.say("phoenix", "heartbeat", None)
        assert self.answered[ref] == 1

    @rule(at=st.integers(0, 5), yes=st.booleans())
    def decide(self, at: int, yes: bool) -> None:
        if not self.deciding:
            return
        join = self.deciding.pop(at % len(self.deciding))
        if yes:
            self.hear(self.protocol.accept(join, OK))
            self.live[join.membership.topic] = join.membership
        else:
            self.hear(self.protocol.refuse(join, JOIN_CRASHED))
            self.protocol.forget(join.membership)
        for message, _ in self.protocol.release(join.membership):
            self.held[message.ref] -= 1
            self.handle(self.protocol.dispatch(message), message.ref)

    @rule(at=st.integers(0, 5))
    def leave(self, at: int) -> None:
        if self.leaving:
            leave = self.leaving.pop(at % len(self.leaving))
            self.hear(self.protocol.reply(leave.membership, leave.message.ref, OK))
            self.protocol.close(leave.membership)
            self.end(leave.membership)

    @rule(topic=TOPICS)
    def crash(self, topic: str) -> None:
        if topic in self.live:
            self.protocol.crash(self.live[topic])
            self.end(self.live[topic])

    @invariant()
    def the_rules_hold(self) -> None:
        memberships = self.protocol.memberships
        assert len(memberships) <= 2
        assert max(self.answered.values(), default=1) == 1
        joining = {topic for topic, each in memberships.items() if each.status is Status.JOINING}
        assert joining == {join.membership.topic for join in self.deciding}
        assert {topic: each for topic, each in memberships.items() if topic not in joining} == self.live
        assert sum(len(each.held) for each in memberships.values()) == self.held.total()

    def say(self, topic: str, event: str, join_ref: str | None) -> str:
        self.refs += 1
        ref = str(self.refs)
        join_ref = ref if event == "phx_join" else join_ref
        self.handle(self.protocol.receive(json.dumps([join_ref, ref, topic, event, {}])), ref)
        return ref

    def handle(self, event: Event | None, ref: str) -> None:
        if isinstance(event, Answered):
            self.hear(event.frame)
        elif isinstance(event, JoinReceived):
            if event.replaced is not None:
                self.live.pop(event.membership.topic)
                self.leaving = [leave for leave in self.leaving if leave.membership is not event.replaced]
            self.deciding.append(event)
        elif isinstance(event, Held):
            self.held[ref] += 1
        elif event is not None:
            assert self.live[event.membership.topic] is event.membership
            assert ref not in self.given
            self.given.add(ref)
            if isinstance(event, LeaveReceived):
                self.leaving.append(event)
            else:
                assert isinstance(event, MessageReceived)
                self.hear(self.protocol.reply(event.membership, ref, OK))

    def hear(self, frame: Frame) -> None:
        assert isinstance(frame, str)
        _, ref, _, event, _ = json.loads(frame)
        assert event == "phx_reply"
        self.answered[ref] += 1

    def end(self, membership: Membership) -> None:
        self.leaving = [leave for leave in self.leaving if leave.membership is not membership]
        self.protocol.forget(membership)
        del self.live[membership.topic]


class World:
    """An app with a presence, a node whose subscriptions are slow, and what its channels have noted."""

    def __init__(self) -> None:
        self.adapter = SlowAdapter("room:a", "room:b", "somebody")
        self.site = Site(KINDS[0], self.adapter)
        self.presence = self.site.phoenix.presence()
        self.begin()
        world = self

        class Room(Channel):
            presence = world.presence

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                world.made.append(self)

            def join(self, payload: Any) -> Any:
                world.act(self, payload["how"], "in its join")

            def after_join(self) -> None:
                world.entered.add(self)
                self.track(f"key {id(self)}", {})

            @on("do")
            def do(self, payload: Any) -> Any:
                return world.act(self, payload["how"])

            def terminate(self, reason: Any) -> None:
                world.ended[self] += 1
                if world.slow_ends:
                    world.wait()

        self.site.socket.channel("room:*")(Room)

    def begin(self) -> None:
        """Forget what was."""
        self.made, self.ended, self.crashed = list[Channel](), Counter[Channel](), set[Channel]()
        self.entered, self.lost_joins = set[Channel](), False
        self.gates, self.slow_ends = list[Gate](), False

    def act(self, channel: Channel, how: str, where: str = "") -> Any:
        """Do what a client wants done; "slow crash" waits, and crashes then."""
        for word in how.split():
            if word == "slow":
                self.wait()
            elif word == "crash":
                if where:
                    self.crashed.add(channel)
                raise RuntimeError("on purpose")
            elif word == "no":
                raise Refused("no")
            elif word == "stop":
                channel.stop()
            elif word == "push" and not where:
                channel.push("pushed", {})
        return None if where or how == "nothing" else {}

    def ends(self, channel: Channel) -> bool:
        """Tell whether a channel terminates: one that crashes in its join never does, as in Phoenix."""
        lost = self.lost_joins and channel.topic == "room:c" and channel not in self.entered
        return channel not in self.crashed and not lost

    def wait(self) -> None:
        """Wait until the test goes on."""
        gate = Gate()
        self.gates.append(gate)
        gate.wait()

    def open(self, at: int) -> None:
        """Let one of those go on who wait."""
        if at < len(self.gates):
            self.gates.pop(at).set()

    def quiet(self) -> bool:
        """Let everybody go on, and tell whether nobody waits any more."""
        while self.gates:
            self.open(0)
        while self.adapter.asked:
            self.adapter.confirm()
        turn()
        return not (self.gates or self.adapter.asked or self.site.engine.runners.busy)


class Talker(MemoryClient):
    """A client whose frames are read one after another, as a carrier does; it notes what it is told."""

    def __init__(self, world: World, vsn: Any) -> None:
        bounds = Bounds(inbox_limit=150)
        super().__init__(world.site.engine, world.site.socket, vsn, name="somebody", max_channels=2, bounds=bounds)
        self.frames: Queue[Any] = Queue()
        self.join_refs: dict[str, list[str]] = {}
        self.replies, self.news = Counter[str](), Counter[Any]()
        self.heartbeats = list[str]()
        #: The joins that were let in, and not ended.
        self.joined: dict[str, str] = {}
        self.reading = gevent.spawn(self._read_all)

    def _read_all(self) -> None:
        for message in self.frames:
            if self.connection.open:
                self.connection.receive(message)

    def take(self) -> None:
        """Take note of what has come."""
        for frame in self.carrier.rest():
            message = json.loads(frame)
            if isinstance(message, dict):
                message = [None, *(message[name] for name in ("ref", "topic", "event", "payload"))]
            _, ref, topic, event, payload = message
            if event == "phx_reply":
                self.replies[ref] += 1
                if ref in self.join_refs.get(topic, ()) and payload["status"] == "ok":
                    self.joined[topic] = ref
            elif event == "news":
                self.news[topic, payload["n"]] += 1
            elif event in ("phx_close", "phx_error") and self.joined.get(topic) == ref:
                del self.joined[topic]


HOWS = st.sampled_from(["", "nothing", "push", "slow", "slow push", "slow crash", "crash", "stop", "slow stop", "no"])


class Connections(RuleBasedStateMachine):
    """Connections of one node, of whatever they say and whatever the author's code does."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.engine = self.world.site.engine
        self.engine.draining = False
        self.world.begin()
        self.refs = 0
        self.talkers = [Talker(self.world, vsn) for vsn in (V2, V2, V1)]
        self.drains: list[Any] = []

    @rule(who=st.integers(0, 2), topic=TOPICS, how=HOWS)
    def join(self, who: int, topic: str, how: str) -> None:
        ref = self.say(who, topic, "phx_join", {"how": how}, None)
        self.talkers[who].join_refs.setdefault(topic, []).append(ref)

    @rule(who=st.integers(0, 2), topic=TOPICS, how=HOWS, at=JOIN_REFS)
    def push(self, who: int, topic: str, how: str, at: int | None) -> None:
        self.say(who, topic, "do", {"how": how}, at)

    @rule(who=st.integers(0, 2), topic=TOPICS, at=JOIN_REFS)
    def leave(self, who: int, topic: str, at: int | None) -> None:
        self.say(who, topic, "phx_leave", {}, at)

    @rule(who=st.integers(0, 2))
    def heartbeat(self, who: int) -> None:
        self.talkers[who].heartbeats.append(self.say(who, "phoenix", "heartbeat", {}, None))

    @rule(topic=TOPICS)
    def broadcast(self, topic: str) -> None:
        self.refs += 1
        self.engine.broadcast(Broadcast(topic, "news", {"n": self.refs}))

    @rule(at=st.integers(0, 3))
    def go_on(self, at: int) -> None:
        self.world.open(at)

    @rule(failure=st.sampled_from([None, None, OSError("on purpose")]))
    def confirm(self, failure: Exception | None) -> None:
        if self.world.adapter.asked:
            self.world.lost_joins |= failure is not None
            self.world.adapter.confirm(failure)

    @rule()
    def let_things_happen(self) -> None:
        turn()

    @rule(slow=st.booleans())
    def end_slowly(self, slow: bool) -> None:
        self.world.slow_ends = slow

    @rule(who=st.integers(0, 2), how=st.sampled_from(["hang up", "close", "disconnect"]))
    def end(self, who: int, how: str) -> None:
        if how == "hang up":
            self.talkers[who].hang_up()
        elif how == "close":
            self.talkers[who].connection.close(1000, "closed")
        else:
            self.world.site.phoenix.disconnect("somebody")

    @rule()
    def drain(self) -> None:
        if not self.drains:
            self.drains.append(gevent.spawn(drain, self.engine, 0.01))

    @invariant()
    def the_rules_hold(self) -> None:
        for talker in self.talkers:
            talker.take()
            assert max(talker.replies.values(), default=1) == 1
            assert max(talker.news.values(), default=1) == 1
            servers = [each.server for each in talker.connection.protocol.memberships.values()]
            assert len(servers) <= 2
            assert all(server is not None for server in servers)
        assert max(self.world.ended.values(), default=1) == 1

    def teardown(self) -> None:
        """Let all things end; nothing is left."""
        settle(self.world)
        self.the_rules_hold()
        self.everybody_is_told()
        for talker in self.talkers:
            talker.frames.put(StopIteration)
            talker.hang_up()
        assert wait_until(self.world.quiet, turn)
        gevent.joinall([*self.drains, *(talker.reading for talker in self.talkers)], DEADLINE, raise_error=True)
        assert wait_until(self.world.quiet, turn)
        self.the_rules_hold()
        assert [each for each in self.world.made if self.world.ended[each] != 1 and self.world.ends(each)] == []
        engine, topics = self.engine, ["room:a", "room:b", "room:c"]
        assert (engine.budget.total, engine.runners.busy, engine.connections) == (0, 0, set())
        assert [topic for topic in [*topics, "somebody"] if engine.pubsub.subscribed(topic)] == []
        assert [self.world.presence.list(topic) for topic in topics if not self.drains] == [{}] * 3 * (not self.drains)
        self.world.site.engine.stop()

    def everybody_is_told(self) -> None:
        """See that who thinks to be joined hears what is said, once, and nobody else does."""
        numbers = {}
        for topic in ("room:a", "room:b", "room:c"):
            self.refs += 1
            numbers[topic] = self.refs
            self.engine.broadcast(Broadcast(topic, "news", {"n": self.refs}))
        turn()
        for talker in self.talkers:
            talker.take()
            if talker.connection.open:
                heard = {topic for topic, number in numbers.items() if talker.news[topic, number]}
                assert heard == set(talker.joined) == set(talker.connection.protocol.memberships)
                unanswered = {*talker.heartbeats, *(ref for refs in talker.join_refs.values() for ref in refs)} - set(
                    talker.replies
                )
                assert unanswered == set()

    def say(self, who: int, topic: str, event: str, payload: Any, at: int | None) -> str:
        talker = self.talkers[who]
        self.refs += 1
        ref = str(self.refs)
        join_ref = ref if event == "phx_join" else named(talker.join_refs.get(topic, []), at)
        message = Message(join_ref, ref, topic, event, payload)
        v1 = talker.connection.protocol.serializer is V1
        talker.frames.put(json.dumps(message._asdict() if v1 else message))
        gevent.sleep(0)
        return ref


def settle(world: World) -> None:
    """Let all go on who wait, until nobody does."""
    assert wait_until(world.quiet, turn)


def test_rules() -> None:
    run_state_machine_as_test(Rules, settings=settings(max_examples=EXAMPLES))


def test_connections() -> None:
    Connections.world = World()
    run_state_machine_as_test(Connections, settings=settings(max_examples=EXAMPLES // 2))
