"""What a study costs, estimated before it runs: cells, trainings, and hours of one core or of one GPU.

Counted are multiply-accumulates (MACs): one forward pass a picture where a network is evaluated, three where
it is trained or scored (forward, and twice as much backward). Pruned networks count as dense ones, early
stopping as never happening, and what a score computes beside its passes (a Hessian's inverse) not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors

from shrinkflow import measures, models, strategies
from shrinkflow.data import splits
from shrinkflow.errors import UserError
from shrinkflow.session import duration
from shrinkflow.strategies import Strategy
from shrinkflow.study import Cell, Pair, Study

TRAINED = 3
# MACs a second that one core trains with, as `benchmarks/engine.py` measures for ResNet-20; of a GPU, an
# assumption, for a card of some 15 TFLOPS, never measured; and seconds that starting a job takes.
CORE_RATE = 25e9
GPU_RATE = 4e12
JOB_SECONDS = 2.0
# A network with more parameters is counted without memory for them, though that takes longer to begin.
_LARGE = 50_000_000
# From here on, minutes say nothing.
_LONG = 100 * 3600


@dataclass(frozen=True)
class Cost:
    """Cells, jobs, trainings (pretraining included), and MACs of a pair, or of a study."""

    cells: int
    jobs: int
    trainings: int
    macs: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cells + other.cells,
            self.jobs + other.jobs,
            self.trainings + other.trainings,
            self.macs + other.macs,
        )

    def seconds(self, rate: float) -> float:
        """Return seconds of one device that does `rate` MACs a second."""
        return self.macs / rate + JOB_SECONDS * self.jobs


def of(study: Study) -> dict[tuple[str, str], Cost]:
    """Return the cost of every pair (data set, model) of a study.

    Raises:
        UserError: how many pictures a data set has is known neither from the study nor from its processed
            file.
    """
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in study.jobs():
        cells.setdefault((cell.dataset, cell.model), []).append(cell)
    listed = set(study.cells())
    return {
        (pair.dataset, pair.model): _pair(study, pair, cells[pair.dataset, pair.model], listed)
        for pair in study.pairs
    }


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    return sum(costs, Cost(0, 0, 0, 0.0))


def lines(costs: Mapping[tuple[str, str], Cost], study: str) -> Iterator[str]:
    """Yield a table for people: a line per pair, and the sum."""
    rows = [(f"{dataset}, {model}", cost) for (dataset, model), cost in costs.items()]
    rows += [("together", total(costs.values()))] if len(rows) > 1 else []
    width = max(len(name) for name, _ in rows)
    yield f"study '{study}', estimated:"
    for name, cost in rows:
        yield (
            f"  {name:<{width}}  {cost.cells:>6,} cells {cost.jobs:>7,} jobs {cost.trainings:>6,} trainings"
            f" {cost.macs / 1e15:>12,.3g} PMACs  {hours(cost, CORE_RATE):>12} on one core"
            f"  {hours(cost, GPU_RATE):>12} on one GPU"
        )
    yield (
        f"  (a core that trains with {CORE_RATE / 1e9:g} GMACs a second, an assumed GPU with "
        f"{GPU_RATE / 1e12:g} TMACs, {JOB_SECONDS:g} s a job; divide by cores or GPUs)"
    )


def announcement(study: Study) -> str:
    """Return the cost of a study in one line, or why it cannot be told yet."""
    try:
        cost = total(of(study).values())
    except UserError as error:
        return f"estimate: {error}"
    return (
        f"estimate: {cost.cells:,} cells, {cost.trainings:,} trainings, about {hours(cost, CORE_RATE)} "
        f"of one core, or {hours(cost, GPU_RATE)} of one GPU; see 'shrinkflow estimate'"
    )


def hours(cost: Cost, rate: float) -> str:
    """Return the time a cost takes, for people."""
    seconds = cost.seconds(rate)
    return duration(seconds) if seconds < _LONG else f"{seconds / 3600:,.0f} h"


def counts(study: Study, dataset: str, model: str) -> measures.Counts:
    """Return what a model of a study counts for a picture of a data set."""
    known, reference = study.datasets[dataset], study.reference(model)
    network = models.build(reference, known.shape, known.classes, None)
    if sum(parameter.numel() for parameter in network.parameters()) < _LARGE:
        # A pass on the meta device would first import torch's compiler, for more than a second.
        network = models.build(reference, known.shape, known.classes, seed=0)
    return measures.count(network, known.shape)


def sizes(study: Study, dataset: str) -> dict[str, int]:
    """Return the pictures of each part of a data set: as prepared, or else as the study says.

    Raises `UserError` where neither tells.
    """
    known = study.datasets[dataset].parts
    prepared = Path(f"data/processed/{study.name}/{dataset}/dataset.safetensors")
    # A damaged file is for the job that reads it to tell of.
    with suppress(OSError, safetensors.SafetensorError), safetensors.safe_open(prepared, "np") as stream:
        return {part: stream.get_slice(part).get_shape()[0] for part in splits.PARTS}
    if known is None:
        raise UserError(
            f"nobody knows yet how many pictures '{dataset}' has; run 'snakemake datasets', or give all of "
            f"'datasets.{dataset}.limit'"
        )
    return dict(zip(splits.PARTS, known, strict=True))


def trained(parts: Mapping[str, int], epochs: int) -> float:
    """Return the forward passes that so many epochs of training count as, validation included."""
    return epochs * (TRAINED * parts["train"] + parts["validation"])


def most_epochs(study: Study, cell: Cell) -> int:
    """Return for how many epochs a cell is trained at most."""
    way = study.strategy(cell.strategy).way
    # As many MACs as the dense network: for a smaller one, up to twice the epochs.
    return (study.training(cell).epochs - way.rewind_to) * (2 if way.equal == "macs" else 1)


def finetuned(study: Study, cell: Cell, parts: Mapping[str, int]) -> float:
    """Return the forward passes that a cell's training counts as, validation before the first epoch too."""
    return trained(parts, most_epochs(study, cell)) + parts["validation"]


def measured(study: Study, cell: Cell, parts: Mapping[str, int]) -> float:
    """Return the forward passes by which a cell is measured: a test, or one of every epoch's network too."""
    return parts["test"] * (1 + (most_epochs(study, cell) if study.best_test_epoch else 0))


def scored(strategy: Strategy) -> float:
    """Return the forward passes that one round of a strategy's scoring counts as."""
    found = [strategy.parameters[name] for name in strategies.DRAWN if name in strategy.parameters]
    return TRAINED * _product(found) if found else 0


def _pair(study: Study, pair: Pair, cells: list[Cell], listed: set[Cell]) -> Cost:
    parts = sizes(study, pair.dataset)
    macs = counts(study, pair.dataset, pair.model).macs
    pictures, jobs, trainings = 0.0, 0, 0
    for name in pair.weights:
        recipe = study.weights[name].recipe
        jobs += 1
        if recipe:
            trainings += 1
            pictures += trained(parts, study.recipes[recipe].epochs)
    # collect
    jobs += len({(cell.weights, cell.strategy) for cell in cells if cell in listed})
    seen = set()
    for cell in cells:
        strategy = study.strategy(cell.strategy)
        way = strategy.way
        pictures += finetuned(study, cell, parts) + measured(study, cell, parts)
        trainings += 1
        # prune, finetune, measure
        jobs += 3
        chooser = study.chooser(cell)
        ratio = chooser.ratio if way.rounds > 1 else 0.0
        if strategies.moves(strategy):
            # update, from the pictures of the score
            jobs += 1
            pictures += scored(strategy)
        key = (replace(chooser, ratio=ratio), study.predecessor(chooser))
        if key not in seen and not way.while_training:
            seen.add(key)
            jobs += 1
            pictures += way.rounds * scored(strategy)
    return Cost(sum(cell in listed for cell in cells), jobs, trainings, pictures * macs)


def _product(values: Iterable[object]) -> int:
    found = 1
    for value in values:
        found *= value if isinstance(value, int) else 1
    return found
