"""What a job asks a cluster for, from the size of its study: memory, time, a GPU.

Only schedulers read it; no result depends on it. Times come from the counts of `estimate`, memory from the
same counts of the model. Both are generous, double with every retry, and yield to `set-resources` in a
profile. Where nobody has counted the pictures yet, they are a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from shrinkflow import estimate
from shrinkflow.errors import UserError
from shrinkflow.measures import Counts
from shrinkflow.study import Cell, Study

# Minutes that every job gets, whatever it does, and by how much the rest may be longer than estimated.
LEAST_MINUTES = 10
SLACK = 3.0
# Minutes of jobs that wait for a network or a disk, and of those whose pictures nobody has counted.
_FIXED_MINUTES = {"fetch": 240, "prepare": 60}
_UNCOUNTED_MINUTES = 24 * 60
_UNCOUNTED_MEGABYTES = 8000
# Memory of a process that has loaded torch, Snakemake beside it included; a GPU's driver wants more.
LEAST_MEGABYTES = 1500
_CUDA_MEGABYTES = 3000
# Copies of a network: weights, gradients, two moments, mask, start, best, and what is written.
_COPIES = 10
# Of each layer's output: as it leaves the layer, normalised, and activated; and of evaluations that need not
# keep them, the largest alone.
_OUTPUTS = 3
_EVALUATION_BATCH = 500
_FLOAT = 4
# Rules whose jobs train or evaluate networks: these use a GPU.
NETWORKS = ("pretrain", "score", "update", "finetune", "sparsify", "measure")


@dataclass(frozen=True)
class Need:
    """Minutes of a first attempt, and MB of memory."""

    minutes: int = LEAST_MINUTES
    megabytes: int = LEAST_MEGABYTES


def asked(study: Study) -> dict[str, Callable[..., int]]:
    """Return the resources of every rule, as functions for Snakemake: `mem_mb`, `runtime` in minutes."""

    @cache
    def counts(dataset: str, model: str) -> Counts:
        return estimate.counts(study, dataset, model)

    def mem_mb(wildcards: Mapping[str, str], attempt: int, rulename: str) -> int:
        return need(study, rulename, wildcards, counts).megabytes << (attempt - 1)

    def runtime(wildcards: Mapping[str, str], attempt: int, rulename: str) -> int:
        return need(study, rulename, wildcards, counts).minutes << (attempt - 1)

    return {"mem_mb": mem_mb, "runtime": runtime}


def gpus(study: Study) -> dict[str, int]:
    """Return the resource `gpu` of jobs that train or evaluate a network: one, where the study wants it."""
    return {"gpu": 1} if study.device == "cuda" else {}


def need(study: Study, rule: str, wildcards: Mapping[str, str], counts: Callable[[str, str], Counts]) -> Need:
    """Return what a job needs; `counts` are those of a pair (data set, model)."""
    minutes = _FIXED_MINUTES.get(rule, LEAST_MINUTES)
    if "dataset" not in wildcards.keys():
        return Need(minutes)
    try:
        parts = estimate.sizes(study, wildcards["dataset"])
    except UserError:
        uncounted = _UNCOUNTED_MINUTES if rule in NETWORKS else minutes
        return Need(uncounted, _UNCOUNTED_MEGABYTES)
    dataset = study.datasets[wildcards["dataset"]]
    held = 0 if dataset.streamed else sum(parts.values()) * math.prod(dataset.shape)
    if rule == "prepare":
        # As they are read, and as they are written.
        return Need(minutes, LEAST_MEGABYTES + _megabytes(3 * held))
    if "model" not in wildcards.keys() or rule == "collect":
        return Need(minutes)
    known = counts(wildcards["dataset"], wildcards["model"])
    network = known.params * _FLOAT
    if rule not in NETWORKS:
        return Need(minutes, LEAST_MEGABYTES + _megabytes(_COPIES * network))
    pictures, batch, copies = _work(study, rule, wildcards, parts)
    rate = estimate.GPU_RATE if study.device == "cuda" else estimate.CORE_RATE * study.threads
    minutes += math.ceil(SLACK * pictures * known.macs / rate / 60)
    size: float = 2 * held + copies * network
    if study.device == "cuda":
        return Need(minutes, LEAST_MEGABYTES + _CUDA_MEGABYTES + _megabytes(size))
    # On a GPU, these are there.
    outputs = [layer.macs * layer.shape[0] / layer.weights for layer in known.layers]
    size += _FLOAT * _OUTPUTS * max(batch * sum(outputs), _EVALUATION_BATCH * max(outputs, default=0))
    return Need(minutes, LEAST_MEGABYTES + _megabytes(size))


def _work(
    study: Study, rule: str, wildcards: Mapping[str, str], parts: Mapping[str, int]
) -> tuple[float, int, int]:
    """Return what a job does and holds.

    These are its forward passes, the pictures of the largest batch it keeps activations of, and how often it
    holds the numbers of the network.
    """
    if rule == "pretrain":
        weights = study.weights[wildcards["weights"]]
        recipe = study.recipes[str(weights.recipe)]
        return estimate.trained(parts, recipe.epochs), recipe.batch_size, _COPIES + len(weights.keep)
    strategy = study.strategy(wildcards["strategy"])
    batch, block = (_number(strategy.parameters.get(name)) for name in ("batch_size", "block_size"))
    if rule in ("score", "update"):
        several = strategy.way.rounds if "-to-" in wildcards.get("start", "") else 1
        # A strategy with blocks holds a matrix of each.
        return several * estimate.scored(strategy), batch, _COPIES + 2 * block
    cell = Cell(
        wildcards["dataset"],
        wildcards["model"],
        wildcards["weights"],
        wildcards["strategy"],
        float(wildcards["ratio"]),
        int(wildcards["seed"]),
    )
    candidates = estimate.most_epochs(study, cell) if study.best_test_epoch else 0
    if rule == "measure":
        return estimate.measured(study, cell, parts), 0, _COPIES + candidates
    pictures = estimate.finetuned(study, cell, parts)
    if rule == "sparsify":
        pictures += strategy.way.rounds * estimate.scored(strategy)
    batch = max(batch, study.training(cell).batch_size)
    return pictures, batch, _COPIES + candidates + 2 * block


def _megabytes(size: float) -> int:
    return math.ceil(size / 1e6)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
