"""The engine: what the connections of one app share in one process, and its place among the nodes."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from time import monotonic
from typing import Any

import gevent

from ..exceptions import PhoenixError
from ..protocol.json import Json
from ..protocol.messages import Broadcast
from ..pubsub.adapter import Adapter, Publisher
from ..pubsub.envelope import check_names, pack, unpack
from ..pubsub.hub import Hub
from ..pubsub.local import PubSub, Subscriber
from .inbox import Runners

log = logging.getLogger(__name__)

#: What an author's code may end with. A handler that exits, is killed or runs out of time is a handler that crashed.
FAILURES = (Exception, gevent.GreenletExit, gevent.Timeout, SystemExit)

#: Seconds between two looks at whether all is quiet.
LOOK = 0.02


class Service:
    """What runs beside the connections of a process: it starts with the first of them."""

    def start(self) -> None:
        """Begin: this process is a node, and has its name. Never blocks."""
        raise NotImplementedError

    def greet(self) -> None:
        """Turn to the other nodes, if there is a outlet to them; may block."""
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
    :param find_adapter: returns the outlet to other nodes, if there is one; asked in the process that serves.
    """

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[Any]],
        json: Json,
        find_adapter: Callable[[], Adapter | None] = lambda: None,
    ) -> None:
        self.context = context
        self._find_adapter = find_adapter
        self.adapter: Adapter | None = None
        self._json = json
        self.hub = Hub()
        self.pubsub = PubSub(self.hub.put, json.loads)
        self.runners = Runners()
        #: What ends each connection, by a close code and a reason.
        self.connections: set[Callable[[int, str], None]] = set()
        #: The server of this process has been looked at.
        self.server_inspected = False
        #: The server below says that other processes serve the same app.
        self.one_of_many = False
        #: The process is about to end: nobody is let in any more.
        self.draining = False
        #: The name of this process among all; made in it, and empty before it starts.
        self.node = ""
        self.services: list[Service] = []
        #: The process that became a node; those that are forked from it have none of its adapter.
        self._process = 0
        self._publisher: Publisher | None = None
        self._serving = False
        self._carried = 0

    def serve(self) -> None:
        """Start what connections need, in the process and the thread that serve them; a second call does nothing.

        :raises PhoenixError: the outlet to the other nodes cannot be; the next call tries again.
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
            if self._serving:  # meeting may take a while, and a stop come in between
                service.greet()

    def add(self, service: Service) -> None:
        """Let a service start and stop with the connections."""
        self.services.append(service)
        if self._serving:
            service.start()
            service.greet()

    def farewell(self) -> None:
        """Let the other nodes know that this one ends."""
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
        """Become a node, with a name and perhaps a outlet to the others; a second call does nothing. Never blocks."""
        if self.node:
            return
        node, adapter = secrets.token_hex(8), self._find_adapter()
        if adapter is not None:
            adapter.start(node, self._receive, self._node_gone)
            # What is on its outlet is handed on, also where no server ends in good order: under gunicorn, in a script.
            atexit.register(self._exit)
        self.node, self.adapter, self._process = node, adapter, os.getpid()
        self._close_publisher()

    def _attach(self) -> None:
        if self.adapter is not None:
            self.pubsub.attach(self.adapter)

    def _outlet(self) -> Adapter | Publisher | None:
        """Return what takes a broadcast to the other nodes.

        It speaks as one of them where an event loop runs, or has run: in a greenlet. A script, a task of a worker, a
        shell speak from outside, as does a process that was forked from a node.
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
        """True in a process that was forked from a node: it is none, and its parent's clients are not its own."""
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
        """Count a road from its begin to its very end, behind that of its connection."""
        self._carried += 1
        try:
            yield
        finally:
            self._carried -= 1

    def wait_until_quiet(self, seconds: float) -> None:
        """Wait, so long at most, until no road is left and no author's code runs."""
        deadline = monotonic() + seconds
        while monotonic() < deadline and (self._carried or self.runners.busy):
            gevent.sleep(LOOK)

    def broadcast(self, broadcast: Broadcast, sender: Subscriber | None = None, local: bool = False) -> None:
        """Hand a broadcast to everybody who hears its topic; from any thread.

        :param local: to nobody on other nodes.
        :raises InvalidPayload: somebody here cannot take the payload; nobody has been served then.
        :raises NotPublished: other nodes cannot be reached; clients of this node have got it.
        """
        check_names(broadcast)
        if self.hub.elsewhere:
            # It is delivered later: as it is now, and with its errors raised here.
            broadcast = broadcast._replace(payload=deepcopy(broadcast.payload))
            self.pubsub.check(broadcast)
        outlet = None if local else self._outlet()
        packed = pack(broadcast, self._json) if outlet is not None else b""
        if not self._forked:
            self.hub.call(self.pubsub.broadcast, broadcast, sender)
        if outlet is not None:
            outlet.publish(broadcast.topic, packed)

    def publish(self, broadcast: Broadcast) -> None:
        """Hand a broadcast to the other nodes alone.

        :raises NotPublished: they cannot be reached.
        """
        if self.adapter is not None:
            self.adapter.publish(broadcast.topic, pack(broadcast, self._json))
