"""One thing is changed at a time: exactly the right artifacts go stale, and every check names the place."""

from __future__ import annotations

import copy as copying
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from shrinkflow import records
from tests.workflow.conftest import TINY
from tests.workflow.versioned import CELL, FIGURE, Versioned

pytestmark = pytest.mark.slow

LIBRARY = "workflow/scripts/shrinkflow"
DATASET = "data/processed/tiny/digits/dataset.safetensors"
RAW = "data/raw/digits/digits.csv.gz"
CHECKPOINT = f"{CELL}/checkpoint.safetensors"


def edit(project: Versioned, path: str, old: str, new: str) -> None:
    file = project.folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    touch(file)


def touch(file: Path) -> None:
    later = time.time() + 60
    os.utime(file, (later, later))


def flip(project: Versioned, path: str, at: int = -1) -> None:
    file = project.folder / path
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    touch(file)


def study(**changes) -> dict:
    return {**copying.deepcopy(TINY), **changes}


def scramble(project: Versioned) -> None:
    """Give every file a time at random, as copying and unpacking do."""
    chance = random.Random(0)
    now = time.time()
    for path in sorted(project.folder.rglob("*")):
        if not {".snakemake", ".git", ".dvc"} & set(path.parts):
            moment = now - chance.uniform(0, 1e6)
            os.utime(path, (moment, moment))


def swap(project: Versioned) -> None:
    """Put one cell's artifact and record, whole as they are, into another's place."""
    other = CELL.replace("/A/", "/B/")
    for name in ("mask.safetensors", f"mask.safetensors{records.SUFFIX}"):
        shutil.copy(project.folder / other / name, project.folder / CELL / name)
    touch(project.folder / CELL / "mask.safetensors")


def forge(project: Versioned) -> None:
    """Change a network, and its record with it, hash and seal included: only DVC and what follows know."""
    flip(project, CHECKPOINT)
    path = project.folder / CHECKPOINT
    for name in ("checkpoint.safetensors", "history.csv"):
        lies = records.record_path(path.with_name(name))
        record = json.loads(lies.read_text())
        from shrinkflow import files

        for entry in (record["artifact"], *record["outputs"]):
            if entry["path"] == CHECKPOINT:
                entry["md5"] = files.digest(path)
        record["seal"] = records.seal(record)
        files.write_json(lies, record)


def lock(project: Versioned) -> None:
    """Let dvc.lock claim another file than the archive that was used."""
    document = yaml.safe_load(project.lock())
    out = document["stages"]["raw-digits-digits_csv_gz"]["outs"][0]
    out["md5"] = "0" * 32
    (project.folder / "dvc.lock").write_text(yaml.safe_dump(document, sort_keys=False))


def remove(*paths: str) -> Callable[[Versioned], None]:
    def mutate(project: Versioned) -> None:
        for path in paths:
            (project.folder / path).unlink()

    return mutate


@dataclass(frozen=True)
class Case:
    """A mutation; which artifacts are not good any more, by a pattern; jobs that Snakemake then wants.

    `named` is what snapshot and trace say, None where nothing is wrong; `traced` is what trace says where it
    differs from snapshot; `jobs` None: Snakemake cannot see it, having no hash of outputs, and is not asked.
    """

    mutate: Callable[[Versioned], None]
    bad: str | None
    named: str | None
    jobs: dict[str, int] | None = field(default_factory=dict)
    traced: str | None = None


# Everything but the archive itself.
AFTER_RAW = r"data/processed/|results/"
AFTER_DATASET = r"results/"
GRADIENT = r"/global-gradient-magnitude/|/tables/|/figures/|report.html"
OF_CELL = rf"{CELL}/(checkpoint|history|metrics)|A/random/(curve|layers|top1)|/tables/|/figures/|report.html"

CASES = {
    "a byte of the archive": Case(
        lambda p: flip(p, RAW), AFTER_RAW + f"|{RAW}", rf"{RAW}: was changed after it was made", {"prepare": 1}
    ),
    "a byte of the data set": Case(
        lambda p: flip(p, DATASET), f"{DATASET}|{AFTER_DATASET}", rf"{DATASET}: was changed after it was made",
        {"prepare": 0, "pretrain": 2, "score": 8, "finetune": 8, "measure": 8},
    ),
    "a byte of a network": Case(
        lambda p: flip(p, CHECKPOINT), rf"{CELL}/(checkpoint|history|metrics)|A/random/(curve|layers|top1)|/tables/|/figures/|report.html",
        rf"{CHECKPOINT}: was changed after it was made",
        {"finetune": 0, "measure": 1, "collect": 1},
    ),
    "a row of the table": Case(
        lambda p: edit(p, "results/tiny/tables/results.csv", ",random,4,1,dense,4.0", ",random,4,1,dense,5.0"),
        r"/tables/|/figures/|report.html", r"results.csv: was changed after it was made", {"summarise": 0, "draw": 3},
    ),
    "the figure": Case(
        lambda p: edit(p, FIGURE, "</svg>", "<!-- --></svg>"), r"figures/compression|report.html", r"was changed after it was made",
        {},
    ),
    "the code of a score": Case(
        lambda p: edit(p, f"{LIBRARY}/strategies/gradient.py", "/ seen).abs()", "/ seen).square()"),
        GRADIENT, r"global-gradient-magnitude/\S+: was made by other code",
        {"score": 2, "prune": 2, "finetune": 2, "measure": 2, "collect": 2, "summarise": 1, "draw": 3},
    ),
    "a comment": Case(
        lambda p: edit(p, f"{LIBRARY}/strategies/gradient.py", "    weights = prunable", "    # Why.\n    weights = prunable"),
        None, None, {},
    ),
    "a parameter": Case(
        lambda p: p.configure(study(recipes={**TINY["recipes"], "long": {**TINY["recipes"]["long"], "lr": 0.01}})),
        r"/A/|/tables/|/figures/|report.html", r"pretrained/digits/digitsnet/A/\S+: was made with --lr 0.004, the study says --lr 0.01",
        {"pretrain": 1, "score": 4, "finetune": 4, "measure": 4},
    ),
    "the seed of weights": Case(
        lambda p: p.configure(study(weights={**TINY["weights"], "A": {"recipe": "long", "seed": 5}})),
        r"/A/|/tables/|/figures/|report.html", r"A/\S+: was made with --seed 1, the study says --seed 5",
        {"pretrain": 1, "score": 4, "finetune": 4},
    ),
    "another seed": Case(
        lambda p: p.configure(study(seeds=[1, 2])), r"/seed2/|/(curve|layers|top1)|/tables/|/figures/|report.html", r"/seed2/\S+: is not there",
        {"score": 8, "prune": 8, "finetune": 8, "measure": 8, "pretrain": 0},
        # The figure that is there was made of the cells that are there: the study has more now.
        traced=r"curve.csv: was made with --metrics",
    ),
    "the pin of a package": Case(
        lambda p: p.folder.joinpath("requirements.txt").write_text(
            re.sub(r"^seaborn==.*$", "seaborn==0.0.1", (p.folder / "requirements.txt").read_text(), flags=re.MULTILINE)
        ),
        r"/figures/|report.html", r"figures/\S+: was made with seaborn [0-9.]+, requirements.txt says 0.0.1", {"draw": 3},
    ),
    "the times of all files": Case(scramble, None, None, {}),
    "a record": Case(
        lambda p: edit(p, f"{CHECKPOINT}{records.SUFFIX}", '"seed": 1', '"seed": 2'),
        OF_CELL, rf"{CHECKPOINT}.record.json was changed after it was written", {},
    ),
    "a record removed": Case(
        remove(f"{CHECKPOINT}{records.SUFFIX}"), OF_CELL, rf"{CHECKPOINT}: has no record", None,
        traced=rf"{CHECKPOINT}: has no record",
    ),
    "an intermediate removed": Case(
        remove(f"{CELL}/mask.safetensors", f"{CELL}/mask.safetensors{records.SUFFIX}"),
        rf"{CELL}/|A/random/(curve|layers|top1)|/tables/|/figures/|report.html", rf"{CELL}/mask.safetensors: is not there", {},
    ),
    "another cell's artifact": Case(
        swap, rf"{CELL}/|A/random/(curve|layers|top1)|/tables/|/figures/|report.html", r"carries the record of results/tiny/cells/digits/digitsnet/B",
        {},
    ),
    "a forged network": Case(
        forge, rf"{CELL}/metrics|A/random/(curve|layers|top1)|/tables/|/figures/|report.html", rf"metrics.json: was made of another {CHECKPOINT}",
        {"measure": 1, "collect": 1}, traced=rf"{CHECKPOINT}: dvc.lock says md5",
    ),
    "dvc.lock": Case(lock, None, None, {}, traced=rf"{RAW}: dvc.lock says md5 0000"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_change_is_seen_by_all_and_named_where_it_is(spoilt, name):
    case = CASES[name]
    before = spoilt.lock()
    case.mutate(spoilt)
    spoilt.commit("a change")
    found = spoilt.examine(FIGURE)
    bad = {path for path, state in found["states"].items() if state != "good"}
    assert bad == {path for path in found["states"] if case.bad and re.search(case.bad, path)}
    if case.jobs is not None:
        assert {rule: found["jobs"].get(rule, 0) for rule in case.jobs} == case.jobs
        assert case.jobs or not found["jobs"]
    if case.named:
        assert re.search(case.named, found["refusal"])
    else:
        assert found["refusal"] is None
    traced = case.traced or case.named
    if traced:
        assert re.search(traced, "\n".join(found["faults"]))
    else:
        assert found["faults"] == []
    if case.named:
        assert spoilt.lock() == before
    else:
        # Of the same bytes, a lock of the same outputs; where it was edited, that is mended.
        earlier = spoilt.does("git", "show", "HEAD~1:dvc.lock")
        assert outs(spoilt.lock()) == outs(earlier)


def outs(lock: str | bytes) -> dict[str, object]:
    return {name: stage.get("outs") for name, stage in yaml.safe_load(lock)["stages"].items()}


def test_trace_tells_a_lock_that_was_edited(spoilt):
    lock(spoilt)
    status, trail = spoilt.trail(FIGURE)
    assert status == 1
    assert [fault for fault in trail["faults"] if re.search(CASES["dvc.lock"].traced, fault)] == trail[
        "faults"
    ]


def test_without_snakemakes_memory_the_records_suffice(spoilt):
    shutil.rmtree(spoilt.folder / ".snakemake")
    scramble(spoilt)
    assert spoilt.stale() != []
    assert spoilt.shrinkflow("snapshot").returncode == 0
    spoilt.quiet()


def test_a_memory_of_other_results_than_lie_there_is_not_believed(spoilt, tmp_path):
    """The bytes of another revision under the memory of this one: Snakemake alone sees nothing."""
    old = spoilt.artifacts()
    changed = study(recipes={**TINY["recipes"], "short": {**TINY["recipes"]["short"], "lr": 0.02}})
    spoilt.configure(changed)
    spoilt.run()
    assert spoilt.stale() == []
    for path, data in old.items():
        (spoilt.folder / path).write_bytes(data)
    spoilt.commit("other settings")
    assert "was made with --lr 0.05, the study says --lr 0.02" in spoilt.refused("snapshot")
    spoilt.does("dvc", "repro")
    record = json.loads((spoilt.folder / f"{CHECKPOINT}{records.SUFFIX}").read_text())
    assert "0.02" in record["command"]
    spoilt.quiet()
