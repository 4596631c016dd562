"""What to do about exceptions that those meet who take a channel for a view, or for that of another library."""

from __future__ import annotations

from typing import Any

from .channel import Channel

NO_REQUEST = (
    "there is no request in a channel, which lives on after its handshake: take what you need in the socket's connect,"
    " keep it in self.assigns"
)
NO_VIEW = "a channel is no view: to refuse, raise Refused('why') instead of abort"
#: Names that channels have elsewhere, and what they are here.
ELSEWHERE = {
    "emit": "self.push sends to this client, self.broadcast to everybody on the topic",
    "socket": "what the socket has stands on the channel: self.assigns, self.params, self.transport",
    "room": "a room is a topic: self.topic",
    "sid": "clients have no such id: give them one in the socket's connect, in self.assigns",
    "session": NO_REQUEST,
    "request": NO_REQUEST,
    "app": "it is flask.current_app",
    "leave": "self.stop() ends this channel",
    "close": "self.stop() ends this channel; phoenix.disconnect(id) closes the connections of a socket's id",
}


def remedy_for(failure: Any) -> str:
    """Return what to do about an exception; empty where its own words do."""
    if isinstance(failure, RuntimeError) and "Working outside of request context" in str(failure):
        return NO_REQUEST
    if any(kind.__module__ == "werkzeug.exceptions" for kind in type(failure).__mro__):
        return NO_VIEW if not isinstance(failure, KeyError) else ""
    if isinstance(failure, AttributeError) and isinstance(failure.obj, Channel):
        return ELSEWHERE.get(str(failure.name), "")
    return ""
