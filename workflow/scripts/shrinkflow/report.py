"""The report of a study: one page of HTML with its tables and figures, the same bytes from the same files.

Here the tables are read and put into the words and rows that the template `report.html.j2` lays out.
"""

from __future__ import annotations

import base64
import csv
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from shrinkflow import captions, files, tables
from shrinkflow.budget import MACS
from shrinkflow.errors import UserError

Row = Mapping[str, Any]

# A ratio that is off by more than this part of what was asked for is told.
_OFF = 0.01
# Networks beside each other in a table: as many as a printed page has room for.
_ABREAST = 4
# The verdict of a comparison that leaves two strategies equal.
_EQUAL = "not distinguishable"
BEST, TIED = "best", "tied"
_NETWORK = ("dataset", "model", "weights")
_COMPONENTS = {
    "weights": "initial weights",
    "mask": "mask",
    "finetuning": "finetuning",
    "mask_and_finetuning": "mask and finetuning, not told apart",
}
_CLOCKS = {"cpu": "CPU time", "wall": "time on the wall"}
# What each table holds.
_HOLDS = {
    "results": "a row per cell: sizes, MACs, accuracies, of every seed",
    "summary": "mean, sample standard deviation and 95 % interval per strategy and ratio",
    "layers": "what is left of every layer of every cell",
    "comparisons": "every two strategies, paired by seed: difference, interval, p, verdict",
    "ranking": "area under the trade-off curve, mean ranks, critical difference",
    "variance": "how much of the variance comes from initial weights, masks, finetuning",
}


@dataclass(frozen=True)
class Entry:
    """A strategy at a ratio: top-1 (percent), the standing in its column, seeds, achieved ratios."""

    top1: str
    mark: str
    seeds: str
    reached: str


@dataclass(frozen=True)
class Line:
    """A strategy: its name, whether it is a control, an entry (or None) per ratio."""

    name: str
    control: bool
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True)
class Network:
    """A table: a data set, model and weights, its ratios, its strategies; whether tests could be made."""

    title: str
    ratios: tuple[str, ...]
    lines: tuple[Line, ...]
    seeds: str
    compared: bool


@dataclass(frozen=True)
class Picture:
    """A figure: its bytes as a data URI, width in CSS pixels, caption by paragraphs."""

    name: str
    uri: str
    width: int
    caption: tuple[str, ...]


def page(
    study: Row,
    found: Mapping[str, Path],
    figures: Mapping[str, Path],
    identifier: str,
    folder: Path,
    *,
    missing: Path | None = None,
    costs: Path | None = None,
    costs_figure: Path | None = None,
) -> str:
    """Return the page.

    Args:
        study: what `outline.of` returns.
        found: the tables, by name; "results" and "summary" among them.
        figures: PNG files, by name.
        identifier: the id of the page's record.
        folder: where the page will lie; its links are relative to it.
        missing: table of the cells that are not there, for a page about a part of the study.
        costs: table of measured costs.
        costs_figure: their figure, PNG.

    Raises:
        UserError: the results or the summary are not among the tables, or a table is damaged.
    """
    for name in ("results", "summary"):
        if name not in found:
            raise UserError(f"{name}.csv is not among the tables; name it under --tables")
    results = _records(tables.uncrossed(tables.read("results", found["results"])))
    summary = _records(tables.uncrossed(tables.read("summary", found["summary"])))
    comparisons, ranking, variance = (read(found.get(n)) for n in ("comparisons", "ranking", "variance"))
    template = _environment().get_template(captions.TEMPLATE.name)
    linked = [*found.values(), *figures.values(), *(path for path in (costs, costs_figure) if path)]
    return template.render(
        study=study,
        identifier=identifier,
        pictures=[picture(name, path) for name, path in figures.items()],
        networks=networks(summary, comparisons),
        ranking=ranked(ranking),
        variance=varied(variance),
        warnings=list(warnings(results, summary, str(study["budget"]))),
        missing=read(missing),
        claims=claims(results),
        costs=costed(read(costs)),
        costs_picture=picture("costs", costs_figure, captioned=False) if costs_figure else None,
        example=_example(results, [*figures.values(), found["results"]]),
        files=[
            {
                "path": Path(os.path.relpath(path, folder)).as_posix(),
                "holds": _HOLDS.get(path.stem, "a figure" if path.suffix == ".png" else "measured costs"),
                "md5": files.digest(path),
            }
            for path in linked
        ],
    )


def read(path: Path | None) -> list[dict[str, str]]:
    """Return the rows of a CSV as text; none where there is no file."""
    if path is None:
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def picture(name: str, path: Path, *, captioned: bool = True) -> Picture:
    """Return a figure that the page holds in itself, shown at the size it was drawn for."""
    data = path.read_bytes()
    # The header chunk is the first of a PNG; pHYs, pixels per metre, stands before the pixels.
    width = int.from_bytes(data[16:20], "big")
    place = data.find(b"pHYs", 0, 4096)
    metre = int.from_bytes(data[place + 4 : place + 8], "big") if place > 0 else 0
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    shown = round(width / metre / 0.0254 * 96) if metre else width
    return Picture(name, uri, shown, tuple(captions.paragraphs(name)) if captioned else ())


def networks(summary: Sequence[Row], comparisons: Sequence[Row]) -> list[Network]:
    """Return a table per data set, model and weights: strategies by ratios, controls first."""
    verdicts: dict[tuple[Any, ...], str] = {}
    tested = {_network(row) for row in comparisons if row["p"]}
    for row in comparisons:
        place = (*_network(row), float(row["ratio"]))
        for pair in ((row["a"], row["b"]), (row["b"], row["a"])):
            verdicts[*place, *pair] = row["verdict"]
    found = []
    for network, rows in _grouped(summary, _network):
        marks = {
            (ratio, name): mark
            for ratio, column in _grouped(
                [row for row in rows if not _is_control(row)], lambda row: row["ratio"]
            )
            for name, mark in _standing(column, (*network, ratio), verdicts)
        }
        ratios = sorted({row["ratio"] for row in rows})
        most = max(row["n"] for row in rows)
        lines = []
        for name, own in _grouped(rows, lambda row: row["strategy"]):
            entries = {row["ratio"]: _entry(row, marks.get((row["ratio"], name), ""), most) for row in own}
            lines.append(Line(name, _is_control(own[0]), tuple(map(entries.get, ratios))))
        shown = tuple(f"{ratio:g}" for ratio in ratios)
        found.append(Network(_title(rows[0]), shown, tuple(lines), _seeds(most), network in tested))
    return found


def _standing(
    column: Sequence[Row], place: tuple[Any, ...], verdicts: Mapping[tuple[Any, ...], str]
) -> Iterator[tuple[str, str]]:
    """Yield (strategy, mark) of the best of a column, and of those that the tests leave equal to it."""
    rows = [row for row in column if not math.isnan(row["top1_mean"])]
    highest = max((row["top1_mean"] for row in rows), default=0.0)
    best = [row["strategy"] for row in rows if row["top1_mean"] == highest]
    yield from ((name, BEST) for name in best)
    for row in rows:
        name = row["strategy"]
        if name not in best and any(verdicts.get((*place, other, name)) == _EQUAL for other in best):
            yield name, TIED


def _entry(row: Row, mark: str, most: int) -> Entry:
    return Entry(
        top1=spread(row["top1_mean"], row["top1_sd"]),
        mark=mark,
        seeds="" if row["n"] == most else _seeds(row["n"]),
        reached=f"{_number(row['compression_mean'])}× / {_number(row['speedup_mean'])}×",
    )


def spread(mean: float, sd: float) -> str:
    """Return a mean and its sample standard deviation (fractions) in percent, to two decimals."""
    if math.isnan(mean):
        return "–"
    return f"{100 * mean:.2f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.2f}")


def ranked(ranking: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the ranking as tables: a row per strategy, best rank first, a group of columns per network."""
    groups = _grouped(ranking, _network)
    # "all" stands for all networks together: no area, for accuracies of several data sets have no mean.
    places = {network: {row["strategy"]: row for row in rows} for network, rows in groups}
    names = sorted(
        {row["strategy"] for row in ranking},
        key=lambda name: (
            min(
                (
                    rank
                    for network, rows in places.items()
                    if name in rows and (network[0] == "all" or len(places) == 1)
                    for rank in [_float(rows[name]["rank_mean"])]
                    if not math.isnan(rank)
                ),
                default=math.inf,
            ),
            name,
        ),
    )
    columns = []
    for network, rows in places.items():
        first = next(iter(rows.values()))
        whole = network[0] == "all"
        columns.append(
            {
                "title": "all networks" if whole else _title(first),
                "areas": any(row["area_mean"] for row in rows.values()),
                "difference": _text(first["critical_difference"], ".2f"),
                "p": _text(first["friedman_p"], ".2g"),
                "blocks": first["blocks"],
                "rows": rows,
            }
        )
    return [
        {
            "columns": part,
            "lines": [(name, [_place(column["rows"].get(name)) for column in part]) for name in names],
        }
        for part in (columns[i : i + _ABREAST] for i in range(0, len(columns), _ABREAST))
    ]


def _place(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    area, low, high = (_float(row[f"area_{part}"]) for part in ("mean", "low", "high"))
    interval = "" if math.isnan(low) else f"{100 * low:.2f} to {100 * high:.2f}"
    return {
        "area": "" if math.isnan(area) else f"{100 * area:.2f}",
        "interval": interval,
        "rank": _text(row["rank_mean"], ".2f"),
        "best": row["best_group"] in ("1", "True", "true", "yes"),
    }


def varied(variance: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the components of the variance, a row per pair and ratio: medians over the strategies."""
    known = [name for name in _COMPONENTS if any(row[f"{name}_variance"] for row in variance)]
    found = []
    for (dataset, model, ratio), rows in _grouped(
        variance, lambda row: (row["dataset"], row["model"], _float(row["ratio"]))
    ):
        found.append(
            {
                "title": f"{model} on {dataset}",
                "ratio": f"{ratio:g}",
                "strategies": len(rows),
                "parts": {_COMPONENTS[name]: _median_sd(rows, f"{name}_variance") for name in known},
                "notes": sorted({row["note"] for row in rows if row["note"]}),
            }
        )
    return found


def _median_sd(rows: Sequence[Row], column: str) -> str:
    """Return the median standard deviation of a component, in percentage points; none where none is known."""
    values = [math.sqrt(float(row[column])) for row in rows if row[column]]
    return f"{100 * statistics.median(values):.2f}" if values else ""


def warnings(results: Sequence[Row], summary: Sequence[Row], budget: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (what to be careful about, where): layers that vanished, few seeds, ratios not met."""
    counts = [row["n"] for row in summary]
    if counts and max(counts) == 1:
        yield (
            "There is one seed only. No deviation can be given, and no difference between two methods can be "
            "told from the luck of a seed; compare nothing by these numbers, and run three seeds or more.",
            [],
        )
    elif counts and max(counts) == 2:
        yield (
            "There are two seeds only: a standard deviation of two values is hardly one, and only very large "
            "differences can be told from chance.",
            [],
        )
    lost: dict[tuple[str, str], dict[float, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in results:
        lost[_title(row), row["strategy"]][row["ratio"]].append(bool(row["collapsed_layers"]))
    collapsed = [
        f"{strategy}, {title}: at ratio "
        + ", ".join(f"{ratio:g} ({sum(own)} of {len(own)} cells)" for ratio, own in by.items() if any(own))
        for (title, strategy), by in lost.items()
        if any(any(own) for own in by.values())
    ]
    if collapsed:
        yield (
            "Whole layers were pruned away; without a shortcut around them a network can only guess.",
            collapsed,
        )
    off: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in summary:
        reached = row["speedup_mean" if budget == MACS else "compression_mean"]
        if not abs(reached / row["ratio"] - 1) <= _OFF:
            off[_title(row), row["strategy"]].append(f"{row['ratio']:g} → {_number(reached)}")
    if off:
        yield (
            "The ratio reached differs by more than 1 % from the one asked for (asked → reached).",
            [f"{strategy}, {title}: {', '.join(parts)}" for (title, strategy), parts in off.items()],
        )
    unmeasured = sum(math.isnan(row["top1"]) for row in results)
    if unmeasured:
        yield f"Of {unmeasured} cells no accuracy could be measured; means over them are left empty.", []


def claims(results: Sequence[Row]) -> list[dict[str, str]]:
    """Return, per network, by how much a choice of the epoch on the test set would have overstated top-1."""
    found = []
    for network, rows in _grouped(results, _network):
        gains = [(row["best_test_top1"] - row["top1"], row) for row in rows]
        known = [(gain, row) for gain, row in gains if not math.isnan(gain)]
        if not known:
            continue
        most, cell = max(known, key=lambda item: item[0])
        found.append(
            {
                "title": _title(dict(zip(_NETWORK, network, strict=True))),
                "cells": str(len(known)),
                "mean": f"{100 * statistics.fmean(gain for gain, _ in known):.2f}",
                "largest": f"{100 * most:.2f}",
                "cell": f"{cell['strategy']}, ratio {cell['ratio']:g}, seed {cell['seed']}",
            }
        )
    return found


def costed(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the measured costs as a table, and what they were measured on."""
    if not rows:
        return None
    return {
        "device": ", ".join(sorted({row["device"] for row in rows})),
        "threads": ", ".join(sorted({row["threads"] for row in rows})),
        "batch": ", ".join(sorted({row["batch_size"] for row in rows})),
        "clock": ", ".join(sorted({_CLOCKS[row["clock"]] for row in rows})),
        "disturbed": sum(row["quiet"] == "no" for row in rows),
        "lines": [
            {
                "name": row["strategy"],
                "values": [
                    _title(row),
                    _text(row["ratio"], "g"),
                    row["seed"],
                    row["kernel"],
                    spread(_float(row["top1"]), math.nan),
                    _text(row["speedup"], ".2f"),
                    _text(row["latency_speedup"], ".2f"),
                    _text(row["throughput_speedup"], ".2f"),
                    _text(row["latency_ms"], ".2f"),
                    _text(row["latency_ms_iqr"], ".2f"),
                    _text(row["peak_memory_mb"], ".1f"),
                    *(
                        _text(row[f"bytes_{form}"], ",.0f")
                        for form in ("dense", "bitmask", "csr", "compressed")
                    ),
                ],
            }
            for row in rows
        ],
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(captions.FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _records(table: Any) -> list[Row]:
    """Return the rows of a table; a missing number is NaN in all of them."""
    return [
        {name: math.nan if value is None or value != value else value for name, value in row.items()}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]


def _grouped(rows: Iterable[Row], key: Any) -> list[tuple[Any, list[Row]]]:
    """Return rows by key, in the order in which the keys come first."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def _network(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in _NETWORK)


def _is_control(row: Row) -> bool:
    return bool(row["strategy"] == row["control"])


def _title(row: Row) -> str:
    return f"{row['model']} on {row['dataset']}, weights {row['weights']}"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _float(text: str) -> float:
    return float(text) if text else math.nan


def _text(text: str, form: str) -> str:
    value = _float(text)
    return "" if math.isnan(value) else format(value, form)


def _example(results: Sequence[Row], targets: Sequence[Path]) -> str:
    """Return a command that follows a point of the page back to the raw archive."""
    row = next((row for row in results if not _is_control(row)), results[0])
    return (
        f"shrinkflow trace {targets[0].as_posix()} --where strategy={row['strategy']} "
        f"--where ratio={row['ratio']:g} --where seed={row['seed']}"
    )
