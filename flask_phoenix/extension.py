"""The extension: Phoenix, by which authors mount sockets, broadcast, and ask."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, NoReturn, TypeVar, overload
from weakref import WeakSet

from flask import Blueprint, Flask, current_app, has_app_context

from .app_state import State, state_of
from .channel import Channel, ErrorHandlerFunction, ErrorHandlers, register_error_handler
from .dashboard.pages import dashboard_blueprint
from .exceptions import InvalidOption, PhoenixError
from .presence import Presence
from .protocol.json import Json
from .protocol.messages import Broadcast, Kept, shown
from .protocol.serializers import Serializer
from .pubsub.adapter import Adapter
from .pubsub.history import Position
from .refusals import refuse_lazy
from .runtime.snapshot import LARGEST
from .server.gevent import Server, require_patched
from .server.gunicorn import drain_with_worker, is_loading
from .socket import BaseSocket
from .telemetry.health import MAX_LAG, health, health_blueprint
from .tokens import MAX_AGE
from .transports.endpoint import NAME
from .transports.handshake import PHOENIX_PROTOCOL, csrf_token
from .transports.middleware import Middleware
from .transports.options import NAMES, TRANSPORTS, make_mounts
from .transports.publishing import Publishing, Secret

#: Stands for an option that is not given: what holds then, the configuration says.
UNSET: Any = object()
#: The options of :meth:`Phoenix.socket`.
OPTIONS = frozenset((*NAMES, *TRANSPORTS))

NO_PREDICATE = (
    "a dashboard shows who is connected and what they say, and closes connections: name who may see it, as in"
    " phoenix.dashboard(allow=lambda: current_user.is_authenticated and current_user.is_admin)"
)

PresenceKind = TypeVar("PresenceKind", bound=Presence)
BackgroundFunction = TypeVar("BackgroundFunction", bound=Callable[[], Any])
SocketClass = TypeVar("SocketClass", bound=type[BaseSocket])


class Phoenix:
    """Makes a Flask app a Phoenix Channels server.

    ``Phoenix(app)``, or ``Phoenix()`` and :meth:`init_app` in a factory. Sockets are mounted by :meth:`socket`, before
    or after ``init_app``; each app that is initialised gets them all. The other methods speak for the current app, or,
    outside any context, for the only app there is. They may be called from a view, a channel, a command, and from any
    OS thread.
    """

    def __init__(self, app: Flask | None = None, adapter: Adapter | None = None) -> None:
        self._adapter = adapter
        self._mounts: list[tuple[str, type[BaseSocket], dict[str, Any]]] = []
        self._background: list[tuple[Callable[[], Any], str]] = []
        self._presences: dict[Presence, tuple[float, float]] = {}
        self._states: WeakSet[State] = WeakSet()
        self._error_handlers: ErrorHandlers = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Serve the sockets in an app.

        Nothing is started: that happens with the first client, in the process that serves.

        :raises InvalidOption: the app has this extension already, or an option cannot be.
        """
        _check_app(app)
        if "phoenix" in app.extensions:
            raise InvalidOption("this app has been initialised already; call init_app once for each app")
        if self._adapter is not None and self._states:
            raise InvalidOption("an adapter serves one app: make a Phoenix with an adapter of its own for each app")
        state = State(app, self._adapter)
        state.engine.error_handlers = self._error_handlers
        for path, socket, options in self._mounts:
            state.mount(path, socket, options)
        for presence, periods in self._presences.items():
            state.keep(presence, *periods)
        for function, name in self._background:
            state.run_beside(function, name)
        app.extensions["phoenix"] = state
        app.url_value_preprocessor(_exempt_from_csrf)
        mounts = lambda: [endpoint.mount for endpoint in state.endpoints]  # noqa: E731
        app.wsgi_app = Middleware(app, NAME, mounts)  # type: ignore[method-assign]
        app.jinja_env.globals["phoenix_csrf_token"] = csrf_token
        # gevent-websocket asks for it where it says 101 itself: the subprotocol to echo when the client offers it.
        app.app_protocol = lambda path: PHOENIX_PROTOCOL  # type: ignore[attr-defined]
        self._states.add(state)
        if is_loading():
            drain_with_worker(state.engine)

    def socket(
        self,
        at: str,
        /,
        *,
        blueprint: Blueprint | None = None,
        websocket: bool | Mapping[str, Any] = UNSET,
        longpoll: bool | Mapping[str, Any] = UNSET,
        path: str = UNSET,
        check_origin: bool | str | Sequence[str] | Callable[[Any], Any] = UNSET,
        check_csrf: bool = UNSET,
        csrf_token_key: str = UNSET,
        auth_token: bool = UNSET,
        subprotocols: Sequence[str] | None = UNSET,
        connect_info: Sequence[str | Mapping[str, Any]] = UNSET,
        serializer: Sequence[tuple[Serializer | type[Serializer], str]] | None = UNSET,
        vsn: str | Sequence[str] | None = UNSET,
        timeout: float | None = UNSET,
        max_frame_size: int = UNSET,
        outbox_limit: int = UNSET,
        inbox_limit: int = UNSET,
        join_timeout: float | None = UNSET,
        expiry_notice: float = UNSET,
        max_name_length: int = UNSET,
        outbox_timeout: float | None = UNSET,
        conflate: bool = UNSET,
        compress: bool = UNSET,
        log: str | int | None = UNSET,
        error_handler: Callable[[Any], Any] | None = UNSET,
        max_channels: int = UNSET,
        messages_per_second: float | None = UNSET,
        window: float = UNSET,
        pubsub_timeout: float = UNSET,
        token_max_age: int = UNSET,
        max_body_size: int = UNSET,
        body_timeout: float = UNSET,
        **misspelt: NoReturn,
    ) -> Callable[[SocketClass], SocketClass]:
        """Mount a socket: ``@phoenix.socket("/socket")`` serves WebSockets at ``/socket/websocket``.

        With ``longpoll=True`` it serves clients that poll too, at ``/socket/longpoll``; ``longpoll`` and ``websocket``
        may also be a dict of options for that transport alone.

        Variables in the path (``/shop/<shop_id>``) become parameters of the connect. The options are listed in
        docs/reference/options.md; what is not given comes from the app's configuration (``PHOENIX_TIMEOUT`` and so on).

        :param blueprint: of Flask: an app that registers it serves the socket, below its ``url_prefix``; other apps do
            not.
        :raises InvalidOption: an option is unknown or cannot be, or it stands above what is no socket.
        """
        given = {name: value for name, value in locals().items() if name in OPTIONS and value is not UNSET}
        options: dict[str, Any] = {**given, **misspelt}
        _check_path(at)

        def mount(socket: SocketClass) -> SocketClass:
            _check_socket(at, socket)
            make_mounts(at, socket, options, {})
            if blueprint is not None:
                blueprint.record(partial(_mount_in_blueprint, at, socket, options))
                return socket
            self._mounts.append((at, socket, options))
            for state in self._states:
                state.mount(at, socket, options)
            return socket

        return mount

    def errorhandler(self, *kinds: type[BaseException]) -> Callable[[ErrorHandlerFunction], ErrorHandlerFunction]:
        """Make an error reply of exceptions that joins and handlers of channels raise.

        ``@phoenix.errorhandler(ValidationError)`` stands above a function that is given the exception and the channel.
        A dict or bytes is the response of the error reply, and ``Reply(status, response)`` is sent as it is; None
        declines, and the channel crashes. A socket's own ``errorhandler`` comes before it.

        :raises InvalidOption: one of the kinds is no class of exceptions.
        """
        return register_error_handler(self._error_handlers, kinds)

    @overload
    def background(self, function: BackgroundFunction, /, *, once_per_cluster: bool = ...) -> BackgroundFunction: ...

    @overload
    def background(
        self, function: None = ..., /, *, once_per_cluster: bool = ...
    ) -> Callable[[BackgroundFunction], BackgroundFunction]: ...

    def background(self, function: Any = None, /, *, once_per_cluster: bool = False) -> Any:
        """Run a function beside the requests, in a greenlet and an app context: from the first client to the drain.

        ``@phoenix.background`` runs it once in each process that serves. What it raises is logged, and it is called
        again, after a second at first and 30 at most. At its end it gets ``gevent.GreenletExit`` where it waits.

        :param once_per_cluster: in one of all processes: another one takes over when that ends.
        :raises InvalidOption: this is no function that can be called without arguments, or it is async, or a generator,
            or another one of this name is run once per cluster.
        """

        def add(function: Any) -> Any:
            _check_background(function, once_per_cluster)
            name = f"{function.__module__}.{function.__qualname__}" if once_per_cluster else ""
            if name and any(name == other for _, other in self._background):
                raise InvalidOption(f"{name} is run once per cluster already: give this function another name")
            self._background.append((function, name))
            for state in self._states:
                state.run_beside(function, name)
            return function

        return add if function is None else add(function)

    @overload
    def presence(self, *, name: str = ..., down_period: float = ..., grace: float = ...) -> Presence: ...

    @overload
    def presence(
        self, kind: type[PresenceKind], *, name: str = ..., down_period: float = ..., grace: float = ...
    ) -> PresenceKind: ...

    def presence(
        self, kind: type[Presence] = Presence, *, name: str = "", down_period: float = 30.0, grace: float = 0.0
    ) -> Presence:
        """Make a presence: who is on each topic, on all nodes.

        :param kind: a subclass of :class:`.Presence` that overrides its hooks.
        :param name: tells it from other presences, the same on all nodes; the name of the class, unless given.
        :param down_period: seconds in which those of a node that ended without a word are gone.
        :param grace: seconds for which a client whose connection was lost is still present: if its key is tracked again
            on the topic meanwhile, on whatever node, the new meta replaces the old one, and the key never leaves.
        :raises InvalidOption: there is one of that name, the period is no positive number, or the grace is negative.
        """
        _check_presence(kind)
        presence = kind()
        presence.name, presence.server = name or kind.__name__, lambda: self._state().trackers[presence]
        if any(other.name == presence.name for other in self._presences):
            raise InvalidOption(f"there is a presence {presence.name!r} already: give this one another name=")
        if not isinstance(down_period, int | float) or not 0 < down_period < inf:
            raise InvalidOption(f"down_period is a positive number of seconds, got {down_period!r}")
        if not isinstance(grace, int | float) or not 0 <= grace < inf:
            raise InvalidOption(f"grace is a number of seconds, 0 for none, got {grace!r}")
        self._presences[presence] = down_period, float(grace)
        for state in self._states:
            state.keep(presence, down_period, float(grace))
        return presence

    @overload
    def broadcast(self, topic: str, event: str, payload: Any, *, idempotency_key: str = ...) -> Position | None: ...

    @overload
    def broadcast(
        self, topic: list[str] | tuple[str, ...], event: str, payload: Any, *, idempotency_key: str = ...
    ) -> list[Position | None]: ...

    def broadcast(self, topic: Any, event: str, payload: Any, *, idempotency_key: str = "") -> Any:
        """Send an event to everybody on a topic. A client that cannot carry bytes goes without.

        Where the topic has a history, the answer is the message's position; elsewhere None.

        :param topic: or a list of topics: the payload is written once, and the answer is a list. They are served one
            after the other; what fails is raised, and those before it have been served.
        :param idempotency_key: of the topic: as long as the history keeps a message with it, publishing another does
            nothing, and returns the first one's position.
        :raises InvalidOption: there is a key, and the topic has no history; or it is none.
        :raises InvalidPayload: the payload is neither a dict of JSON nor bytes, or too large for the history of its
            topic; nobody got it.
        :raises NotPublished: other processes cannot be reached, or, where no client of this one can be meant, are
            unknown.
        """
        return self._state().broadcast(topic, event, payload, idempotency_key=idempotency_key)

    def history(self, topic: str, since: str | None = None, limit: int | None = None) -> list[Kept]:
        """Return what a topic keeps, the oldest first: broadcasts with a ``ref``.

        :param since: the ref of a message: only what came after it.
        :param limit: so many of the newest at most.
        :raises InvalidOption: the topic has no history.
        :raises HistoryLost: the history does not reach back to ``since``.
        """
        return self._state().history(topic, since, limit)

    def after_commit(self, session: Any) -> Any:
        """Return what broadcasts when the transaction of a session of SQLAlchemy commits, and only then.

        Its ``broadcast`` is called as :meth:`broadcast`, and returns nothing. What fails then is logged.

        :raises InvalidOption: SQLAlchemy is missing.
        """
        try:
            module = importlib.import_module(f"{__package__}.after_commit")
        except ModuleNotFoundError as error:
            raise InvalidOption("after_commit needs SQLAlchemy; type: pip install sqlalchemy") from error
        return module.after_commit(session, self._state().broadcast)

    def publish_blueprint(self, secret: Secret | Sequence[Secret], name: str = "publish") -> Blueprint:
        """Make a blueprint whose ``POST /publish`` publishes, for publishers that are not Python.

        ``app.register_blueprint(phoenix.publish_blueprint(secret), url_prefix="/internal")``. Requests are signed.

        :param secret: with which they are, of 16 bytes or more; or a list of such, while one takes another's place.
        :param name: tells it from another one.
        :raises InvalidOption: the secret is too short.
        """
        return Publishing(secret, self.broadcast, Json()).blueprint(name)

    def broadcast_from(self, sender: Channel, topic: str, event: str, payload: Any) -> None:
        """Send an event to everybody on a topic but one channel: the one that speaks.

        :raises InvalidOption: the sender is no channel.
        :raises InvalidPayload: as :meth:`broadcast`.
        :raises NotPublished: as :meth:`broadcast`.
        """
        self._state().broadcast_from(sender, topic, event, payload)

    def local_broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send an event to everybody on a topic who is connected to this process.

        :raises InvalidPayload: as :meth:`broadcast`.
        """
        self._state().local_broadcast(topic, event, payload)

    def subscribe(self, topic: str, function: Callable[[Broadcast], Any]) -> Callable[[], None]:
        """Call a function with each broadcast on a topic, in order, in an app context; call the answer to end it.

        Each function gets a payload of its own. From any thread; this process becomes a node for it.

        :raises InvalidOption: the function is async, or a generator.
        :raises Unsupported: this thread cannot make the process a node, or it has stopped serving.
        :raises PhoenixError: the adapter cannot start.
        """
        refuse_lazy(function)
        return self._state().subscribe(topic, function)

    def tap(self, function: Callable[[Broadcast], Any]) -> Callable[[], None]:
        """Call a function with every broadcast of this process, to log or to bridge it; call the answer to end it.

        :raises PhoenixError: as :meth:`subscribe`.
        """
        refuse_lazy(function)
        return self._state().tap(function)

    def disconnect(self, id: str, topic: str | None = None) -> None:
        """Close every connection whose socket has this id, with 1001; its clients come back if they may.

        :param topic: end the channel of this topic alone, in each of them. Its client does not join again by itself;
            if it asks again, ``join`` decides.
        """
        self._state().disconnect(id, topic)

    def connection_count(self) -> int:
        """Return how many clients are connected to this process."""
        return self._state().connection_count()

    def inspect(self, largest: int = LARGEST) -> dict[str, Any]:
        """Return what this process has and does at this moment, as a dict of JSON; from any thread.

        It counts messages, and watches its event loop, from the first call on: rates are of the last ten seconds.

        :param largest: so many of the topics with the most subscribers are named.
        """
        return self._state().inspect(largest)

    def health(self, max_lag: float = MAX_LAG, adapter: bool = True) -> dict[str, Any]:
        """Tell whether clients should come to this process: ``status`` is ``"ok"``, or not for the ``reasons`` given.

        :param max_lag: seconds by which the event loop may be late.
        :param adapter: whether a lost adapter is a reason.
        """
        return health(self.inspect(), max_lag, adapter)

    def health_blueprint(
        self, max_lag: float = MAX_LAG, adapter: bool = True, name: str = "phoenix_health"
    ) -> Blueprint:
        """Make a blueprint whose ``GET /health`` answers a load balancer with :meth:`health`: 200, or 503."""
        return health_blueprint(lambda: self.health(max_lag, adapter), name)

    def traces(self, app: Flask, *, provider: Any = None, broadcasts: bool = False) -> None:
        """Write a span of OpenTelemetry for each handler of an app's channels.

        It belongs to the trace of the client's handshake (its header ``traceparent``), or to the one that the payload
        tells under the channel's ``trace_key``.

        :param provider: of tracers; the one that is set for the process, unless given.
        :param broadcasts: broadcasts carry the trace of who publishes them to channels that intercept, on all nodes.
        :raises InvalidOption: OpenTelemetry is missing.
        """
        try:
            module = importlib.import_module(f"{__package__}.telemetry.traces")
        except ModuleNotFoundError as error:
            raise InvalidOption("traces need OpenTelemetry; type: pip install 'flask_phoenix[otel]'") from error
        state: State = app.extensions["phoenix"]
        state.engine.tracing = module.Traces(provider, broadcasts)

    def metrics_blueprint(
        self, *, registry: Any = None, buckets: Sequence[float] | None = None, name: str = "phoenix_metrics"
    ) -> Blueprint:
        """Make a blueprint whose ``GET /metrics`` answers Prometheus; the app that registers it is measured.

        :param registry: of ``prometheus_client``, which other exporters show; one of its own, unless given.
        :param buckets: bounds of the histograms, in seconds.
        :raises InvalidOption: prometheus_client is missing.
        """
        try:
            metrics = importlib.import_module(f"{__package__}.telemetry.metrics")
        except ModuleNotFoundError as error:
            raise InvalidOption("metrics need prometheus_client; type: pip install 'flask_phoenix[metrics]'") from error
        blueprint: Blueprint = metrics.metrics_blueprint(lambda: self._state().metrics.exposition(), name)

        def measure(setup: Any) -> None:
            state: State | None = setup.app.extensions.get("phoenix")
            if state is None:
                raise InvalidOption("this app has no Phoenix yet: call init_app before you register metrics_blueprint")
            state.metrics = metrics.Metrics(
                setup.app, state.engine, state.inspect, registry, buckets or metrics.BUCKETS
            )

        blueprint.record_once(measure)
        return blueprint

    def dashboard(self, allow: Callable[[], Any] = UNSET, *, name: str = "phoenix_dashboard") -> Blueprint:
        """Make a blueprint with a page that shows live what the app does, on all of its nodes.

        ``app.register_blueprint(phoenix.dashboard(allow=is_admin))`` serves it at ``/dashboard``, or below another
        ``url_prefix``. Nothing is measured while nobody looks.

        :param allow: called without arguments in each request for the page, its files and its socket: ``request``,
            ``session`` and ``current_user`` work. What is not true is HTTP 404, of the socket 403; it may also abort.
        :param name: of the blueprint.
        :raises InvalidOption: nobody is named who may see it.
        """
        if not callable(allow):
            raise InvalidOption(NO_PREDICATE)
        blueprint = dashboard_blueprint(allow, name)

        def show(setup: Any) -> None:
            state_of(setup.app).show_dashboard(f"{setup.url_prefix or ''}/socket", allow)

        blueprint.record_once(show)
        return blueprint

    def sign_token(self, data: Any, salt: str, max_age: float = MAX_AGE) -> str:
        """Write a token that names somebody, signed with the app's ``SECRET_KEY``; anybody can read it.

        It is what ``Phoenix.Token.sign`` writes: an app in Elixir whose ``secret_key_base`` is this ``SECRET_KEY``
        reads it, and the other way round.

        :param data: what JSON has, bytes or tuples.
        :param salt: what the token is for, such as ``"socket"``: it is good for that alone. No secret.
        :param max_age: seconds for which it is good, unless who reads it decides otherwise; ``inf``: for ever.
        :raises InvalidPayload: the data is of another kind.
        :raises InvalidOption: the app has no ``SECRET_KEY``.
        """
        return self._state().sign_token(data, salt, max_age)

    def verify_token(self, token: str | None, salt: str, max_age: float | None = None) -> Any:
        """Return the data of a token of :meth:`sign_token`; those of ``SECRET_KEY_FALLBACKS`` are good, too.

        :param max_age: seconds since it was signed in which it is good; unless given, what it says itself.
        :raises ExpiredToken: it was good, and is too old.
        :raises InvalidToken: there is none, or it was signed with another secret or for another salt.
        :raises InvalidOption: the app has no ``SECRET_KEY``.
        """
        return self._state().verify_token(token, salt, max_age)

    def csrf_token(self, key: str = "_csrf_token") -> str:
        """Return the CSRF token of this session, for the client's parameter ``_csrf_token``.

        In templates it is ``phoenix_csrf_token()``.

        :param key: the mount's ``csrf_token_key``.
        """
        return csrf_token(key)

    def run(self, app: Flask, host: str = "127.0.0.1", port: int = 4000, **options: Any) -> None:
        """Serve an app until SIGINT or SIGTERM, then close its clients with 1012, which tells them to come back.

        :param options: those of gevent's server: ``certfile`` and ``keyfile`` for TLS, ``log=None`` for no access log.
        :raises Unsupported: gevent has not patched the standard library.
        """
        _check_app(app)
        state = state_of(app)
        state.warn_if_bare()
        require_patched()
        Server((host, port), app, [state.engine], **options).serve_until_stopped()

    def _state(self) -> State:
        state: State | None = current_app.extensions.get("phoenix") if has_app_context() else None
        if state is not None and state in self._states:
            return state
        if len(self._states) == 1:
            return next(iter(self._states))
        raise PhoenixError(
            "no app to speak for: call phoenix.init_app(app) first"
            if not self._states
            else f"{len(self._states)} apps share this extension: call it inside app.app_context(), or say"
            ' app.extensions["phoenix"].broadcast(...)'
        )


def waits_for_an_app(phoenix: Phoenix) -> bool:
    """Tell whether sockets are mounted here, and no app has been initialised."""
    return bool(phoenix._mounts) and not phoenix._states


def _mount_in_blueprint(path: str, socket: type[BaseSocket], options: dict[str, Any], setup: Any) -> None:
    """Serve a blueprint's socket in an app that registers it.

    :raises PhoenixError: ``init_app`` was not called for the app before.
    """
    state_of(setup.app).mount(f"{setup.url_prefix or ''}/{path.lstrip('/')}", socket, options)


def _check_app(app: Any) -> None:
    if not isinstance(app, Flask):
        called = f"; call it, as in {app.__name__}()" if inspect.isfunction(app) else ""
        raise InvalidOption(f"expected a Flask app, got {shown(app)}{called}")


def _check_presence(kind: Any) -> None:
    if not isinstance(kind, type) or not issubclass(kind, Presence):
        raise InvalidOption(f"expected a class of a Presence, as in phoenix.presence(Online), got {shown(kind)}")


def _check_path(path: Any) -> None:
    if not isinstance(path, str):
        name = getattr(path, "__name__", shown(path))
        raise InvalidOption(
            f"the path is missing: write @phoenix.socket('/socket'), with parentheses, above class {name}(Socket)"
        )


def _check_socket(path: str, socket: Any) -> None:
    """See that this is a socket's class.

    :raises InvalidOption: with the remedy.
    """
    if isinstance(socket, type) and issubclass(socket, BaseSocket):
        return
    name = getattr(socket, "__name__", shown(socket))
    if isinstance(socket, type) and issubclass(socket, Channel):
        remedy = f"is a Channel: mount a socket there, and write @UserSocket.channel('room:*') above {name}"
    else:
        remedy = f"is no socket's class: write class {name}(Socket), or class {name}(RawSocket)"
    raise InvalidOption(f"@phoenix.socket({path!r}) stands above {name}, which {remedy}")


def _check_background(function: Any, once_per_cluster: bool) -> None:
    """See that this can be run beside the requests.

    :raises InvalidOption: with the remedy.
    """
    if not callable(function) or isinstance(function, type):
        raise InvalidOption(f"@phoenix.background stands above a function; got {function!r}")
    if once_per_cluster and not hasattr(function, "__qualname__"):
        raise InvalidOption(f"what is run once per cluster needs a name: write a def that calls {function!r}")
    refuse_lazy(function)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InvalidOption(f"{function!r} is called without arguments, and {error}: let it ask current_app") from None


def _exempt_from_csrf(endpoint: str | None, values: Any) -> None:
    """Let no check against forged requests (Flask-WTF's CSRFProtect) refuse a client's messages.

    They carry a token of their own, and their origin is checked. This is said before each request, since such a check
    may be set up after this extension.
    """
    if endpoint is not None and endpoint.startswith(NAME):
        exempt = getattr(current_app.extensions.get("csrf"), "exempt", None)
        if exempt is not None:
            exempt(current_app.view_functions[endpoint])
