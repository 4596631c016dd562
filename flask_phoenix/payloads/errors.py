"""What is wrong with a payload, and how much of it is told."""

from __future__ import annotations

from ..exceptions import Refused

#: The reason of the error reply to a payload of another type than the declared one.
INVALID = "invalid payload"
#: Errors that are told of one payload, and characters of each: a client is to be told less than it has sent.
MAX_ERRORS, MAX_TEXT = 20, 200

NO_JSON = "Expected JSON, got a binary payload"
REMEDY = (
    "use a dataclass, a TypedDict, a msgspec.Struct, a model of pydantic 2, or what Python has for JSON; or say Any,"
    " and look at the payload in the method"
)


class Errors(Refused, ValueError):
    """A payload is not of its declared type. What clients send is refused with it."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__({"reason": INVALID, "errors": errors})
        #: The places, such as ``items[2].name``, and what is wrong there.
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(f"{each['path'] or 'the payload'}: {each['message']}" for each in self.errors)


def errors_of(*found: tuple[str, str]) -> Errors:
    """Make the exception of places and messages, of which a client is told a bounded part."""
    return Errors([{"path": path[:MAX_TEXT], "message": message[:MAX_TEXT]} for path, message in found[:MAX_ERRORS]])
