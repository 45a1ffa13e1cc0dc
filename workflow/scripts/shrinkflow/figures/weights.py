"""The figure "weights": the same strategies from several initial weights.

After figure 8 of Blalock et al., "What is the State of Neural Network Pruning?" (2020): the change
in accuracy hides that the initial weights differ, so that a worse strategy on other weights can
seem better. The panel of accuracies shows what was really reached.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shrinkflow.errors import UserError
from shrinkflow.figures import FIGURES, curves, style
from shrinkflow.figures.compression import requested
from shrinkflow.strategies import CONTROL


@FIGURES.adder("weights")
def weights(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw top-1 (left) and its change against the dense control (right), a row per pair.

    Raises `UserError` where no (data set, model) pair has two sets of weights or more.
    """
    pairs = [pair for _, pair in summary.groupby(curves.PAIR, sort=True) if pair["weights"].nunique() > 1]
    if not pairs:
        raise UserError(
            "the figure 'weights' compares initial weights, and every pair of the study has only "
            "one; name a second under its weights or leave the figure out"
        )
    drawn = pd.concat(pairs)
    with style.theme():
        looks = {
            name: look
            for name, look in style.looks(summary["strategy"]).items()
            if name in set(drawn["strategy"])
        }
        lines = style.lines(drawn["weights"])
        figure, grid = curves.canvas(len(pairs), 2)
        for (row, column), ax in grid.items():
            pair, y = pairs[row], (curves.TOP1, curves.CHANGE)[column]
            curves.title(ax, pair)
            ax.set_ylabel(y.label)
            if y is curves.CHANGE:
                curves.draw_control(ax, pair, y)
            for name, line in lines.items():
                draw(ax, pair[pair["weights"] == name], y, name, line, looks)
            curves.limit_x(ax, pair, curves.COMPRESSION, requested)
            curves.limit_y(ax, pair, y)
            if row == len(pairs) - 1:
                ax.set_xlabel(curves.COMPRESSION.label)
        curves.finish(
            figure,
            curves.caption(drawn, curves.COMPRESSION),
            curves.strategy_handles(looks, solid=True),
            line_handles(lines),
        )
    return figure


def draw(
    ax: Axes,
    cells: pd.DataFrame,
    y: curves.Measure,
    name: str,
    line: style.Line,
    looks: Mapping[str, style.Look],
) -> None:
    """Draw the curves that start from one set of weights, and their control."""
    if cells.empty:
        return
    if y is curves.TOP1:
        curves.draw_control(ax, cells, y, name=f"{CONTROL}, {name}", dashes=line.dashes)
    for strategy, look in looks.items():
        chosen = cells[cells["strategy"] == strategy]
        curves.draw_curve(ax, chosen, curves.COMPRESSION, y, look, line=line)


def line_handles(lines: Mapping[str, style.Line]) -> list[Line2D]:
    """Return a legend entry for each set of weights."""
    return [
        Line2D(
            [],
            [],
            label=f"weights {name}",
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
