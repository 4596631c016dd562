"""What is to take memory: large values, large names, large frames, and answers that nobody reads."""

from __future__ import annotations

import zlib

import gevent

from tests.support.wire import write

from .attacker import Attacker, Got, dial, frame, handshake

#: JSON that takes forty times its bytes in memory.
BRACES = "[" + ",".join(["{}"] * 330_000) + "]"


def braces(topic: str, ref: str, event: str) -> bytes:
    """Write a message of 1 MB."""
    return write(1, f'["{topic}","{ref}","room:{topic}","{event}",{{"a":{BRACES}}}]'.encode())


def inboxes(port: int, seconds: float) -> Got:
    """Send 60 messages of 1 MB of ``{},`` to 100 channels whose handlers are slow."""
    attacker = Attacker(port, seconds)
    attacker.send(*(frame(str(n), "1", f"room:{n}", "phx_join", {}) for n in range(100)))
    attacker.send(*(frame(str(n), "2", f"room:{n}", "slow", {}) for n in range(100)))
    attacker.send(*(braces(str(n), "3", "slow") for n in range(60)))
    gevent.sleep(attacker.left)
    return attacker.end()


def slow_joins(port: int, seconds: float) -> Got:
    """Send the same to channels whose joins are slow."""
    attacker = Attacker(port, seconds)
    attacker.send(*(frame(str(n), "1", f"room:{n}", "phx_join", {"slow": 1}) for n in range(100)))
    attacker.send(*(braces(str(n), "3", "echo") for n in range(60)))
    gevent.sleep(attacker.left)
    return attacker.end()


def long_names(port: int, seconds: float) -> Got:
    """Join 50 topics of 1 MB, and push 50 events of 1 MB."""
    attacker = Attacker(port, seconds)
    attacker.send(*(frame("1", "1", f"room:{n}{'t' * 990_000}", "phx_join", {}) for n in range(50)))
    attacker.send(frame("1", "1", "room:1", "phx_join", {}))
    attacker.send(*(frame("1", "2", "room:1", f"{n}{'e' * 990_000}", {}) for n in range(50)))
    gevent.sleep(min(2, attacker.left))
    return attacker.end()


def frame_heads(port: int, seconds: float) -> Got:
    """Announce 200 MB, from 50 clients, and send as much as is taken of 2 MB."""
    got = Got()
    for _ in range(50):
        attacker = Attacker(port, seconds / 5)
        attacker.send(b"\x81\xff" + (200 << 20).to_bytes(8, "big") + bytes(4) + bytes(2_000_000))
        gevent.sleep(0.02)
        got += attacker.end()
    return got


def bombs(port: int, seconds: float) -> Got:
    """Send 60 messages of 1 MB of ``{},`` as 1 kB each, deflated, in one write."""
    extension = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
    attacker = Attacker(port, seconds, "/deflated", **{"Sec-WebSocket-Extensions": extension})
    attacker.send(frame("1", "1", "room:1", "phx_join", {}))
    encoder = zlib.compressobj(9, wbits=-15)
    text = f'["1","2","room:1","take",{{"a":{BRACES}}}]'.encode()
    deflated = (encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
    attacker.send(write(1, deflated, rsv=4) * 60)
    return attacker.count(ok=61)


def readers_that_stop(port: int, seconds: float) -> Got:
    """Ask for 100 MB, from 50 clients, and read nothing."""
    data = frame("1", "1", "room:1", "phx_join", {}) + frame("1", "2", "room:1", "much", {}) * 1000
    socks = [dial(port, handshake()) for _ in range(50)]
    for sock in socks:
        sock.recv(64)
        sock.sendall(data)
    gevent.sleep(seconds / 2)
    got = Got(sent=len(socks) * 1000)
    for sock in socks:
        sock.settimeout(1)
        try:
            while sock.recv(1 << 20):
                pass
            got["ended"] += 1
        except OSError as error:
            got[type(error).__name__] += 1
        sock.close()
    return got
