"""What led to an artifact: its record, the records of what it was made of, back to the raw archives."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shrinkflow import records
from shrinkflow.errors import UserError, nearest

CELL = ("dataset", "model", "weights", "strategy", "ratio", "seed")


@dataclass(frozen=True)
class Node:
    """An artifact and its record; None where there is no record, or none that can be read (`fault`)."""

    path: str
    record: Mapping[str, Any] | None
    fault: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the artifacts it was made of, as its record says."""
        return tuple(entry["path"] for entry in self.record["inputs"]) if self.record else ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the artifacts that the same job made, itself among them."""
        return tuple(entry["path"] for entry in self.record["outputs"]) if self.record else (self.path,)


def lineage(*targets: str) -> dict[str, Node]:
    """Return the targets and all that led to them, by path, each before what it was made of."""
    found: dict[str, Node] = {}
    queue = list(dict.fromkeys(targets))
    for path in queue:
        if path not in found:
            found[path] = node(path)
            queue.extend(found[path].inputs)
    return found


def node(path: str) -> Node:
    """Return one artifact with its record."""
    lies = records.record_path(path)
    if not lies.is_file():
        return Node(path, None, None if Path(path).exists() else "is not there")
    try:
        return Node(path, records.read(lies))
    except UserError as error:
        return Node(path, None, str(error))


def rows(figure: str, where: Mapping[str, str]) -> tuple[str, list[dict[str, str]]]:
    """Return the table of results that a figure or table stems from, and its rows that `where` selects.

    Raises `UserError` where `where` names no column of a cell, or selects nothing.
    """
    table = next((path for path in lineage(figure) if path.endswith("tables/results.csv")), None)
    if table is None or not Path(table).is_file():
        raise UserError(f"{figure} was not made of a table of results that is here; --where needs one")
    with open(table, encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    for name in where:
        if name not in CELL:
            raise UserError(f"--where: '{name}' is no part of a cell{nearest(name, CELL)}")
    selected = [row for row in found if all(_same(row[name], value) for name, value in where.items())]
    if not selected:
        known = {name: sorted({row[name] for row in found}) for name in where}
        raise UserError(
            f"--where: no row of {table} has "
            + ", ".join(f"{name}={value}" for name, value in where.items())
            + "; there are "
            + "; ".join(f"{name}: {', '.join(values)}" for name, values in known.items())
        )
    return table, selected


def metrics_of(row: Mapping[str, str], nodes: Iterable[str]) -> str | None:
    """Return the metrics.json of a row's cell among artifacts."""
    ratio = float(row["ratio"])
    for path in nodes:
        cell = cell_of(path)
        if (
            cell
            and path.endswith("/metrics.json")
            and (
                all(cell[name] == row[name] for name in CELL if name != "ratio")
                and float(cell["ratio"]) == ratio
            )
        ):
            return path
    return None


def cell_of(path: str) -> dict[str, str] | None:
    """Return the cell that an artifact below results/<study>/cells belongs to."""
    parts = Path(path).parts
    if len(parts) < 9 or parts[0] != "results" or parts[2] != "cells":
        return None
    values = [*parts[3:7], parts[7].removeprefix("ratio"), parts[8].removeprefix("seed")]
    return dict(zip(CELL, values, strict=True))


def study_of(path: str) -> str | None:
    """Return the study whose results or processed data an artifact belongs to."""
    parts = Path(path).parts
    if len(parts) > 2 and parts[0] == "results":
        return parts[1]
    return parts[2] if len(parts) > 3 and parts[:2] == ("data", "processed") else None


def by_id(identity: str) -> Iterator[str]:
    """Yield the artifacts here whose record has an id: those of one job."""
    pages = Path("results").glob(f"*/report.html{records.SUFFIX}")
    for lies in sorted([*Path("results").glob(f"*/figures/*{records.SUFFIX}"), *pages]):
        try:
            record = records.read(lies)
        except UserError:
            continue
        if record["id"] == identity:
            yield record["artifact"]["path"]


def _same(text: str, value: str) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return text == value
