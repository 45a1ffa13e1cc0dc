"""Collect the cells of one strategy: its trade-off curve, a row per ratio and seed; and its layers."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from shrinkflow import errors, files, records
from shrinkflow.errors import UserError

# The columns of a curve, in the order of the table of results. Named here and not imported from
# `shrinkflow.tables`: this program runs once per strategy, and pandas would be most of its time.
CURVE = ["dataset", "model", "weights", "strategy"]
CELL = [*CURVE, "ratio", "seed"]
METRICS = [
    *["compression", "speedup", "params", "params_nonzero", "macs", "macs_nonzero"],
    *["top1", "top5", "loss", "val_top1"],
    *["pruned_val_top1", "best_epoch", "epochs", "collapsed_layers"],
    *["best_test_top1", "best_test_epoch"],
]
COLUMNS = [*CELL, "control", *METRICS]
LAYER = ["shape", "prunable", "size", "kept", "density", "macs", "macs_nonzero", "collapsed"]
LAYER_COLUMNS = [*CELL, "layer", *LAYER]

EPILOG = """example:
  python workflow/scripts/collect.py --out curve.csv --layers layers.csv --top1 top1.json \\
      --metrics 2/0/metrics.json 2/1/metrics.json

Rows are ordered by ratio and seed, whatever the order of the files. Numbers are written in full,
without rounding; a metric that is null (it could not be measured) is left empty.
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        required=True,
        metavar="FILE",
        help="metrics.json of the cells, all of one data set, model, weights and strategy",
    )
    parser.add_argument("--out", required=True, metavar="CSV", help="the curve to write")
    parser.add_argument(
        "--layers", required=True, metavar="CSV", help="the weight tensors of each cell to write"
    )
    parser.add_argument(
        "--top1", required=True, metavar="JSON", help="mean top-1 by ratio to write, for `dvc metrics`"
    )
    return parser.parse_args()


def read_cell(path: str | Path) -> dict[str, Any]:
    """Return {column: value} of one metrics.json, and no more than the columns.

    Raises `UserError` where a column is missing, or its value is of the wrong kind.
    """
    document = files.read_json(path)
    if not isinstance(document, dict):
        document = {}
    row: dict[str, Any] = {}
    for part, values, names in (
        ("cell.", document.get("cell"), CELL),
        ("", document, ["control"]),
        ("metrics.", document.get("metrics"), METRICS),
    ):
        for name in names:
            if not isinstance(values, dict) or name not in values:
                raise UserError(f"{path} lacks {part}{name}; delete it and run again")
            if not _right(name, values[name]):
                raise UserError(f"{part}{name} of {path} cannot be {values[name]!r}; delete it and run again")
            row[name] = values[name]
    return row


def _right(name: str, value: object) -> bool:
    """Whether a value is what its column holds; only a metric may be missing."""
    if name in (*CURVE, "control"):
        return isinstance(value, str)
    number = isinstance(value, int if name == "seed" else int | float)
    return not isinstance(value, bool) and (number or (name in METRICS and value is None))


def collect(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return the rows of a curve, ordered by ratio and seed.

    Raises `UserError` where a cell is there twice, or the cells belong to several curves.
    """
    found: dict[tuple[float, int], tuple[dict[str, Any], str | Path]] = {}
    first: tuple[dict[str, Any], str | Path] | None = None
    for path in paths:
        row = read_cell(path)
        first = first or (row, path)
        for name in CURVE:
            if row[name] != first[0][name]:
                raise UserError(
                    f"{first[1]} and {path} differ in {name} ('{first[0][name]}', '{row[name]}'); "
                    "collect each curve by itself"
                )
        key = (float(row["ratio"]), row["seed"])
        if key in found:
            raise UserError(
                f"{found[key][1]} and {path} are the same cell (ratio {key[0]:g}, seed {key[1]}); "
                "leave one of them out"
            )
        found[key] = (row, path)
    return [row for _, (row, _) in sorted(found.items())]


def layers(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return a row per cell and weight tensor, ordered by ratio, seed and place in the network.

    `size` and `kept` count its weights; `density` is the part kept; `collapsed` is 1 where a prunable one has
    none left. MACs are those of one picture.
    """
    found = []
    for path in paths:
        row = read_cell(path)
        for layer in files.read_json(path).get("layers", []):
            found.append(
                {name: row[name] for name in CELL}
                | {
                    "layer": layer["name"],
                    "shape": "x".join(map(str, layer["shape"])),
                    "prunable": int(layer["prunable"]),
                    "size": layer["weights"],
                    "kept": layer["kept"],
                    "density": layer["kept"] / layer["weights"],
                    "macs": layer["macs"],
                    "macs_nonzero": layer["macs_nonzero"],
                    "collapsed": int(layer["prunable"] and not layer["kept"]),
                }
            )
    return sorted(found, key=lambda row: (float(row["ratio"]), row["seed"]))


def text(rows: Iterable[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Return the rows as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"ratio": f"{row['ratio']:.12g}"} for row in rows)
    return stream.getvalue()


def means(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """Return {"ratio 4": mean top-1 over the seeds}, to six decimals; None where a seed has none."""
    found: dict[str, float | None] = {}
    for ratio, cells in groupby(rows, key=lambda row: float(row["ratio"])):
        values = [row["top1"] for row in cells]
        found[f"ratio {ratio:g}"] = None if None in values else round(fmean(values), 6)
    return found


def main() -> None:
    args = parse()
    outputs = [args.out, args.layers, args.top1]
    with records.job(__file__, inputs=args.metrics, outputs=outputs, parameters={}):
        rows = collect(args.metrics)
        files.write_text(args.out, text(rows))
        files.write_text(args.layers, text(layers(args.metrics), LAYER_COLUMNS))
        files.write_json(args.top1, means(rows))


if __name__ == "__main__":
    errors.run(main)
