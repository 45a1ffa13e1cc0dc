"""Trade-off curves and their parts: accuracy against what pruning saves, a facet per network."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, NullLocator

from shrinkflow.errors import UserError
from shrinkflow.figures import style
from shrinkflow.strategies import CONTROL

Ticks = Callable[[float, float, Sequence[float]], Sequence[float]]

PAIR = ["dataset", "model"]

# Inches: a facet, a line of text at the size of legend and caption, a character of it on average.
_FACET = (4.4, 3.3)
_ALONE = (6.4, 3.9)
_LINE = 0.18
_CHARACTER = 0.067
_HANDLE = 0.65
_WRAP = 3


@dataclass(frozen=True)
class Measure:
    """A measure of the summary on an axis: its name there, the label, the factor to the unit."""

    name: str
    label: str
    factor: float = 1.0

    def mean(self, cells: pd.DataFrame) -> np.ndarray:
        """Return the means, in the unit shown."""
        return cells[f"{self.name}_mean"].to_numpy(dtype=float) * self.factor

    def sd(self, cells: pd.DataFrame) -> np.ndarray:
        """Return the sample standard deviations in the unit shown; 0 where one seed has none."""
        return np.nan_to_num(cells[f"{self.name}_sd"].to_numpy(dtype=float) * self.factor)


TOP1 = Measure("top1", "Top-1 accuracy on the test set (%)", 100.0)
CHANGE = Measure("top1_change", "Top-1 change from the dense control\n(percentage points)", 100.0)
COMPRESSION = Measure("compression", "Compression ratio (parameters / nonzero parameters)")
SPEEDUP = Measure("speedup", "Theoretical speedup (MACs / MACs left)")


def tradeoff(summary: pd.DataFrame, x: Measure, ticks: Ticks) -> Figure:
    """Draw top-1 against `x`: a column per (data set, model) pair, its weights one below the other.

    `ticks(low, high, requested ratios)` returns where the x axis of a pair has its ticks. A study
    with one set of weights for each pair has its facets wrapped. Raises `UserError` where there is
    nothing but controls.
    """
    if set(summary["strategy"]) <= {CONTROL}:
        raise UserError(
            f"the study has no strategy but '{CONTROL}', so there is no curve to draw; add one to "
            "its strategies or leave the figure out"
        )
    pairs = [pair for _, pair in summary.groupby(PAIR, sort=True)]
    columns = [[cells for _, cells in pair.groupby("weights", sort=True)] for pair in pairs]
    wrap = _WRAP if max(map(len, columns)) == 1 else len(columns)
    places = {
        (i // wrap + row, i % wrap): (cells, pairs[i])
        for i, column in enumerate(columns)
        for row, cells in enumerate(column)
    }
    with style.theme():
        looks = style.looks(summary["strategy"])
        figure, grid = canvas(1 + max(row for row, _ in places), 1 + max(column for _, column in places))
        for (row, column), ax in grid.items():
            if (row, column) not in places:
                ax.remove()
                continue
            cells, pair = places[row, column]
            title(ax, cells, cells["weights"].iloc[0])
            draw_control(ax, cells, TOP1)
            for name, look in looks.items():
                draw_curve(ax, cells[cells["strategy"] == name], x, TOP1, look)
            limit_x(ax, pair, x, ticks)
            limit_y(ax, pair, TOP1)
            if (row + 1, column) not in places:
                ax.set_xlabel(x.label)
            if column == 0:
                ax.set_ylabel(TOP1.label)
        finish(figure, caption(summary, x), strategy_handles(looks))
    return figure


def canvas(rows: int, columns: int) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    """Return a figure and its axes by (row, column). Without pyplot, which would keep it alive."""
    width, height = _ALONE if rows == columns == 1 else (_FACET[0] * columns, _FACET[1] * rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, {(i, j): axes[i, j] for i in range(rows) for j in range(columns)}


def title(ax: Axes, cells: pd.DataFrame, weights: str = "") -> None:
    """Say above a facet which network it shows, and from which initial weights it started."""
    row = cells.iloc[0]
    text = f"{row['model']} on {row['dataset']}" + (f", weights {weights}" if weights else "")
    ax.set_title("\n".join(textwrap.wrap(text, 48, break_on_hyphens=False)))


def draw_control(
    ax: Axes,
    cells: pd.DataFrame,
    y: Measure,
    *,
    name: str = CONTROL,
    dashes: style.Dashes = (0, (5, 2)),
) -> None:
    """Draw the dense control as a line with a band of one deviation, named beside the axes."""
    control = cells[cells["strategy"] == CONTROL]
    mean, sd = float(y.mean(control)[0]), float(y.sd(control)[0])
    if not math.isfinite(mean):
        return
    if sd > 0:
        ax.axhspan(mean - sd, mean + sd, color=style.INK, alpha=0.13, linewidth=0, zorder=1)
    ax.axhline(mean, color=style.INK, linewidth=1.1, linestyle=dashes, zorder=1.5)
    name_beside(ax, mean, "\n".join([*textwrap.wrap(name, 16), f"{mean:.1f}"]))


def name_beside(ax: Axes, height: float, text: str) -> None:
    """Name a horizontal line to the right of the axes, where no curve can lie."""
    ax.annotate(
        text,
        xy=(1, height),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=style.INK,
        linespacing=1.0,
        annotation_clip=False,
    )


def draw_curve(
    ax: Axes,
    cells: pd.DataFrame,
    x: Measure,
    y: Measure,
    look: style.Look,
    line: style.Line | None = None,
) -> None:
    """Draw the cells of one strategy in the order of their ratios, but those of no finite place.

    `line` is that of the initial weights, where a facet has several. Bars lie above all lines and
    below all markers, so that no bar is lost between two curves.
    """
    cells = cells[placed(cells, x, y)].sort_values("ratio")
    places, heights, deviations = x.mean(cells), y.mean(cells), y.sd(cells)
    dashes = line.dashes if line else look.dashes
    ax.plot(places, heights, color=look.colour, linestyle=dashes, linewidth=1.3, zorder=3)
    if deviations.any():
        ax.errorbar(
            places,
            heights,
            yerr=deviations,
            fmt="none",
            ecolor=look.colour,
            elinewidth=1.0,
            capsize=look.cap,
            capthick=1.0,
            zorder=4,
        )
    ax.plot(places, heights, **markers(look, look.colour, line), linestyle="none", zorder=5)


def markers(look: style.Look, colour: style.Colour, line: style.Line | None = None) -> dict[str, Any]:
    """Return the settings of a line's markers: filled with a thin white edge, or hollow."""
    filled = line is None or line.filled
    return {
        "marker": look.marker,
        "markersize": look.size,
        "markerfacecolor": colour if filled else "none",
        "markeredgecolor": "white" if filled else colour,
        "markeredgewidth": 0.5 if filled else 1.0,
    }


def placed(cells: pd.DataFrame, x: Measure, y: Measure) -> np.ndarray:
    """Return which cells have a place on a logarithmic x axis: bool [cells]."""
    places = x.mean(cells)
    on_axis: np.ndarray = np.isfinite(places) & (places > 0) & np.isfinite(y.mean(cells))
    return on_axis


def limit_x(ax: Axes, pair: pd.DataFrame, x: Measure, ticks: Ticks) -> None:
    """Make the x axis logarithmic, wide enough for all weights of a pair, with plain numbers."""
    curves = pair[pair["strategy"] != CONTROL]
    means = x.mean(curves[placed(curves, x, TOP1)]).tolist() or [1.0]
    ratios = sorted(set(curves["ratio"]))
    low, high = min(means), max(means)
    places = [tick for tick in ticks(low, high, ratios) if tick > 0]
    low, high = min([low, *places]), max([high, *places])
    margin = max((high / low) ** 0.05, 1.08) if high / low > 1.01 else 1.5
    ax.set_xscale("log", base=2)
    ax.set_xticks(places, [f"{tick:.4g}" if tick < 1e4 else f"{tick:.0f}" for tick in places])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(low / margin, high * margin)


def limit_y(ax: Axes, pair: pd.DataFrame, y: Measure) -> None:
    """Give the y axis room for all bars and the controls of a pair, and ticks up to 100."""
    ends = np.concatenate([y.mean(pair) - y.sd(pair), y.mean(pair) + y.sd(pair)])
    ends = ends[np.isfinite(ends)]
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 100.0)
    margin = max(0.05 * (high - low), 0.2)
    low, high = low - margin, high + margin
    ax.set_ylim(low, high)
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [float(tick) for tick in ticks if low <= tick <= min(high, 100)]
    decimals = max((len(f"{tick:.6g}".partition(".")[2]) for tick in ticks), default=0)
    labels = [f"{tick:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
    ax.set_yticks(ticks, labels)


def strategy_handles(looks: Mapping[str, style.Look], *, solid: bool = False) -> list[Line2D]:
    """Return a legend entry for each strategy; `solid` where dashes stand for initial weights."""
    return [
        Line2D(
            [],
            [],
            label=name,
            color=look.colour,
            linestyle=style.SOLID if solid else look.dashes,
            linewidth=1.3,
            **markers(look, look.colour),
        )
        for name, look in looks.items()
    ]


def caption(summary: pd.DataFrame, x: Measure, y: Measure = TOP1) -> str:
    """Say what points, bars and band are, over how many seeds, and what could not be drawn."""
    low, high = int(summary["n"].min()), int(summary["n"].max())
    if high == 1:
        text = "Points: one seed, no deviation. Line: dense control."
    else:
        seeds = f"{high}" if low == high else f"{low} to {high}"
        text = f"Points and bars: mean and sample standard deviation of {seeds} seeds"
        text += " (one seed has no deviation)." if low == 1 else "."
        text += " Line and band: dense control."
    curves = summary[summary["strategy"] != CONTROL]
    lost = len(curves) - int(placed(curves, x, y).sum())
    if lost:
        text += f" Not drawn: {lost} point{'s' * (lost > 1)} whose mean is missing or infinite."
    return text


def finish(figure: Figure, caption: str, *groups: Sequence[Line2D]) -> None:
    """Add caption and legend outside the facets, make room for both, and fix the layout.

    Each group of legend entries starts a column of its own.
    """
    width, height = figure.get_size_inches()
    longest = max(len(str(handle.get_label())) for group in groups for handle in group)
    most = max(len(groups), int(width / (_HANDLE + _CHARACTER * longest)))
    rows = 1
    while sum(math.ceil(len(group) / rows) for group in groups) > most:
        rows += 1
    handles = [handle for group in groups for handle in _padded(group, rows)]
    lines = textwrap.wrap(caption, int(width / _CHARACTER))
    figure.set_size_inches(width, height + _LINE * (len(lines) + rows + 1))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", color=style.INK)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) // rows,
        handlelength=3.0,
        frameon=False,
    )
    figure.draw_without_rendering()
    for ax in figure.axes:
        _thin(ax)
        _spread(ax)
    # Fixed, because at the resolution of another format it would come out a little different.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _padded(group: Sequence[Line2D], rows: int) -> list[Line2D]:
    """Fill up the last column of a group with entries that show nothing."""
    return [
        *group,
        *[Line2D([], [], linestyle="none", label=" ") for _ in range(-len(group) % rows)],
    ]


def _thin(ax: Axes) -> None:
    """Blank the labels of x ticks that would touch the one before; the ticks stay."""
    ticks = list(ax.get_xticks())
    labels = ax.get_xticklabels()
    texts, end = [], -math.inf
    for label in labels:
        box = label.get_window_extent()
        free = box.x0 > end + 3
        texts.append(label.get_text() if free else "")
        end = box.x1 if free else end
    ax.set_xticks(ticks, texts)


def _spread(ax: Axes) -> None:
    """Move names of controls that lie over one another apart, up and down alike."""
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    names.sort(key=lambda text: float(text.xy[1]))
    boxes = [name.get_window_extent() for name in names]
    middles = [(box.y0 + box.y1) / 2 for box in boxes]
    for _ in range(20):
        for i in range(1, len(names)):
            height = (boxes[i].height + boxes[i - 1].height) / 2 + 1
            overlap = max(0.0, height - (middles[i] - middles[i - 1]))
            middles[i] += overlap / 2
            middles[i - 1] -= overlap / 2
    for name, box, middle in zip(names, boxes, middles, strict=True):
        points = (middle - (box.y0 + box.y1) / 2) * 72 / ax.figure.dpi
        name.set_position((name.get_position()[0], name.get_position()[1] + points))
