"""Methods that handle events: how they are marked and found, what they are given, and what they may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from .exceptions import InvalidOption, InvalidReturn, Refused
from .payloads.errors import INVALID
from .payloads.reading import Reader, reader_of_parameter
from .payloads.writing import Record, is_record
from .places import place_of
from .protocol.messages import CLOSE, ERROR, JOIN, LEAVE, REPLY, Reply, shown
from .pubsub.envelope import MAX_KEY
from .refusals import HANDLER, INTERCEPT, ON, takes

Method = TypeVar("Method", bound=Callable[..., Any])
#: What a handler may return: nothing, the response of an ok reply, or a whole reply.
Result = Record | list[Any] | bytes | Reply | None
Handler = TypeVar("Handler", bound=Callable[[Any, Any], Result])
#: The attribute in which :func:`on` leaves the name of the key by which a message is handled once.
ONCE = "__phoenix_once__"
#: Events that no method handles, and what does.
RESERVED = {
    JOIN: "write join(self, payload)",
    LEAVE: "write terminate(self, reason), whose reason is 'left' then",
    REPLY: "clients get it for what a handler returns",
    ERROR: "clients get it when a handler fails",
    CLOSE: "clients get it from self.stop()",
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


def _mark(name: str, events: tuple[str, ...]) -> Callable[[Method], Method]:
    if not events or not all(isinstance(event, str) for event in events):
        raise InvalidOption(f"expected names of events, as in @on('new_msg'), got {events!r}")

    def decorate(method: Method) -> Method:
        if isinstance(method, type) or not hasattr(method, "__dict__"):
            raise InvalidOption(f"it stands above a method of a Channel; got {shown(method)} for {events!r}")
        if _stands_alone(method) and not takes(method, HANDLER):
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


def gather(cls: type, mark: str) -> dict[str, str]:
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


def read_by(cls: type, name: str, position: int = 1, strict: bool = True) -> Reader | None:
    """Return what makes an argument of a method one of its declared type; None: it takes whatever comes.

    :param position: of the argument, the first of which is self.
    """
    method = inspect.getattr_static(cls, name)
    if isinstance(method, staticmethod):
        position -= 1
    return reader_of_parameter(method, position, f"{cls.__name__}.{name}", strict)


def readers_out(cls: type[Any]) -> dict[str, Reader]:
    """Return what makes payloads of intercepted broadcasts such of their declared types, where there are any."""
    readers = {event: read_by(cls, name, 2 if name == "handle_out" else 1) for event, name in cls.interceptors.items()}
    return {event: read for event, read in readers.items() if read is not None}


def entrance_of(cls: type[Any], name: str) -> str:
    """Return the name of the method to call with an event, or of what does first what it has declared.

    Where its payload has a type, that is to convert it; where a key of the payload tells what is handled once, to look.
    """
    read = read_by(cls, name)
    marked = next(method for base in cls.__mro__ if hasattr(method := vars(base).get(name), ON))
    once = getattr(marked, ONCE, None)
    if read is None and once is None:
        return name

    def enter(channel: Any, payload: Any) -> Reply | None:
        assert read is not None
        return as_reply(getattr(channel, name)(read(payload)), channel, name)

    def enter_once(channel: Any, payload: Any) -> Reply | None:
        assert once is not None
        key = _key_of(payload, once)
        call = partial(getattr(channel, name), payload if read is None else read(payload))
        if key is None:
            return as_reply(call(), channel, name)
        # A key is the client's to choose: nobody else is to get a reply by it, and no other method's.
        reply: Reply | None = channel.once(f"{channel.runtime.id!r} {name} {key}", call)
        return reply

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


def as_reply(result: Any, channel: Any, method: str) -> Reply | None:
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
