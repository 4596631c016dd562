"""What attackers share: how to come in, and what they count of what they get."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import gevent
from gevent import socket

from tests.support.processes import HOST
from tests.support.wire import UPGRADE, Wire, write

#: What an attacker got, and how often.
Got = Counter[str]


def handshake(path: str = "/socket", **headers: str) -> bytes:
    """Write the request for a WebSocket."""
    lines = [f"GET {path}/websocket?vsn=2.0.0 HTTP/1.1", "Host: here", *map(": ".join, {**UPGRADE, **headers}.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def dial(port: int, data: bytes) -> Any:
    """Send bytes on a connection of its own."""
    sock = socket.create_connection((HOST, port), 60)
    with suppress(OSError):
        sock.sendall(data)
    return sock


def status(sock: Any) -> str:
    """Return the status of an answer."""
    try:
        return sock.recv(64).decode()[9:12] or "closed"
    except OSError as error:
        return type(error).__name__


def still_open(socks: list[Any], seconds: float) -> Got:
    """Wait, and return how many connections are open, and what the others were told."""
    gevent.sleep(seconds)
    got = Got()
    for sock in socks:
        sock.settimeout(0.001)
        answer = status(sock)
        got["open" if answer == "TimeoutError" else answer] += 1
        sock.close()
    return got


def frame(*message: Any) -> bytes:
    """Write a message as a frame."""
    return write(1, json.dumps(message).encode())


class Attacker:
    """A client that sends bytes as fast as they are taken, and reads all that comes.

    :param seconds: after which it gives up.
    """

    def __init__(self, port: int, seconds: float, path: str = "/socket", **headers: str) -> None:
        self._end = time.monotonic() + seconds
        self.wire = Wire(dial(port, handshake(path, **headers)))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.wire.take(1)
        self.got = Got()
        self._tail = b""
        self._reading = gevent.spawn(self._read)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    def send(self, *pieces: bytes) -> None:
        """Send what is taken in time."""
        sock = self.wire.sock
        for piece in pieces:
            data = memoryview(piece)
            with suppress(OSError):
                while data and self.left:
                    sock.settimeout(self.left)
                    data = data[sock.send(data[:65536]) :]
            if data:
                self.got["of the messages were not taken"] += 1

    def count(self, **answers: int) -> Got:
        """Wait for so many answers, and return what was got.

        :param answers: which texts are counted, and how many of them there will be.
        """
        self._texts = list(answers)
        while self.left and not self._reading.ready() and any(self.got[text] < answers[text] for text in answers):
            gevent.sleep(0.02)
        return self.end()

    def end(self) -> Got:
        """Hang up."""
        self._reading.kill()
        self.wire.sock.close()
        return self.got

    def _read(self) -> None:
        """Count frames by what they are; frames are read as far as they are small."""
        buffer = b""
        while True:
            try:
                data = self.wire.sock.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                self.got[type(error).__name__] += 1
                return
            if not data:
                self.got["closed"] += not any(key.startswith("closed") for key in self.got)
                return
            buffer = self._take(buffer + data)

    def _take(self, data: bytes) -> bytes:
        start = 0
        while len(data) - start >= 2:
            size, body = data[start + 1], start + 2
            if size > 125:
                body += 2 if size == 126 else 8
                size = int.from_bytes(data[start + 2 : body], "big")
            if len(data) < max(body + size, body):
                break
            self._note(data[start] & 15, data[body : body + min(size, 200)])
            start = body + size
        return data[start:]

    def _note(self, opcode: int, text: bytes) -> None:
        if opcode == 8:
            self.got[f"closed with {int.from_bytes(text[:2], 'big')}"] += 1
        elif b"phx_error" in text:
            self.got["crashed"] += 1
        elif b'"status":"ok"' in text:
            self.got["ok"] += 1
        elif b'"reason":"' in text:
            self.got[text.split(b'"reason":"')[1].split(b'"')[0].decode()] += 1
        else:
            self.got["other"] += 1
