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

from shrinkflow.errors import UserError
from shrinkflow.figures import FIGURES, curves, style
from shrinkflow.figures.compression import requested
from shrinkflow.strategies import CONTROL


@FIGURES.adder("weights")
def weights(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw top-1 (left) and its change against the control (right), a row per pair.

    Where there are too many strategies for a facet, each pair has a row per panel of strategies. Raises
    `UserError` where no (data set, model) pair has two sets of weights or more.
    """
    pairs = [
        pair
        for _, pair in curves.with_curves(summary).groupby(curves.PAIR, sort=True)
        if pair["weights"].nunique() > 1
    ]
    if not pairs:
        raise UserError(
            "the figure 'weights' compares initial weights, and every pair of the study that is pruned has "
            "only one; name a second under its weights or leave the figure out"
        )
    drawn = pd.concat(pairs)
    shown = set(curves.strategies(drawn))
    panels = [[name for name in names if name in shown] for names in style.panels(curves.strategies(summary))]
    with style.theme():
        all_looks = style.looks(curves.strategies(summary))
        lines = style.lines(drawn["weights"])
        rows = [
            (place, pair)
            for place in range(len(panels))
            for pair in pairs
            if curves.belongs(pair, panels, place)
        ]
        figure, grid = curves.canvas(len(rows), 2)
        below = 0
        several = len(curves.controls(drawn, shown)) > 1
        for (row, column), ax in grid.items():
            (place, pair), y = rows[row], (curves.TOP1, curves.CHANGE)[column]
            looks = {name: all_looks[name] for name in panels[place]}
            curves.title(ax, pair, part=curves.part_name(panels, place))
            ax.set_ylabel(y.label)
            if y is curves.CHANGE:
                curves.draw_control(ax, pair, y, name="own control" if several else None)
            for name, line in lines.items():
                draw(ax, pair[pair["weights"] == name], y, name, line, looks)
            curves.limit_x(ax, pair, curves.COMPRESSION, requested)
            curves.limit_y(ax, pair, y)
            if row + 1 < len(rows) and rows[row + 1][0] == place:
                continue
            ax.set_xlabel(curves.COMPRESSION.label)
            if len(panels) > 1 and column == 0:
                below += curves.legend_below(ax, curves.strategy_handles(looks, solid=True))
            elif len(panels) > 1:
                curves.legend_below(
                    ax, curves.line_handles({f"weights {name}": line for name, line in lines.items()})
                )
        handles = [
            curves.strategy_handles(looks, solid=True),
            curves.line_handles({f"weights {name}": line for name, line in lines.items()}),
        ]
        text = curves.caption(
            drawn, curves.COMPRESSION, others="Changes are from each strategy's own control."
        )
        curves.finish(figure, text, *(handles if len(panels) == 1 else []), below=below)
    return figure


def draw(
    ax: Axes,
    cells: pd.DataFrame,
    y: curves.Measure,
    name: str,
    line: style.Line,
    looks: Mapping[str, style.Look],
) -> None:
    """Draw the curves that start from one set of weights, and their dense control."""
    if cells.empty:
        return
    if y is curves.TOP1:
        curves.draw_control(ax, cells, y, name=f"{CONTROL}, {name}", dashes=line.dashes)
    for strategy, look in looks.items():
        chosen = cells[cells["strategy"] == strategy]
        curves.draw_curve(ax, chosen, curves.COMPRESSION, y, look, line=line)
