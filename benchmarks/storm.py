"""Whether joins lose anything: ``python -m benchmarks.storm [--url redis://localhost]``, in this project's folder.

gunicorn with three workers, 500 clients that join 50 topics while every worker broadcasts on all of them, ten times.
Each client that has its join's reply is to get every later broadcast of its topic exactly once. With ``--stays 4`` each
client leaves and joins another topic, three times, so that workers ask for topics and let go of them meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.processes import Servers
from tests.support import fleet
from tests.support.storm import Storm

#: Seconds in which something has to come to everybody who waits for something.
PATIENCE = 50.0


def blow(started: fleet.Fleet, arguments: argparse.Namespace) -> int:
    """Let a storm come, and print what came of it; return how much went wrong."""
    storm = (arguments.workers, arguments.clients, arguments.topics, arguments.stays, PATIENCE)
    report = Storm(started.server.port, *storm).run()
    print(
        f"{report.joins} joins on {'/'.join(map(str, report.spread.values()))} of each worker, "
        f"{report.broadcasts} broadcasts, {report.deliveries} deliveries in {report.seconds:.1f} s; "
        f"slowest join {report.slowest_join * 1e3:.0f} ms; lost {report.lost}, wrong {report.wrong}",
        flush=True,
    )
    return report.lost + report.wrong


def main() -> None:
    """Let storms come, and print what came of each; the exit code tells whether all is well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="", help="what joins the workers; their own sockets, unless given")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--stays", type=int, default=1, help="on how many topics each client is, one after another")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        try:
            started = fleet.start(servers, {"PHOENIX_PUBSUB_URL": arguments.url}, workers=arguments.workers)
            bad = sum(blow(started, arguments) for _ in range(arguments.rounds))
        finally:
            servers.stop()
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
