from __future__ import annotations

import csv
import io
from pathlib import Path

from shrinkflow import partial
from shrinkflow.provenance.checking import DAMAGED, STALE, Fault
from shrinkflow.provenance.planning import Job, Plan
from shrinkflow.provenance.settling import Assessment, State

GOOD, ABSENT, WAITING = State.GOOD, State.ABSENT, State.WAITING


def job(rule: str, place: str, inputs: list[str], log: Path, **wildcards: str) -> Job:
    output = f"{place}/{'metrics.json' if rule == 'measure' else rule}"
    command = (f"{rule}.py", "--control", "dense", "--out", output)
    return Job(rule, wildcards, command, "f", (), {}, tuple(inputs), (output,), log.as_posix())


class Study:
    """A plan of three strategies and two seeds: dense and random at once, `mine` after scoring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []
        self.states: dict[str, State] = {}
        for strategy in ("dense", "random", "mine"):
            for seed in ("1", "2"):
                place = f"{strategy}/{seed}"
                ratio = "1" if strategy == "dense" else "4"
                cell = {"dataset": "d", "model": "m", "weights": "A", "strategy": strategy}
                for rule, inputs in (("score", []), ("measure", [f"{place}/score"])):
                    log = folder / f"{strategy}{seed}{rule}.log"
                    self.jobs.append(job(rule, place, inputs, log, **cell, ratio=ratio, seed=seed))
        self.states = {made.outputs[0]: GOOD for made in self.jobs}

    def says(self, name: str, text: str) -> None:
        (self.folder / f"{name}.log").write_text(text)

    def absent(self, *faults: Fault) -> dict[str, str]:
        plan = Plan("study.yaml", "study", tuple(self.jobs))
        return partial.absent(plan, Assessment(self.states, faults, {}))


def test_nothing_is_missing_of_what_is_good(tmp_path):
    assert Study(tmp_path).absent() == {}


def test_the_reason_is_that_of_what_failed_first(tmp_path):
    study = Study(tmp_path)
    study.states |= {"mine/1/score": ABSENT, "mine/1/metrics.json": ABSENT, "mine/2/metrics.json": ABSENT}
    study.says("mine1score", "error: an earlier one\nepoch 1\nerror: diverged\n")
    # Of an earlier run, before the scores were lost.
    study.says("mine1measure", "error: of long ago\n")
    study.says("mine2measure", "Killed\n")
    assert study.absent() == {
        "mine/1/metrics.json": "score: diverged",
        "mine/2/metrics.json": "not computed yet",
    }


def test_a_traceback_is_a_reason_too(tmp_path):
    study = Study(tmp_path)
    study.states["random/1/metrics.json"] = ABSENT
    study.says("random1measure", 'Traceback (most recent call last):\n  File "x"\nMemoryError: no more\n')
    assert study.absent() == {"random/1/metrics.json": "measure: MemoryError: no more"}


def test_a_cell_of_other_code_or_changed_by_hand_does_not_count(tmp_path):
    study = Study(tmp_path)
    study.says("random1measure", "error: of long ago\n")
    study.states |= {"random/1/metrics.json": State.STALE, "random/2/metrics.json": State.DAMAGED}
    found = study.absent(
        Fault("random/1/metrics.json", STALE, "was made by other code"),
        Fault("random/2/metrics.json", DAMAGED, "was changed after it was made"),
    )
    assert found == {
        "random/1/metrics.json": "random/1/metrics.json was made by other code",
        "random/2/metrics.json": "random/2/metrics.json was changed after it was made",
    }


def test_what_is_made_of_something_stale_does_not_count_for_that_reason(tmp_path):
    study = Study(tmp_path)
    study.states |= {"mine/2/score": State.STALE, "mine/2/metrics.json": WAITING}
    found = study.absent(Fault("mine/2/score", STALE, "was made by other code"))
    assert found == {"mine/2/metrics.json": "mine/2/score was made by other code"}


def test_a_seed_without_its_control_is_lost_to_all_and_the_others_stay(tmp_path):
    study = Study(tmp_path)
    study.states["dense/2/metrics.json"] = ABSENT
    assert study.absent() == {
        "dense/2/metrics.json": "not computed yet",
        "random/2/metrics.json": "its control 'dense' of seed 2 is missing",
        "mine/2/metrics.json": "its control 'dense' of seed 2 is missing",
    }


def test_the_list_of_missing_cells_survives_commas_and_quotes(tmp_path):
    study = Study(tmp_path)
    cells = {made.outputs[0]: made for made in study.jobs if made.rule == "measure"}
    text = partial.listing(
        {"mine/2/metrics.json": cells["mine/2/metrics.json"]}, {"mine/2/metrics.json": 'a, "b"'}
    )
    assert list(csv.reader(io.StringIO(text))) == [
        ["dataset", "model", "weights", "strategy", "ratio", "seed", "reason"],
        ["d", "m", "A", "mine", "4", "2", 'a, "b"'],
    ]


def test_reasons_are_told_once_each_with_the_number_of_their_cells():
    part = partial.Part(Path("p"), 7, 10, {"a": "x", "b": "y", "c": "x"}, {"p/f.svg": "no curve"})
    assert partial.lines(part) == [
        "7 of 10 cells are there; tables, figures and report of these:",
        *("  p/tables", "  p/figures", "  p/report.html"),
        "missing (all in p/missing.csv):",
        *("  2 cells: x", "  1 cell: y"),
        "not made: p/f.svg: no curve",
    ]
