"""What the classes of an app declare: who may connect, what clients send, what they are answered and sent."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Union

from ..channel import Channel
from ..channel_runtime import Tracking
from ..exceptions import InvalidOption
from ..payloads.annotations import annotation_of_parameter, annotations_of, bare, parts_of, resolve, shown_type
from ..protocol.messages import Reply
from ..socket import BaseSocket, Route, Socket

#: What a variable of a topic pattern looks like: a star at the end, or as in Flask's routes.
VARIABLE = re.compile(r"<(?:(?P<kind>[^<>:]+):)?(?P<name>\w+)>|\*$")


class Shape(NamedTuple):
    """What a payload may be."""

    #: The type of JSON; None: there is no JSON.
    text: Any
    #: It may be bytes.
    binary: bool
    #: The server sends it; otherwise clients do.
    sent: bool = False


ANYTHING = Shape(Any, True)
NOTHING = Shape(None, False)


class Handled(NamedTuple):
    """An event from the client, or the join."""

    event: str
    about: str
    payload: Shape
    #: The response of an ok reply.
    reply: Shape


class Family(NamedTuple):
    """A family of topics: a pattern of a socket, and the channel that serves it."""

    name: str
    about: str
    pattern: str
    join: Handled
    handled: list[Handled]
    #: Other events of clients are handled too.
    takes_others: bool
    sent: dict[str, Shape]
    #: Other events may be sent too, as none is declared.
    sends_others: bool
    has_presence: bool

    @property
    def variables(self) -> dict[str, str]:
        """The names of what is variable in the topics, and its kinds: that of Flask's rules, or a star."""
        found = VARIABLE.finditer(self.pattern)
        return {each["name"] or "subtopic": each["kind"] or ("string" if each["name"] else "*") for each in found}


class Client(NamedTuple):
    """A kind of client: a socket at its path."""

    name: str
    about: str
    path: str
    params: Shape
    families: list[Family]

    @property
    def shapes(self) -> Iterable[Shape]:
        """All that is declared."""
        yield self.params
        for family in self.families:
            for handled in (family.join, *family.handled):
                yield handled.payload
                yield handled.reply
            yield from family.sent.values()


def read_declarations(mounts: Iterable[tuple[str, type[BaseSocket]]]) -> list[Client]:
    """Read what the sockets of an app declare, by their paths; those without channels are left out.

    :raises InvalidOption: an annotation of a payload cannot be evaluated.
    """
    return [
        Client(
            socket.__name__,
            _about(socket),
            path,
            shape_of_parameter(socket, "connect"),
            [_family(route) for route in socket.channels],
        )
        for path, socket in dict.fromkeys(mounts)
        if issubclass(socket, Socket)
    ]


def shape_of(annotation: Any, sent: bool = False) -> Shape:
    """Take a type of payloads apart.

    :param sent: by the server.
    """
    parts = list(parts_of(annotation))
    if any(part in (Any, object) for part in parts):
        return ANYTHING
    text = tuple(part for part in parts if bare(part) is not bytes)
    whole = annotation if len(text) == len(parts) else Union[text] if text else None  # noqa: UP007
    return Shape(whole, len(text) < len(parts), sent)


def shape_of_parameter(cls: type, name: str) -> Shape:
    """Return what the payload of a method may be."""
    method = inspect.getattr_static(cls, name)
    found = annotation_of_parameter(method, 0 if isinstance(method, staticmethod) else 1)
    if found is None:
        return ANYTHING
    try:
        return shape_of(resolve(found[1], method))
    except NameError as error:
        raise InvalidOption(
            f"{cls.__name__}.{name} takes {shown_type(found[1])}: {error}; define it or import it at the top of"
            f" {inspect.unwrap(method).__module__}"
        ) from error


def shape_of_reply(cls: type, name: str) -> Shape:
    """Return what the response may be with which a method answers; where it does not say, anything."""
    method = inspect.getattr_static(cls, name)
    try:
        annotation = resolve(annotations_of(method).get("return", Any), method)
    except (NameError, InvalidOption):
        return ANYTHING  # nothing else asks what a method returns
    parts = [part for part in parts_of(annotation) if part is not type(None)]
    return ANYTHING if Reply in parts else shape_of(Union[tuple(parts)], True) if parts else NOTHING  # noqa: UP007


def _family(route: Route) -> Family:
    channel = route.channel
    sent = {event: shape_of(declared.annotation, True) for event, declared in channel.declared_events.items()}
    return Family(
        channel.__name__,
        _about(channel),
        route.pattern,
        _handled(channel, "phx_join", "join"),
        [_handled(channel, event, name) for event, name in channel.handlers.items()],
        channel.handle_in is not Channel.handle_in,
        sent,
        not sent,
        type(channel.presence) is not Tracking,
    )


def _handled(channel: type[Channel], event: str, name: str) -> Handled:
    payload, reply = shape_of_parameter(channel, name), shape_of_reply(channel, name)
    return Handled(event, _about(inspect.getattr_static(channel, name)), payload, reply)


def _about(thing: Any) -> str:
    """Return the first sentence that is said of a class or a method."""
    return (inspect.cleandoc(getattr(thing, "__doc__", None) or "").partition("\n\n")[0]).replace("\n", " ")
