"""The plot of a run: who costs what, and how costs grow. One SVG that follows the reader's light or dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contenders import EVERYBODY, FLOOR, OURS, PHOENIX, PHOENIX_KIB

Results = dict[str, Any]
#: What comes with matplotlib; readers who have it not see the next.
FONT = "DejaVu Sans"

#: Colours that the plot is drawn in, what they are called in the SVG, and what they are there, light and dark.
INK, GRID, BACK = "#010101", "#020202", "#030303"
ACCENT, OTHER, LOWEST = "#040404", "#050505", "#060606"
PALETTE = {
    INK: ("ink", "#1f2328", "#e6edf3"),
    GRID: ("grid", "#d8dee4", "#30363d"),
    BACK: ("back", "#ffffff", "#0d1117"),
    ACCENT: ("accent", "#d4440f", "#ff8a4c"),
    OTHER: ("other", "#57606a", "#9da7b3"),
    LOWEST: ("lowest", "#9aa4af", "#6e7681"),
}
#: What is compared: the question, its column, the title, and Phoenix's ratio to the floor or its figure.
BARS = (
    ("fanout", "1 in flight, µs", "Broadcast, one in flight: µs a delivery", PHOENIX["fanout"], None),
    ("fanout", "16 in flight, µs", "Broadcast, 16 in flight: µs a delivery", PHOENIX["burst"], None),
    ("echo", "echo, µs", "Echo: µs a request", PHOENIX["echo"], None),
    ("connect", "connect and join, µs", "Connect and join: µs", None, None),
    ("memory", "1,000 clients, KiB", "Memory: KiB a client", None, PHOENIX_KIB),
    ("rooms", "delivery, µs", "Rooms of 10: µs a delivery", None, None),
)
NOTE = (
    "····  Phoenix 1.8.12 on one core, measured elsewhere: its ratio to the floor there, times the floor here; its KiB."
)
MARKS = dict(zip((contender.name for contender in EVERYBODY), "_os^Dv", strict=True))


def draw(results: Results, path: Path) -> None:
    """Draw what there is of a run."""
    matplotlib.rcParams.update({
        "svg.fonttype": "none",
        "svg.hashsalt": "bench",
        "font.family": FONT,
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "figure.facecolor": BACK,
        "axes.facecolor": BACK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    })  # fmt: skip
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    figure.suptitle(
        "Processor time and memory of one server process on one core; less is better, scales are logarithmic"
    )
    axes = figure.subplots(3, 3)
    for ax, (question, column, title, ratio, value) in zip(axes.flat, BARS, strict=False):
        compare(ax, results, question, column, title, ratio, value)
    grow(axes[2, 0], results)
    grow_ours(axes[2, 1], results, "topics", ["delivery, µs", "join, µs"], "By topics: µs (flask_phoenix)")
    grow_ours(
        axes[2, 2], results, "presence", ["join, µs", "leave, µs", "state, µs"], "By presences: µs (flask_phoenix)"
    )
    figure.text(0.01, -0.015, NOTE, fontsize=8.5)
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.15)
    path.write_text(themed(path.read_text()))


def compare(
    ax: Axes, results: Results, question: str, column: str, title: str, ratio: float | None, value: float | None
) -> None:
    """Draw one figure of all, with a dotted line for Phoenix."""
    ax.set_title(title, fontsize=9.5, loc="left")
    table = results.get(question, {}).get("table", {})
    found = [(name, figures[column]) for name, figures in table.items() if figures.get(column)]
    if not found:
        ax.set_axis_off()
        return
    names, values = zip(*reversed(found), strict=True)
    colours = [ACCENT if name == OURS.name else LOWEST if name == FLOOR.name else OTHER for name in names]
    least = min(values) / 2
    ax.hlines(range(len(names)), least, values, colors=colours, linewidth=3)
    ax.scatter(values, range(len(names)), c=colours, s=36, zorder=3)
    for place, number in enumerate(values):
        ax.annotate(f"{number:.3g}" if number < 1000 else f"{number:,.0f}", (number, place), (7, 0),
                    textcoords="offset points", va="center", fontsize=8.5,
                    bbox={"facecolor": BACK, "edgecolor": "none", "pad": 1})  # fmt: skip
    floor = table.get(FLOOR.name, {}).get(column)
    if ratio and floor:
        value = ratio * floor
    if value:
        ax.axvline(value, linestyle=":", color=INK, linewidth=1.2)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(plain)
    ax.set_xlim(least, max(values) * 4)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.6)
    ax.set_axisbelow(True)


def grow(ax: Axes, results: Results) -> None:
    """Draw what a broadcast costs by its subscribers."""
    ax.set_title("A broadcast by its subscribers: µs", fontsize=9.5, loc="left")
    for name, figures in results.get("subscribers", {}).get("table", {}).items():
        points = [(int(size.replace(",", "")), cost) for size, cost in figures.items() if size != "slope" and cost]
        label = with_slope(name, figures.get("slope"))
        ours = name == OURS.name
        colour = ACCENT if ours else LOWEST if name == FLOOR.name else OTHER
        ax.plot(*zip(*points, strict=True), marker=MARKS[name], markersize=5, color=colour, label=label,
                linewidth=2 if ours else 1, zorder=3 if ours else 2)  # fmt: skip
    finish(ax)


def grow_ours(ax: Axes, results: Results, question: str, columns: list[str], title: str) -> None:
    """Draw what ours costs by a size."""
    ax.set_title(title, fontsize=9.5, loc="left")
    table = results.get(question, {}).get("table", {})
    for column, style in zip(columns, ("-", "--", ":"), strict=False):
        points = [
            (int(size.replace(",", "")), figures[column])
            for size, figures in table.items()
            if size != "slope" and figures.get(column)
        ]
        if points:
            label = with_slope(column.removesuffix(", µs"), table["slope"][column])
            ax.plot(*zip(*points, strict=True), marker="o", markersize=4, color=ACCENT, linestyle=style, label=label)
    finish(ax)


def with_slope(name: str, slope: float | None) -> str:
    """Return what a legend says of a curve."""
    return name if slope is None else f"{name}, slope {slope:.2f}"


def finish(ax: Axes) -> None:
    """Let a curve have its scales and its legend."""
    if not ax.lines:
        ax.set_axis_off()
        return
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low / 1.5, high * 4 ** (len(ax.lines) / 3))  # which leaves room for the legend
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(plain)
    ax.grid(linewidth=0.6)
    ax.legend(fontsize=7.5, frameon=False, loc="upper left")


def plain(value: float, _: int) -> str:
    """Write what stands at an axis."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def themed(svg: str) -> str:
    """Return an SVG whose colours follow the reader's."""
    for colour, (name, _, _) in PALETTE.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace(f"'{FONT}'", f"'{FONT}', Verdana, sans-serif")
    light, dark = ("; ".join(f"--{name}: {shades[place]}" for name, *shades in PALETTE.values()) for place in (0, 1))
    style = f"<style>svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    return svg.replace("<defs>", f"{style}\n <defs>", 1)
