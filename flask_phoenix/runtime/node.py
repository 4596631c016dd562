"""This process as one node among others: how it becomes one and ends, and how it reaches them."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import weakref
from collections.abc import Callable
from contextvars import Context
from time import monotonic, time
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.hub import MAIN_THREAD_IDENT  # type: ignore[attr-defined]
from gevent.hub import Hub as EventLoop
from gevent.lock import Semaphore

from ..exceptions import NotPublished, PhoenixError, Unsupported
from ..protocol.messages import Broadcast, Kept, Traced, shown
from ..pubsub.adapter import Adapter, Archive, Publisher
from ..pubsub.envelope import MARKED, unmark, unpack
from ..pubsub.failures import log_failure
from ..pubsub.hub import Hub, allocate_lock, thread_id
from ..pubsub.local import PubSub, Stamp
from ..signals import adapter_back, adapter_lost, node_gone, node_joined
from .histories import Histories

log = logging.getLogger("flask_phoenix.pubsub")

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

    def drain(self) -> None:
        """Begin to end: no client is let in any more, and those that are here go now."""

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


class Node:
    """This process as one node among others, from the start of its adapter and its services to their stop.

    Where it is no node it publishes from outside. What comes from other nodes goes to the pubsub and to the histories.

    :param find_adapter: returns the adapter to the other nodes, if there is one; called in the process that serves.
    :param may_serve: tells whether this process serves clients, or may do so later.
    :param only_forks: tells whether this process serves nobody, but forks those that do.
    :param is_ending: tells whether this process is about to end, and starts nothing any more.
    :param forget_parent: makes the rest of the engine begin anew, in a process that was forked from a node.
    :param heard: called with each broadcast of another node, before it is delivered.
    :param tell: sends a signal.
    """

    def __init__(
        self,
        hub: Hub,
        pubsub: PubSub,
        histories: Histories,
        *,
        find_adapter: Callable[[], Adapter | None],
        may_serve: Callable[[], bool],
        only_forks: Callable[[], bool],
        is_ending: Callable[[], bool],
        forget_parent: Callable[[], None],
        heard: Callable[[Broadcast], None],
        tell: Callable[..., None],
    ) -> None:
        self._hub = hub
        self._pubsub = pubsub
        self._histories = histories
        self._find_adapter = find_adapter
        self._may_serve = may_serve
        self._only_forks = only_forks
        self._is_ending = is_ending
        self._forget_rest = forget_parent
        self._heard = heard
        self._tell = tell
        #: The other nodes that are known.
        self.others: set[str] = set()
        #: The name of this process among all nodes; empty while it is none.
        self.name = ""
        self.adapter: Adapter | None = None
        self._services: list[Service] = []
        #: It has greeted the other nodes; clients are let in.
        self.serving = False
        self._services_run = False
        #: The process that became a node; one that is forked from it does not have its adapter.
        self._process = 0
        self._publisher: Publisher | None = None
        self._publisher_lock = allocate_lock()
        #: Held by the greenlet that starts; the others wait for it.
        self._starting = Semaphore()
        self._starter: Any = None
        #: Set when the stop that is under way has ended.
        self._stopping: Event | None = None
        #: How often this node was stopped.
        self._stops = 0
        #: It becomes one with the first turns of the event loop.
        self._soon = False

    @property
    def forked(self) -> bool:
        """True in a process that was forked from a node: it is none, and the clients of its parent are not its own."""
        return bool(self.name) and self._process != os.getpid()

    # The start and the end. Whatever blocks in here may let others in: see :attr:`_starting` and :attr:`_stops`.

    def serve(self) -> None:
        """Start what connections need, in the process and the thread that serve them.

        Whoever calls it while it starts waits for that one start; if that fails, the next one tries again.

        :raises PhoenixError: the adapter cannot start, or this process was stopped meanwhile.
        :raises Unsupported: this is not the thread that serves.
        """
        if self.serving and not self.forked:
            return
        self._start(lambda: self.serving, self._begin_serving)

    def become(self) -> None:
        """Receive from other nodes, and publish to them, in the process and the thread that call; as :meth:`serve`.

        :raises PhoenixError: as :meth:`serve`.
        """
        if not self.name or self.forked:
            self._start(lambda: bool(self.name), self._begin_as_node)

    def add(self, service: Service) -> None:
        """Let a service start and stop with the connections."""
        self._services.append(service)
        if self._services_run:
            self._hub.run(service.start)
        if self.serving:
            self._hub.run(service.greet)

    def hands_over(self) -> bool:
        """Tell whether other nodes are still to take over what a service holds."""
        return any(service.hands_over() for service in self._services)

    def drain(self) -> None:
        """Tell the services that the clients go now."""
        if self.serving:
            self._tell_services(lambda service: service.drain())

    def farewell(self) -> None:
        """Tell the other nodes that this one ends."""
        if self.serving:
            self._tell_services(lambda service: service.farewell())

    def stop(self) -> None:
        """Be a node no more; the connections are to be closed by then."""
        if self.forked:
            self._forget_parent()
        self._stops += 1
        self._tear_down()
        self._close_publisher()

    def _start(self, ready: Callable[[], bool], begin: Callable[[], None]) -> None:
        """Start once, however many come together."""
        if self.forked:
            self._forget_parent()
        if self._hub.elsewhere or (thread_id() != MAIN_THREAD_IDENT and not _in_event_loop()):
            raise Unsupported(WRONG_THREAD)
        if self._starter is gevent.getcurrent():
            return  # a service that starts asks for what is under way
        if self._is_ending():
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
        if not self.name:
            self._join(stops)
        self._services_run = True
        for service in list(self._services):
            service.start()
        self._attach(stops)
        for service in self._services:  # also those that are added while one greets
            service.greet()
            self._check_not_stopped(stops)
        self.serving = True

    def _join(self, stops: int) -> None:
        """Take a name, and start the adapter, if there is one."""
        self._hub.start()
        node, adapter = secrets.token_hex(8), self._find_adapter()
        if adapter is not None:
            adapter.joined, adapter.lost_changed = self.note_joined, self._adapter_changed
            adapter.start(node, self._receive, self._node_gone)
            if self._stops != stops:
                adapter.stop()
            else:
                # What was published is handed on also where no server ends in good order: under gunicorn, in a script.
                atexit.register(self._exit)
        self._check_not_stopped(stops)
        self.name, self.adapter, self._process = node, adapter, os.getpid()
        if adapter is not None:
            self._histories.attach(adapter)
        self._close_publisher()

    def _attach(self, stops: int) -> None:
        if self.adapter is not None:
            self._pubsub.attach(self.adapter)
        self._check_not_stopped(stops)

    def _check_not_stopped(self, stops: int) -> None:
        if self._stops != stops:
            raise PhoenixError(STOPPED)

    def _tear_down(self) -> None:
        services_run, self._services_run, self.serving = self._services_run, False, False
        if services_run:
            self._tell_services(lambda service: service.stop())
        adapter, self.adapter, self.name = self.adapter, None, ""
        self.others.clear()
        self._pubsub.detach()
        self._histories.detach()
        stopping = self._stopping = Event()
        try:
            if adapter is not None:
                atexit.unregister(self._exit)
                adapter.stop()
            self._hub.stop()
        finally:
            if self._stopping is stopping:
                self._stopping = None
            stopping.set()

    def _exit(self) -> None:
        if os.getpid() == self._process:
            self.stop()

    def _forget_parent(self) -> None:
        """Begin anew in a process that was forked from a node."""
        self._pubsub.detach()
        self.adapter = None
        if self._services_run:
            self._tell_services(lambda service: service.stop())
        self._services_run = self.serving = False
        self.name = ""
        self.others.clear()
        self._stopping, self._starting, self._starter = None, Semaphore(), None
        self._hub.forget()
        self._histories.detach()
        self._pubsub.clear()
        self._forget_rest()

    # For what the app itself listens to.

    def prepare_to_listen(self, now: bool) -> None:
        """Become a node, or see why this process cannot, or need not."""
        if self.forked:
            self._forget_parent()
        if self.name:
            return
        if self._is_ending():
            raise Unsupported(ENDED)
        if _in_event_loop() and gevent.get_hub().main_hub:
            self.become()
        elif self._find_adapter() is None:
            if now:
                self.warn_if_alone("only what this process broadcasts is heard here")
        elif thread_id() != MAIN_THREAD_IDENT:
            raise Unsupported(WRONG_THREAD)
        elif now:
            if not monkey.is_module_patched("time"):
                log.warning("listening to other nodes: %s", UNPATCHED)
            self.become()
        elif not self._soon:
            self._soon = True
            self._become_soon()
            os.register_at_fork(after_in_child=calling(weakref.WeakMethod(self._become_soon)))

    def _become_soon(self) -> None:
        """Become a node with the first turns of the event loop, if there is to be one, after what imports the app."""
        if monkey.is_module_patched("time") or self._only_forks():  # or has just been forked, and is patched later
            Context().run(gevent.spawn, self._become_if_it_serves)

    def _become_if_it_serves(self) -> None:
        try:
            if not self._is_ending() and not self._only_forks():
                self.become()
        except Exception:
            log_failure(log, "what other nodes publish is not heard before the first client comes")

    # Which other nodes there are.

    def note_joined(self, node: str) -> None:
        """Another node is known from now on."""
        if node not in self.others:
            self.others.add(node)
            self._tell(node_joined, node=node)

    def note_gone(self, node: str) -> None:
        """Another node is known no more."""
        if node in self.others:
            self.others.remove(node)
            self._tell(node_gone, node=node)

    # The ways to the other nodes, and from them.

    def outlet(self) -> Adapter | Publisher | None:
        """Return what takes a broadcast to the other nodes.

        In a greenlet of the main thread, where an event loop runs, this process becomes a node. A script, a shell, a
        task of a task queue, another thread publish from outside, as does a process that was forked from a node.
        """
        if self.name and not self.forked:
            return self.adapter
        if not self.name and not self._is_ending() and _in_event_loop() and gevent.get_hub().main_hub:
            self.become()
            return self.adapter
        if self._publisher is None and (adapter := self._find_adapter()) is not None:
            publisher = adapter.publisher()
            with self._publisher_lock:  # in which nothing may wait
                if self._publisher is None:
                    self._publisher = publisher
                    atexit.register(self._close_publisher)
        return self._publisher

    def archive(self) -> Archive | None:
        """Return what keeps for all nodes, if there is any; as :meth:`outlet`.

        :raises Unsupported: what joins the nodes keeps nothing.
        """
        outlet = self.outlet()
        if outlet is not None and not outlet.keeps:
            raise Unsupported(f"{type(outlet).__name__} keeps no histories: use redis:// or workers://")
        return outlet

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

    def require_hearer(self, broadcast: Broadcast) -> None:
        """Check that a client of this process can be meant: it serves, now or later, or something listens.

        :raises NotPublished: none can.
        """
        if (self.name and not self.forked) or self._pubsub.heard(broadcast.topic):
            return
        if gevent.getcurrent().parent is None and not self._may_serve():
            raise NotPublished(f"nobody can hear {shown(broadcast.event)} on {shown(broadcast.topic)}: {NO_WAY}")

    def _cannot_reach(self) -> bool:
        if self.name and not self.forked:
            return False
        return not self._may_serve() and self._find_adapter() is None

    def _receive(self, topic: str, data: bytes) -> None:
        """Deliver what another node has published; wait first while much is to be delivered."""
        self._hub.wait_for_room()
        try:
            stamp, trace = None, ""
            if data[:1] == MARKED:
                at, trace, data = unmark(data)
                stamp = Stamp(monotonic() - max(0.0, time() - at), True)
            broadcast = unpack(topic, data)
            self._heard(broadcast)
            if isinstance(broadcast, Kept):
                self._histories.arrive(broadcast)
            else:
                self._pubsub.broadcast(Traced.made(broadcast, trace) if trace else broadcast, stamp=stamp)
        except Exception:
            log_failure(log, "a broadcast of another node on %s is lost", shown(topic))

    def _adapter_changed(self, lost: bool, why: str) -> None:
        self._tell(adapter_lost if lost else adapter_back, why=why)

    def _node_gone(self, node: str) -> None:
        log.info("node %s has ended", node)
        self.note_gone(node)
        if self._services_run:
            self._tell_services(lambda service: service.gone(node))

    def _tell_services(self, tell: Callable[[Service], None]) -> None:
        """Call each service; the failure of one is logged, and the others are called all the same."""
        for service in list(self._services):
            try:
                tell(service)
            except Exception:
                log_failure(log, "%r failed", service)


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
