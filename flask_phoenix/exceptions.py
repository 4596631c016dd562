"""The exceptions of this package."""

from __future__ import annotations

from typing import Any


class PhoenixError(Exception):
    """The root of every error that this package raises."""


class InvalidMessage(PhoenixError):
    """A client sent a frame that is no message; its connection ends with close code 1011."""


class UnknownVersion(PhoenixError):
    """A client asked for a version of the wire format that nobody here speaks."""


class InvalidPayload(PhoenixError):
    """The author's payload cannot be written in the wire format of a receiver."""


class UnknownEvent(PhoenixError):
    """A client sent an event that its channel has no method for; the channel crashes, as in Phoenix."""


class InvalidReturn(PhoenixError):
    """One of the author's methods returned a value that means nothing here."""


class InvalidOption(PhoenixError):
    """An option, a topic pattern or a setting has a value that is not allowed."""


class NotJoined(PhoenixError):
    """The author used a channel whose join has not ended yet."""


class AlreadyTracked(PhoenixError):
    """A channel is tracked under this key already; it can only update its meta."""


class NotTracked(PhoenixError):
    """A channel is not tracked under the key whose meta was to be updated."""


class NotPublished(PhoenixError):
    """A broadcast cannot reach other nodes: nothing carries it, or nobody is there to take it."""


class HistoryLost(PhoenixError):
    """A history does not reach back to the position that was asked for, or its epoch has changed."""


class InvalidToken(PhoenixError):
    """There is no token, or it was not signed here: let the client log in."""


class ExpiredToken(InvalidToken):
    """A token was good, and is too old now: let the client fetch a new one."""


class Unsupported(PhoenixError):
    """The server that runs the app, or the transport of this client, cannot do what was asked."""


class Refused(PhoenixError):
    """A decision against a client: of a connect, a join or a message.

    ``Refused("banned")`` and ``Refused(reason="banned")`` both answer ``{"reason": "banned"}``; further keywords join
    the response, and a dict, a list or bytes given alone is the response itself.
    """

    #: What the client is answered: the response of the error reply.
    response: Any

    def __init__(self, response: Any = None, /, **fields: Any) -> None:
        super().__init__(response if response is not None else fields)
        if isinstance(response, str):
            fields = {"reason": response, **fields}
        self.response = fields if response is None or isinstance(response, str) else response

    @property
    def reason(self) -> Any:
        """The reason alone, or None: what the ``error_handler`` of a mount decides by."""
        return self.response.get("reason") if isinstance(self.response, dict) else self.response
