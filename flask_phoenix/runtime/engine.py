"""What the connections of one app share in one process: its pubsub, its runners, its place among the nodes."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from time import monotonic
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.hub import MAIN_THREAD_IDENT  # type: ignore[attr-defined]
from gevent.hub import Hub as EventLoop
from gevent.lock import Semaphore

from ..channel import ErrorHandlers, check_sent
from ..exceptions import InvalidOption, NotPublished, PhoenixError, Unsupported
from ..protocol.json import MAX_DEPTH, Json
from ..protocol.messages import Broadcast, Kept, Reply, shown
from ..pubsub.adapter import Adapter, Archive, Publisher
from ..pubsub.envelope import check_payload, pack, seal, unpack
from ..pubsub.failures import EXITS, log_failure, raise_in_main_greenlet
from ..pubsub.history import History, Position
from ..pubsub.hub import Hub, allocate_lock, thread_id
from ..pubsub.local import Notify, PubSub, Subscriber
from ..signals import limit_reached
from .budget import Account, Budget
from .caps import Caps
from .histories import Histories
from .once import answer_once
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

NO_WAY = (
    "no client is connected to this process, and it knows no way to the processes that have clients: set"
    " PHOENIX_PUBSUB_URL, such as redis://localhost or workers:///run/myapp, here and for the servers"
)
WRONG_THREAD = (
    "this process is no node yet, and becomes one in the thread of its event loop: call it there, before other threads"
    " do (a command or a script: at its start; a server: in a view, or once it has its first client)"
)
UNPATCHED = (
    "what other nodes publish is received while gevent's event loop runs, and this process is not patched: begin it"
    " with gevent.monkey.patch_all(), or let it wait with gevent.sleep()"
)
ENDED = "this process has stopped serving, or is about to"
STOPPED = "this process was stopped while it started to serve"


class Service:
    """What runs in a process as long as the engine serves, such as a presence; it starts with the first connection.

    It stands for a wall: the runtime knows no presence, and no other service that may come.
    """

    def start(self) -> None:
        """Begin. This process is a node, and has its name, by now. Never blocks."""
        raise NotImplementedError

    def greet(self) -> None:
        """Speak to the other nodes, if an adapter reaches them; may block."""
        raise NotImplementedError

    def farewell(self) -> None:
        """Let the other nodes know that this one ends, while they can still be told."""
        raise NotImplementedError

    def stop(self) -> None:
        """End."""
        raise NotImplementedError

    def hands_over(self) -> bool:
        """Tell whether this node, whose clients have gone, still holds what other nodes are to take over."""
        return False

    def gone(self, node: str) -> None:
        """Another node is known to have ended."""
        raise NotImplementedError


class Transports:
    """Counts the transports at work, whose ends come after those of their connections."""

    count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


class Engine:
    """What the connections of one app share in one process.

    :param context: makes the context in which each callback of an author runs.
    :param find_adapter: returns the adapter to the other nodes, if there is one; called in the process that serves.
    :param may_serve: tells whether this process may serve clients, though none has come yet.
    :param only_forks: tells whether this process serves nobody, but forks those that do.
    """

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[Any]],
        json: Json,
        find_adapter: Callable[[], Adapter | None] = lambda: None,
        may_serve: Callable[[], bool] = lambda: True,
        only_forks: Callable[[], bool] = lambda: False,
    ) -> None:
        self.context = context
        self._find_adapter = find_adapter
        #: What makes replies of exceptions of handlers, by class of exception.
        self.error_handlers: ErrorHandlers = {}
        #: Tells the app of an exception of a callback, in that callback's context.
        self.report: Callable[[BaseException], None] = lambda failure: None
        #: Tells whether what is sent is held to what the channels declare.
        self.checks: Callable[[], bool] = lambda: False
        #: The app, from which signals come.
        self.app: Any = None
        #: How often each bound was reached, by its name in docs/security.md.
        self.limits: Counter[str] = Counter()
        self._may_serve = may_serve
        self._only_forks = only_forks
        self._soon = False
        self.adapter: Adapter | None = None
        self._json = json
        self.hub = Hub()
        self.pubsub = PubSub(self.hub.put, lambda text: json.loads(text, MAX_DEPTH))
        self.runners = Runners()
        self.turns = Turns()
        self.histories = Histories(self.pubsub, json, self._shed_history)
        self.configure(Settings())
        #: What ends each connection, by a close code and a reason.
        self.connections: set[Callable[[int, str], None]] = set()
        #: The server of this process has been inspected.
        self.server_detected = False
        #: The server says that other processes serve the same app.
        self.one_of_many = False
        #: The process is about to end: no client is accepted any more.
        self.draining = False
        #: A server in this process serves the app.
        self.served = False
        #: Stops that server in good order, where it has said how.
        self.stop_server: Callable[[], None] | None = None
        #: The name of this process among all nodes; empty while it is none.
        self.node = ""
        self.services: list[Service] = []
        #: How many broadcasts did not reach a client, since its transport or its vsn cannot carry them.
        self.missed = 0
        #: The process that became a node; one that is forked from it does not have its adapter.
        self._process = 0
        self._publisher: Publisher | None = None
        self._publisher_lock = allocate_lock()
        #: What the app itself subscribes to: it is kept when a process is forked.
        self._listeners: dict[Subscriber, str] = {}
        #: Held by the greenlet that starts; the others wait for it.
        self._starting = Semaphore()
        self._starter: Any = None
        #: Set when the stop that is under way has ended.
        self._stopping: Event | None = None
        #: How often this engine was stopped.
        self._stops = 0
        self._services_run = False
        self._serving = False
        #: To enter by a transport, from the begin of its work for a client to its very end.
        self.transports = Transports()

    # The start and the end. Whatever blocks in here may let others in: see :attr:`_starting` and :attr:`_stops`.

    def serve(self) -> None:
        """Start what connections need, in the process and the thread that serve them.

        Whoever calls it while it starts waits for that one start; if that fails, the next one tries again.

        :raises PhoenixError: the adapter cannot start, or this process was stopped meanwhile.
        :raises Unsupported: this is not the thread that serves.
        """
        if self._serving and not self._forked:
            return
        self._start(lambda: self._serving, self._begin_serving)

    def become_node(self) -> None:
        """Receive from other nodes, and publish to them, in the process and the thread that call; as :meth:`serve`.

        :raises PhoenixError: as :meth:`serve`.
        """
        if not self.node or self._forked:
            self._start(lambda: bool(self.node), self._begin_as_node)

    def configure(self, settings: Settings) -> None:
        """Take what is set for this process."""
        self.settings, self.caps = settings, Caps(settings)
        self.budget = Budget(settings.inbox_total, self._shed)
        self.histories.total = settings.history_total

    def add(self, service: Service) -> None:
        """Let a service start and stop with the connections."""
        self.services.append(service)
        if self._services_run:
            self.hub.run(service.start)
        if self._serving:
            self.hub.run(service.greet)

    def farewell(self) -> None:
        """Tell the other nodes that this one ends."""
        if self._serving:
            self._tell_services(lambda service: service.farewell())

    def stop(self) -> None:
        """Stop what runs for the connections, which are to be closed by then."""
        if self._forked:
            self._forget_parent()
        self._stops += 1
        self._tear_down()
        self._close_publisher()
        self.runners.close()

    def _start(self, ready: Callable[[], bool], begin: Callable[[], None]) -> None:
        """Start once, however many come together."""
        if self._forked:
            self._forget_parent()
        if self.hub.elsewhere or (thread_id() != MAIN_THREAD_IDENT and not _in_event_loop()):
            raise Unsupported(WRONG_THREAD)
        if self._starter is gevent.getcurrent():
            return  # a service that starts asks for what is under way
        if self.draining:
            raise Unsupported(ENDED)
        stops = self._stops
        while self._stopping is not None:
            self._stopping.wait()
        with self._starting:
            self._check_not_stopped(stops)
            if ready():
                return
            self._starter = gevent.getcurrent()
            try:
                begin()
            except BaseException:
                if self._stops == stops:
                    self._tear_down()
                raise
            finally:
                self._starter = None

    def _begin_as_node(self) -> None:
        stops = self._stops
        self._join(stops)
        self._attach(stops)

    def _begin_serving(self) -> None:
        stops = self._stops
        if not self.node:
            self._join(stops)
        self._services_run = True
        for service in list(self.services):
            service.start()
        self._attach(stops)
        for service in self.services:  # also those that are added while one greets
            service.greet()
            self._check_not_stopped(stops)
        self._serving = True

    def _join(self, stops: int) -> None:
        """Take a name, and start the adapter, if there is one."""
        self.hub.start()
        node, adapter = secrets.token_hex(8), self._find_adapter()
        if adapter is not None:
            adapter.start(node, self._receive, self._node_gone)
            if self._stops != stops:
                adapter.stop()
            else:
                # What was published is handed on also where no server ends in good order: under gunicorn, in a script.
                atexit.register(self._exit)
        self._check_not_stopped(stops)
        self.node, self.adapter, self._process = node, adapter, os.getpid()
        if adapter is not None:
            self.histories.attach(adapter)
        self._close_publisher()

    def _attach(self, stops: int) -> None:
        if self.adapter is not None:
            self.pubsub.attach(self.adapter)
        self._check_not_stopped(stops)

    def _check_not_stopped(self, stops: int) -> None:
        if self._stops != stops:
            raise PhoenixError(STOPPED)

    def _tear_down(self) -> None:
        services_run, self._services_run, self._serving = self._services_run, False, False
        if services_run:
            self._tell_services(lambda service: service.stop())
        adapter, self.adapter, self.node = self.adapter, None, ""
        self.pubsub.detach()
        self.histories.detach()
        stopping = self._stopping = Event()
        try:
            if adapter is not None:
                atexit.unregister(self._exit)
                adapter.stop()
            self.hub.stop()
        finally:
            if self._stopping is stopping:
                self._stopping = None
            stopping.set()

    def _exit(self) -> None:
        if os.getpid() == self._process:
            self.stop()

    @property
    def _forked(self) -> bool:
        """True in a process that was forked from a node: it is none, and the clients of its parent are not its own."""
        return bool(self.node) and self._process != os.getpid()

    def _forget_parent(self) -> None:
        """Begin anew in a process that was forked from a node, with nothing but what the app itself subscribes to."""
        self.pubsub.detach()
        self.adapter = None
        if self._services_run:
            self._tell_services(lambda service: service.stop())
        self._services_run = self._serving = False
        self.node, self.transports = "", Transports()
        self._stopping, self._starting, self._starter = None, Semaphore(), None
        self.connections.clear()
        self.caps = Caps(self.settings)
        self.hub.forget()
        self.histories.detach()
        self.runners.forget()
        self.turns.forget()
        self.pubsub.clear()
        for subscriber, topic in self._listeners.items():
            self.pubsub.subscribe(topic, subscriber)

    # What the app itself listens to.

    def listen(self, topic: str, subscriber: Subscriber, now: bool = True) -> Callable[[], None]:
        """Subscribe to a topic for the app itself; return a function that ends it. From any thread.

        :param now: whether this process becomes a node for it at once; else with its event loop's first turn.
        :raises PhoenixError: other nodes cannot be listened to from here.
        """
        self._prepare_to_listen(now)
        self.hub.run(self.pubsub.subscribe, topic, subscriber)
        self._listeners[subscriber] = topic

        def end() -> None:
            self._listeners.pop(subscriber, None)
            self.hub.run(self.pubsub.unsubscribe, topic, subscriber)

        return end

    def tap(self, notify: Notify, now: bool = True) -> Callable[[], None]:
        """Call a function with every broadcast of this process; as :meth:`listen`."""
        self._prepare_to_listen(now)
        return self.pubsub.tap(notify)

    def _prepare_to_listen(self, now: bool) -> None:
        """Become a node, or see why this process cannot, or need not."""
        if self._forked:
            self._forget_parent()
        if self.node:
            return
        if self.draining:
            raise Unsupported(ENDED)
        if _in_event_loop() and gevent.get_hub().main_hub:
            self.become_node()
        elif self._find_adapter() is None:
            if now:
                self.warn_if_alone("only what this process broadcasts is heard here")
        elif thread_id() != MAIN_THREAD_IDENT:
            raise Unsupported(WRONG_THREAD)
        elif now:
            if not monkey.is_module_patched("time"):
                log.warning("listening to other nodes: %s", UNPATCHED)
            self.become_node()
        elif not self._soon:
            self._soon = True
            self._become_node_soon()
            os.register_at_fork(after_in_child=calling(weakref.WeakMethod(self._become_node_soon)))

    def _become_node_soon(self) -> None:
        """Become a node with the first turns of the event loop, if there is to be one, after what imports the app."""
        if monkey.is_module_patched("time") or self._only_forks():  # or has just been forked, and is patched later
            Context().run(gevent.spawn, self._become_node_if_it_serves)

    def _become_node_if_it_serves(self) -> None:
        try:
            if not self.draining and not self._only_forks():
                self.become_node()
        except Exception:
            log_failure(log, "what other nodes publish is not heard before the first client comes")

    # Broadcasts.

    def _outlet(self) -> Adapter | Publisher | None:
        """Return what takes a broadcast to the other nodes.

        In a greenlet of the main thread, where an event loop runs, this process becomes a node. A script, a shell, a
        task of a task queue, another thread publish from outside, as does a process that was forked from a node.
        """
        if self.node and not self._forked:
            return self.adapter
        if not self.node and not self.draining and _in_event_loop() and gevent.get_hub().main_hub:
            self.become_node()
            return self.adapter
        if self._publisher is None and (adapter := self._find_adapter()) is not None:
            publisher = adapter.publisher()
            with self._publisher_lock:  # in which nothing may wait
                if self._publisher is None:
                    self._publisher = publisher
                    atexit.register(self._close_publisher)
        return self._publisher

    def _close_publisher(self) -> None:
        with self._publisher_lock:
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            atexit.unregister(self._close_publisher)
            publisher.close()

    def require_reach(self) -> None:
        """Check that clients could be reached from here: over other nodes, or since this process may serve them.

        :raises NotPublished: they could not.
        """
        if self._cannot_reach():
            raise NotPublished(NO_WAY)

    def warn_if_alone(self, what: str) -> None:
        """Log what it means that no other process can be reached from here, and this one may serve nobody."""
        if self._cannot_reach():
            log.warning("%s: %s", what, NO_WAY)

    def _cannot_reach(self) -> bool:
        if self.node and not self._forked:
            return False
        return not self.served and not self._may_serve() and self._find_adapter() is None

    def _receive(self, topic: str, data: bytes) -> None:
        """Deliver what another node has published."""
        try:
            broadcast = unpack(topic, data)
            if isinstance(broadcast, Kept):
                self.histories.arrive(broadcast)
            else:
                self.pubsub.broadcast(broadcast)
        except Exception:
            log_failure(log, "a broadcast of another node on %s is lost", shown(topic))

    def _node_gone(self, node: str) -> None:
        log.info("node %s has ended", node)
        if self._services_run:
            self._tell_services(lambda service: service.gone(node))

    def _tell_services(self, tell: Callable[[Service], None]) -> None:
        """Call each service; the failure of one is logged, and the others are called all the same."""
        for service in list(self.services):
            try:
                tell(service)
            except Exception:
                log_failure(log, "%r failed", service)

    def wait_until_quiet(self, seconds: float) -> None:
        """Wait, so long at most, until no transport is left at work and no author's code runs."""
        _wait_while(lambda: self.transports.count or self.runners.busy, seconds)

    def hand_over(self, seconds: float) -> None:
        """Wait, so long at most, until other nodes have taken over what they are to have."""
        _wait_while(lambda: any(service.hands_over() for service in self.services), seconds)

    def broadcast(
        self, broadcast: Broadcast, sender: Subscriber | None = None, local: bool = False, key: str = ""
    ) -> Position | None:
        """Deliver a broadcast to everybody who is subscribed to its topic; from any thread.

        A client that cannot carry it goes without. What the author does with the payload later changes nothing.

        :param local: on this node alone, and not to be kept.
        :param key: makes publishing it again do nothing, where its topic has a history.
        :return: its position, where its topic has a history.
        :raises InvalidPayload: no client of vsn 2.0.0 could take the payload, or the history of its topic cannot;
            nobody has been served then.
        :raises InvalidOption: there is a key, and no history.
        :raises NotPublished: other nodes cannot be reached, or no client at all; clients of this node have got it.
        """
        sealed = seal(broadcast, self._json)
        outlet = None if local else self._outlet()
        history = None if local else self.histories.of(sealed.topic, self._serving)
        if history is not None and (outlet is None or outlet.keeps):
            return self._keep(outlet, broadcast, sealed, sender, history, key)
        if key:
            raise InvalidOption(f"{shown(sealed.topic)} has no history: an idempotency_key needs one")
        if not isinstance(broadcast.payload, dict | bytes) and (outlet is not None or not self.pubsub.takes(sealed)):
            # JSON that is no object: clients of vsn 1.0.0 take it, where there can be no others.
            check_payload(broadcast)
        if not self._forked:
            self.hub.call(self.pubsub.broadcast, sealed, sender)
        if outlet is not None:
            outlet.publish(sealed.topic, pack(sealed, self._json))
        elif not local and self._is_alone(sealed.topic):
            raise NotPublished(f"nobody can hear {shown(sealed.event)} on {shown(sealed.topic)}: {NO_WAY}")
        return None

    def check_sent(self, broadcast: Broadcast) -> None:
        """Hold a broadcast to what the channels of its topic declare.

        :raises InvalidPayload: one of them declares something else, or it cannot be written.
        """
        routes = [route for socket in self.histories.sockets if (route := socket.match(broadcast.topic)) is not None]
        for channel in {route.channel for route in routes if route.channel.declared_events}:
            check_sent(channel, broadcast.event, self.as_written(broadcast.payload))

    def as_written(self, payload: Any) -> Any:
        """Return a payload as a client reads it."""
        return payload if isinstance(payload, bytes) else self._json.loads(self._json.dumps(payload), MAX_DEPTH)

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
        if outlet is None and self._is_alone(sealed.topic):
            raise NotPublished(f"nobody can hear {shown(sealed.event)} on {shown(sealed.topic)}: {NO_WAY}")
        position: Position = self.hub.run(self.histories.keep, outlet, sealed, history, sender, key)
        return position

    def history(self, topic: str, since: str | None = None, limit: int | None = None) -> list[Kept]:
        """Return what a topic keeps, the oldest first; the payloads are the reader's own. From any thread.

        :raises InvalidOption: it has no history.
        :raises HistoryLost: the history does not reach back to ``since``.
        :raises NotPublished: it cannot be read.
        :raises Unsupported: what joins the nodes keeps none.
        """
        kept: list[Kept] = self.hub.run(self.histories.list, self._archive(), topic, since, limit)
        return [self.pubsub.read(each) for each in kept]

    def once(self, topic: str, key: str, call: Callable[[], Reply | None]) -> Reply | None:
        """Call a function, unless it was called for this key of the topic; return its reply of now or then.

        :raises Refused: it is not known what has become of the first call.
        :raises Unsupported: what joins the nodes keeps nothing.
        """
        return answer_once(self.histories, self._archive(), self._json, topic, key, call)

    def _archive(self) -> Archive | None:
        outlet = self._outlet()
        if outlet is not None and not outlet.keeps:
            raise Unsupported(f"{type(outlet).__name__} keeps no histories: use redis:// or workers://")
        return outlet

    def _is_alone(self, topic: str) -> bool:
        """Tell whether no client of this process can be meant: it serves nobody, now or later, and nothing listens."""
        if (self.node and not self._forked) or self.pubsub.heard(topic):
            return False
        return gevent.getcurrent().parent is None and not (self.served or self._may_serve())

    def publish(self, broadcast: Broadcast) -> None:
        """Send a broadcast to the other nodes alone.

        :raises NotPublished: they cannot be reached.
        """
        if self.adapter is not None:
            self.adapter.publish(broadcast.topic, pack(broadcast, self._json))

    def connection_count(self) -> int:
        """Return how many clients are connected to this process."""
        return 0 if self._forked else len(self.connections)

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

    def reach(self, limit: str, **about: Any) -> None:
        """Count that a bound was reached, and signal it; who calls this logs it, once for each client at most."""
        self.limits[limit] += 1
        if limit_reached.receivers:
            try:
                limit_reached.send(self.app, limit=limit, **about)
            except FAILURES as failure:
                log.exception("a receiver of limit_reached failed")
                self.caught(failure)

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
    deadline = monotonic() + seconds
    while monotonic() < deadline and condition():
        gevent.sleep(QUIET_CHECK_PERIOD)


def _in_event_loop() -> bool:
    """Tell whether this is a greenlet that an event loop runs, or the event loop's own."""
    greenlet: Any = gevent.getcurrent()
    while greenlet is not None and not isinstance(greenlet, EventLoop):
        greenlet = greenlet.parent
    return greenlet is not None


def calling(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Return a function that calls a method for as long as its object lives."""

    def call() -> None:
        if (living := method()) is not None:
            living()

    return call
