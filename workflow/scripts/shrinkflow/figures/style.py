"""What all figures share: theme, how each strategy looks, and files whose bytes do not vary."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import seaborn
from matplotlib.figure import Figure

from shrinkflow import files

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

# More curves than these have no panel to themselves; then each panel has at most so many, and the
# references of every comparison in grey.
MOST = 9
_IN_PANEL = 8
REFERENCES = ("global-magnitude", "random")


@dataclass(frozen=True)
class Look:
    """How a strategy looks, in every figure of a study; sizes in points.

    `dashes` are solid until the colours repeat, and yield where dashes stand for initial weights.
    `cap` is half the width of an error bar's caps; it varies, so that bars that lie over one
    another can be told apart. A `reference` is thin and lies behind the other curves.
    """

    colour: tuple[float, float, float]
    marker: str
    size: float
    cap: float
    dashes: Dashes
    reference: bool = False

    @property
    def width(self) -> float:
        """The width of the line."""
        return 0.9 if self.reference else 1.3

    @property
    def behind(self) -> float:
        """By how much the curve lies behind those that are no reference."""
        return 0.5 if self.reference else 0.0


# Two greys, two markers, two dashes: told apart without colour, and from all others.
_REFERENCE_LOOKS = {
    "global-magnitude": Look((0.35, 0.35, 0.35), "d", 4.5, 2.0, (0, (6, 1.5)), reference=True),
    "random": Look((0.6, 0.6, 0.6), "*", 6.0, 2.0, (0, (1, 1.2)), reference=True),
}


@dataclass(frozen=True)
class Line:
    """How initial weights look: the dashes of their lines, and whether their markers are filled."""

    dashes: Dashes
    filled: bool


def panels(strategies: Iterable[str]) -> list[list[str]]:
    """Return which strategies share a panel.

    Up to `MOST` strategies are one panel, sorted. More are split, in the order of their names, into
    panels of about equal size and at most 8; each ends with those of `REFERENCES` that are there.
    """
    names = sorted(set(strategies))
    if len(names) <= MOST:
        return [names]
    references = [name for name in names if name in REFERENCES]
    others = [name for name in names if name not in REFERENCES]
    count = math.ceil(len(others) / _IN_PANEL)
    ends = [len(others) * i // count for i in range(count + 1)]
    return [[*others[start:end], *references] for start, end in pairwise(ends)]


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """Return the look of each strategy of a study (controls are none), in the order of the panels.

    A look depends on nothing but the sorted names. Up to `MOST` strategies differ in colour and in
    marker; of more, those of one panel do, and the references are grey.
    """
    split = panels(strategies)
    if sum(map(len, split)) <= MOST:
        return {name: _look(i) for i, name in enumerate(split[0])}
    return {name: look for panel in split for name, look in panel_looks(panel).items()}


def panel_looks(names: Sequence[str]) -> dict[str, Look]:
    """Return the looks of a panel in which the references are grey."""
    others = [name for name in names if name not in REFERENCES]
    found = {name: _look(i) for i, name in enumerate(others)}
    return found | {name: _REFERENCE_LOOKS[name] for name in names if name in REFERENCES}


def _look(place: int) -> Look:
    marker = _MARKERS[place % len(_MARKERS)]
    return Look(
        colour=_COLOURS[place % len(_COLOURS)],
        marker=marker,
        size=_SIZES.get(marker, 6.2),
        cap=_CAPS[place % len(_CAPS)],
        dashes=_DASHES[place // len(_COLOURS) % len(_DASHES)],
    )


def lines(weights: Iterable[str]) -> dict[str, Line]:
    """Return the line of each set of initial weights, by its place among the sorted names."""
    return lines_in_order(sorted(set(weights)))


def lines_in_order(names: Iterable[str]) -> dict[str, Line]:
    """Return a line for each name, by its place."""
    return {name: Line(_DASHES[i % len(_DASHES)], filled=i % 2 == 0) for i, name in enumerate(names)}


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
