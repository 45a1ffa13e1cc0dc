"""Measured costs: a row per cell and kernel, from what the program `cost.py` wrote of each cell.

They vary from run to run, and so lie by themselves in `results/<study>/costs/`, never in the tables.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shrinkflow import files
from shrinkflow.errors import UserError

DENSE, CSR = "dense", "csr"
# What a network that is not pruned is called among granularities.
WHOLE = "none"
# Forms on disk: see `storage`.
FORMS = ("dense", "bitmask", "csr", "compressed")

CELL = ("dataset", "model", "weights", "strategy", "ratio", "seed")
COLUMNS = [
    *[*CELL, "granularity", "kernel", "device", "threads", "clock", "rounds"],
    *["latency_ms", "latency_ms_iqr", "latency_speedup", "latency_speedup_iqr"],
    *["batch_size", "throughput", "throughput_iqr", "throughput_speedup", "throughput_speedup_iqr"],
    *["peak_memory_mb", *(f"bytes_{form}" for form in FORMS)],
    *["compression", "speedup", "top1", "quiet", "ran", "elsewhere"],
]


def rows(measured: Iterable[str | Path], metrics: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return a row per cell and kernel: costs beside the accuracy and the counts of the same cell.

    Cells stay in the order of the files. Raises `UserError` where one is damaged, or lacks its metrics.
    """
    known = {_cell(document, path): document for path, document in _documents(metrics)}
    found = []
    for path, document in _documents(measured):
        cell = _cell(document, path)
        if cell not in known:
            raise UserError(f"{path} has no metrics.json of its cell beside it; name that as well")
        try:
            found += [_row(document, kernel, known[cell]["metrics"]) for kernel in document["kernels"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error!r}); delete it and run again") from None
    return found


def _row(
    document: Mapping[str, Any], kernel: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    protocol, quiet, batch = document["protocol"], document["quiet"], document["protocol"]["batch_size"]
    latency, batches = kernel["latency_s"], kernel["batch_s"]
    row = dict(document["cell"]) | {
        "granularity": document["granularity"],
        "kernel": kernel["kernel"],
        "device": document["hardware"].get("gpu", document["hardware"]["processor"]),
        "threads": protocol["threads"],
        "clock": protocol["clock"],
        "rounds": protocol["rounds"],
        "latency_ms": 1000 * statistics.median(latency),
        "latency_ms_iqr": 1000 * iqr(latency),
        "batch_size": batch,
        "throughput": batch / statistics.median(batches),
        "throughput_iqr": iqr([batch / seconds for seconds in batches]),
        "peak_memory_mb": kernel["peak_memory_bytes"] / 1e6,
        "quiet": "yes" if quiet["yes"] else "no",
        "ran": quiet["ran"],
        "elsewhere": quiet["elsewhere"],
    }
    for name, samples in (("latency", latency), ("throughput", batches)):
        dense = document["control"]["latency_s" if name == "latency" else "batch_s"]
        row[f"{name}_speedup"] = speedup(dense, samples)
        row[f"{name}_speedup_iqr"] = iqr([a / b for a, b in zip(dense, samples, strict=True)])
    row |= {f"bytes_{form}": document["bytes"][form] for form in FORMS}
    return row | {name: metrics[name] for name in ("compression", "speedup", "top1")}


def _documents(paths: Iterable[str | Path]) -> Iterable[tuple[str | Path, dict[str, Any]]]:
    for path in paths:
        yield path, files.read_json(path)


def _cell(document: Any, path: str | Path) -> tuple[Any, ...]:
    try:
        return tuple(document["cell"][name] for name in CELL)
    except (KeyError, TypeError):
        raise UserError(f"{path} does not say which cell it is of; delete it and run again") from None


def text(table: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as CSV; measured numbers with six significant digits, what is not known empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({name: _format(name, row[name]) for name in COLUMNS})
    return stream.getvalue()


def _format(name: str, value: Any) -> Any:
    if name == "ratio":
        return f"{value:.12g}"
    return f"{value:.6g}" if isinstance(value, float) else value


def speedup(dense: Sequence[float], pruned: Sequence[float]) -> float:
    """Return the median, over the rounds, of the dense network's time / the pruned one's."""
    return statistics.median(a / b for a, b in zip(dense, pruned, strict=True))


def iqr(values: Sequence[float]) -> float:
    """Return the range in which the middle half of the values lies."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
