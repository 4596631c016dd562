"""Ours beside what people would take instead: ``make bench``, or ``make bench ARGS="fanout echo --quick"``.

Servers run on core 0 and the load client on core 1, all on the loopback interface. Processor time is the figure to
trust: it hardly moves while the machine is busy; what is counted by the second, and latency, do. Printed are tables;
bench.json and bench.svg are written into build/bench, and with --docs into docs, whose tables are filled in then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import plot, report
from benchmarks.harness import Bench, FailedError, Table, build
from benchmarks.questions import QUESTIONS

#: Whose versions are told beside the figures.
PACKAGES = (
    "flask_phoenix",
    "gevent",
    "Flask-SocketIO",
    "flask-sock",
    "channels",
    "channels_redis",
    "daphne",
    "socketify",
)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(QUESTIONS)
    parser.add_argument(
        "questions", nargs="*", metavar="question", help=f"some of {names}; all but budgets, unless given"
    )
    parser.add_argument("--quick", action="store_true", help="a look in two minutes: small sizes, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=3.0, help="seconds of each figure")
    parser.add_argument(
        "--docs", action="store_true", help="write into docs what was asked, and keep there what was not"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.questions) - QUESTIONS.keys():
        parser.error(f"there is no question {', '.join(sorted(unknown))}; there are {names}")
    return arguments


def machine() -> dict[str, Any]:
    """Tell what the figures were measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def answer(name: str, bench: Bench) -> dict[str, Any] | None:
    """Ask a question and print its answer; return it with what has to be said beside it."""
    module = QUESTIONS[name]
    print(f"\n{name}: {(module.__doc__ or '').strip()}\n", flush=True)
    bench.notes, began = [], time.monotonic()
    load = os.getloadavg()[0]
    try:
        table: Table = module.ask(bench)
    except (FailedError, OSError, AssertionError) as error:
        print(f"  ! {name} has no answer: {error!r}", file=sys.stderr, flush=True)
        return None
    print(report.text(table), flush=True)
    print(f"\n  {time.monotonic() - began:.0f} s", flush=True)
    return {
        "table": table,
        "when": time.strftime("%Y-%m-%d"),
        "quick": bench.quick,
        "rounds": bench.rounds,
        "load_before": round(load, 2),
        "notes": bench.notes,
    }


def interrupted(_: int, __: FrameType | None) -> None:
    """End in good order."""
    raise KeyboardInterrupt


def write(results: dict[str, Any], docs: bool) -> None:
    """Write the figures and the plot, and fill in the documents."""
    figures, drawing = report.FIGURES, report.PLOT
    if not docs:
        folder = report.ROOT / "build" / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        figures, drawing = folder / figures.name, folder / drawing.name
    before = json.loads(figures.read_text()) if docs and figures.exists() else {"results": {}}
    everything = {"machine": machine(), "results": {**before["results"], **results}}
    figures.write_text(json.dumps(everything, indent=1) + "\n")
    plot.draw(everything["results"], drawing)
    print(f"\n{figures.relative_to(report.ROOT)} and {drawing.relative_to(report.ROOT)} are written")
    for page in report.pages() if docs else ():
        page.write_text(report.fill(page.read_text(), everything["results"]))


def main() -> int:
    """Ask, print and write; the status tells whether all questions have an answer."""
    arguments = read_arguments()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, interrupted)
    rounds, secs, warm = (1, 0.4, 0.2) if arguments.quick else (arguments.rounds, arguments.secs, 1.0)
    asked = arguments.questions or [name for name in QUESTIONS if name != "budgets"]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as tools:
        build(Path(tools))
        bench = Bench(Path(tools), arguments.quick, rounds, secs, warm)
        try:
            for name in asked:
                if (found := answer(name, bench)) is not None:
                    results[name] = found
        except KeyboardInterrupt:
            print("\nended before the last question", file=sys.stderr)
    if results:
        write(results, arguments.docs)
    return int(len(results) < len(asked))


if __name__ == "__main__":
    raise SystemExit(main())
