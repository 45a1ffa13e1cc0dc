"""Trade-off curves and their parts: accuracy against what pruning saves, a facet per network.

Where a study has more strategies than one facet can show, each facet is repeated as small multiples
with some of the curves each (`style.panels`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from matplotlib.transforms import ScaledTranslation

from shrinkflow import tables
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
_BESIDE = ("axes fraction", "data")
# By how much the name of a control may stand out above the axes.
_OVER = 0.1
# From the axes down past tick labels and axis label.
_BELOW = 0.45
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


@dataclass(frozen=True)
class _Facet:
    """What a facet shows: cells of one network and set of weights, the pair whose axes it shares, curves."""

    cells: pd.DataFrame
    pair: pd.DataFrame
    strategies: Sequence[str]
    part: str = ""


def tradeoff(summary: pd.DataFrame, x: Measure, ticks: Ticks) -> Figure:
    """Draw top-1 against `x`: a column per (data set, model) pair, its weights one below the other.

    `ticks(low, high, requested ratios)` returns where the x axis of a pair has its ticks. A study
    with one set of weights for each pair has its facets wrapped. One with too many strategies for a
    facet has a column per panel of strategies instead, wrapped, with all networks one below the other
    and a legend of its own. Pairs that are not pruned have no facet. Raises `UserError` where there is
    nothing but controls.
    """
    summary = with_curves(summary)
    names = strategies(summary)
    if not names:
        raise UserError(
            f"the study has no strategy but '{CONTROL}', so there is no curve to draw; add one to "
            "its strategies or leave the figure out"
        )
    panels = style.panels(names)
    places = _whole(summary, panels[0]) if len(panels) == 1 else _split(summary, panels)
    with style.theme():
        looks = style.looks(names)
        figure, grid = canvas(1 + max(row for row, _ in places), 1 + max(column for _, column in places))
        below: dict[int, int] = {}
        for (row, column), ax in grid.items():
            if (row, column) not in places:
                ax.remove()
                continue
            facet = places[row, column]
            next_one = places.get((row + 1, column))
            last = next_one is None or next_one.strategies != facet.strategies
            title(ax, facet.cells, facet.cells["weights"].iloc[0], facet.part)
            for control in controls(facet.cells, facet.strategies):
                draw_control(ax, facet.cells, TOP1, control=control)
            for name in facet.strategies:
                chosen = facet.cells[facet.cells["strategy"] == name]
                draw_curve(ax, chosen, x, TOP1, looks[name])
            limit_x(ax, facet.pair, x, ticks)
            limit_y(ax, facet.pair, TOP1)
            if last:
                ax.set_xlabel(x.label)
            if last and len(panels) > 1:
                handles = strategy_handles({name: looks[name] for name in facet.strategies})
                below[row] = max(below.get(row, 0), legend_below(ax, handles))
            if column == 0:
                ax.set_ylabel(TOP1.label)
        groups = [strategy_handles(looks)] if len(panels) == 1 else []
        finish(figure, caption(summary, x), *groups, below=sum(below.values()))
    return figure


def _whole(summary: pd.DataFrame, names: Sequence[str]) -> dict[tuple[int, int], _Facet]:
    """Return the facets of a study by (row, column), with all strategies in each."""
    pairs = [pair for _, pair in summary.groupby(PAIR, sort=True)]
    columns = [[cells for _, cells in pair.groupby("weights", sort=True)] for pair in pairs]
    wrap = _WRAP if max(map(len, columns)) == 1 else len(columns)
    return {
        (i // wrap + row, i % wrap): _Facet(cells, pairs[i], names)
        for i, column in enumerate(columns)
        for row, cells in enumerate(column)
    }


def _split(summary: pd.DataFrame, panels: Sequence[Sequence[str]]) -> dict[tuple[int, int], _Facet]:
    """Return the facets of a study by (row, column): its networks below each other, for each panel."""
    networks = [
        (cells, pair)
        for _, pair in summary.groupby(PAIR, sort=True)
        for _, cells in pair.groupby("weights", sort=True)
    ]
    wrap = math.ceil(len(panels) / math.ceil(len(panels) / _WRAP))
    places: dict[tuple[int, int], _Facet] = {}
    for i, names in enumerate(panels):
        if i % wrap == 0:
            first = 1 + max((row for row, _ in places), default=-1)
        inside = [network for network in networks if belongs(network[0], panels, i)]
        for row, (cells, pair) in enumerate(inside):
            places[first + row, i % wrap] = _Facet(cells, pair, names, part_name(panels, i))
    return places


def belongs(cells: pd.DataFrame, panels: Sequence[Sequence[str]], place: int) -> bool:
    """Return whether a network has something to show in a panel: a pair may have strategies of its own.

    The references, which are in every panel, do not count, but of a network that has no others.
    """
    own = set(strategies(cells)) - set(style.REFERENCES)
    return bool(own & set(panels[place])) or (place == 0 and not own)


def part_name(panels: Sequence[Sequence[str]], place: int) -> str:
    """Return how a panel of strategies is called, among several."""
    return f"strategies {place + 1} of {len(panels)}" if len(panels) > 1 else ""


def with_curves(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the pairs that are pruned at all."""
    pruned = ~tables.is_control(summary)
    return summary[pruned.groupby([summary[name] for name in PAIR]).transform("any").astype(bool)]


def strategies(summary: pd.DataFrame) -> list[str]:
    """Return the names of the strategies, sorted, controls left out."""
    return sorted(set(summary.loc[~tables.is_control(summary), "strategy"]))


def canvas(rows: int, columns: int) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    """Return a figure and its axes by (row, column). Without pyplot, which would keep it alive."""
    width, height = _ALONE if rows == columns == 1 else (_FACET[0] * columns, _FACET[1] * rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, {(i, j): axes[i, j] for i in range(rows) for j in range(columns)}


def title(ax: Axes, cells: pd.DataFrame, weights: str = "", part: str = "") -> None:
    """Say above a facet which network it shows, from which initial weights, and which of its curves."""
    row = cells.iloc[0]
    text = f"{row['model']} on {row['dataset']}" + (f", weights {weights}" if weights else "")
    lines = textwrap.wrap(text, 48, break_on_hyphens=False)
    ax.set_title("\n".join([*lines, part] if part else lines))


def controls(cells: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Return "dense" and the other controls of the strategies `names`, sorted."""
    used = set(cells.loc[cells["strategy"].isin(list(names)), "control"])
    return [CONTROL, *sorted(used - {CONTROL})]


def draw_control(
    ax: Axes,
    cells: pd.DataFrame,
    y: Measure,
    *,
    control: str = CONTROL,
    name: str | None = None,
    dashes: style.Dashes = (0, (5, 2)),
) -> None:
    """Draw a control as a line with a band of one deviation, named beside the axes.

    `name` is what it is called there, if not by its own name. Controls other than "dense" are thin and
    dotted, and have no band.
    """
    thin = control != CONTROL
    row = cells[cells["strategy"] == control]
    mean, sd = (float(values[0]) if len(row) else math.nan for values in (y.mean(row), y.sd(row)))
    if not math.isfinite(mean):
        return
    if sd > 0 and not thin:
        ax.axhspan(mean - sd, mean + sd, color=style.INK, alpha=0.13, linewidth=0, zorder=1)
    width, dashes = (0.8, (0, (1, 1.5))) if thin else (1.1, dashes)
    ax.axhline(mean, color=style.INK, linewidth=width, linestyle=dashes, zorder=1.5)
    if thin:
        name_beside(ax, mean, "\n".join(textwrap.wrap(f"{name or control} {mean:.1f}", 18)), size=7)
    else:
        name_beside(ax, mean, "\n".join([*textwrap.wrap(name or control, 16), f"{mean:.1f}"]))


def name_beside(ax: Axes, height: float, text: str, size: float = 8) -> None:
    """Name a horizontal line to the right of the axes, where no curve can lie."""
    ax.annotate(
        text,
        xy=(1, height),
        xycoords=_BESIDE,
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=size,
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
    front = -look.behind
    ax.plot(places, heights, color=look.colour, linestyle=dashes, linewidth=look.width, zorder=3 + front)
    if deviations.any():
        ax.errorbar(
            places,
            heights,
            yerr=deviations,
            fmt="none",
            ecolor=look.colour,
            elinewidth=min(look.width, 1.0),
            capsize=look.cap,
            capthick=min(look.width, 1.0),
            zorder=4 + front,
        )
    ax.plot(places, heights, **markers(look, look.colour, line), linestyle="none", zorder=5 + front)


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
    curves = pair[~tables.is_control(pair)]
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
            linewidth=look.width,
            **markers(look, look.colour),
        )
        for name, look in looks.items()
    ]


def line_handles(lines: Mapping[str, style.Line]) -> list[Line2D]:
    """Return a legend entry for each line, under its name."""
    return [
        Line2D(
            [],
            [],
            label=name,
            color=style.INK,
            linestyle=line.dashes,
            linewidth=1.3,
            marker="o",
            markersize=6,
            markerfacecolor=style.INK if line.filled else "white",
            markeredgecolor=style.INK,
        )
        for name, line in lines.items()
    ]


def caption(
    summary: pd.DataFrame,
    x: Measure,
    y: Measure = TOP1,
    *,
    others: str = "Thin lines: the controls of strategies that retrain otherwise.",
) -> str:
    """Say what points, bars and band are, over how many seeds, and what could not be drawn.

    `others` is said of controls other than "dense", where there are some.
    """
    text = points(summary)
    text += " Line: dense control." if summary["n"].max() == 1 else " Line and band: dense control."
    curves = summary[~tables.is_control(summary)]
    if set(curves["control"]) - {CONTROL}:
        text += f" {others}"
    names = strategies(summary)
    grey = [name for name in style.REFERENCES if name in names]
    if grey and len(names) > style.MOST:
        text += f" Grey, in every panel: {' and '.join(grey)}."
    lost = len(curves) - int(placed(curves, x, y).sum())
    return text + not_drawn(lost, "whose mean is missing or infinite")


def points(summary: pd.DataFrame) -> str:
    """Say what points and bars are, over how many seeds."""
    low, high = int(summary["n"].min()), int(summary["n"].max())
    if high == 1:
        return "Points: one seed, no deviation."
    seeds = f"{high}" if low == high else f"{low} to {high}"
    text = f"Points and bars: mean and sample standard deviation of {seeds} seeds"
    return text + (" (one seed has no deviation)." if low == 1 else ".")


def not_drawn(count: int, why: str) -> str:
    """Say how many points were left out, if any; begins with a space."""
    return f" Not drawn: {count} point{'s' * (count > 1)} {why}." if count else ""


def finish(figure: Figure, caption: str, *groups: Sequence[Line2D], below: int = 0) -> None:
    """Add caption and legend outside the facets, make room for both, and fix the layout.

    Each group of legend entries starts a column of its own; without a group, there is no legend.
    `below` is how many lines the legends below facets need.
    """
    width, height = figure.get_size_inches()
    rows, most = 1, max(len(groups), _columns(width, [handle for group in groups for handle in group]))
    while sum(math.ceil(len(group) / rows) for group in groups) > most:
        rows += 1
    handles = [handle for group in groups for handle in _padded(group, rows)]
    lines = textwrap.wrap(caption, int(width / _CHARACTER), break_on_hyphens=False)
    below += rows + 1 if groups else 0
    figure.set_size_inches(width, height + _LINE * (len(lines) + below))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", color=style.INK)
    if groups:
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


def legend_below(ax: Axes, handles: Sequence[Line2D]) -> int:
    """Put a legend below a facet and the label of its x axis. Returns how many lines it needs."""
    columns = min(2, max(1, _columns(_FACET[0], handles)))
    figure: Any = ax.figure
    down = ScaledTranslation(0, -_BELOW, figure.dpi_scale_trans)
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes + down,
        borderaxespad=0,
        ncols=columns,
        handlelength=3.0,
        frameon=False,
    )
    return math.ceil(len(handles) / columns) + 1


def _columns(width: float, handles: Sequence[Line2D]) -> int:
    """Return how many columns of these legend entries fit into a width in inches."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    return int(width / (_HANDLE + _CHARACTER * longest))


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
    """Move names of controls that lie over one another apart, up and down alike, but not into a title."""
    names = [text for text in ax.texts if isinstance(text, Annotation) and text.xycoords == _BESIDE]
    names.sort(key=lambda text: float(text.xy[1]))
    boxes = [name.get_window_extent() for name in names]
    own = [(box.y0 + box.y1) / 2 for box in boxes]
    moved = apart(own, [box.height for box in boxes], high=ax.bbox.y1 + _OVER * ax.figure.dpi)
    for name, before, after in zip(names, own, moved, strict=True):
        points = (after - before) * 72 / ax.figure.dpi
        name.set_position((name.get_position()[0], name.get_position()[1] + points))


def apart(
    middles: Sequence[float], sizes: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Return the middles of intervals of these sizes, in order, moved apart as little as needed.

    Intervals that overlap move both ways alike, then into [low, high] as far as there is room.
    """
    middles = list(middles)
    for _ in range(200):
        for i in range(1, len(middles)):
            size = (sizes[i] + sizes[i - 1]) / 2 + 1
            overlap = max(0.0, size - (middles[i] - middles[i - 1]))
            middles[i] += overlap / 2
            middles[i - 1] -= overlap / 2
    for i in reversed(range(len(middles))):
        middles[i] = min(middles[i], high - sizes[i] / 2)
        high = middles[i] - sizes[i] / 2 - 1
    for i in range(len(middles)):
        middles[i] = max(middles[i], low + sizes[i] / 2)
        low = middles[i] + sizes[i] / 2 + 1
    return middles
