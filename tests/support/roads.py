"""Connections without a network: a carrier that remembers what it was given, and a browser tab at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
from gevent.queue import Queue

from flask_phoenix.channel import Channel
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Frame
from flask_phoenix.protocol.serializers import Serializer, V1Serializer, V2Serializer
from flask_phoenix.protocol.state import Protocol
from flask_phoenix.runtime.channel_connection import ChannelConnection
from flask_phoenix.runtime.connection import Carrier
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.socket import Socket
from tests.support.processes import DEADLINE

V1, V2 = V1Serializer(Json()), V2Serializer(Json())

JOINED = {"status": "ok", "response": {}}
UNMATCHED = {"status": "error", "response": {"reason": "unmatched topic"}}
CRASHED = {"reason": "channel_crash"}
JOIN_CRASHED = {"status": "error", "response": {"reason": "join crashed"}}


def pack(frame: Frame) -> bytes:
    """Write a frame so that it can be told from its neighbours in a stream."""
    kind, data = (b"t", frame.encode()) if isinstance(frame, str) else (b"b", frame)
    return kind + len(data).to_bytes(4, "big") + data


def unpack(data: bytes) -> list[Frame]:
    """Read the frames of a piece of a stream."""
    frames: list[Frame] = []
    while data:
        end = 5 + int.from_bytes(data[1:5], "big")
        frames.append(data[5:end].decode() if data[:1] == b"t" else data[5:end])
        data = data[end:]
    return frames


def single(frame: Frame) -> list[Frame]:
    """Make a frame a piece of its own: a road that is no stream."""
    return [frame]


class Road(Carrier):
    """Carries a client's frames into a queue."""

    transport = "websocket"

    def __init__(self, stream: bool = True) -> None:
        self.stream = stream
        self.to_wire = pack if stream else single
        self.write = self._write
        #: The frames of each write.
        self.writes: list[list[Frame]] = []
        #: The close code and the reason.
        self.closed: tuple[int, str] | None = None
        self._arrived: Queue[Frame] = Queue()

    def close(self, code: int, reason: str) -> None:
        """Remember how the server said goodbye."""
        self.closed = code, reason

    def read(self) -> Frame:
        """Return the next frame, waiting for it if need be."""
        return self._arrived.get(timeout=DEADLINE)

    def rest(self) -> list[Frame]:
        """Return the frames that have come and were not read."""
        return [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]

    def _write(self, data: Any) -> None:
        frames = unpack(data) if self.stream else data
        self.writes.append(frames)
        for frame in frames:
            self._arrived.put_nowait(frame)


class Tab:
    """A client that joins channels: what it says is spelled out, and so is what it hears."""

    def __init__(
        self,
        engine: Engine,
        socket: type[Socket],
        serializer: Serializer = V2,
        stream: bool = True,
        name: str | None = None,
        max_channels: int = 100,
    ) -> None:
        self.road = Road(stream)
        self.socket = socket({}, "websocket")
        protocol = Protocol(serializer, socket.match, max_channels)
        self.connection = ChannelConnection(engine, self.socket, name, self.road, protocol)
        self.connection.opened()

    def say(self, join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any) -> None:
        """Send a message of vsn 2.0.0."""
        self.connection.receive(json.dumps([join_ref, ref, topic, event, payload]))

    def hear(self) -> Any:
        """Return the next frame; JSON is read, binary is left as it is."""
        return _read(self.road.read())

    def rest(self) -> list[Any]:
        """Return what has come and was not heard, after a few turns of the event loop."""
        turn()
        return [_read(frame) for frame in self.road.rest()]

    def join(self, topic: str = "room:1", join_ref: str = "1", ref: str = "1") -> None:
        """Join a topic and hear the yes."""
        self.say(join_ref, ref, topic, "phx_join", {})
        assert self.hear() == [join_ref, ref, topic, "phx_reply", JOINED]

    def leave(self) -> None:
        """Go away, as when a tab is closed."""
        self.connection.closed("closed")


def _read(frame: Frame) -> Any:
    return json.loads(frame) if isinstance(frame, str) else frame


def serve(channel: type[Channel], pattern: str = "room:*", assigns: dict[str, Any] | None = None) -> type[Socket]:
    """Make a socket that serves one channel."""

    class One(Socket):
        pass

    One.channel(pattern, assigns)(channel)
    return One


def turn(times: int = 5) -> None:
    """Let the event loop do what is due now."""
    for _ in range(times):
        gevent.sleep(0)


def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in another OS thread, and return what it returns; the event loop goes on meanwhile."""
    return gevent.get_hub().threadpool.apply(function, arguments)
