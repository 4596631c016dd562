"""Clients in the test's own process: over each transport in each version of the wire format, or without a transport."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from itertools import count
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from gevent.queue import Queue

from flask_phoenix import Adapter, Channel, Phoenix, RawSocket, Socket, intercept, on
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Frame, Message, Reply
from flask_phoenix.protocol.serializers import Serializer, V1Serializer, V2Serializer
from flask_phoenix.protocol.state import Protocol
from flask_phoenix.runtime.channel_connection import ChannelConnection
from flask_phoenix.runtime.connection import Bounds, Carrier
from flask_phoenix.runtime.engine import Engine
from tests.support.loop import turn
from tests.support.processes import DEADLINE, wait_until
from tests.support.wire import Entry, Wire

V1, V2 = V1Serializer(Json()), V2Serializer(Json())

JOINED = {"status": "ok", "response": {}}
UNMATCHED = {"status": "error", "response": {"reason": "unmatched topic"}}
CRASHED = {"reason": "channel_crash"}
JOIN_CRASHED = {"status": "error", "response": {"reason": "join crashed"}}


class Client:
    """One client of an app. What it hears is compared with messages of vsn 2.0.0; those of 1.0.0 have no join_ref.

    :param params: of the connect.
    """

    def __init__(self, app: Flask, vsn: str, params: dict[str, str]) -> None:
        self.vsn = vsn
        self._query = urlencode({"vsn": vsn, **params})
        self._refs = count(100)
        connections = app.extensions["phoenix"].engine.connections
        others = set(connections)
        self._connect(app)
        #: The far end.
        self.connection: ChannelConnection = min(connections - others)

    def say(self, join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any = None) -> None:
        """Send a message; no payload is an empty one."""
        message = Message(join_ref, ref, topic, event, {} if payload is None else payload)
        self.write(json.dumps(message._asdict() if self.vsn == "1.0.0" else message))

    def hear(self) -> Any:
        """Receive a message; a binary frame is left as it is."""
        return self._read(self.read())

    def hears(self, *messages: Any) -> None:
        """Receive messages, and see that they are these."""
        for message in messages:
            assert self.hear() == self.written(message)

    def hears_only(self, *messages: Any) -> None:
        """Receive all that has been sent, and see that it is this."""
        assert self.rest() == [self.written(message) for message in messages]

    def rest(self) -> list[Any]:
        """Let the event loop do what is due, and receive all that has been sent by then."""
        messages = []
        for _ in range(2):  # what was said has been read by the first answer
            ref = f"rest {next(self._refs)}"
            self.say(None, ref, "phoenix", "heartbeat")
            while (message := self.hear())[1] != ref:
                messages.append(message)
            turn()
        return messages

    def join(self, topic: str = "room:1", join_ref: str = "1", payload: Any = None) -> None:
        """Join a topic, and hear the yes."""
        self.say(join_ref, join_ref, topic, "phx_join", payload)
        self.hears([join_ref, join_ref, topic, "phx_reply", JOINED])

    def call(self, event: str, payload: Any = None, topic: str = "room:1", join_ref: str = "1") -> Any:
        """Send an event; its reply is the next that comes: return that one's payload."""
        ref = f"call {next(self._refs)}"
        self.say(join_ref, ref, topic, event, payload)
        message = self.hear()
        assert message[1:4] == [ref, topic, "phx_reply"], message
        return message[4]

    def _connect(self, app: Flask) -> None:
        raise NotImplementedError

    def write(self, frame: Frame) -> None:
        """Send a frame."""
        raise NotImplementedError

    def read(self) -> Frame:
        """Receive a frame."""
        raise NotImplementedError

    def is_closed(self, code: int) -> None:
        """See that the server ends the connection, and that nothing comes before.

        :param code: the close code of a WebSocket.
        """
        raise NotImplementedError

    def hang_up(self) -> None:
        """Go away; the server learns of it at once."""
        raise NotImplementedError

    def written(self, message: Any) -> Any:
        """Return what is left of a message in this client's version."""
        return [None, *message[1:]] if self.vsn == "1.0.0" else message

    def _read(self, frame: Frame) -> Any:
        message = json.loads(frame) if isinstance(frame, str) else frame
        if isinstance(message, dict):
            assert message.keys() == {"topic", "event", "payload", "ref"}
            return [None, message["ref"], message["topic"], message["event"], message["payload"]]
        return message


class WebSocketClient(Client):
    """Frames over a WebSocket."""

    def _connect(self, app: Flask) -> None:
        self._entry = Entry(app, f"/socket/websocket?{self._query}")
        assert self._entry.status.startswith("101 "), self._entry.status
        turn()

    def write(self, frame: Frame) -> None:
        self._entry.wire.send(1 if isinstance(frame, str) else 2, frame.encode() if isinstance(frame, str) else frame)

    def read(self) -> Frame:
        return self._entry.wire.data()

    def is_closed(self, code: int) -> None:
        assert self._entry.wire.closed() == code

    def hang_up(self) -> None:
        self._entry.close()


class LongPollClient(Client):
    """Frames over requests, one at a time."""

    def _connect(self, app: Flask) -> None:
        self._http = app.test_client()
        self._frames: list[str] = []
        self._token = ""
        opened = self._request("GET")
        assert opened == {"status": 410, "token": opened["token"], "messages": []}
        self._token = opened["token"]

    def write(self, frame: Frame) -> None:
        assert self._request("POST", frame) == {"status": 200}

    def read(self) -> Frame:
        if not self._frames:
            answer = self._request("GET")
            assert (answer["status"], answer["token"]) == (200, self._token)
            self._frames = answer["messages"]
        return self._frames.pop(0)

    def is_closed(self, code: int) -> None:
        assert wait_until(lambda: not self.connection.open, turn)
        assert self._frames == []
        assert self._request("POST", "[]") == {"status": 410}  # a GET would open another session

    def hang_up(self) -> None:
        self.connection.closed("closed")

    def _request(self, method: str, body: Frame | None = None) -> Any:
        headers = {"X-Phoenix-Longpoll-Token": self._token} if self._token else {}
        kind = "application/json" if self.vsn == "1.0.0" else "application/x-ndjson"
        if isinstance(body, bytes):
            body = b64encode(body)
        url = f"/socket/longpoll?{self._query}"
        response = self._http.open(url, method=method, data=body, content_type=kind, headers=headers)
        assert response.status_code == 200
        return response.json


#: Each transport in each version of the wire format.
KINDS = [(transport, vsn) for transport in (WebSocketClient, LongPollClient) for vsn in ("1.0.0", "2.0.0")]


class Room(Channel):
    """Lets everybody in, and notes how it ends."""

    def join(self, payload: Any) -> Any:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return Reply("ok", payload)

    def note(self, value: Any) -> None:
        """Let the test know."""
        self.assigns["log"].put(value)

    def terminate(self, reason: Any) -> None:
        self.note(reason)


def scripted(**acts: Callable[..., Any]) -> type[Room]:
    """Make a room of functions, each called with the channel and what its callback is given but for payloads.

    :param acts: by callback: ``__init__``, ``join``, ``after_join``, ``do`` (an event), ``news`` (an intercepted one),
        ``handle_info``, ``terminate``.
    """

    class Scripted(Room):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.act("__init__")

        def act(self, name: str, *arguments: Any) -> Any:
            return acts[name](self, *arguments) if name in acts else None

        def join(self, payload: Any) -> Any:
            return self.act("join")

        def after_join(self) -> None:
            self.act("after_join")

        @on("do")
        def do(self, payload: Any) -> Any:
            return self.act("do")

        def terminate(self, reason: Any) -> None:
            super().terminate(reason)
            self.act("terminate", reason)

        if "news" in acts:

            @intercept("news")
            def news(self, payload: Any) -> None:
                self.act("news", payload)

        if "handle_info" in acts:

            def handle_info(self, message: Any) -> None:
                self.act("handle_info", message)

    return Scripted


def fails(failure: BaseException | type[BaseException]) -> Callable[..., Any]:
    """Return a function that raises."""

    def fail(*_: Any) -> Any:
        raise failure

    return fail


class Site:
    """An app with a socket, and its clients, all of one kind unless a test says otherwise."""

    def __init__(self, kind: tuple[type[Client], str], adapter: Adapter | None = None, **options: Any) -> None:
        self.kind = kind
        self.app = Flask(__name__)
        self.app.secret_key = "a secret"
        self.phoenix = Phoenix(adapter=adapter)

        class Visitor(Socket):
            def id(self) -> str | None:
                return self.params.get("user")

        self.socket = self.phoenix.socket("/socket", longpoll=True, **options)(Visitor)
        self.phoenix.init_app(self.app)
        self.engine: Engine = self.app.extensions["phoenix"].engine
        #: What channels note.
        self.log: Queue[Any] = Queue()
        self._hang_ups: list[Callable[[], None]] = []

    def serve(self, channel: type[Channel], pattern: str = "room:*", **assigns: Any) -> None:
        """Serve a channel, in place of the one before."""
        self.socket.channels = tuple(route for route in self.socket.channels if route.pattern != pattern)
        self.socket.channel(pattern, {"log": self.log, **assigns})(channel)

    def connect(self, *kind: Any, **params: str) -> Client:
        """Connect a client: of the site's kind, or of the transport and the version that are given."""
        transport, vsn = kind or self.kind
        client: Client = transport(self.app, vsn, params)
        self._hang_ups.append(client.hang_up)
        return client

    def connect_raw(self, socket: type[RawSocket], **params: str) -> Wire:
        """Mount a raw socket, unless it is mounted already, and connect a client."""
        if "/raw/websocket" not in [endpoint.mount.url for endpoint in self.app.extensions["phoenix"].endpoints]:
            self.phoenix.socket("/raw")(socket)
        entry = Entry(self.app, f"/raw/websocket?{urlencode(params)}")
        self._hang_ups.append(entry.close)
        return entry.wire

    def enter(self, channel: type[Channel] = Room, **params: str) -> Client:
        """Serve a channel, and connect a client that joins ``room:1``."""
        self.serve(channel)
        client = self.connect(**params)
        client.join()
        return client

    def noted(self) -> Any:
        """Return what a channel notes next."""
        return self.log.get(timeout=DEADLINE)

    def notes(self) -> list[Any]:
        """Return all that channels have noted."""
        return [self.log.get_nowait() for _ in range(self.log.qsize())]

    def hears(self, topic: str) -> bool:
        """Tell whether anybody here is subscribed to a topic."""
        return self.engine.pubsub.subscribed(topic)

    def close(self) -> None:
        """End everything; the next client finds a site like a new one."""
        while self._hang_ups:
            self._hang_ups.pop()()
        self.engine.stop()
        self.log, self.socket.channels = Queue(), ()


def enters(site: Site, **acts: Callable[..., Any]) -> Client:
    """Serve a scripted room, connect a client, and ask for room:1."""
    site.serve(scripted(**acts))
    client = site.connect()
    client.say("1", "1", "room:1", "phx_join")
    return client


def pack(frame: Frame) -> bytes:
    """Write a frame so that it can be told from the next one in a stream."""
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
    """Make a frame a piece of its own: what a carrier writes that is no stream."""
    return [frame]


class RecordingCarrier(Carrier):
    """Carries a client's frames into a queue, and remembers the writes."""

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
        """Remember how the server closed the connection."""
        self.closed = code, reason

    def read(self) -> Frame:
        """Return the next frame."""
        return self._arrived.get(timeout=DEADLINE)

    def rest(self) -> list[Frame]:
        """Return the frames that have come and were not read."""
        return [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]

    def _write(self, data: Any) -> None:
        frames = unpack(data) if self.stream else data
        self.writes.append(frames)
        for frame in frames:
            self._arrived.put_nowait(frame)


class MemoryClient:
    """A client of an engine, without a transport and an app: it calls :meth:`.Connection.receive` itself."""

    def __init__(
        self,
        engine: Engine,
        socket: type[Socket],
        serializer: Serializer = V2,
        stream: bool = True,
        name: str | None = None,
        max_channels: int = 100,
        carrier: RecordingCarrier | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.carrier = carrier or RecordingCarrier(stream)
        self.socket = socket({}, "websocket")
        protocol = Protocol(serializer, socket.match, max_channels)
        self.connection = ChannelConnection(engine, self.socket, name, self.carrier, protocol, bounds=bounds)
        self.connection.opened()

    def say(self, join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any) -> None:
        """Send a message of vsn 2.0.0."""
        self.connection.receive(json.dumps([join_ref, ref, topic, event, payload]))

    def hear(self) -> Any:
        """Return the next frame; JSON is read, binary is left as it is."""
        return self._read(self.carrier.read())

    def rest(self) -> list[Any]:
        """Return what has come and was not heard, after a few turns of the event loop."""
        turn()
        return [self._read(frame) for frame in self.carrier.rest()]

    def join(self, topic: str = "room:1", join_ref: str = "1", ref: str = "1") -> None:
        """Join a topic and hear the yes."""
        self.say(join_ref, ref, topic, "phx_join", {})
        assert self.hear() == [join_ref, ref, topic, "phx_reply", JOINED]

    def hang_up(self) -> None:
        """Go away, as when a page is closed."""
        self.connection.closed("closed")

    def _read(self, frame: Frame) -> Any:
        return json.loads(frame) if isinstance(frame, str) else frame


def serve(channel: type[Channel], pattern: str = "room:*", assigns: dict[str, Any] | None = None) -> type[Socket]:
    """Make a socket that serves one channel."""

    class One(Socket):
        pass

    One.channel(pattern, assigns)(channel)
    return One
