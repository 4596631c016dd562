"""Floods of small messages, by one client that reads its answers."""

from __future__ import annotations

import gevent

from tests.support.wire import write

from .attacker import Attacker, Got, frame

JOIN = frame("1", "1", "room:1", "phx_join", {})


def echoes(port: int, seconds: float) -> Got:
    """Ask for 100,000 echoes."""
    attacker = Attacker(port, seconds)
    attacker.send(JOIN, *([frame("1", "2", "room:1", "echo", {}) * 100] * 1000))
    return attacker.count(ok=100_001)


def many_echoes(port: int, seconds: float) -> Got:
    """Ask for 5,000 echoes from each of 20 clients at once."""
    attackers = [Attacker(port, seconds) for _ in range(20)]
    gevent.joinall([gevent.spawn(each.send, JOIN, frame("1", "2", "room:1", "echo", {}) * 5000) for each in attackers])
    return sum((each.count(ok=5001) for each in attackers), Got())


def joins(port: int, seconds: float) -> Got:
    """Join and leave 20,000 times."""
    attacker = Attacker(port, seconds)
    attacker.send(*([(JOIN + frame("1", "2", "room:1", "phx_leave", {})) * 100] * 200))
    return attacker.count(ok=40_000)


def crashes(port: int, seconds: float) -> Got:
    """Join and crash 5,000 times."""
    attacker = Attacker(port, seconds)
    attacker.send(*([(JOIN + frame("1", "2", "room:1", "crash", {})) * 100] * 50))
    return attacker.count(crashed=5_000)


def empty_fragments(port: int, seconds: float) -> Got:
    """Send a message that goes on with 200,000 empty frames."""
    attacker = Attacker(port, seconds)
    attacker.send(JOIN, write(1, b"", fin=False), *([write(0, b"", fin=False) * 1000] * 200))
    return attacker.count(closed=1)


def small_fragments(port: int, seconds: float) -> Got:
    """Send a message of 200,000 bytes in as many frames."""
    text = b'["1","2","room:1","echo",{"a":"' + b"x" * 200_000 + b'"}]'
    frames = [write(0 if at else 1, text[at : at + 1], fin=at == len(text) - 1) for at in range(len(text))]
    attacker = Attacker(port, seconds)
    attacker.send(JOIN, b"".join(frames))
    return attacker.count(ok=2)
