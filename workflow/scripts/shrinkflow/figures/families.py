"""The figure "families": pruned networks among the dense networks that one might take instead.

Zhu & Gupta, "To prune, or not to prune" (2017), compare large sparse networks with small dense ones of equal
size; Blalock et al., "What is the State of Neural Network Pruning?" (2020), ask whether pruning beats another
architecture. Here all networks of a data set share the axes, by absolute size, cost and accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product, zip_longest
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import NullLocator

from shrinkflow import tables
from shrinkflow.errors import UserError
from shrinkflow.figures import FIGURES, curves, style
from shrinkflow.strategies import CONTROL

PARAMETERS = curves.Measure("params_nonzero", "Parameters left (nonzero)")
MACS = curves.Measure("macs_nonzero", "MACs left (nonzero weights), for one picture")

# In a facet: pruned networks, and curves of theirs beside those of the references.
NETWORKS = 3
CURVES = 8
# How far the y axis goes below the worst dense network: in ranges of the dense networks, or points.
_RANGES, _POINTS = 1.5, 5.0

# Of the steps between powers of ten, the widest are taken that give so many ticks.
_FEWEST = 4
_INK = "black"

# Names above a facet: their size and their distance from the axes in points, and how many can stand aslant;
# and the width in points of what stands beside the axes.
_NAME, _RISE, _ASLANT = 7.5, 12.0, 12
_SIDES = 60.0
_ABOVE = ("data", "axes fraction")
_ARROW = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0}
_LEADER = "0.7"


@FIGURES.adder("families")
def families(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw top-1 against parameters left and against MACs left, for each data set with several networks.

    A black line joins the dense networks, a curve the pruned versions of one. Of several initial weights, a
    network has those with the best validation accuracy of the dense control. Drawn are the largest `NETWORKS`
    pruned networks of a data set; and the reference strategies beside those that `leading` chooses. Raises
    `UserError` where every data set has one network.
    """
    everything = [cells for _, cells in summary.groupby("dataset", sort=True) if cells["model"].nunique() > 1]
    if not everything:
        raise UserError(
            "the figure 'families' compares the networks of a data set, and every data set of the study "
            "has only one; add a pair or leave the figure out"
        )
    sets = [one_start(cells) for cells in everything]
    pruned = [pruned_networks(cells)[:NETWORKS] for cells in sets]
    curved = [
        cells[cells["model"].isin(networks) & ~tables.is_control(cells)]
        for cells, networks in zip(sets, pruned, strict=True)
    ]
    names = chosen(pd.concat(curved), max(map(len, pruned)))
    shown = [cells[cells["strategy"].isin(names)] for cells in curved]
    with style.theme():
        looks = looks_of(names, curves.strategies(summary))
        # A column per data set; but the panels of a single one stand side by side.
        rows, columns = (1, 2) if len(sets) == 1 else (2, len(sets))
        figure, grid = curves.canvas(rows, columns)
        band = max(map(_band, sets))
        width, height = figure.get_size_inches()
        needed = _SIDES + max(map(_room, sets))
        figure.set_size_inches(max(width, columns * needed / 72), height + rows * band / 72)
        for i, x in product(range(len(sets)), (PARAMETERS, MACS)):
            panel = int(x is MACS)
            ax = grid[(0, panel) if len(sets) == 1 else (panel, i)]
            draw(ax, sets[i], shown[i], pruned[i], x, looks)
            name_networks(ax, sets[i], x, band)
            ax.set_xlabel(x.label)
            ax.set_ylabel(curves.TOP1.label)
        curves.finish(
            figure,
            caption(pd.concat(everything), pd.concat(shown), sets),
            curves.strategy_handles(looks, solid=max(map(len, pruned)) > 1),
            [dense_handle(), *network_handles(pruned)],
        )
        for ax in grid.values():
            spread_names(ax)
    return figure


def draw(
    ax: Axes,
    cells: pd.DataFrame,
    shown: pd.DataFrame,
    networks: Sequence[str],
    x: curves.Measure,
    looks: Mapping[str, style.Look],
) -> None:
    """Draw the dense networks among `cells`, and the curves `shown` of the pruned `networks`."""
    draw_dense(ax, cells, x)
    lines: Mapping[str, style.Line | None] = style.lines_in_order(networks)
    if len(lines) == 1:
        # Dashes need not tell networks apart; those of the strategies stay.
        lines = dict.fromkeys(lines)
    for (network, line), (name, look) in product(lines.items(), looks.items()):
        curve = shown[(shown["model"] == network) & (shown["strategy"] == name)]
        draw_start(ax, cells, curve, x, look, line)
        curves.draw_curve(ax, curve, x, curves.TOP1, look, line)
    dense = cells[cells["strategy"] == CONTROL]
    inside = pd.concat([dense, shown[~far_below(shown, dense)]])
    limit_size(ax, inside, x)
    curves.limit_y(ax, inside, curves.TOP1)


def one_start(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of each network from one set of initial weights.

    It is the one whose dense control has the best mean top-1 on the validation set, of equal ones the
    first by name. The test set chooses nothing.
    """
    dense = cells[cells["strategy"] == CONTROL].sort_values("weights")
    order = dense.sort_values("val_top1_mean", ascending=False, kind="stable", na_position="last")
    best = order.drop_duplicates("model")[["model", "weights"]]
    return cells.merge(best, on=["model", "weights"])


def pruned_networks(cells: pd.DataFrame) -> list[str]:
    """Return the networks that are pruned, the one with most parameters first."""
    dense = cells[cells["strategy"] == CONTROL].sort_values("model")
    order = dense.sort_values("params_nonzero_mean", ascending=False, kind="stable")["model"]
    pruned = set(cells.loc[~tables.is_control(cells), "model"])
    return [name for name in order if name in pruned]


def chosen(cells: pd.DataFrame, networks: int) -> list[str]:
    """Return the strategies to draw of so many networks: the references, and others for `CURVES` curves."""
    names = curves.strategies(cells)
    references = [name for name in names if name in style.REFERENCES]
    others = cells[~cells["strategy"].isin(references)]
    return [*leading(others, CURVES // max(1, networks)), *references]


def leading(cells: pd.DataFrame, count: int) -> list[str]:
    """Return the `count` best strategies among the pruned `cells`, sorted by name.

    Strategies are ranked by mean top-1 on the validation set, for each data set, network and ratio by
    itself; first come those that are first anywhere, then those that are second, and so on; of equal
    ones, those of the better mean rank. So, as far as `count` reaches, the best of every ratio is there,
    though it be bad at others.
    """
    group = cells.groupby([*curves.PAIR, "ratio"])["val_top1_mean"]
    ranked = cells.assign(rank=group.rank(ascending=False, method="min"))
    ranks = ranked.groupby("strategy", sort=True)["rank"].agg(["min", "mean"])
    return sorted(ranks.sort_values(["min", "mean"], kind="stable").index[:count])


def looks_of(names: Sequence[str], strategies: Sequence[str]) -> dict[str, style.Look]:
    """Return the looks of the strategies drawn: as in other figures, where one panel shows them all."""
    if len(strategies) > style.MOST:
        return style.panel_looks(names)
    looks = style.looks(strategies)
    return {name: looks[name] for name in looks if name in names}


def draw_dense(ax: Axes, cells: pd.DataFrame, x: curves.Measure) -> None:
    """Join the dense networks in the order of their size."""
    dense = dense_networks(cells, x)
    places, heights, deviations = x.mean(dense), curves.TOP1.mean(dense), curves.TOP1.sd(dense)
    ax.plot(places, heights, color=_INK, linewidth=1.6, zorder=2.8)
    if deviations.any():
        ax.errorbar(
            places, heights, yerr=deviations, fmt="none", ecolor=_INK, elinewidth=1, capsize=2, zorder=4
        )
    ax.plot(places, heights, **_dense_markers(), linestyle="none", zorder=6)


def dense_networks(cells: pd.DataFrame, x: curves.Measure) -> pd.DataFrame:
    """Return the dense controls that have a place, in the order of `x`."""
    dense = cells[cells["strategy"] == CONTROL]
    return dense[curves.placed(dense, x, curves.TOP1)].sort_values([f"{x.name}_mean", "model"])


def draw_start(
    ax: Axes,
    cells: pd.DataFrame,
    curve: pd.DataFrame,
    x: curves.Measure,
    look: style.Look,
    line: style.Line | None,
) -> None:
    """Join a curve to its control: the network it was pruned from, retrained in the same way."""
    first = curve[curves.placed(curve, x, curves.TOP1)].sort_values("ratio").head(1)
    if first.empty:
        return
    row = first.iloc[0]
    own = cells[(cells["model"] == row["model"]) & (cells["strategy"] == row["control"])]
    ends = pd.concat([own, first])
    ax.plot(
        x.mean(ends),
        curves.TOP1.mean(ends),
        color=look.colour,
        linestyle=line.dashes if line else look.dashes,
        linewidth=0.6,
        zorder=2.2,
    )


def limit_size(ax: Axes, drawn: pd.DataFrame, x: curves.Measure) -> None:
    """Make the x axis logarithmic, with ticks such as 20k and 1M."""
    means = x.mean(drawn[curves.placed(drawn, x, curves.TOP1)]).tolist() or [1.0]
    low, high = min(means), max(means)
    margin = max((high / low) ** 0.05, 1.15)
    low, high = low / margin, high * margin
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        if len(ticks) < _FEWEST:
            every = [step * 10.0**decade for decade, step in product(decades, steps)]
            ticks = [tick for tick in every if low <= tick <= high]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [short(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(low, high)


def short(count: float) -> str:
    """Return a count for people: 500, 20k, 1M, 3G."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:g}{letter}"
    return f"{count:g}"


def far_below(cells: pd.DataFrame, dense: pd.DataFrame) -> np.ndarray:
    """Return which cells are so much worse than all dense networks that they are not drawn: bool [cells].

    How bad a ruined network is would flatten the differences that matter.
    """
    heights = curves.TOP1.mean(dense)
    heights = heights[np.isfinite(heights)]
    if not heights.size:
        return np.zeros(len(cells), dtype=bool)
    depth = max(_RANGES * (heights.max() - heights.min()), _POINTS)
    below: np.ndarray = curves.TOP1.mean(cells) < heights.min() - depth
    return below


def caption(everything: pd.DataFrame, shown: pd.DataFrame, sets: Sequence[pd.DataFrame]) -> str:
    """Say how to read the figure, and what of `everything` was left out of it."""
    text = "Black: dense networks. Each curve starts at the network that is pruned, retrained alike. "
    text += curves.points(everything)
    if everything.groupby(curves.PAIR)["weights"].nunique().max() > 1:
        text += " Of several initial weights: those best in validation accuracy."
    if max(len(pruned_networks(cells)) for cells in sets) > NETWORKS:
        text += f" Pruned networks drawn: the largest {NETWORKS}."
    names, every = curves.strategies(shown), curves.strategies(pd.concat(sets))
    references = [name for name in names if name in style.REFERENCES]
    if len(names) < len(every):
        text += f" Strategies drawn, of {len(every)}: {', '.join(references)}{' and ' * bool(references)}"
        text += f"the {len(names) - len(references)} that place best in validation accuracy at any one ratio."
    lost = ~curves.placed(shown, PARAMETERS, curves.TOP1) | ~curves.placed(shown, MACS, curves.TOP1)
    below = sum(
        int(far_below(cells, dense[dense["strategy"] == CONTROL]).sum())
        for dense in sets
        for cells in [shown[shown["dataset"] == dense["dataset"].iloc[0]]]
    )
    text += curves.not_drawn(int(lost.sum()), "whose mean is missing or infinite")
    text += curves.not_drawn(below, "far below all dense networks")
    return text


def dense_handle() -> Line2D:
    """Return the legend entry of the dense networks."""
    return Line2D([], [], label="dense networks", color=_INK, linewidth=1.6, **_dense_markers())


def network_handles(pruned: Sequence[Sequence[str]]) -> list[Line2D]:
    """Return a legend entry for each place among the pruned networks, where a data set has several."""
    places = [list(dict.fromkeys(filter(None, names))) for names in zip_longest(*pruned)]
    if len(places) < 2:
        return []
    labels = [f"{' or '.join(names)}, pruned" for names in places]
    return curves.line_handles(style.lines_in_order(labels))


def _dense_markers() -> dict[str, Any]:
    return {"marker": "o", "markersize": 5, "markerfacecolor": _INK, "markeredgecolor": "white"}


def name_networks(ax: Axes, cells: pd.DataFrame, x: curves.Measure, band: float) -> None:
    """Mark the size of each dense network by a thin line and name it above the axes; then the title.

    `band` is the room for names, in points.
    """
    dense = dense_networks(cells, x)
    for place, height, name in zip(x.mean(dense), curves.TOP1.mean(dense), dense["model"], strict=True):
        ax.vlines(place, height, ax.get_ylim()[1], color=_LEADER, linewidth=0.6, zorder=1.2)
        ax.annotate(
            name,
            xy=(place, 1),
            xycoords=_ABOVE,
            xytext=(0, _RISE),
            textcoords="offset points",
            rotation=_angle(cells),
            rotation_mode="anchor",
            va="center",
            fontsize=_NAME,
            color=_INK,
            annotation_clip=False,
        )
    ax.set_title(cells["dataset"].iloc[0], pad=band)


def spread_names(ax: Axes) -> None:
    """Move names above the axes apart where they would touch, and lead a line to each.

    Call it when the layout is fixed.
    """
    figure: Any = ax.figure
    unit = figure.dpi / 72
    names = [text for text in ax.texts if isinstance(text, Annotation) and text.xycoords == _ABOVE]
    # Points from the left end of the axes.
    own = [float(ax.transData.transform((text.xy[0], 1))[0] - ax.bbox.x0) / unit for text in names]
    sizes = [_beside(text.get_rotation()) for text in names]
    moved = curves.apart(own, sizes, 0, ax.bbox.width / unit)
    for text, before, after in zip(names, own, moved, strict=True):
        text.set_position((after - before, _RISE))
        ax.annotate(
            "",
            xy=text.xy,
            xycoords=_ABOVE,
            xytext=(after - before, _RISE - 2),
            textcoords="offset points",
            annotation_clip=False,
            arrowprops={**_ARROW, "linewidth": 0.6, "color": _LEADER},
        )


def _angle(cells: pd.DataFrame) -> float:
    """Return by how many degrees the names of networks are turned: many need to stand upright."""
    return 45 if cells["model"].nunique() <= _ASLANT else 90


def _band(cells: pd.DataFrame) -> float:
    """Return the room in points that the names of networks need above the axes."""
    longest = int(cells["model"].str.len().max())
    return _RISE + 0.6 * _NAME * longest * math.sin(math.radians(_angle(cells))) + 9


def _room(cells: pd.DataFrame) -> float:
    """Return the width in points that the names of networks need side by side."""
    return cells["model"].nunique() * (_beside(_angle(cells)) + 1)


def _beside(angle: float) -> float:
    """Return how far in points a name is from the next, both turned by `angle`."""
    return 1.15 * _NAME / math.sin(math.radians(angle))
