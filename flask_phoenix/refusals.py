"""What a class of an author's cannot be: names that are taken, methods that could not be called or would do nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partialmethod
from typing import Any

from .channel_runtime import Tracking
from .exceptions import InvalidOption
from .places import place_of
from .pubsub.history import History

#: What a method under :func:`on` is called with.
HANDLER = ("self", "payload")
#: The attributes by which :func:`on` and :func:`intercept` mark methods.
ON, INTERCEPT = "__phoenix_on__", "__phoenix_intercept__"
LEVEL_REMEDY = "it has to be a level of logging, such as 'info', or None for no line"
#: The attributes of a channel's class that its author sets, and what they have to be.
SERVICES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "trace_key": ((str, type(None)), "it has to be the key of a payload: trace_key = 'traceparent'"),
    "log_join": ((str, int, type(None)), LEVEL_REMEDY),
    "log_handle_in": ((str, int, type(None)), LEVEL_REMEDY),
    "presence": (Tracking, "it has to be what phoenix.presence() returns"),
    "history": (History, "it has to be a declaration: history = History(size=500, ttl=300)"),
}


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
        refuse_lazy(method, where, "return one reply, and push the rest")
        # Those of join are those of its pattern, too.
        if not takes(method, parameters[:2] if name == "join" else parameters, more=name == "join"):
            does = f"leave it away, and set values in {callbacks[0]}, as in self.assigns['name'] = ..."
            remedy = does if name == "__init__" else f"write def {name}({', '.join(parameters)})"
            raise InvalidOption(f"{where} does not take what it is called with: {remedy}")


def refuse_lazy(function: Any, name: str = "", instead: str = "write it without") -> None:
    """Refuse a function of which nothing would run when it is called: it is async, or a generator.

    :param name: under which it was given, where that is not its own.
    :param instead: what to do instead of a yield.
    :raises InvalidOption: with the remedy.
    """
    name = name or getattr(function, "__name__", "it")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        mistake = "is async, and nobody would await it: write it without async"
    elif inspect.isgeneratorfunction(function):
        mistake = f"has a yield, and so would never run: {instead}"
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


def takes(function: Callable[..., Any], parameters: Iterable[str], *, more: bool = False) -> bool:
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
    return takes(value, inspect.signature(replaced).parameters)


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
