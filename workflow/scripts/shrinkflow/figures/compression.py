"""The figure "compression": top-1 against the compression ratio reached."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from shrinkflow.figures import FIGURES, curves


@FIGURES.adder("compression")
def compression(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw top-1 (mean, sample standard deviation) against the mean compression ratio reached."""
    return curves.tradeoff(summary, curves.COMPRESSION, requested)


def requested(low: float, high: float, ratios: Sequence[float]) -> Sequence[float]:
    """Return the requested ratios: the ticks show where a strategy should have come out."""
    return ratios
