"""What the connections of one app share in one process: its pubsub, its runners, its bounds, its node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import monotonic, time
from typing import Any

import gevent

from .. import clock
from ..channel import ErrorHandlers, check_sent
from ..exceptions import InvalidOption
from ..protocol.json import MAX_DEPTH, Json
from ..protocol.messages import INTERNAL, Broadcast, Kept, Reply, Traced, shown
from ..pubsub.adapter import Adapter, Archive
from ..pubsub.envelope import check_key, check_payload, mark, pack, seal, seal_all
from ..pubsub.failures import EXITS, raise_in_main_greenlet
from ..pubsub.history import History, Position
from ..pubsub.hub import Hub
from ..pubsub.local import Notify, PubSub, Stamp, Subscriber
from ..signals import broadcast_sent
from .budget import Account, Budget
from .caps import Caps
from .histories import Histories
from .node import Node
from .once import answer_once
from .process_telemetry import ProcessTelemetry
from .runners import Runners
from .settings import Settings
from .turns import Turns

log = logging.getLogger("flask_phoenix.pubsub")

#: What counts as the failure of an author's code: anything. A handler that exits, is killed or runs out of time has
#: crashed. Who catches it tells :meth:`Engine.caught`.
FAILURES = (BaseException,)

#: The close code for a client that may come back when there is room (RFC 6455's registry: try again later).
TRY_AGAIN_LATER = 1013

#: Seconds between two checks of whether all is quiet.
QUIET_CHECK_PERIOD = 0.02


class Transports:
    """Counts the transports at work, whose ends come after those of their connections."""

    count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


class Engine(ProcessTelemetry):
    """What the connections of one app share in one process; what it tells of them is that of its base.

    :param context: makes the context in which each callback of an author runs.
    :param find_adapter: returns the adapter to the other nodes, if there is one; called in the process that serves.
    :param may_serve: tells whether this process may serve clients, though none has come yet.
    :param only_forks: tells whether this process serves nobody, but forks those that do.
    """

    #: Tells the app of an exception of a callback, in that callback's context.
    report: Callable[[BaseException], None] = staticmethod(lambda failure: None)
    #: Tells whether what is sent is held to what the channels declare.
    checks: Callable[[], bool] = staticmethod(lambda: False)
    #: The server of this process has been inspected.
    server_detected = False
    #: The server says that other processes serve the same app.
    one_of_many = False
    #: The process is about to end: no client is accepted any more.
    draining = False
    #: A server in this process serves the app.
    served = False
    #: Stops that server in good order, where it has said how.
    stop_server: Callable[[], None] | None = None

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[Any]],
        json: Json,
        find_adapter: Callable[[], Adapter | None] = lambda: None,
        may_serve: Callable[[], bool] = lambda: True,
        only_forks: Callable[[], bool] = lambda: False,
    ) -> None:
        hub = Hub()
        super().__init__(hub, PubSub(hub.put, lambda text: json.loads(text, MAX_DEPTH)))
        self.context = context
        #: What makes replies of exceptions of handlers, by class of exception.
        self.error_handlers: ErrorHandlers = {}
        self._json = json
        self.runners = Runners()
        self.turns = Turns()
        self.histories = Histories(self.pubsub, json, self._shed_history)
        self.configure(Settings())
        #: What the app itself subscribes to: it is kept when a process is forked.
        self._listeners: dict[Subscriber, str] = {}
        #: To enter by a transport, from the begin of its work for a client to its very end.
        self.transports = Transports()
        self.node = Node(
            self.hub,
            self.pubsub,
            self.histories,
            find_adapter=find_adapter,
            may_serve=lambda: self.served or may_serve(),
            only_forks=only_forks,
            is_ending=lambda: self.draining,
            forget_parent=self._forget_parent,
            heard=self._heard,
            tell=self.tell,
        )

    def serve(self) -> None:
        """Start what connections need; as :meth:`Node.serve`."""
        self.node.serve()

    def stop(self) -> None:
        """Stop what runs for the connections, which are to be closed by then."""
        self.node.stop()
        self.stop_watching()
        self.runners.close()

    def wait_until_quiet(self, seconds: float) -> None:
        """Wait, so long at most, until no transport is left at work and no author's code runs."""
        _wait_while(lambda: self.transports.count or self.runners.busy, seconds)

    def hand_over(self, seconds: float) -> None:
        """Wait, so long at most, until other nodes have taken over what they are to have."""
        _wait_while(self.node.hands_over, seconds)

    def configure(self, settings: Settings) -> None:
        """Take what is set for this process."""
        self.settings, self.caps = settings, Caps(settings)
        self.budget = Budget(settings.inbox_total, self._shed)
        self.histories.total = settings.history_total

    def _forget_parent(self) -> None:
        """Begin anew in a process that was forked from a node, with nothing but what the app itself subscribes to."""
        self.transports = Transports()
        self.stop_watching()
        self.connections.clear()
        self.caps = Caps(self.settings)
        self.runners.forget()
        self.turns.forget()
        for subscriber, topic in self._listeners.items():
            self.pubsub.subscribe(topic, subscriber)

    # What the app itself listens to.

    def listen(self, topic: str, subscriber: Subscriber, now: bool = True) -> Callable[[], None]:
        """Subscribe to a topic for the app itself; return a function that ends it. From any thread.

        :param now: whether this process becomes a node for it at once; else with its event loop's first turn.
        :raises PhoenixError: other nodes cannot be listened to from here.
        """
        self.node.prepare_to_listen(now)
        self.hub.run(self.hear, topic, subscriber)
        self._listeners[subscriber] = topic

        def end() -> None:
            self._listeners.pop(subscriber, None)
            self.hub.run(self.histories.leave, topic, subscriber)

        return end

    def hear(self, topic: str, subscriber: Subscriber) -> None:
        """Give a subscriber that is no client the broadcasts of a topic, until it leaves; may block."""
        self.histories.subscribe(topic, subscriber, self.node.serving)

    def tap(self, notify: Notify, now: bool = True) -> Callable[[], None]:
        """Call a function with every broadcast of this process; as :meth:`listen`."""
        self.node.prepare_to_listen(now)
        return self.pubsub.tap(notify)

    # Broadcasts.

    def broadcast(
        self,
        broadcast: Broadcast,
        sender: Subscriber | None = None,
        local: bool = False,
        key: str = "",
        sealed: Broadcast | None = None,
    ) -> Position | None:
        """Deliver a broadcast to everybody who is subscribed to its topic; from any thread.

        A client that cannot carry it goes without. What the author does with the payload later changes nothing.

        :param local: on this node alone, and not to be kept.
        :param key: makes publishing it again do nothing, where its topic has a history.
        :param sealed: it as it is delivered, where it has been written.
        :return: its position, where its topic has a history.
        :raises InvalidPayload: no client of vsn 2.0.0 could take the payload, or the history of its topic cannot;
            nobody has been served then.
        :raises InvalidOption: there is a key, and no history; or it is none.
        :raises NotPublished: other nodes cannot be reached, or no client at all; clients of this node have got it.
        """
        if key != "":
            check_key(key)
        if sealed is None:
            sealed = seal(broadcast, self._json)
        if broadcast_sent.receivers:
            self._tell_broadcast(sealed, remote=False, local=local)
        outlet = None if local else self.node.outlet()
        history = None if local else self.histories.of(sealed.topic, self.node.serving)
        if history is not None and (outlet is None or outlet.keeps):
            return self._keep(outlet, broadcast, sealed, sender, history, key)
        if key:
            raise InvalidOption(f"{shown(sealed.topic)} has no history: an idempotency_key needs one")
        if not isinstance(broadcast.payload, dict | bytes) and (outlet is not None or not self.pubsub.takes(sealed)):
            # JSON that is no object: clients of vsn 1.0.0 take it, where there can be no others.
            check_payload(broadcast)
        trace = self._trace() if self.tracing is not None else ""
        if trace:
            sealed = Traced.made(sealed, trace)
        if not self.node.forked:
            stamp = None if self.timing is None else Stamp(monotonic(), False)
            self.hub.call(self.pubsub.broadcast, sealed, sender, stamp)
        if outlet is not None:
            data = pack(sealed, self._json)
            marked = self.timing is not None or trace
            outlet.publish(sealed.topic, mark(data, time(), trace) if marked else data)
        elif not local:
            self.node.require_hearer(sealed)
        return None

    def broadcast_to_each(self, broadcasts: Sequence[Broadcast], key: str) -> list[Position | None]:
        """Deliver one event and payload, written once, on several topics; as :meth:`broadcast`."""
        sealed = seal_all(broadcasts, self._json)
        return [self.broadcast(each, key=key, sealed=text) for each, text in zip(broadcasts, sealed, strict=True)]

    def check_sent(self, broadcast: Broadcast) -> None:
        """Hold a broadcast to what the channels of its topic declare.

        :raises InvalidPayload: one of them declares something else, or it cannot be written.
        """
        routes = [route for socket in self.histories.sockets if (route := socket.match(broadcast.topic)) is not None]
        for channel in {route.channel for route in routes if route.channel.declared_events}:
            check_sent(channel, broadcast.event, broadcast.payload, self.as_written(broadcast.payload))

    def as_written(self, payload: Any) -> Any:
        """Return a payload as a client reads it."""
        return payload if isinstance(payload, bytes) else self._json.loads(self._json.dumps(payload), MAX_DEPTH)

    def _trace(self) -> str:
        """Return the trace that a broadcast is to carry."""
        return self.tracing.current() if self.tracing is not None and self.tracing.broadcasts else ""

    def _heard(self, broadcast: Broadcast) -> None:
        if broadcast_sent.receivers:
            self._tell_broadcast(broadcast, remote=True)

    def _tell_broadcast(self, broadcast: Broadcast, **about: Any) -> None:
        topic, payload = broadcast.topic, broadcast.payload
        if topic.startswith(INTERNAL):
            return
        self.tell(
            broadcast_sent,
            topic=topic,
            pattern=self.pattern(topic),
            event=broadcast.event,
            receivers=self.pubsub.size(topic),
            size=len(payload),
            **about,
        )

    def pattern(self, topic: str) -> str:
        """Return the pattern by which a socket serves a topic; empty: none does."""
        return next((route.pattern for socket in self.histories.sockets if (route := socket.match(topic))), "")

    def _keep(
        self,
        outlet: Archive | None,
        broadcast: Broadcast,
        sealed: Broadcast,
        sender: Subscriber | None,
        history: History,
        key: str,
    ) -> Position:
        """Keep a broadcast, and deliver it, unless one with its key is kept."""
        check_payload(broadcast)
        if outlet is None:
            self.node.require_hearer(sealed)
        if self.node.forked:  # whose clients are its parent's
            return self.histories.note(outlet, sealed, history, key, "" if sender is None else sender.name)[0]
        position: Position = self.hub.run(self.histories.keep, outlet, sealed, history, sender, key)
        return position

    def history(self, topic: str, since: str | None, limit: int | None) -> tuple[Position, list[Kept]]:
        """Return where a topic is, and what it keeps, the oldest first; the payloads are the reader's own.

        From any thread.

        :raises InvalidOption: it has no history.
        :raises HistoryLost: the history does not reach back to ``since``.
        :raises NotPublished: it cannot be read.
        :raises Unsupported: what joins the nodes keeps none.
        """
        position, kept = self.hub.run(self.histories.look, self.node.archive(), topic, since, limit)
        return position, [self.pubsub.read(each) for each in kept]

    def once(self, topic: str, key: str, call: Callable[[], Reply | None]) -> Reply | None:
        """Call a function, unless it was called for this key of the topic; return its reply of now or then.

        :raises Refused: it is not known what has become of the first call.
        :raises Unsupported: what joins the nodes keeps nothing.
        """
        return answer_once(self.histories, self.node.archive(), self._json, topic, key, call)

    def publish(self, broadcast: Broadcast) -> None:
        """Send a broadcast to the other nodes alone.

        :raises NotPublished: they cannot be reached.
        """
        if self.node.adapter is not None:
            self.node.adapter.publish(broadcast.topic, pack(broadcast, self._json))

    # Clients, and the bounds of what is kept for them.

    def connection_count(self) -> int:
        """Return how many clients are connected to this process."""
        return 0 if self.node.forked else len(self.connections)

    def _shed(self, account: Account) -> None:
        """Close the client that has the most waiting for handlers."""
        self.reach("inbox_total")
        log.warning(
            "messages that wait for handlers take more than PHOENIX_INBOX_TOTAL=%d bytes; the client that has sent"
            " the most of them, %d bytes, is closed with %d",
            self.settings.inbox_total,
            account.size,
            TRY_AGAIN_LATER,
        )
        account.close(TRY_AGAIN_LATER, "too much waits")

    def _shed_history(self) -> None:
        """Tell that topics keep less than they would."""
        self.reach("history_total")
        self.caps.report("history_total", "topics that were quiet for longest lose what they keep")

    # Failures of an author's code.

    def caught(self, error: BaseException | None) -> None:
        """Stop the server, in good order, if that is what a failure of an author's code asks for."""
        if not isinstance(error, EXITS):
            return
        if self.stop_server is not None:
            self.stop_server()
        else:
            raise_in_main_greenlet(error)


def _wait_while(condition: Callable[[], Any], seconds: float) -> None:
    deadline = clock.monotonic() + seconds
    while clock.monotonic() < deadline and condition():
        gevent.sleep(QUIET_CHECK_PERIOD)
