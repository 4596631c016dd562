"""What one app has of this extension: its engine, its mounts, its presences, its secrets."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from blinker import Signal
from flask import Flask, current_app, got_request_exception, has_app_context, has_request_context
from flask.json.provider import DefaultJSONProvider
from gevent import GreenletExit

from .broadcaster import NONE, SETTING
from .channel import Channel
from .dashboard.channels import MOUNT_OPTIONS, DashboardSocket
from .dashboard.dashboard import Dashboard
from .exceptions import InvalidOption, PhoenixError
from .hints import Hints
from .operations.answers import Operations
from .operations.cluster import TIMEOUT, Cluster
from .payloads.writing import plain_value
from .presence import Presence
from .protocol.json import Json
from .protocol.messages import Broadcast, Kept, disconnect_message
from .pubsub.adapter import Adapter, adapter_class
from .pubsub.local import Subscriber
from .pubsub.unix.adapter import WorkersAdapter
from .pubsub.unix.directory import directory_of_server
from .runtime.background import Background
from .runtime.engine import FAILURES, Engine
from .runtime.listener import Listener
from .runtime.logs import SECRETS, ParameterFilter
from .runtime.logs import SETTING as FILTER_SETTING
from .runtime.peers import Peers
from .runtime.settings import KEYS, Settings
from .runtime.snapshot import LARGEST, inspect
from .runtime.watchdog import Watchdog
from .server.gunicorn import has_several_workers, is_master, is_worker
from .socket import BaseSocket, Socket
from .tokens import MAX_AGE, Secret, sign, verify
from .tracker.server import TrackerServer
from .transports.endpoint import Endpoint, WebSocketEndpoint
from .transports.longpoll.endpoint import LongPollEndpoint
from .transports.options import check_keys, make_mounts

#: The app's module that writes and reads JSON, or its name.
JSON_SETTING = "PHOENIX_JSON"
#: What an app sets once, besides the options of its mounts and the settings of its processes.
APP_KEYS = (SETTING, FILTER_SETTING, JSON_SETTING)

log = logging.getLogger("flask_phoenix.pubsub")
socket_log = logging.getLogger("flask_phoenix.handshake")
channel_log = logging.getLogger("flask_phoenix.channel")

MANY_PROCESSES = (
    f"several processes serve this app and nothing joins them, since {SETTING} is {NONE!r}: a broadcast reaches only"
    " the clients of its own process. Take that setting away, or name a way, such as redis://localhost"
)

NO_SOCKETS = (
    "no socket is mounted in the app %r, and every client will get HTTP 404: write @phoenix.socket('/socket') above a"
    " class, in a module that the app imports. Where a module was imported under two names ('python app.py', and in"
    " it 'from app import phoenix'), there are two: keep phoenix in a module of its own, which the others import"
)

ENDPOINTS: dict[str, type[Endpoint]] = {"websocket": WebSocketEndpoint, "longpoll": LongPollEndpoint}


class State:
    """What one app has of this extension: ``app.extensions["phoenix"]``.

    Its methods speak for that app, wherever they are called.
    """

    def __init__(self, app: Flask, adapter: Adapter | None) -> None:
        self.app = app
        self._adapter = adapter
        #: What names the way to other nodes; None: nothing does.
        self.pubsub_url = app.config.get(SETTING) or os.environ.get(SETTING)
        if self.pubsub_url and self.pubsub_url != NONE:
            adapter_class(self.pubsub_url).from_url(self.pubsub_url)  # is there one, and does it take the URL?
        self.json = Json(_json_module(app.config.get(JSON_SETTING)), self._to_json)
        self.engine = Engine(app.app_context, self.json, self._find_adapter, self._may_serve, is_master)
        self.engine.report, self.engine.send, self.engine.checks = self._report, self._send, self._checks
        check_keys(app.config, [*APP_KEYS, *KEYS])
        self.engine.configure(Settings.read(app.config))
        self.engine.filter_parameters = ParameterFilter(app.config.get(FILTER_SETTING, SECRETS))
        self.engine.node.add(Peers(self.engine))
        self.engine.node.add(Operations(self.engine, self.inspect, self.secrets))
        if app.debug:
            self.engine.node.add(Watchdog())
        #: Looks at broadcasts under debug.
        self._hints = Hints(self.engine, lambda: self.engine.histories.sockets) if app.debug else None
        self.endpoints: list[Endpoint] = []
        #: What this app and process has of each presence.
        self.trackers: dict[Presence, TrackerServer] = {}
        #: The names of what is run once per cluster.
        self.led: list[str] = []
        #: What is measured of this app, once a blueprint of metrics is registered.
        self.metrics: Any = None
        #: The dashboard, once its blueprint is registered.
        self.dashboard: Dashboard | None = None

    def mount(self, path: str, socket: type[BaseSocket], options: dict[str, Any]) -> None:
        """Serve a socket in this app."""
        if issubclass(socket, Socket) and socket not in self.engine.histories.sockets:
            self.engine.histories.sockets.append(socket)
        for mount in make_mounts(path, socket, options, self.app.config):
            endpoint = ENDPOINTS[mount.transport](self.engine, self.json, mount)
            endpoint.register(self.app)
            self.endpoints.append(endpoint)

    def show_dashboard(self, path: str, allow: Callable[[], Any]) -> None:
        """Have a dashboard in this app, whose socket is at a path.

        :raises InvalidOption: it has one.
        """
        if self.dashboard is not None:
            raise InvalidOption("this app has a dashboard already: register phoenix.dashboard(...) once for each app")
        options = dict(MOUNT_OPTIONS)
        if self.app.config.get("PHOENIX_CHECK_ORIGIN") is False:  # what is good for public data is not for this
            options["check_origin"] = True
        self.mount(path, DashboardSocket, options)
        self.dashboard = Dashboard(
            self.app, self.engine, allow, path, self._presence_sizes, self._present, self.cluster
        )

    def _presence_sizes(self) -> dict[str, int]:
        return {presence.name: tracker.tracker.size for presence, tracker in self.trackers.items()}

    def _present(self, topic: str) -> list[str]:
        return sorted({key for tracker in self.trackers.values() for key in tracker.tracker.list(topic)})

    def warn_if_bare(self) -> None:
        """Log that the app has no sockets, which is no use to a server."""
        if not self.endpoints:
            socket_log.warning(NO_SOCKETS, self.app.name)

    def keep(self, presence: Presence, down_period: float, grace: float) -> None:
        """Have a presence in this app."""
        server = self.trackers[presence] = TrackerServer(presence, self.engine, self.json, down_period, grace)
        self.engine.node.add(server)

    def run_beside(self, function: Callable[[], Any], name: str) -> None:
        """Call a function beside the requests, as :meth:`Phoenix.background` does."""
        self.engine.node.add(Background(self.engine, function, name))
        if name:
            self.led.append(name)

    @property
    def has_own_adapter(self) -> bool:
        """Whether an adapter was handed in, which no URL names."""
        return self._adapter is not None

    def endpoint(self, name: str | None) -> Endpoint:
        """Return the mount that Flask routed a request to.

        :raises PhoenixError: it is none of ours.
        """
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        raise PhoenixError(
            f"no socket is mounted there; there are {[endpoint.mount.url for endpoint in self.endpoints]}"
        )

    def broadcast(self, topic: Any, event: str, payload: Any, *, idempotency_key: str = "") -> Any:
        """Send an event to everybody on a topic, or on several, as :meth:`Phoenix.broadcast` does."""
        if isinstance(topic, list | tuple):
            return self.engine.broadcast_to_each(
                [self._checked(each, event, payload) for each in topic], idempotency_key
            )
        return self.engine.broadcast(self._checked(topic, event, payload), key=idempotency_key)

    def history(self, topic: str, since: str | None = None, limit: int | None = None) -> list[Kept]:
        """Return what a topic keeps, as :meth:`Phoenix.history` does."""
        return self.engine.history(topic, since, limit)[1]

    def broadcast_from(self, sender: Channel, topic: str, event: str, payload: Any) -> None:
        """Send an event to everybody on a topic but one channel, as :meth:`Phoenix.broadcast_from` does."""
        if not isinstance(sender, Channel):
            raise InvalidOption(
                f"broadcast_from leaves out a channel; got {sender!r:.200}. To leave out none: broadcast"
            )
        self.engine.broadcast(self._checked(topic, event, payload), sender.runtime.subscriber)

    def local_broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send an event to everybody on a topic in this process, as :meth:`Phoenix.local_broadcast` does."""
        self.engine.broadcast(self._checked(topic, event, payload), local=True)

    def subscribe(self, topic: str, function: Callable[[Broadcast], Any]) -> Callable[[], None]:
        """Call a function with each broadcast on a topic, as :meth:`Phoenix.subscribe` does."""
        listener = Listener(self.engine, function)
        return self.engine.listen(topic, Subscriber(listener.notify), has_app_context())

    def tap(self, function: Callable[[Broadcast], Any]) -> Callable[[], None]:
        """Call a function with every broadcast of this process, as :meth:`Phoenix.tap` does."""
        return self.engine.tap(Listener(self.engine, function).notify, has_app_context())

    def disconnect(self, id: str, topic: str | None = None) -> None:
        """Close every connection whose socket has this id, as :meth:`Phoenix.disconnect` does."""
        self.engine.broadcast(disconnect_message(id, topic))

    def connection_count(self) -> int:
        """Return how many clients are connected to this process."""
        return self.engine.connection_count()

    def inspect(self, largest: int = LARGEST) -> dict[str, Any]:
        """Return what this process has and does, as :meth:`Phoenix.inspect` does."""
        seen: dict[str, Any] = self.engine.hub.run(inspect, self.engine, largest)
        return {**seen, "presence": self._presence_sizes()}

    def sign_token(self, data: Any, salt: str, max_age: float = MAX_AGE) -> str:
        """Write a token, as :meth:`Phoenix.sign_token` does."""
        return sign(data, salt, self.secrets()[0], max_age)

    def verify_token(self, token: str | None, salt: str, max_age: float | None = None) -> Any:
        """Return the data of a token, as :meth:`Phoenix.verify_token` does."""
        return verify(token, salt, self.secrets(), max_age)

    def cluster(self, timeout: float = TIMEOUT) -> Cluster:
        """Return what asks all nodes of this app, as an operator does; this process is to be one of them.

        :param timeout: seconds that they have to answer.
        """
        return Cluster(self.engine, self.secrets, timeout)

    def secrets(self) -> list[Secret]:
        """Return the secrets that tokens may be signed with; the first is the one that signs.

        :raises InvalidOption: there is none.
        """
        config = self.app.config
        if not config.get("SECRET_KEY"):
            raise InvalidOption(
                "tokens are signed with the app's SECRET_KEY, and it has none: set one, long and random"
            )
        return [config["SECRET_KEY"], *(config.get("SECRET_KEY_FALLBACKS") or ())]

    def _to_json(self, value: Any) -> Any:
        """Turn a value of another type into one that JSON has, as the app's JSON provider of this moment does.

        Flask's own writes times as headers of HTTP have them: clients get them as fields of records are written.
        """
        default = getattr(self.app.json, "default", None)
        if default is DefaultJSONProvider.default:
            return plain_value(value, default)
        return default(value) if default is not None else json.loads(self.app.json.dumps(value))

    def _find_adapter(self) -> Adapter | None:
        """Choose the adapter: what was handed in, what the URL names, or, among several workers, their own."""
        several = self.engine.one_of_many or has_several_workers()
        if self._adapter is not None:
            return self._adapter
        if self.pubsub_url == NONE:
            if several:
                log.warning(MANY_PROCESSES)
            return None
        if self.pubsub_url:
            return adapter_class(self.pubsub_url).from_url(self.pubsub_url)
        return WorkersAdapter(partial(directory_of_server, self.app.import_name)) if several else None

    def _report(self, failure: BaseException) -> None:
        """Tell the listeners of Flask's ``got_request_exception`` of an exception of a callback."""
        if isinstance(failure, KeyboardInterrupt | SystemExit | GreenletExit):
            return
        try:
            got_request_exception.send(self.app, _async_wrapper=self.app.ensure_sync, exception=failure)
        except FAILURES:
            channel_log.exception("a listener of got_request_exception failed")

    def _checks(self) -> bool:
        return bool(self.app.config["TESTING"] or self.app.config["DEBUG"])

    def _checked(self, topic: str, event: str, payload: Any) -> Broadcast:
        """Make a broadcast; in tests and under debug, see that the channels of its topic declare it."""
        broadcast = Broadcast(topic, event, payload)
        if self._checks():
            self.engine.check_sent(broadcast)
        if self._hints is not None:
            self._hints.broadcast(topic, event)
        return broadcast

    def _send(self, signal: Signal, about: dict[str, Any]) -> None:
        """Call the receivers of a signal in the app's context; one that fails is logged, and the others are called."""
        if not signal.has_receivers_for(self.app):
            return  # those that it has are of other apps in this process
        with nullcontext() if current_app == self.app else self.app.app_context():
            for receiver in signal.receivers_for(self.app):
                try:
                    self.app.ensure_sync(receiver)(self.app, **about)
                except FAILURES as failure:
                    channel_log.exception("a receiver of the signal %s failed", getattr(signal, "name", signal))
                    self.engine.caught(failure)

    def _may_serve(self) -> bool:
        """Tell whether clients may come to this process: it handles a request, is a test, or a server's worker."""
        return has_request_context() or self.app.testing or is_worker()


def state_of(app: Flask) -> State:
    """Return what an app has of this extension.

    :raises PhoenixError: ``init_app`` was not called for it.
    """
    state: State | None = app.extensions.get("phoenix")
    if state is None:
        raise PhoenixError(
            f"the app {app.name!r} has no phoenix: call phoenix.init_app(app) in its factory, or write Phoenix(app)"
        )
    return state


def _json_module(setting: Any) -> Any:
    """Return what ``PHOENIX_JSON`` names: a module, or the name of one, with ``dumps`` and ``loads``; None: nothing."""
    if setting is None:
        return None
    module = importlib.import_module(setting) if isinstance(setting, str) else setting
    if not callable(getattr(module, "dumps", None)) or not callable(getattr(module, "loads", None)):
        raise InvalidOption(f"PHOENIX_JSON is a module with dumps and loads, or the name of one; got {setting!r}")
    return module
