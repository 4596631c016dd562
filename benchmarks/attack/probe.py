"""A client that echoes all the time, in a process of its own: no attack takes its time away."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from socket import create_connection

from tests.support.processes import HOST
from tests.support.wire import Wire

from .attacker import frame, handshake

#: Seconds between two echoes, and seconds for which one is waited.
PERIOD, PATIENCE = 0.01, 60


class Probe:
    """The process, and the times that it tells in the end."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", __spec__.name, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def end(self) -> str:
        """Return the milliseconds of half of the echoes, of all but one in a hundred, and of the slowest."""
        times = sorted(json.loads(self._process.communicate("", PATIENCE)[0]))
        p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        return f"{p50:.1f} / {p99:.1f} / {times[-1] * 1000:.0f}"


def main() -> None:
    """Echo until the standard input ends, and print the seconds of each echo."""
    wire = Wire(create_connection((HOST, int(sys.argv[1]))))
    wire.sock.sendall(handshake())
    wire.sock.settimeout(PATIENCE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += wire.take(1)
    join, echo = (frame("1", "1", "room:probe", event, {}) for event in ("phx_join", "echo"))
    wire.sock.sendall(join)
    wire.data()
    print("ready", flush=True)
    times = []
    while not select.select([sys.stdin], [], [], PERIOD)[0]:
        begin = time.perf_counter()
        wire.sock.sendall(echo)
        wire.data()
        times.append(time.perf_counter() - begin)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
