"""What all figures share: theme, how each strategy looks, and files whose bytes do not vary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import seaborn
from matplotlib.figure import Figure

from shrinkflow import files
from shrinkflow.strategies import CONTROL

Colour = str | tuple[float, float, float]
Dashes = tuple[float, tuple[float, ...]]

DPI = 200
INK = "0.25"

_SETTINGS = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("paper"),
    # The one font that comes with matplotlib, so that every machine has it.
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "figure.titlesize": 8.5,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.edgecolor": "0.6",
    "axes.linewidth": 0.8,
    "grid.color": "0.9",
    "grid.linewidth": 0.7,
    # Names are shown as they are: "$" starts no formula.
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "shrinkflow",
}

# Without its yellow (8), which is hard to see on white; grey, close to the control's line, last.
_COLOURS = [seaborn.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 9, 5, 6, 7)]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "h"]


# Stars and crosses look smaller than discs of the same size.
_SIZES = {"*": 9.0, "P": 7.0, "X": 7.0, "D": 5.2, "s": 5.6}
SOLID: Dashes = (0, ())
_DASHES: list[Dashes] = [SOLID, (0, (3.5, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2))]
_CAPS = [2.0, 3.0, 4.0, 5.0]


@dataclass(frozen=True)
class Look:
    """How a strategy looks, in every figure of a study; sizes in points.

    `dashes` are solid until the colours repeat, and yield where dashes stand for initial weights.
    `cap` is half the width of an error bar's caps; it varies, so that bars that lie over one
    another can be told apart.
    """

    colour: tuple[float, float, float]
    marker: str
    size: float
    cap: float
    dashes: Dashes


@dataclass(frozen=True)
class Line:
    """How initial weights look: the dashes of their lines, and whether their markers are filled."""

    dashes: Dashes
    filled: bool


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """Return the look of each strategy of a study, the dense control left out.

    A look depends on nothing but the sorted names. Up to 9 strategies differ in colour, up to 12 in
    marker, and up to 36 in the two together.
    """
    found = {}
    for i, name in enumerate(sorted(set(strategies) - {CONTROL})):
        marker = _MARKERS[i % len(_MARKERS)]
        found[name] = Look(
            colour=_COLOURS[i % len(_COLOURS)],
            marker=marker,
            size=_SIZES.get(marker, 6.2),
            cap=_CAPS[i % len(_CAPS)],
            dashes=_DASHES[i // len(_COLOURS) % len(_DASHES)],
        )
    return found


def lines(weights: Iterable[str]) -> dict[str, Line]:
    """Return the line of each set of initial weights, by its place among the sorted names."""
    return {
        name: Line(_DASHES[i % len(_DASHES)], filled=i % 2 == 0)
        for i, name in enumerate(sorted(set(weights)))
    }


@contextmanager
def theme() -> Iterator[None]:
    """Draw with the project's settings alone: those of the user's matplotlibrc do not count."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def save(
    figure: Figure,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
    metadata: Mapping[str, str],
) -> None:
    """Write a figure as SVG and as PNG. Equal figures give equal bytes: no date, no version.

    `metadata` is stored in both files; its keys are those SVG knows (Title, Identifier, Source,
    Description, and the rest of the Dublin Core).
    """
    with theme():
        with files.atomic(svg) as part:
            unstable = dict.fromkeys(("Date", "Creator"))
            figure.savefig(part, format="svg", metadata={**unstable, **metadata})
        with files.atomic(png) as part:
            figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None, **metadata})
