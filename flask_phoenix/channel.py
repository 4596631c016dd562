"""Channel, the author's class for a family of topics, and what it asks of the runtime."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial, partialmethod
from typing import Any, ClassVar, NamedTuple, TypeVar

from .exceptions import InvalidOption, InvalidPayload, InvalidReturn, Refused, UnknownEvent
from .payloads.annotations import shown_type
from .payloads.errors import INVALID, Errors
from .payloads.reading import Declared, Reader, reader_of_parameter
from .payloads.writing import Record, is_record
from .places import place_of
from .protocol.messages import (
    CLOSE,
    DISCONNECT,
    DISCONNECT_TOPIC,
    ERROR,
    EXPIRING,
    JOIN,
    LEAVE,
    REFRESH,
    REPLY,
    Kept,
    Reply,
    shown,
)
from .pubsub.conflation import Conflation
from .pubsub.failures import EXITS
from .pubsub.history import History

log = logging.getLogger("flask_phoenix.channel")
ChannelClass = TypeVar("ChannelClass", bound="type[Channel]")
Method = TypeVar("Method", bound=Callable[..., Any])

#: What a handler may return: nothing, the response of an ok reply, or a whole reply.
Result = Record | list[Any] | bytes | Reply | None
Handler = TypeVar("Handler", bound=Callable[[Any, Any], Result])
#: A meta, or a function that makes it of the former one.
NewMeta = Record | Callable[[dict[str, Any]], Record]

#: What authors write in a Channel; its other names are not to be replaced.
CALLBACKS = ("join", "after_join", "handle_in", "handle_out", "handle_info", "terminate")
#: What a method under :func:`on` is called with.
HANDLER = ("self", "payload")
#: The attributes by which :func:`on` and :func:`intercept` mark methods.
ON, INTERCEPT = "__phoenix_on__", "__phoenix_intercept__"
#: The attribute in which :func:`on` leaves the name of the key by which a message is handled once; how long its value
#: may be.
ONCE, MAX_KEY = "__phoenix_once__", 128

#: Events that no method handles, and what does.
RESERVED = {
    JOIN: "write join(self, payload)",
    LEAVE: "write terminate(self, reason), whose reason is 'left' then",
    REPLY: "clients get it for what a handler returns",
    ERROR: "clients get it when a handler fails",
    CLOSE: "clients get it from self.stop()",
}
#: Events that no channel has to declare: they are this package's own.
UNDECLARED = frozenset({"presence_state", "presence_diff", "presence_count", DISCONNECT, DISCONNECT_TOPIC, EXPIRING})

#: Reasons of :meth:`Channel.stop` that end a channel on purpose; any other one counts as a crash, as in Phoenix.
GRACEFUL = ("normal", "shutdown")

NO_PRESENCE = (
    "this channel has no presence: make one with online = phoenix.presence(), and write presence = online in its class"
)


class SocketRef(NamedTuple):
    """Remembers a message, so that it can be answered later: see :meth:`Channel.socket_ref`."""

    #: The message, as the runtime knows it.
    ref: Any


class ChannelRuntime:
    """What a channel asks of the runtime: the wall between an author's class and ``runtime.channel_server``."""

    __slots__ = ()

    #: The channel as the pubsub knows it.
    subscriber: Any
    #: It ended on purpose: its client left the topic, or its author stopped it.
    left: bool

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client."""
        raise NotImplementedError

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        """Send an event to the subscribers of the topic.

        :param everybody: this channel is among them.
        """
        raise NotImplementedError

    def socket_ref(self) -> SocketRef:
        """Remember the message that is being handled."""
        raise NotImplementedError

    def refresh(self, payload: Any) -> Reply:
        """Let the client's socket take a new token."""
        raise NotImplementedError

    def reply(self, socket_ref: SocketRef, reply: Reply) -> None:
        """Answer a remembered message."""
        raise NotImplementedError

    def stop(self, reason: Any) -> None:
        """End the channel after the callback that runs."""
        raise NotImplementedError

    def send(self, message: Any) -> None:
        """Queue a message for the channel's own ``handle_info``."""
        raise NotImplementedError

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        """Queue a message in so many seconds; the answer is a function that cancels it."""
        raise NotImplementedError

    def spawn(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Call a function in a greenlet of its own, which ends with the channel."""
        raise NotImplementedError

    def ignore(self, events: tuple[str, ...]) -> None:
        """Send this client no broadcasts of these events."""
        raise NotImplementedError

    def subscribe(self, topic: str) -> None:
        """Hear another topic."""
        raise NotImplementedError

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        raise NotImplementedError

    def at_end(self, release: Callable[[], None]) -> bool:
        """Call a function when the channel ends, however it ends; return False where it has ended already."""
        raise NotImplementedError

    def history(self, since: str | None, limit: int | None) -> list[Kept]:
        """Return what the topic keeps."""
        raise NotImplementedError

    def once(self, key: str, call: Callable[[], Reply | None]) -> Reply | None:
        """Call a function, unless it was called for this key of the topic."""
        raise NotImplementedError


class Tracking:
    """What a channel asks of a presence, and what it has without one: an error that names the remedy.

    :class:`.Presence` implements it. In all methods ``where`` is a channel, or the name of a topic; ``topic`` is given
    for another topic than the channel's.
    """

    def track(self, where: Any, key: str, meta: Record | None = None, topic: str | None = None) -> str:
        """Be present under a key."""
        raise InvalidOption(NO_PRESENCE)

    def update(self, where: Any, key: str, meta: NewMeta, topic: str | None = None) -> str:
        """Replace the meta."""
        raise InvalidOption(NO_PRESENCE)

    def track_or_update(self, where: Any, key: str, meta: Record | None = None, topic: str | None = None) -> str:
        """Be present under a key, or replace the meta."""
        raise InvalidOption(NO_PRESENCE)

    def untrack(self, where: Any, key: str, topic: str | None = None) -> None:
        """Be present no more."""
        raise InvalidOption(NO_PRESENCE)

    def list(self, where: Any) -> dict[str, Any]:
        """Return who is there."""
        raise InvalidOption(NO_PRESENCE)


LEVEL_REMEDY = "it has to be a level of logging, such as 'info', or None for no line"

#: The attributes of a channel's class that its author sets, and what they have to be.
SERVICES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "trace_key": ((str, type(None)), "it has to be the key of a payload: trace_key = 'traceparent'"),
    "log_join": ((str, int, type(None)), LEVEL_REMEDY),
    "log_handle_in": ((str, int, type(None)), LEVEL_REMEDY),
    "presence": (Tracking, "it has to be what phoenix.presence() returns"),
    "history": (History, "it has to be a declaration: history = History(size=500, ttl=300)"),
}


def on(*events: str, once: str | None = None) -> Callable[[Handler], Handler]:
    """Make a method handle events from the client: ``@on("new_msg")`` above ``def new_msg(self, payload)``.

    :param once: the name of a payload's key, as ``"idempotency_key"``: a message that has it is handled once for each
        value of it, and answered as the first time when it comes again: see :meth:`Channel.once`.
    :raises InvalidOption: an event is no string, or is one of the protocol's own.
    """
    if once is not None and (not isinstance(once, str) or not once):
        raise InvalidOption(f'once is the name of a key of the payload, as in @on("pay", once="key"); got {once!r}')
    for event in events:
        if isinstance(event, str) and event in RESERVED:
            raise InvalidOption(f"@on({event!r}) would never be called: it is the protocol's own; {RESERVED[event]}")
    mark = _mark(ON, events)
    if once is None:
        return mark

    def decorate(method: Handler) -> Handler:
        setattr(mark(method), ONCE, once)
        return method

    return decorate


def intercept(*events: str) -> Callable[[Method], Method]:
    """Let broadcasts pass through a method instead of going straight to the client.

    The method is given the payload and pushes what this client may see; a method named ``handle_out`` is given the
    event too. It costs a call and an encoding for each subscriber, where other broadcasts cost one for all.

    :raises InvalidOption: an event is no string.
    """
    return _mark(INTERCEPT, events)


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


def _mark(name: str, events: tuple[str, ...]) -> Callable[[Method], Method]:
    if not events or not all(isinstance(event, str) for event in events):
        raise InvalidOption(f"expected names of events, as in @on('new_msg'), got {events!r}")

    def decorate(method: Method) -> Method:
        if isinstance(method, type) or not hasattr(method, "__dict__"):
            raise InvalidOption(f"it stands above a method of a Channel; got {shown(method)} for {events!r}")
        if _stands_alone(method) and not _takes(method, HANDLER):
            raise InvalidOption(
                f"{method.__name__}{place_of(method)} handles {events[0]!r}, and stands in no class: write it as"
                f" a method of a Channel, def {method.__name__}(self, payload)"
            )
        setattr(method, name, (*events, *getattr(method, name, ())))
        return method

    return decorate


def _stands_alone(method: Any) -> bool:
    """Tell whether this is a function that was written in no class."""
    name = getattr(method, "__qualname__", "").rpartition("<locals>.")[2]
    return inspect.isfunction(method) and "." not in name and name != "<lambda>"


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
        cls.handlers = _gather(cls, ON)
        cls.entrances = {event: _entrance(cls, name) for event, name in cls.handlers.items()}
        cls.read_join = read_by(cls, "join")
        cls.read_in = read_by(cls, "handle_in", 2)
        cls.interceptors = _gather(cls, INTERCEPT)
        cls.read_out = _readers_out(cls)
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
        if not callable(function) or (inspect.isfunction(function) and not _takes(function, ("error", "channel"))):
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


def as_reply(result: Any, channel: Channel, method: str) -> Reply | None:
    """Turn what a method returned into a reply.

    :raises InvalidReturn: it is none of None, a dict, a list, a record, bytes and Reply.
    """
    if result is None or (type(result) is Reply and isinstance(result.status, str)):
        return result
    if isinstance(result, (dict, bytes, list)) or is_record(result):
        return Reply("ok", result)
    nothing = "{}" if method == "join" else "no reply"
    raise InvalidReturn(
        f"{type(channel).__name__}.{method} returned {shown(result)}; expected a dict, a list or bytes (an ok reply),"
        f" Reply(status, response) with a string as its status, or None ({nothing}). Any other JSON value goes as"
        f" Reply('ok', value); to refuse, raise Refused(...){place_of(getattr(channel, method, None))}"
    )


def read_by(cls: type, name: str, position: int = 1, strict: bool = True) -> Reader | None:
    """Return what makes an argument of a method one of its declared type; None: it takes whatever comes.

    :param position: of the argument, the first of which is self.
    """
    method = inspect.getattr_static(cls, name)
    if isinstance(method, staticmethod):
        position -= 1
    return reader_of_parameter(method, position, f"{cls.__name__}.{name}", strict)


def _readers_out(cls: type[Channel]) -> dict[str, Reader]:
    """Return what makes payloads of intercepted broadcasts such of their declared types, where there are any."""
    readers = {event: read_by(cls, name, 2 if name == "handle_out" else 1) for event, name in cls.interceptors.items()}
    return {event: read for event, read in readers.items() if read is not None}


def _entrance(cls: type[Channel], name: str) -> str:
    """Return the name of the method to call with an event, or of what does first what it has declared.

    Where its payload has a type, that is to convert it; where a key of the payload tells what is handled once, to look.
    """
    read = read_by(cls, name)
    marked = next(method for base in cls.__mro__ if hasattr(method := vars(base).get(name), ON))
    once = getattr(marked, ONCE, None)
    if read is None and once is None:
        return name

    def enter(channel: Channel, payload: Any) -> Reply | None:
        assert read is not None
        return as_reply(getattr(channel, name)(read(payload)), channel, name)

    def enter_once(channel: Channel, payload: Any) -> Reply | None:
        assert once is not None
        key = _key_of(payload, once)
        call = partial(getattr(channel, name), payload if read is None else read(payload))
        return as_reply(call(), channel, name) if key is None else channel.once(key, call)

    entrance = f"_enter_{name}"
    setattr(cls, entrance, enter if once is None else enter_once)
    return entrance


def _key_of(payload: Any, name: str) -> str | None:
    """Return the key by which a message is handled once; None: it has none.

    :raises Refused: it cannot be one.
    """
    key = payload.get(name) if isinstance(payload, dict) else None
    if key is None:
        return None
    if type(key) is int or (isinstance(key, str) and 0 < len(key) <= MAX_KEY):
        return f"{key}"
    message = f"expected a string of 1 to {MAX_KEY} characters, or a whole number"
    raise Refused(reason=INVALID, errors=[{"path": name, "message": message}])


def _gather(cls: type, mark: str) -> dict[str, str]:
    """Return the names of the marked methods of a class and its bases by event; the nearest class wins.

    :raises InvalidOption: the class has two methods for one event.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found.update(_gather_own(base, mark))
    return found


def _gather_own(cls: type, mark: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, method in vars(cls).items():
        for event in dict.fromkeys(getattr(method, mark, ())):
            if event in found and vars(cls)[found[event]] is not method:
                decorator = "on" if mark == ON else "intercept"
                raise InvalidOption(
                    f"{cls.__name__} has two methods for {event!r}, {found[event]} and {name}: one event has one"
                    f" method; take @{decorator}({event!r}) away from one of them"
                )
            found[event] = name
    return found


def refuse_misfits(cls: type, root: type, callbacks: Sequence[str]) -> None:
    """Refuse a subclass whose methods cannot be called as they will be, or would do nothing when they are.

    :param callbacks: the names of methods that are there to be written; the first of them is the first that is called.
    :raises InvalidOption: with the remedy.
    """
    for name, method in vars(cls).items():
        parameters = _parameters(root, name, method, callbacks)
        if parameters is None or not inspect.isfunction(method):
            continue
        where = f"{cls.__name__}.{name}{place_of(method)}"
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise InvalidOption(
                f"{where} is async, and nobody would await it: write def {name} without async; it may block, as gevent"
                " lets others run meanwhile"
            )
        if inspect.isgeneratorfunction(method):
            raise InvalidOption(f"{where} has a yield, and so would never run: return one reply, and push the rest")
        # Those of join are those of its pattern, too.
        if not _takes(method, parameters[:2] if name == "join" else parameters, more=name == "join"):
            does = f"leave it away, and set values in {callbacks[0]}, as in self.assigns['name'] = ..."
            remedy = does if name == "__init__" else f"write def {name}({', '.join(parameters)})"
            raise InvalidOption(f"{where} does not take what it is called with: {remedy}")


def refuse_lazy(function: Any, name: str = "") -> None:
    """Refuse a function of which nothing would run when it is called: it is async, or a generator.

    :param name: under which it was given, where that is not its own.
    :raises InvalidOption: with the remedy.
    """
    name = name or getattr(function, "__name__", "it")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        mistake = "is async, and nobody would await it: write it without async"
    elif inspect.isgeneratorfunction(function):
        mistake = "has a yield, and so would never run: write it without"
    else:
        return
    raise InvalidOption(f"{name} {mistake}; it may block, as gevent lets others run meanwhile")


def refuse_handlers(socket: type) -> None:
    """Refuse methods of a socket that handle events, as those of a channel do.

    :raises InvalidOption: with the remedy.
    """
    for name, method in vars(socket).items():
        for event in (*getattr(method, ON, ()), *getattr(method, INTERCEPT, ())):
            raise InvalidOption(
                f"{socket.__name__}.{name}{place_of(method)} handles {event!r}, which is for channels, and"
                f" {socket.__name__} is none: move it into the class of a Channel"
            )


def _parameters(root: type, name: str, method: Any, callbacks: Collection[str]) -> tuple[str, ...] | None:
    """Return what a method is called with; None: it is called by the author alone."""
    if name in callbacks or (name == "__init__" and getattr(root, name) is not object.__init__):
        return tuple(inspect.signature(getattr(root, name)).parameters)
    return HANDLER if hasattr(method, ON) or hasattr(method, INTERCEPT) else None


def _takes(function: Callable[..., Any], parameters: Iterable[str], *, more: bool = False) -> bool:
    """Tell whether a function can be called with so many arguments.

    :param more: it may ask for more.
    """
    # A decorator may add arguments to those that it is called with: what counts is what it takes itself.
    signature = inspect.signature(function, follow_wrapped=False)
    try:
        (signature.bind_partial if more else signature.bind)(*parameters)
    except TypeError:
        return False
    return True


def refuse_reserved(cls: type, root: type, callbacks: Collection[str]) -> None:
    """Refuse a subclass in which a name of its root stands for something else.

    :param callbacks: the names of methods that are there to be written; no event's method can have one of them. Other
        methods may be overridden by one that can be called in the same way.
    :raises InvalidOption: with another name as the remedy.
    """
    reserved = {name for base in root.__mro__[:-1] for name in (*vars(base), *vars(base).get("__annotations__", ()))}
    own = cls.__mro__[: cls.__mro__.index(root)]
    bodies = [vars(base) for base in own if base is cls or not issubclass(base, root)]  # the others were looked at
    for name, value in ((name, value) for body in bodies for name, value in body.items()):
        if name in reserved and not name.startswith("_") and not _stands_for(name, value, root, name in callbacks):
            remedy = _remedy(name, value, root, name in callbacks)
            raise InvalidOption(f"{cls.__name__}.{name} would take the place of {root.__name__}.{name}: {remedy}")


def _stands_for(name: str, value: Any, root: type, callback: bool) -> bool:
    """Tell whether an attribute is what its name means in the root: a callback, an overridden method, a presence."""
    if name in SERVICES:
        return isinstance(value, SERVICES[name][0])
    if name == "conflate":
        return isinstance(value, Mapping) and all(isinstance(key, str) and callable(value[key]) for key in value)
    if hasattr(value, ON) or (hasattr(value, INTERCEPT) and name != "handle_out"):
        return False
    if callback:
        return callable(value) or isinstance(value, classmethod | partialmethod)
    replaced = getattr(root, name, None)
    if not inspect.isfunction(value) or not inspect.isfunction(replaced):
        return False
    return _takes(value, inspect.signature(replaced).parameters)


def _remedy(name: str, value: Any, root: type, callback: bool) -> str:
    """Tell what to write instead."""
    events = (*getattr(value, ON, ()), *getattr(value, INTERCEPT, ()))
    if events:
        return f"give the method another name, as in @on({events[0]!r}) above def on_{name}(self, payload)"
    if name in SERVICES:
        return SERVICES[name][1]
    if name == "conflate":
        return 'it has to be a dict of events and functions, as in {"moved": lambda payload: payload["id"]}'
    return f"it has to be a method: def {name}{inspect.signature(getattr(root, name))}" if callback else "rename it"
