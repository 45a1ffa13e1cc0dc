"""The tables of a study: a row per cell (results), and a row per strategy and ratio (summary).

What `comparisons.py`, `ranking.py` and `variance.py` make of the first is written here too.

All are CSV with a fixed column order, row order and number format, so that the same cells give the
same bytes in whatever order they were computed. Names are text, whatever they look like: weights
may be called "NA" or "1e3". Accuracies are fractions from 0 to 1; a value that is missing is empty.

Each cell names its control: the strategy that retrains the dense network in the same way. A control
is a cell too, at ratio 1, and names itself.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shrinkflow import files, statistics
from shrinkflow.errors import UserError
from shrinkflow.strategies import CONTROL as DENSE
from shrinkflow.strategies import CROSSED

GROUP = ["dataset", "model", "weights", "strategy", "ratio"]
CELL = [*GROUP, "seed"]
METRICS = [
    *["compression", "speedup", "params", "params_nonzero", "macs", "macs_nonzero"],
    *["top1", "top5", "loss", "val_top1"],
]
CONTROL = ["dense_top1", "top1_change"]
TRAINING = ["pruned_val_top1", "best_epoch", "epochs", "collapsed_layers"]
# What choosing the epoch by the test set would have claimed; empty where the study does not ask for it.
CLAIM = ["best_test_top1", "best_test_epoch"]

CURVE_COLUMNS = [*CELL, "control", *METRICS, *TRAINING, *CLAIM]
RESULTS_COLUMNS = [*CELL, "control", *METRICS, *CONTROL, *TRAINING, *CLAIM]

LAYER_COLUMNS = [
    *[*CELL, "layer", "shape", "prunable", "size", "kept", "density"],
    *["macs", "macs_nonzero", "collapsed"],
]

SUMMARISED = [
    *["compression", "speedup", "params_nonzero", "macs_nonzero"],
    *["top1", "top5", "loss", "val_top1", "top1_change"],
]
SUMMARY_COLUMNS = [
    *[*GROUP, "control", "n"],
    *[f"{name}_{part}" for name in SUMMARISED for part in ("mean", "sd", "low", "high")],
]

COMPARISONS_COLUMNS = [
    *["dataset", "model", "weights", "ratio", "a", "b", "n", "difference", "sd", "low", "high"],
    *["p", "p_holm", "verdict", "seeds_needed"],
]
RANKING_COLUMNS = [
    *["dataset", "model", "weights", "strategy", "n", "area_mean", "area_sd", "area_low", "area_high"],
    *["rank_mean", "blocks", "critical_difference", "friedman_p", "best_group"],
]
COMPONENTS = ["weights", "mask", "finetuning", "mask_and_finetuning"]
VARIANCE_COLUMNS = [
    *["dataset", "model", "strategy", "ratio", "weights_n", "masks_n", "seeds_n"],
    *[f"{name}_{part}" for part in ("variance", "share") for name in COMPONENTS],
    "note",
]

# The tables of a study, by name.
COLUMNS = {
    "results": RESULTS_COLUMNS,
    "summary": SUMMARY_COLUMNS,
    "layers": LAYER_COLUMNS,
    "comparisons": COMPARISONS_COLUMNS,
    "ranking": RANKING_COLUMNS,
    "variance": VARIANCE_COLUMNS,
}

_TEXT = {
    *["dataset", "model", "weights", "strategy", "control", "layer", "shape"],
    *["a", "b", "verdict", "note"],
}
_INTEGER = {
    *["seed", "n", "params", "params_nonzero", "macs", "macs_nonzero", *TRAINING[1:], *CLAIM[1:]],
    *["prunable", "size", "kept", "collapsed"],
    *["seeds_needed", "blocks", "best_group", "weights_n", "masks_n", "seeds_n"],
}
# Written with six significant digits: six decimals would leave nothing of them.
_SIGNIFICANT = {"p", "p_holm", "friedman_p", *(f"{name}_variance" for name in COMPONENTS)}


def is_control(cells: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows, of any of the tables, are controls: bool [cells]."""
    return cells["strategy"] == cells["control"]


def uncrossed(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, of any of the tables, without those that train the mask of another seed."""
    return cells[~cells["strategy"].str.contains(CROSSED, regex=False)]


def results(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `RESULTS_COLUMNS`: the cells in order, each beside its control.

    `rows` has `CURVE_COLUMNS`, as `read_curves` returns them. The control of a cell is the row of the
    strategy it names, at ratio 1, with the same data set, model, weights and seed; `dense_top1` is its
    `top1`, and `top1_change` is the cell's own minus that. Raises `UserError` where a cell is there
    twice, a control is missing or there twice, or the seeds of one ratio have different controls.
    """
    if rows.empty:
        raise UserError("there are no cells to tabulate; name at least one curve with a row in it")
    key = ["dataset", "model", "weights", "seed", "control"]
    _refuse_doubles(rows, CELL, "a cell can be tabulated once; leave one of its curves out")
    controls = rows[is_control(rows)]
    _refuse_doubles(controls, key, "the control of a seed is one cell; leave one of them out")
    mixed = rows[rows.groupby(GROUP)["control"].transform("nunique") > 1]
    if not mixed.empty:
        raise UserError(
            f"the seeds of cell {_name(mixed.iloc[0], GROUP)} have different controls; "
            "delete their metrics and run again"
        )
    joined = rows.merge(
        controls.loc[controls["ratio"] == 1, [*key, "top1"]].rename(columns={"top1": "dense_top1"}),
        how="left",
        on=key,
        indicator=True,
    )
    orphans = joined[joined["_merge"] != "both"]
    if not orphans.empty:
        raise UserError(
            f"cell {_name(orphans.iloc[0], CELL)} has no control; add '{orphans.iloc[0]['control']}' at "
            "ratio 1, of the same data set, model, weights and seed"
        )
    joined["top1_change"] = joined["top1"] - joined["dense_top1"]
    return _ordered(joined, CELL)[RESULTS_COLUMNS]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return `SUMMARY_COLUMNS`: mean, deviation and interval over the seeds, from `results`.

    `n` counts the seeds, which share their `control`; `statistics.describe` says what one seed or a
    missing value leaves empty. Crossed masks are left out: they are for the split of the variance only.
    """
    rows: list[dict[str, Any]] = []
    for group, cells in uncrossed(table).groupby(GROUP, sort=False):
        row: dict[str, Any] = dict(zip(GROUP, group, strict=True))
        row |= {"control": cells["control"].iloc[0], "n": len(cells)}
        for name in SUMMARISED:
            moments = statistics.describe(cells[name].to_numpy(dtype=float, na_value=math.nan).tolist())
            row |= {
                f"{name}_mean": moments.mean,
                f"{name}_sd": moments.sd,
                f"{name}_low": moments.low,
                f"{name}_high": moments.high,
            }
        rows.append(row)
    return _ordered(pd.DataFrame(rows, columns=SUMMARY_COLUMNS), GROUP)


def read_curves(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return the rows of all curves (what the program `collect.py` writes), unordered."""
    return pd.concat([_read(path, CURVE_COLUMNS) for path in paths], ignore_index=True)


def layers(paths: Iterable[str | Path], results: pd.DataFrame) -> pd.DataFrame:
    """Return `LAYER_COLUMNS`: the weight tensors of the cells of `results`, in its order."""
    found = pd.concat([_read(path, LAYER_COLUMNS) for path in paths], ignore_index=True)
    return results[CELL].merge(found, on=CELL)


def read(name: str, path: str | Path) -> pd.DataFrame:
    """Return a table of `COLUMNS` that `write` wrote; text, integers (nullable) and floats by column."""
    return _read(path, COLUMNS[name])


def write(name: str, path: str | Path, table: pd.DataFrame) -> None:
    """Write a table of `COLUMNS` as CSV."""
    _write(path, table, COLUMNS[name])


def _refuse_doubles(rows: pd.DataFrame, key: list[str], remedy: str) -> None:
    doubles = rows[rows.duplicated(key)]
    if not doubles.empty:
        raise UserError(f"cell {_name(doubles.iloc[0], CELL)} is there twice; {remedy}")


def _name(row: pd.Series[Any], columns: list[str]) -> str:
    return ", ".join(f"{column} {_format(column)(row[column])}" for column in columns)


def _ordered(table: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Sort by the columns of `key`: "dense" first, then the other controls, then the strategies."""
    rank = 2 - is_control(table).astype(int) - (table["strategy"] == DENSE).astype(int)
    control_first = table.assign(_other=rank)
    position = key.index("strategy")
    ordered = control_first.sort_values([*key[:position], "_other", *key[position:]], ignore_index=True)
    return ordered.drop(columns="_other")


def _read(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV with exactly these columns.

    By hand and not by `pandas.read_csv`, which guesses: "NA" would be missing and "1e3" a number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream, strict=True)
        if header != list(columns):
            odd = sorted(set(header) ^ set(columns)) or ["the order of the columns"]
            raise UserError(f"{path} is not the table expected (see {odd[0]}); delete it and run again")
        cells = list(zip(*rows, strict=True)) or [()] * len(columns)
        return pd.DataFrame(
            {name: _parsed(name, column) for name, column in zip(columns, cells, strict=True)}
        )
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None


def _parsed(name: str, texts: Sequence[str]) -> pd.Series[Any]:
    if name in _TEXT:
        return pd.Series(list(texts), dtype=str)
    if name in _INTEGER:
        return pd.Series([int(text) if text else None for text in texts], dtype="Int64")
    return pd.Series([float(text) if text else math.nan for text in texts], dtype="float64")


def _write(path: str | Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    formatted = [map(_format(name), table[name].tolist()) for name in columns]
    writer.writerows(zip(*formatted, strict=True))
    files.write_text(path, stream.getvalue())


def _format(column: str) -> Callable[[Any], str]:
    """Return how the values of a column are written."""
    if column in _TEXT:
        return str
    if column in _INTEGER:
        return lambda value: "" if pd.isna(value) else str(int(value))
    if column == "ratio":
        return lambda value: f"{value:.12g}"
    if column in _SIGNIFICANT:
        return lambda value: "" if pd.isna(value) else f"{value:.6g}"
    return _decimal


def _decimal(value: Any) -> str:
    """Six decimals: a picture in a million. Rounded first, for there is no "-0.000000"."""
    return "" if pd.isna(value) else f"{round(value, 6) + 0.0:.6f}"
