"""Redis in processes of its own: one server, or a cluster, on free ports or a Unix socket."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.support.processes import DEADLINE, HOST, free_port, wait_until

COMMAND = ("redis-server", "--save", "", "--appendonly", "no", "--bind", HOST, "--daemonize", "no")

CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file")
SLOTS = 16384


class RedisServer:
    """A redis-server that can be stopped, killed and started again on the same port.

    :param options: further words of its command line.
    """

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        self.port = free_port()
        self.socket = folder / f"{self.port}.sock"
        self.url = f"redis://{HOST}:{self.port}/0"
        self._client = Redis(host=HOST, port=self.port, password=password, protocol=2, socket_timeout=DEADLINE)
        self._folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it, and return once it answers."""
        options = ("--port", str(self.port), "--unixsocket", str(self.socket), "--dir", str(self._folder))
        with (self._folder / f"{self.port}.log").open("ab") as output:
            self._process = subprocess.Popen(
                (*COMMAND, *options, *self._options), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        assert wait_until(self.answers, lambda: time.sleep(0.01)), "redis-server does not answer"

    def answers(self) -> bool:
        """Tell whether it does."""
        with contextlib.suppress(RedisError):
            return bool(self.execute("PING"))
        return False

    def execute(self, *words: str | int) -> Any:
        """Let it carry out a command; return its answer."""
        with self._client as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        """End it at once, as a machine that loses its power; what has ended already stays so."""
        self._process.kill()
        self._process.wait(DEADLINE)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it neither read nor write nor close: to its clients, this is a network that has gone."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


class RedisCluster:
    """Three servers that share the slots of one cluster, without replicas."""

    def __init__(self, folder: Path) -> None:
        self.buses = [free_port() for _ in range(3)]
        self.servers = [RedisServer(folder, *CLUSTER, f"{bus}.conf", "--cluster-port", str(bus)) for bus in self.buses]
        self.url = self.servers[0].url.replace("redis://", "redis+cluster://")
        try:
            self._join()
        except BaseException:
            self.kill()
            raise

    def start(self) -> None:
        """Start all servers again, and return once they agree."""
        for server in self.servers:
            server.start()
        self._wait()

    def kill(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.kill()

    def move(self, slot: int, target: RedisServer) -> None:
        """Give a slot, which holds no keys, to another server."""
        name = bytes(target.execute("CLUSTER", "MYID")).decode()
        for server in (target, *self.servers):
            server.execute("CLUSTER", "SETSLOT", slot, "NODE", name)

    def owner(self, slot: int) -> RedisServer:
        """Return the server of a slot."""
        ranges = self.servers[0].execute("CLUSTER", "SLOTS")
        [port] = [node[1] for begin, end, node, *_ in ranges if begin <= slot <= end]
        [server] = [server for server in self.servers if server.port == port]
        return server

    def _join(self) -> None:
        for number, server in enumerate(self.servers):
            begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            server.execute("CLUSTER", "ADDSLOTSRANGE", begin, end)
            server.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            server.execute("CLUSTER", "MEET", HOST, self.servers[0].port, self.buses[0])
        self._wait()

    def _wait(self) -> None:
        assert wait_until(self._agree, lambda: time.sleep(0.01)), "the cluster does not get together"

    def _agree(self) -> bool:
        infos = [str(server.execute("CLUSTER", "INFO")) for server in self.servers]
        return all("cluster_state:ok" in info and "cluster_known_nodes:3" in info for info in infos)
