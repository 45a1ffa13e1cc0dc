"""Figures: one file each. A figure is a function (results, summary) -> matplotlib figure.

To add one, put a file into this folder with a function under `@FIGURES.adder("name")`. It gets the
two tables of `shrinkflow.tables`, draws inside `style.theme()`, and must not use random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shrinkflow.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing

    Figure = Callable[[pd.DataFrame, pd.DataFrame], Drawing]

FIGURES: Registry[Figure] = Registry("figure", "shrinkflow.figures")
