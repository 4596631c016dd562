"""A request of an operator as it travels: signed with the app's secret, good for a short time, and once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from .. import clock
from ..exceptions import InvalidToken
from ..protocol.messages import INTERNAL
from ..tokens import Secret, sign, verify

#: The topic on which every node that serves hears requests. No client can join it.
TOPIC = f"{INTERNAL}operators"
#: What the topics begin with on which the answers go.
REPLY = f"{INTERNAL}operator:"
#: The events on these topics.
REQUEST, ANSWER = "request", "answer"

#: The salt of requests: no other token of the app is one.
SALT = "flask_phoenix operator"
#: Seconds by which the time of a request may differ from that of the node, before or after.
MAX_SKEW = 30.0
#: Requests that a node remembers, so that it does none twice; beyond them it refuses further ones.
REMEMBERED = 10_000
#: Characters of a request.
MAX_SIZE = 1 << 16


class Request(NamedTuple):
    """What a node is asked."""

    #: Tells this request from all others; nobody can guess it.
    id: str
    #: The topic of the answers.
    reply: str
    #: What is asked: see :class:`.Operations`.
    name: str
    #: The rest, by name.
    about: dict[str, Any]


def write(request: Request, secret: Secret) -> str:
    """Sign a request."""
    data = {**request._asdict(), "at": clock.time()}
    return sign(data, SALT, secret, inf)


class Guard:
    """Reads requests, and refuses what is not signed, is too old, or has come before.

    :param secrets: returns the secrets with which they may be signed.
    """

    def __init__(self, secrets: Callable[[], Sequence[Secret]]) -> None:
        self._secrets = secrets
        #: When each request that has come is too old anyway.
        self._seen: dict[str, float] = {}

    def read(self, token: Any) -> Request:
        """Return the request of a token.

        :raises InvalidToken: it is refused.
        """
        if not isinstance(token, str) or len(token) > MAX_SIZE:
            raise InvalidToken(f"a request is a text of at most {MAX_SIZE} characters")
        data = verify(token, SALT, self._secrets(), inf)
        now, at = clock.time(), data.pop("at")
        if abs(now - at) > MAX_SKEW:
            raise InvalidToken(
                f"the request differs by {abs(now - at):.0f} s from this clock: set the clocks of both hosts"
            )
        request = Request(**data)
        self._note(request.id, now)
        return request

    def _note(self, id: str, now: float) -> None:
        """Remember a request for as long as its time would let it through again."""
        if len(self._seen) >= REMEMBERED:
            self._seen = {each: until for each, until in self._seen.items() if until >= now}
        if id in self._seen:
            raise InvalidToken("the request has come before")
        if len(self._seen) >= REMEMBERED:
            raise InvalidToken(f"more than {REMEMBERED} requests have come within {2 * MAX_SKEW:.0f} s")
        self._seen[id] = now + 2 * MAX_SKEW
