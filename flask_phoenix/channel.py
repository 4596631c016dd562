"""Channel, the author's class for a family of topics, and how its methods are called."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from .channel_runtime import ChannelRuntime, NewMeta, SocketRef, Tracking
from .exceptions import InvalidOption, InvalidPayload, Refused, UnknownEvent
from .handlers import Result, as_reply, entrance_of, gather, read_by, readers_out
from .payloads.annotations import shown_type
from .payloads.errors import Errors
from .payloads.reading import Declared, Reader
from .payloads.writing import Record
from .places import place_of
from .protocol.messages import DISCONNECT, DISCONNECT_TOPIC, EXPIRING, REFRESH, Reply, shown
from .pubsub.conflation import Conflation
from .pubsub.failures import EXITS
from .pubsub.history import History
from .refusals import INTERCEPT, ON, refuse_lazy, refuse_misfits, refuse_reserved, takes

log = logging.getLogger("flask_phoenix.channel")
ChannelClass = TypeVar("ChannelClass", bound="type[Channel]")
#: What authors write in a Channel; its other names are not to be replaced.
CALLBACKS = ("join", "after_join", "handle_in", "handle_out", "handle_info", "terminate")
#: Events that no channel has to declare: they are this package's own.
UNDECLARED = frozenset({"presence_state", "presence_diff", "presence_count", DISCONNECT, DISCONNECT_TOPIC, EXPIRING})
#: Reasons of :meth:`Channel.stop` that end a channel on purpose; any other one counts as a crash, as in Phoenix.
GRACEFUL = ("normal", "shutdown")


def sends(event: str, payload: Any) -> Callable[[ChannelClass], ChannelClass]:
    """Declare an event that the server sends, and the type of its payload: ``@sends("new_msg", Message)``.

    It stands above the class of a channel, once for each event. Where a channel declares events, those that are pushed
    and broadcast on its topics are held to it, while the app is tested or debugged.

    :param payload: a dataclass, a TypedDict, a Struct of msgspec, a model of pydantic, ``bytes`` for a binary payload,
        or what takes everything, such as ``dict[str, Any]``.
    :raises InvalidOption: the event is no string, the type is none, or this stands above something else.
    """
    if not isinstance(event, str):
        raise InvalidOption(f"expected the name of an event, as in @sends('new_msg', Message), got {event!r}")

    def declare(channel: ChannelClass) -> ChannelClass:
        if not isinstance(channel, type) or not issubclass(channel, Channel):
            raise InvalidOption(f"@sends({event!r}, ...) stands above a class of a Channel, not above {channel!r}")
        declared = Declared(payload, f"{channel.__name__}, which sends {event!r} as {shown_type(payload)},")
        with suppress(NameError):  # of what is defined further down; it is looked at with the first payload
            declared.look()
        channel.declared_events = {**channel.declared_events, event: declared}
        return channel

    return declare


def check_sent(channel: type[Channel], event: str, payload: Any, written: Any) -> None:
    """Hold what is sent on a channel's topics to what it declares.

    :param written: the payload as clients read it.
    :raises InvalidPayload: it does not declare the event, or the payload is of another type.
    """
    if not channel.declared_events or event in UNDECLARED:
        return
    if event not in channel.declared_events:
        raise InvalidPayload(
            f"{channel.__name__} does not declare that it sends {shown(event)}; it declares"
            f" {', '.join(map(repr, channel.declared_events))}. Write @sends({event!r}, ...) above it"
        )
    declared = channel.declared_events[event]
    try:
        declared.check(payload, written)
    except Errors as error:
        raise InvalidPayload(
            f"{channel.__name__} sends {event!r} with another payload than {shown_type(declared.annotation)}, which it"
            f" declares: {error}"
        ) from None


class Channel:
    """One client's membership of one topic. Subclass it, and tell a socket which topics it serves.

    An instance is made for each join and lives until the client leaves, the connection ends, or a handler crashes. Its
    methods are called one at a time, in the order of what happened, each in an application context of its own. They may
    block: no other channel and no other client waits for them.
    """

    #: What this channel asks of the runtime.
    runtime: ChannelRuntime
    #: The topic that was joined: ``"room:42"``.
    topic: str
    #: What the star of the pattern stands for: ``"42"``; empty where the pattern has no star.
    subtopic: str
    #: What the variables of the pattern stand for: ``{"room_id": "42"}`` for ``room:<room_id>``.
    variables: dict[str, Any]
    #: The author's values: a copy of the socket's, and those that the pattern was given.
    assigns: dict[str, Any]
    #: The parameters of the client's connect.
    params: dict[str, Any]
    #: What carries the client's frames: ``"websocket"`` or ``"longpoll"``.
    transport: str
    #: The presence of which :meth:`track` and its like speak: ``presence = online`` in the class.
    #:
    #: :meta hide-value:
    presence: ClassVar[Tracking] = Tracking()
    #: Broadcast events of which a client that reads too slowly gets the newest alone, of each key: functions of the
    #: payload, as ``{"moved": lambda payload: payload["id"]}``. They are called only where a client is slow, and may
    #: not wait.
    conflate: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    #: What its topics keep of their broadcasts: ``history = History(size=500, ttl=300)`` in the class. From a channel,
    #: ``self.history(since=None, limit=None)`` returns what its topic keeps, the oldest first.
    history: ClassVar[History] = History(size=0)

    #: The key of an event's payload that holds its trace, as the header ``traceparent`` does; None: there is none.
    trace_key: ClassVar[str | None] = None
    #: The level of the line that tells of a join, as ``"info"``; None: none.
    log_join: ClassVar[str | int | None] = "info"
    #: The level of the line that tells of a handled event; None: none.
    log_handle_in: ClassVar[str | int | None] = "debug"

    #: Events from the client, and the names of the methods that handle them; gathered from :func:`on`.
    handlers: ClassVar[dict[str, str]] = {}
    #: :attr:`handlers`, but where a method's payload has a declared type, the name of what converts it and calls it.
    entrances: ClassVar[dict[str, str]] = {}
    #: Makes the payload of :meth:`join` one of its declared type, if it has one.
    read_join: ClassVar[Reader | None] = None
    #: The same of :meth:`handle_in`.
    read_in: ClassVar[Reader | None] = None
    #: The same of intercepted broadcasts, by their events.
    read_out: ClassVar[dict[str, Reader]] = {}
    #: Events that the server sends, and the types of their payloads; gathered from :func:`sends`.
    declared_events: ClassVar[dict[str, Declared]] = {}
    #: Broadcast events that are intercepted, and the names of their methods; gathered from :func:`intercept`.
    interceptors: ClassVar[dict[str, str]] = {}
    #: :attr:`interceptors` as a set, by which the pubsub groups subscribers.
    intercepts: ClassVar[frozenset[str]] = frozenset()
    #: :attr:`conflate` as the pubsub takes it.
    conflation: ClassVar[Conflation | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refuse_reserved(cls, Channel, CALLBACKS)
        refuse_misfits(cls, Channel, CALLBACKS)
        for name in ("log_join", "log_handle_in"):
            level_of(getattr(cls, name), f"{cls.__name__}.{name}")
        cls.handlers = gather(cls, ON)
        cls.entrances = {event: entrance_of(cls, name) for event, name in cls.handlers.items()}
        cls.read_join = read_by(cls, "join")
        cls.read_in = read_by(cls, "handle_in", 2)
        cls.interceptors = gather(cls, INTERCEPT)
        cls.read_out = readers_out(cls)
        cls.intercepts = frozenset(cls.interceptors)
        cls.conflation = Conflation(cls.__name__, cls.conflate) if cls.conflate else None

    def __init__(self, runtime: ChannelRuntime, topic: str, subtopic: str, assigns: dict[str, Any]) -> None:
        self.runtime = runtime
        self.topic = topic
        self.subtopic = subtopic
        self.variables = {}
        self.assigns = assigns

    # What authors write.

    def join(self, payload: Any, *_: Any, **variables: Any) -> Result:
        """Decide whether the client may enter.

        Mandatory, as ``def join(self, payload)``; each variable of the pattern is one more argument, by its name.
        Return the response of the ok reply (None is ``{}``), or raise Refused. The channel is not joined yet: to push
        or broadcast, use :meth:`after_join`.
        """
        raise NotImplementedError

    def after_join(self) -> None:
        """Do what needs a joined channel, after the join's reply: push a state, track a presence."""

    def handle_in(self, event: str, payload: Any) -> Result:
        """Handle an event from the client for which there is no :func:`on`; unless overridden, the channel crashes.

        :raises UnknownEvent: always.
        """
        name, close = type(self).__name__, get_close_matches(f"{event}"[:40], self.handlers, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        event = shown(event)
        raise UnknownEvent(
            f"{name} has no method for {event}{hint}: write one under @on({event}), or {name}.handle_in, into the class"
            f" of {name}.join{place_of(self.join)}"
        )

    def handle_out(self, event: str, payload: Any) -> None:
        """Handle the broadcasts named by :func:`intercept` above it."""
        self.push(event, payload)

    def handle_info(self, message: Any) -> None:
        """Handle what :meth:`send`, :meth:`send_after` and other topics bring (those as ``Broadcast``)."""
        log.warning("%s has no handle_info(self, message); ignored: %s", type(self).__name__, shown(message))

    def terminate(self, reason: Any) -> None:
        """Clean up; the channel has ended, whatever the reason.

        The reason is ``"left"``, ``"closed"`` (the connection ended), ``"disconnected"``, ``"draining"``,
        ``"timeout"``, ``"inactive"`` (a client that polls has ceased to), ``"token expired"``, ``"too slow"``,
        ``"too much waits"``, ``"history lost"``, ``"invalid message"``, ``"duplicate_join"``, what :meth:`stop` was
        given, the exception of a crash, or ``"shutdown"`` after a refused join. After that, and where the connection
        ended during the join, the channel is not joined: it cannot push.
        """

    # What authors call.

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client.

        :raises NotJoined: the join is not over.
        :raises InvalidPayload: this client cannot take the payload.
        """
        self.runtime.push(event, payload)

    def broadcast(self, event: str, payload: Any) -> None:
        """Send an event to everybody on the topic, this client included.

        :raises NotJoined: the join is not over.
        :raises InvalidPayload: the payload is neither a dict of JSON nor bytes; nobody got it.
        """
        self.runtime.broadcast(event, payload, everybody=True)

    def broadcast_from(self, event: str, payload: Any) -> None:
        """Send an event to everybody on the topic but this channel; another tab of the same user gets it.

        :raises NotJoined: as :meth:`broadcast`.
        :raises InvalidPayload: as :meth:`broadcast`.
        """
        self.runtime.broadcast(event, payload, everybody=False)

    def socket_ref(self) -> SocketRef:
        """Remember the message that is being handled, for a :meth:`reply` later.

        :raises NotJoined: no message is being handled, or it has no ref and cannot be answered.
        """
        return self.runtime.socket_ref()

    def reply(self, socket_ref: SocketRef, result: Result = None) -> None:
        """Answer a remembered message: from a timer, another greenlet, another thread. None is ``{}``.

        :raises InvalidPayload: the response cannot be written.
        """
        self.runtime.reply(socket_ref, as_reply(result, self, "reply") or Reply())

    def once(self, key: str, function: Callable[[], Result]) -> Reply | None:
        """Call a function, and return the reply that it makes; a second time, return that of the first.

        ``return self.once(payload["key"], lambda: self.pay(payload))``: a client that has got no reply sends its
        message again, with the same key. Replies are found on all nodes for five minutes. A refusal is a reply; a
        function that fails is called again.

        :raises Refused: with the reason ``"in doubt"``: the first call goes on, or its process was killed.
        :raises InvalidPayload: the reply cannot be kept: it has to be JSON, of a moderate size.
        """

        def call() -> Reply | None:
            try:
                return as_reply(function(), self, "once")
            except Refused as refused:
                return Reply("error", refused.response)

        return self.runtime.once(f"{key}", call)

    def stop(self, reason: Any = "normal") -> None:
        """End this channel when the callback that runs has returned; what it returns is still sent.

        ``"normal"``, ``"shutdown"`` and ``("shutdown", detail)`` end it on purpose: the client forgets the channel. Any
        other reason is a crash: the client joins again.
        """
        self.runtime.stop(reason)

    def send(self, message: Any) -> None:
        """Hand a message to this channel's own :meth:`handle_info`, after what waits already."""
        self.runtime.send(message)

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        """Hand a message to :meth:`handle_info` in so many seconds; call the answer to cancel it."""
        return self.runtime.send_after(seconds, message)

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function beside the callbacks, in a greenlet and an app context of its own.

        It ends with the channel, by ``gevent.GreenletExit`` where it waits. What it raises is the channel's crash, as
        that of a task that is linked to it.

        :raises InvalidOption: the function is async, or a generator.
        """
        refuse_lazy(function)
        self.runtime.spawn(function, arguments)

    def ignore(self, *events: str) -> None:
        """Send this client no broadcasts of these events: ``self.ignore("typing", "presence_diff")`` in :meth:`join`.

        That costs nothing for each broadcast, and nothing for each client. What is pushed is sent all the same.

        :raises InvalidOption: the join is over, or an event is no string.
        """
        self.runtime.ignore(events)

    def subscribe(self, topic: str) -> None:
        """Hear another topic too: its broadcasts come to :meth:`handle_info`. Subscribing twice brings them twice."""
        self.runtime.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        self.runtime.unsubscribe(topic)

    def track(self, key: str, meta: Record | None = None) -> str:
        """Be present on the topic under a key until this channel ends; several channels may share a key.

        :param meta: what others are told of this one: a dict of JSON, or a record that is written as one.
        :returns: the ``phx_ref``.
        :raises AlreadyTracked: this channel is present under the key; see :meth:`update`.
        :raises NotJoined: the join is not over.
        :raises InvalidPayload: the meta is no dict of JSON.
        """
        return self.presence.track(self, key, meta)

    def update(self, key: str, meta: NewMeta) -> str:
        """Replace the meta that this channel has under a key, by another one or by what a function makes of it.

        :raises NotTracked: this channel is not present under the key.
        :raises InvalidPayload: as :meth:`track`.
        """
        return self.presence.update(self, key, meta)

    def track_or_update(self, key: str, meta: Record | None = None) -> str:
        """Be present on the topic under a key with this meta, whether this channel is already or not.

        :returns: the ``phx_ref``.
        :raises NotJoined: as :meth:`track`.
        :raises InvalidPayload: as :meth:`track`.
        """
        return self.presence.track_or_update(self, key, meta)

    def untrack(self, key: str) -> None:
        """Be present under a key no more."""
        self.presence.untrack(self, key)

    def presences(self) -> dict[str, Any]:
        """Return who is on the topic, as clients want it in the event ``presence_state``."""
        return self.presence.list(self)


#: Makes an error reply of an exception of a handler: given the exception and the channel.
ErrorHandler = Callable[[Any, Channel], Result]
ErrorHandlers = dict[type[BaseException], ErrorHandler]
ErrorHandlerFunction = TypeVar("ErrorHandlerFunction", bound=ErrorHandler)


def dispatch(channel: Channel, event: Any, payload: Any) -> Reply | None:
    """Call a channel's method for an event.

    :raises InvalidReturn: it returned something that is no reply.
    """
    name = channel.entrances.get(event) if isinstance(event, str) else None
    if name is None:
        if event == REFRESH:
            return channel.runtime.refresh(payload)
        if (read := type(channel).read_in) is not None:
            payload = read(payload)
        return as_reply(channel.handle_in(event, payload), channel, "handle_in")
    return as_reply(getattr(channel, name)(payload), channel, name)


def dispatch_out(channel: Channel, event: str, payload: Any) -> None:
    """Call a channel's method that intercepts a broadcast.

    :raises InvalidPayload: the method declares another payload.
    """
    name = channel.interceptors[event]
    if event in channel.read_out:
        payload = _read_out(channel, event, payload)
    if name == "handle_out":
        channel.handle_out(event, payload)
    else:
        getattr(channel, name)(payload)


def _read_out(channel: Channel, event: str, payload: Any) -> Any:
    try:
        return channel.read_out[event](payload)
    except Refused as refused:
        errors = refused.response["errors"]
        raise InvalidPayload(
            f"{type(channel).__name__}.{channel.interceptors[event]} intercepts {shown(event)}, which is broadcast with"
            f" another payload than the one that it is annotated with: {errors}"
        ) from None


def handle_error(failure: BaseException, channel: Channel, *tables: ErrorHandlers) -> Reply | None:
    """Return the reply that an error handler makes of an exception; None: there is no handler, or it declines.

    :param tables: where to look, one after the other; in each the handler of the nearest class wins.
    :raises InvalidReturn: the handler returned something that is no reply.
    """
    kinds = () if isinstance(failure, EXITS) else type(failure).__mro__
    handler = next((table[kind] for table in tables for kind in kinds if kind in table), None)
    if handler is None:
        return None
    try:
        result = handler(failure, channel)
    except Refused as refused:
        return Reply("error", refused.response)
    reply = as_reply(result, channel, getattr(handler, "__name__", "errorhandler"))
    return reply if reply is None or reply is result else Reply("error", reply.response)


def register_error_handler(table: ErrorHandlers, kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Make a decorator that has a function handle some classes of exceptions.

    :raises InvalidOption: one of them is no class of exceptions.
    """
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidOption(f"expected classes of exceptions, as in @phoenix.errorhandler(ValueError), got {kinds!r}")

    def register(function: Any) -> Any:
        if not callable(function) or (inspect.isfunction(function) and not takes(function, ("error", "channel"))):
            raise InvalidOption(
                f"an error handler is given the exception and the channel, def handle(error, channel); got"
                f" {shown(function)}{place_of(function)}"
            )
        table.update(dict.fromkeys(kinds, function))
        return function

    return register


def level_of(level: Any, name: str) -> int | None:
    """Return the level that a name such as ``"info"`` or a number means; None: no line.

    :raises InvalidOption: it means none.
    """
    if level is None or (isinstance(level, int) and not isinstance(level, bool)):
        return level
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else None
    if not isinstance(number, int):
        raise InvalidOption(f"{name} is a level of logging, such as 'info', or None for no line; got {level!r}")
    return number
