"""What the connections of one app share in one process: its pubsub, its runners, its place among the nodes."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any

import gevent

from ..channel import ErrorHandlers
from ..exceptions import PhoenixError
from ..protocol.json import Json
from ..protocol.messages import Broadcast
from ..pubsub.adapter import Adapter, Publisher
from ..pubsub.envelope import check_names, pack, unpack
from ..pubsub.hub import Hub
from ..pubsub.local import PubSub, Subscriber
from .inbox import Runners

log = logging.getLogger("flask_phoenix.pubsub")

#: What counts as the failure of an author's code. A handler that exits, is killed or runs out of time has crashed.
FAILURES = (BaseException,)

#: Seconds between two checks of whether all is quiet.
QUIET_CHECK_PERIOD = 0.02


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

    def gone(self, node: str) -> None:
        """Another node is known to have ended."""
        raise NotImplementedError


class Engine:
    """What the connections of one app share in one process.

    :param context: makes the context in which each callback of an author runs.
    :param find_adapter: returns the adapter to the other nodes, if there is one; called in the process that serves.
    """

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[Any]],
        json: Json,
        find_adapter: Callable[[], Adapter | None] = lambda: None,
    ) -> None:
        self.context = context
        self._find_adapter = find_adapter
        #: What makes replies of exceptions of handlers, by class of exception.
        self.error_handlers: ErrorHandlers = {}
        #: Tells the app of an exception of a callback, in that callback's context.
        self.report: Callable[[BaseException], None] = lambda failure: None
        self.adapter: Adapter | None = None
        self._json = json
        self.hub = Hub()
        self.pubsub = PubSub(self.hub.put, json.loads)
        self.runners = Runners()
        #: What ends each connection, by a close code and a reason.
        self.connections: set[Callable[[int, str], None]] = set()
        #: The server of this process has been inspected.
        self.server_inspected = False
        #: The server says that other processes serve the same app.
        self.one_of_many = False
        #: The process is about to end: no client is accepted any more.
        self.draining = False
        #: The name of this process among all nodes; empty while it is none.
        self.node = ""
        self.services: list[Service] = []
        #: The process that became a node; one that is forked from it does not have its adapter.
        self._process = 0
        self._publisher: Publisher | None = None
        self._serving = False
        self._transports = 0

    def serve(self) -> None:
        """Start what connections need, in the process and the thread that serve them; a second call does nothing.

        :raises PhoenixError: the adapter cannot start; the next call tries again.
        """
        if self._serving:
            return
        self.hub.start()
        self._become_node()
        self._serving = True
        for service in self.services:
            service.start()
        self._attach()
        for service in self.services:
            if self._serving:  # greeting may block, and a stop come meanwhile
                service.greet()

    def add(self, service: Service) -> None:
        """Let a service start and stop with the connections."""
        self.services.append(service)
        if self._serving:
            service.start()
            service.greet()

    def farewell(self) -> None:
        """Tell the other nodes that this one ends."""
        if self._serving:
            for service in self.services:
                service.farewell()

    def stop(self) -> None:
        """Stop what runs for the connections, which are to be closed by then."""
        if self._serving:
            self._serving = False
            for service in self.services:
                service.stop()
        if self.adapter is not None:
            atexit.unregister(self._exit)
            self.adapter.stop()
        self._close_publisher()
        self.adapter, self.node = None, ""
        self.pubsub.detach()
        self.hub.stop()
        self.runners.close()

    def _become_node(self) -> None:
        """Become a node, with a name and perhaps an adapter; a second call does nothing. Never blocks."""
        if self.node:
            return
        node, adapter = secrets.token_hex(8), self._find_adapter()
        if adapter is not None:
            adapter.start(node, self._receive, self._node_gone)
            # What was published is handed on also where no server ends in good order: under gunicorn, in a script.
            atexit.register(self._exit)
        self.node, self.adapter, self._process = node, adapter, os.getpid()
        self._close_publisher()

    def _attach(self) -> None:
        if self.adapter is not None:
            self.pubsub.attach(self.adapter)

    def _outlet(self) -> Adapter | Publisher | None:
        """Return what takes a broadcast to the other nodes.

        In a greenlet, where an event loop runs, this process becomes a node. A script, a shell, a task of a task queue
        publish from outside, as does a process that was forked from a node.
        """
        if not self._forked and (self.node or gevent.getcurrent().parent is not None):
            self._become_node()
            self._attach()
            return self.adapter
        if self._publisher is None and (adapter := self._find_adapter()) is not None:
            self._publisher = adapter.publisher()
            atexit.register(self._close_publisher)
        return self._publisher

    def _close_publisher(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            atexit.unregister(self._close_publisher)
            publisher.close()

    @property
    def _forked(self) -> bool:
        """True in a process that was forked from a node: it is none, and the clients of its parent are not its own."""
        return bool(self.node) and self._process != os.getpid()

    def _exit(self) -> None:
        if os.getpid() == self._process:
            self.stop()

    def _receive(self, topic: str, data: bytes) -> None:
        """Deliver what another node has published."""
        try:
            self.pubsub.broadcast(unpack(topic, data))
        except PhoenixError:
            log.exception("a broadcast of another node on %r is lost", topic)

    def _node_gone(self, node: str) -> None:
        log.info("node %s has ended", node)
        if self._serving:
            for service in self.services:
                service.gone(node)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Count a transport's work for one client, from its begin to its very end, after that of its connection."""
        self._transports += 1
        try:
            yield
        finally:
            self._transports -= 1

    def wait_until_quiet(self, seconds: float) -> None:
        """Wait, so long at most, until no transport is left at work and no author's code runs."""
        while seconds > 0 and (self._transports or self.runners.busy):
            gevent.sleep(QUIET_CHECK_PERIOD)
            seconds -= QUIET_CHECK_PERIOD

    def broadcast(self, broadcast: Broadcast, sender: Subscriber | None = None, local: bool = False) -> None:
        """Deliver a broadcast to everybody who is subscribed to its topic; from any thread.

        :param local: on this node alone.
        :raises InvalidPayload: a client here cannot take the payload; nobody has been served then.
        :raises NotPublished: other nodes cannot be reached; clients of this node have got it.
        """
        check_names(broadcast)
        if self.hub.elsewhere:
            # It is delivered later: as it is now, and its errors are raised here.
            broadcast = broadcast._replace(payload=deepcopy(broadcast.payload))
            self.pubsub.check(broadcast)
        outlet = None if local else self._outlet()
        packed = pack(broadcast, self._json) if outlet is not None else b""
        if not self._forked:
            self.hub.call(self.pubsub.broadcast, broadcast, sender)
        if outlet is not None:
            outlet.publish(broadcast.topic, packed)

    def publish(self, broadcast: Broadcast) -> None:
        """Send a broadcast to the other nodes alone.

        :raises NotPublished: they cannot be reached.
        """
        if self.adapter is not None:
            self.adapter.publish(broadcast.topic, pack(broadcast, self._json))
