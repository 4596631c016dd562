"""Who is measured: how each is started, and what its clients say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Talk:
    """What clients say to a server, as templates of the load client."""

    path: str
    join: str
    join_ok: str
    send: str
    match: str = '"ts":'
    hello: str = ""
    hello_ok: str = ""
    ping: str = ""
    pong: str = ""
    header: str = ""

    def options(self) -> dict[str, str]:
        """Return it as options of the load client."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True)
class Contender:
    """One server."""

    name: str
    #: In a room somebody says something, and all hear it.
    chat: Talk
    #: One client says something, and gets it back.
    echo: Talk
    #: The command line of a server, for the folder of the tools, a port and a URL of what joins nodes.
    command: Callable[[Path, int, str], list[str]]
    #: The path at which frames are compressed.
    compressed: str = ""
    needs_redis: bool = False
    #: That what joins nodes is told by the environment.
    variable: str = ""

    def environ(self, url: str) -> dict[str, str]:
        """Return what the environment has to tell a server."""
        return {self.variable: url} if self.variable else {}

    def deflating(self) -> Talk:
        """Return the chat of a client that asks for compressed frames.

        It asks for frames that stand by themselves, since the load client counts them without reading them.
        """
        offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        header = f"Sec-WebSocket-Extensions: {offer}\r\n"
        return replace(self.chat, path=self.compressed or self.chat.path, header=header)


def module(name: str, patched: bool = False) -> Callable[[Path, int, str], list[str]]:
    """Return the command line of a chat that is a module."""
    patch = ["-m", "gevent.monkey", "--module"] if patched else ["-m"]

    def command(_: Path, port: int, url: str) -> list[str]:
        return [sys.executable, *patch, f"benchmarks.rivals.{name}", str(port), *([url] if url else [])]

    return command


def floor_command(tools: Path, port: int, _: str) -> list[str]:
    """Return the command line of the floor."""
    return [str(tools / "floor"), str(port)]


def gunicorn_command(_: Path, port: int, __: str) -> list[str]:
    """Return the command line of Flask-Sock's chat."""
    options = ["--bind", f"127.0.0.1:{port}", "--worker-connections", "20000", "--backlog", "4096"]
    return [sys.executable, "-m", "gunicorn", "-k", "gevent", *options, "benchmarks.rivals.flask_sock_chat:app"]


def daphne_command(_: Path, port: int, __: str) -> list[str]:
    """Return the command line of Django Channels' chat."""
    options = ["--bind", "127.0.0.1", "--port", str(port), "--verbosity", "0"]
    return [sys.executable, "-m", "daphne", *options, "benchmarks.rivals.django_channels_chat:application"]


PAYLOAD = '{"ts":%T,"n":%N,"pad":"%P"}'


def phoenix_talk(event: str, path: str = "/socket") -> Talk:
    """Return what a client of Phoenix says."""
    return Talk(
        path=f"{path}/websocket?vsn=2.0.0",
        join='["%I","%I","room:%R","phx_join",{}]',
        join_ok="phx_reply",
        send=f'["%I","%N","room:%R","{event}",{PAYLOAD}]',
    )


def socketio_talk(send: str) -> Talk:
    """Return what a client of Socket.IO says."""
    return Talk(
        path="/socket.io/?EIO=4&transport=websocket",
        hello="40",
        hello_ok="40{",
        join='42["join","%R"]',
        join_ok="joined",
        send=send,
        ping="2",
        pong="3",
    )


def plain_talk(event: str) -> Talk:
    """Return what a client of a chat without a protocol of its own says; what answers was written by json."""
    return Talk(
        path="/chat",
        join='{"event":"join","room":"%R"}',
        join_ok="joined",
        send=f'{{"event":"{event}","room":"%R","payload":{PAYLOAD}}}',
        match='"ts": ',
    )


FLOOR = Contender("floor (C)", phoenix_talk("new_msg"), phoenix_talk("echo"), floor_command)
OURS = Contender(
    "flask_phoenix",
    phoenix_talk("new_msg"),
    phoenix_talk("echo"),
    module("flask_phoenix_chat", patched=True),
    compressed="/deflate/websocket?vsn=2.0.0",
)
SOCKETIO = Contender(
    "Flask-SocketIO",
    socketio_talk(f'42["new_msg","%R",{PAYLOAD}]'),
    socketio_talk(f'42["echo",{PAYLOAD}]'),
    module("flask_socketio_chat", patched=True),
)
SOCK = Contender("Flask-Sock", plain_talk("new_msg"), plain_talk("echo"), gunicorn_command)
CHANNELS = Contender(
    "Django Channels",
    plain_talk("new_msg"),
    plain_talk("echo"),
    daphne_command,
    needs_redis=True,
    variable="CHANNELS_REDIS",
)
UWEBSOCKETS = Contender(
    "uWebSockets",
    plain_talk("new_msg"),
    plain_talk("echo"),
    module("uwebsockets_chat"),
    compressed="/deflate",
)

#: All that can be asked; the floor has one room and no options.
SERVERS = (OURS, SOCKETIO, SOCK, CHANNELS, UWEBSOCKETS)
EVERYBODY = (FLOOR, *SERVERS)

#: Phoenix 1.8.12 on Bandit and OTP 25 with one core, as ratio to the same floor. Measured on another machine, some
#: weeks before: those who want it beside the others start it themselves.
PHOENIX = {"fanout": 1.75, "burst": 1.8, "echo": 4.5}
PHOENIX_KIB = 31.9
