"""Measured against theoretical speedup: no figure of the registry, for it varies from run to run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from shrinkflow.costs import CSR, WHOLE
from shrinkflow.figures import curves, style

Row = Mapping[str, Any]

_PANELS = (("latency_speedup", "latency, one picture"), ("throughput_speedup", "throughput"))
_FILTERS, _WEIGHTS, _SPARSE, _DENSE = (
    "whole filters removed, dense kernel",
    "single weights zeroed, dense kernel",
    "single weights zeroed, sparse kernel (CSR)",
    "dense control against itself",
)
_LOOKS = style.looks([_FILTERS, _WEIGHTS, _SPARSE, _DENSE])


def costs(rows: Sequence[Row]) -> Figure:
    """Draw a row of panels per network: measured speedup of latency and of throughput, both axes logarithmic.

    `rows` is what `costs.rows` returns. The diagonal is where the theory would be right, the horizontal line
    where nothing is gained. Cells without a finite theoretical speedup are left out, and told.
    """
    drawn = [row for row in rows if row["speedup"] is not None]
    networks = sorted({_network(row) for row in drawn})
    used = {kind: look for kind, look in _LOOKS.items() if any(_kind(row) == kind for row in drawn)}
    with style.theme():
        figure, grid = curves.canvas(max(len(networks), 1), len(_PANELS))
        for (line, column), ax in grid.items():
            if line >= len(networks):
                ax.remove()
                continue
            name, title = _PANELS[column]
            own = [row for row in drawn if _network(row) == networks[line]]
            _panel(ax, own, name, used)
            batch = "" if name == "latency_speedup" else f", {own[0]['batch_size']} pictures"
            ax.set_title(f"{networks[line]}\n{title}{batch}")
            ax.set_xlabel(curves.SPEEDUP.label if line == len(networks) - 1 else "")
            ax.set_ylabel("Measured speedup" if column == 0 else "")
        handles = [
            Line2D([], [], linestyle="none", label=kind, **_marker(look)) for kind, look in used.items()
        ]
        curves.finish(figure, _caption(rows, drawn), handles)
    return figure


def _network(row: Row) -> str:
    return f"{row['model']} on {row['dataset']}"


def _kind(row: Row) -> str:
    if row["granularity"] == WHOLE:
        return _DENSE
    if row["granularity"] == "filter":
        return _FILTERS
    return _SPARSE if row["kernel"] == CSR else _WEIGHTS


def _marker(look: style.Look) -> dict[str, Any]:
    return {"marker": look.marker, "markersize": look.size, "color": look.colour, "markeredgecolor": "white"}


def _panel(ax: Axes, rows: Sequence[Row], name: str, looks: Mapping[str, style.Look]) -> None:
    x = [row["speedup"] for row in rows]
    y = [row[name] for row in rows]
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for axis, values in (("x", [*x, 1, 2]), ("y", [*y, 0.5, 2])):
        low, high = min(values) / 1.15, max(values) * 1.15
        exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        ticks = [2.0**e for e in exponents]
        getattr(ax, f"set_{axis}lim")(low, high)
        getattr(ax, f"set_{axis}ticks")(ticks, [f"{tick:.4g}" for tick in ticks])
        getattr(ax, f"{axis}axis").set_minor_locator(NullLocator())
    ax.axline((1, 1), (2, 2), color=style.INK, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    ax.axhline(1, color=style.INK, linewidth=0.9, zorder=1)
    for kind, look in looks.items():
        own = [i for i, row in enumerate(rows) if _kind(row) == kind]
        spread = [rows[i][f"{name}_iqr"] / 2 for i in own]
        ax.errorbar(
            [x[i] for i in own],
            [y[i] for i in own],
            yerr=spread,
            linestyle="none",
            elinewidth=1,
            zorder=3,
            **_marker(look),
        )


def _caption(rows: Sequence[Row], drawn: Sequence[Row]) -> str:
    devices = ", ".join(sorted({str(row["device"]) for row in rows}))
    threads = ", ".join(sorted({str(row["threads"]) for row in rows}))
    text = (
        "Points: a cell each, median over the rounds, timed in turns with its dense control; bars: "
        f"interquartile range. Dashed: as fast as the MACs left say. Solid: nothing gained. "
        f"{devices}, {threads} thread(s)."
    )
    if any(row["quiet"] == "no" for row in rows):
        text += " Something else was running while some of these were timed."
    return text + curves.not_drawn(len(rows) - len(drawn), "without a finite theoretical speedup")
