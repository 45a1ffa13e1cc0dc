"""Nothing stale is called current, nothing current is done again: content decides."""

from __future__ import annotations

import copy as copying
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, TINY, Project

pytestmark = pytest.mark.slow

LIBRARY = Path("workflow/scripts/shrinkflow")


def edit(project: Project, file: Path | str, old: str, new: str) -> None:
    path = project.folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    later = time.time() + 60
    os.utime(path, (later, later))


def test_editing_a_score_makes_exactly_its_cells_stale(copy):
    edit(copy, LIBRARY / "strategies/gradient.py", "/ seen).abs()", "/ seen).square()")
    jobs = copy.stale()
    of_a_cell = [job for job in jobs if job.wildcards and job.rule != "draw"]
    assert all("strategy=global-gradient-magnitude" in job.wildcards for job in of_a_cell)
    assert copy.counts() == {
        **{"score": 2, "prune": 2, "finetune": 2, "measure": 2, "collect": 2},
        **{"summarise": 1, "compare": 1, "draw": 3, "report": 1},
    }


def test_comments_docstrings_layout_and_file_times_make_nothing_stale(copy):
    edit(
        copy,
        LIBRARY / "strategies/gradient.py",
        "    weights = prunable",
        "    # Why.\n    weights = prunable",
    )
    edit(copy, LIBRARY / "training.py", "The training engine", "The engine of training")
    edit(
        copy,
        LIBRARY / "selection.py",
        "count = round(fraction * flat.size)",
        "count = round( fraction*flat.size )",
    )
    assert copy.stale() == []
    now = time.time() + 600
    for index, path in enumerate(sorted(copy.folder.rglob("*"))):
        if ".snakemake" not in path.parts:
            # Newest first, so that every input is newer than what was made of it.
            os.utime(path, (now - index, now - index))
    assert copy.stale() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "first"),
    [
        ("training.py", "[Epoch(begin, 0.0", "[Epoch(begin, 1.0", {"pretrain": 2, "finetune": 8}),
        ("selection.py", "round(fraction * flat.size)", "int(fraction * flat.size)", {"prune": 8, "score": 0, "finetune": 8}),
        ("structure.py", "import", "import math\nimport", {}),
        ("measures.py", "top1 / examples", "top1 / (examples + 1)", {"measure": 8, "pretrain": 2}),
        ("tables.py", "import math", "import math\nimport statistics", {"summarise": 1, "compare": 1, "measure": 0}),
        ("figures/speedup.py", "speedup", "compression", {"draw": 1, "report": 1, "summarise": 0}),
        ("models/vgg.py", "0.5", "0.4", {}),
        ("../../report/report.html.j2", "<h2", "<h3", {"report": 1, "draw": 0}),
        ("../../report/speedup.rst", "Top-1", "The top-1", {"report": 1, "draw": 0}),
        ("../../report/families.rst", "Top-1", "The top-1", {}),
    ],
)  # fmt: skip
def test_editing_code_makes_stale_what_uses_it(copy, file, old, new, first):
    edit(copy, LIBRARY / file, old, new)
    counts = copy.counts()
    assert {rule: counts[rule] for rule in first} == first
    assert first or not counts


def changed(**changes) -> dict:
    study = copying.deepcopy(TINY)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = study
        for part in parents:
            place = place[part]
        place[last] = value
    return study


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # A new ratio, seed or strategy: only its cells.
        (
            {"ratios": [1, 4, 8]},
            {
                "prune": 6,
                "finetune": 6,
                "measure": 6,
                "collect": 6,
                "summarise": 1,
                "compare": 1,
                "draw": 3,
                "report": 1,
            },
        ),
        (
            {"strategies": [*TINY["strategies"], "layerwise-magnitude"]},
            {
                "score": 2,
                "prune": 2,
                "finetune": 2,
                "measure": 2,
                "collect": 2,
                "summarise": 1,
                "compare": 1,
                "draw": 3,
                "report": 1,
            },
        ),
        # Another recipe for finetuning, which weights B are trained by too.
        ({"recipes__long__lr": 0.002}, {"pretrain": 1, "score": 4, "finetune": 4, "measure": 4}),
        ({"weights__A__seed": 7}, {"pretrain": 1, "finetune": 4}),
        # Two numbers that change places are a change (Snakemake remembers values without their names).
        (
            {"recipes__long__momentum": 0.5, "recipes__long__weight_decay": 0.5},
            {"pretrain": 1, "finetune": 4},
        ),
        ({"datasets__digits__split_seed": 1}, {"prepare": 1, "pretrain": 2, "finetune": 8}),
        ({"threads": 2}, {"pretrain": 2, "score": 8, "finetune": 8, "measure": 8, "prepare": 0}),
        # Fewer of anything: only tables and figures.
        (
            {"strategies": TINY["strategies"][:2]},
            {"finetune": 0, "summarise": 1, "compare": 1, "draw": 3, "report": 1},
        ),
        # How many share a GPU changes no result.
        ({"jobs_per_gpu": 4}, {}),
        ({"description": "Said otherwise."}, {"report": 1, "draw": 0, "summarise": 0, "measure": 0}),
    ],
    ids=str,
)
def test_changing_the_study_makes_exactly_its_part_stale(copy, changes, expected):
    copy.configure(changed(**changes))
    counts = copy.counts()
    assert {rule: counts[rule] for rule in expected} == expected
    assert expected or not counts


def blocks(language: str) -> list[str]:
    """The code of one language in docs/add-a-strategy.md."""
    text = (ROOT / "docs/add-a-strategy.md").read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


def masks(project: Project, strategy: str) -> bytes:
    cell = project.folder / "results/tiny/cells/digits/digitsnet/A" / strategy / "ratio4/seed1"
    assert (cell / "metrics.json").is_file()
    return (cell / "mask.safetensors").read_bytes()


def test_a_method_of_ones_own_is_added_as_the_documentation_says(copy):
    """The text of docs/add-a-strategy.md, put where it says, and named in the study as it says."""
    code, _ = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 10
    (copy.folder / "mine").mkdir()
    (copy.folder / "mine/square.py").write_text(code)
    (study,) = map(yaml.safe_load, blocks("yaml"))
    copy.configure(changed(strategies=[*study["strategies"], "global-gradient-magnitude"]))
    assert {job.rule for job in copy.stale()} >= {"score", "prune", "finetune", "measure"}
    copy.run()
    # Cubes and squares rank as magnitudes do.
    assert masks(copy, "square") == masks(copy, "global-magnitude")
    assert masks(copy, "square-layerwise") != masks(copy, "global-magnitude")
    # The cell can be made again from its record, of which the file is a part.
    cell = "results/tiny/cells/digits/digitsnet/A/square/ratio4/seed1"
    library = {"PYTHONPATH": str(copy.folder / "workflow/scripts")}
    command = [sys.executable, "-m", "shrinkflow", "verify", "--cell", cell, "--configfile", "study.yaml"]
    done = subprocess.run(command, cwd=copy.folder, env=os.environ | library, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "square/seed1/from-pretrained/scores.safetensors: identical" in done.stdout
    # Another function makes its cells stale, and no others; a comment makes none.
    edit(copy, "mine/square.py", "def square", "# A comment.\ndef square")
    assert copy.stale() == []
    edit(copy, "mine/square.py", "** power", "** (power + 1)")
    # Of each of two weights: three strategies, of which one has a round on its way to ratio 4.
    stale = copy.stale()
    assert {job.wildcards.split("strategy=")[1].split(",")[0] for job in stale if "strategy=" in job.wildcards} == {
        "square", "square-layerwise", "square-iterative"
    }  # fmt: skip
    assert copy.counts()["prune"] == 2 * 4


def test_a_method_of_ones_own_that_fails_names_its_file_and_the_others_go_on(copy):
    code, _ = blocks("python")
    (copy.folder / "mine").mkdir()
    (copy.folder / "mine/square.py").write_text(code.replace("** power", "/ 0 * power"))
    mine = {"name": "square", "file": "mine/square.py", "function": "square"}
    copy.configure(changed(strategies=[*TINY["strategies"], mine, "erk-magnitude"]))
    done = copy.snakemake("--cores", "2", "--keep-going")
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert (
        "function 'square' in 'mine/square.py' returned a value for 'features.0.weight' that is not finite"
        in text
    )
    assert "Traceback" not in text
    masks(copy, "erk-magnitude")


def test_a_strategy_is_added_to_the_registry_in_one_file_as_the_documentation_says(copy):
    code, registered = blocks("python")
    head = """
        from __future__ import annotations
        import torch
        from torch import nn
        from shrinkflow import strategies
        from shrinkflow.prunable import prunable
        from shrinkflow.way import Way
    """
    body = code.split("generator, *, power: float = 2.0):\n")[1]
    (copy.folder / LIBRARY / "strategies/square.py").write_text(textwrap.dedent(head) + registered + body)
    assert copy.stale() == []
    mine = {"name": "cube", "score": "square", "scope": "layer", "parameters": {"power": 3.0}}
    copy.configure(changed(strategies=[*TINY["strategies"], "global-square", mine]))
    cells = {"score": 4, "prune": 4, "finetune": 4, "measure": 4, "collect": 4}
    assert copy.counts() == {**cells, "summarise": 1, "compare": 1, "draw": 3, "report": 1}
    copy.run()
    assert masks(copy, "global-square") == masks(copy, "global-magnitude")
    masks(copy, "cube")


def test_a_changed_byte_in_a_data_set_is_seen(copy):
    path = copy.folder / "data/processed/tiny/digits/dataset.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    later = time.time() + 60
    os.utime(path, (later, later))
    counts = copy.counts()
    assert counts["pretrain"] == 2
    assert counts["finetune"] == counts["measure"] == 8


METRICS = "results/tiny/cells/digits/digitsnet/A/random/ratio4/seed1/metrics.json"


def test_a_deleted_intermediate_is_made_again_where_asked_for_and_nothing_else(copy):
    before = copy.artifacts()
    (copy.folder / METRICS).unlink()
    # All that was made of it is there and current.
    assert copy.stale() == []
    assert copy.counts(METRICS) == {"measure": 1}
    copy.run("--cores", "1", METRICS)
    assert copy.artifacts() == before
    assert copy.stale() == []


TABLES = {"summarise": 1, "compare": 1, "draw": 3, "report": 1}


@pytest.mark.parametrize(
    ("lost", "changes", "made"),
    [
        ("**/A/**/*", {"recipes__long__lr": 0.002}, {"pretrain": 1, "score": 4, "prune": 4, "measure": 4}),
        ("cells/**/*", {"threads": 2}, {"pretrain": 2, "score": 8, "finetune": 8, "measure": 8}),
        ("**/seed1/**/*", {"finetune": "long"}, {"finetune": 8, "measure": 8, "collect": 8}),
        ("**/seed1/**/*", {"datasets__digits__split_seed": 1}, {"prepare": 1, "pretrain": 2, "measure": 8}),
    ],
    ids=str,
)
def test_what_a_failed_run_took_away_hides_no_change(copy, lost, changes, made):
    """Before a job runs, its old outputs go; if it then fails, what was made of them is still there."""
    files = [path for path in (copy.folder / "results/tiny").glob(lost) if path.is_file()]
    assert files
    for path in files:
        if "logs" not in path.parts and "benchmarks" not in path.parts:
            path.unlink()
    # All that a reader sees was made by this study.
    assert copy.stale() == []
    copy.configure(changed(**changes))
    counts = copy.counts()
    assert made.items() <= counts.items()
    assert TABLES.items() <= counts.items()


def test_a_change_whose_run_failed_is_still_a_change(copy):
    copy.configure(changed(recipes__long__lr=1.0e30))
    # A target before the cells: that run knows nothing of them.
    done = copy.snakemake("--cores", "2", "pretrained")
    assert done.returncode != 0
    assert "training diverged" in done.stdout + done.stderr
    assert not (copy.folder / "results/tiny/pretrained/digits/digitsnet/A/checkpoint.safetensors").exists()
    copy.configure(changed(recipes__long__lr=0.002))
    assert {"pretrain": 1, "score": 4, "measure": 4, **TABLES}.items() <= copy.counts().items()
    # And one cell asked for by its name.
    assert {"pretrain": 1, "measure": 1}.items() <= copy.counts(METRICS).items()


def test_an_edited_checkpoint_is_refused_by_the_job_that_reads_it(copy):
    path = (copy.folder / METRICS).with_name("checkpoint.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (copy.folder / METRICS).unlink()
    done = copy.snakemake("--cores", "1", METRICS)
    assert done.returncode != 0
    assert "checkpoint.safetensors was changed after it was made" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_pins_of_an_environment_are_parameters_of_what_uses_them(copy):
    pins = (copy.folder / "requirements.txt").read_text()
    line = next(line for line in pins.splitlines() if line.startswith("seaborn=="))
    edit(copy, "requirements.txt", line, "seaborn==0.0.1")
    assert copy.counts() == {"draw": 3, "report": 1}
