"""What jobs ask a cluster for, counted by hand."""

from __future__ import annotations

import math

import pytest

from shrinkflow import estimate, resources
from shrinkflow.resources import LEAST_MEGABYTES, LEAST_MINUTES
from tests.unit.test_estimate import MACS, tiny

CELL = {"dataset": "digits", "model": "digitsnet", "weights": "A", "strategy": "random"}
POINT = {**CELL, "ratio": "4", "seed": "1"}
PARAMS = 94_186
# So many pictures that the least every job gets is nothing.
BIG = {"datasets": {"digits": {"limit": {"train": 10**9, "validation": 10**8, "test": 10**7}}}}


def ask(study, rule: str, wildcards: dict, attempt: int = 1) -> tuple[int, int]:
    found = resources.asked(study)
    return tuple(found[name](wildcards, attempt, rule) for name in ("mem_mb", "runtime"))


def test_small_jobs_ask_for_the_least():
    study = tiny()
    for rule in ("finetune", "measure"):
        megabytes, minutes = ask(study, rule, POINT)
        assert LEAST_MINUTES <= minutes <= LEAST_MINUTES + 1
        assert LEAST_MEGABYTES < megabytes < LEAST_MEGABYTES + 100
    assert ask(study, "summarise", {}) == (LEAST_MEGABYTES, LEAST_MINUTES)
    assert ask(study, "collect", CELL) == (LEAST_MEGABYTES, LEAST_MINUTES)
    assert ask(study, "prune", POINT) == (LEAST_MEGABYTES + math.ceil(10 * 4 * PARAMS / 1e6), LEAST_MINUTES)


def test_time_is_that_of_the_estimate():
    """Large studies: the minutes of all jobs are three times what the estimate says, and the least of each."""
    study = tiny(**BIG)
    _, minutes = ask(study, "pretrain", CELL)
    seconds = MACS * 6 * (3 * 10**9 + 10**8) / estimate.CORE_RATE
    assert minutes == LEAST_MINUTES + math.ceil(3 * seconds / 60)
    _, minutes = ask(study, "measure", POINT)
    assert minutes == LEAST_MINUTES + math.ceil(3 * MACS * 10**7 / estimate.CORE_RATE / 60)
    _, minutes = ask(study, "finetune", POINT)
    passes = 2 * (3 * 10**9 + 10**8) + 10**8
    assert minutes == LEAST_MINUTES + math.ceil(3 * MACS * passes / estimate.CORE_RATE / 60)
    # Four threads, or a GPU, are faster.
    _, fewer = ask(tiny(**BIG, threads=4), "finetune", POINT)
    assert fewer == LEAST_MINUTES + math.ceil(3 * MACS * passes / estimate.CORE_RATE / 4 / 60)
    _, fewest = ask(tiny(**BIG, device="cuda"), "finetune", POINT)
    assert fewest == LEAST_MINUTES + math.ceil(3 * MACS * passes / estimate.GPU_RATE / 60)


def test_memory_holds_pictures_networks_and_activations():
    pictures = 10**9 + 10**8 + 10**7
    megabytes, _ = ask(tiny(**BIG), "measure", POINT)
    # 64 bytes a picture, twice; ten copies of the network; the widest layer of 500 pictures, three times
    widest = 500 * 3 * 4 * 32 * 16
    assert megabytes == LEAST_MEGABYTES + math.ceil((2 * 64 * pictures + 10 * 4 * PARAMS + widest) / 1e6)
    # A network of every epoch is held where it is asked for.
    more, _ = ask(tiny(**BIG, best_test_epoch=True), "measure", POINT)
    assert more - megabytes in (0, 1, 2 * 4 * PARAMS // 10**6)


def test_a_strategy_with_blocks_holds_a_matrix_of_each():
    strategies = ["random", "global-magnitude", "woodfisher"]
    start = {"seed": "1", "start": "pretrained"}
    plain, _ = ask(tiny(strategies=strategies), "score", {**CELL, **start})
    blocks, _ = ask(tiny(strategies=strategies), "score", {**CELL, **start, "strategy": "woodfisher"})
    assert blocks - plain >= 2 * 50 * 4 * PARAMS // 10**6


def test_scoring_in_rounds_takes_as_many():
    strategies = [
        "random",
        "global-magnitude",
        {"name": "g", "score": "gradient-magnitude", "rounds": 100, "parameters": {"batches": 10**6}},
    ]
    study = tiny(strategies=strategies)
    one, several = (
        ask(study, "score", {**CELL, "strategy": "g", "seed": "1", "start": start})[1] - LEAST_MINUTES
        for start in ("pretrained", "pretrained-to-ratio4")
    )
    assert several == pytest.approx(100 * one, rel=0.01)


def test_every_retry_gets_twice_as_much():
    study = tiny(**BIG)
    first = ask(study, "finetune", POINT)
    assert ask(study, "finetune", POINT, 2) == tuple(2 * value for value in first)
    assert ask(study, "finetune", POINT, 3) == tuple(4 * value for value in first)


def test_a_study_for_gpus_asks_for_one_a_job():
    assert resources.gpus(tiny(device="cuda")) == {"gpu": 1}
    assert resources.gpus(tiny(device="auto")) == resources.gpus(tiny(device="cpu")) == {}


def test_pictures_that_nobody_has_counted_are_no_fault(tmp_path):
    (tmp_path / "pictures").mkdir()
    entry = {
        "source": "imagefolder",
        "folder": str(tmp_path / "pictures"),
        "shape": [3, 32, 32],
        "classes": 2,
    }
    study = tiny(datasets={"mine": entry}, pairs=[{"dataset": "mine", "model": "resnet20"}])
    wildcards = {**POINT, "dataset": "mine", "model": "resnet20"}
    megabytes, minutes = ask(study, "finetune", wildcards)
    assert megabytes > LEAST_MEGABYTES
    assert minutes == 24 * 60
    assert ask(study, "prepare", {"dataset": "mine"})[1] == 60
