"""A failed cell leaves the rest of a study usable: plain words, tables of what is there, and a way on."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest

from shrinkflow.seeds import Purpose, torch_seed
from tests.workflow.conftest import TINY, Project

pytestmark = pytest.mark.slow

MINE = '''"""Magnitude, but not for one seed."""

from shrinkflow.prunable import prunable


def mine(model, data, generator):
    """Score weights by their magnitude."""
    if generator.initial_seed() == {seed}:
        raise ValueError("an unlucky draw")
    return {{name: weight.detach().abs() for name, weight in prunable(model).items()}}
'''
STUDY = TINY | {
    "study": "mine",
    "weights": {"A": {"recipe": "short", "seed": 1}},
    "strategies": ["random", "global-magnitude", {"name": "mine", "file": "mine.py", "function": "mine"}],
    "seeds": [1, 2],
    "recipes": {"short": {"optimizer": "sgd", "lr": 0.05, "epochs": 1}},
}


def shrinkflow(project: Project, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(project.folder / "workflow/scripts")}
    command = [sys.executable, "-m", "shrinkflow", *arguments, "--configfile", "study.yaml"]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, env=environment)


def rows(project: Project, table: str) -> list[dict[str, str]]:
    with open(project.folder / "results/mine" / table, newline="") as stream:
        return list(csv.DictReader(stream))


def points(project: Project, table: str) -> dict[tuple[str, str], str]:
    return {(row["strategy"], row["seed"]): row["top1"] for row in rows(project, table)}


def test_what_is_there_has_tables_and_a_mended_study_completes(tmp_path):
    project = Project(tmp_path, STUDY)
    (tmp_path / "mine.py").write_text(MINE.format(seed=torch_seed(2, Purpose.SCORE)))
    nothing = shrinkflow(project, "partial")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("error: none of the 8 cells of 'mine' is there")

    failed = project.snakemake("--cores", "2", "--keep-going")
    assert failed.returncode != 0
    assert "7 of 8 cells are done. What failed:\n  score: function 'mine'" in failed.stderr
    assert "an unlucky draw" in failed.stderr
    assert "shrinkflow partial --configfile study.yaml" in failed.stderr
    assert not (tmp_path / "results/mine/tables").exists()

    done = shrinkflow(project, "partial")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 of 8 cells are there")
    (missing,) = rows(project, "partial/missing.csv")
    assert (missing["strategy"], missing["ratio"], missing["seed"]) == ("mine", "4", "2")
    assert "an unlucky draw" in missing["reason"]
    part = points(project, "partial/tables/results.csv")
    assert len(part) == 7 and ("mine", "2") not in part
    page = (tmp_path / "results/mine/partial/report.html").read_text()
    assert "1 cell is missing" in page and "data:image/png" in page
    assert not (tmp_path / "results/mine/tables").exists()

    # Without its control, a seed is lost.
    control = tmp_path / "results/mine/cells/digits/digitsnet/A/dense/ratio1/seed2/metrics.json"
    kept = control.read_bytes()
    control.write_bytes(kept.replace(b"0", b"1", 1))
    done = shrinkflow(project, "partial")
    assert done.stdout.startswith("4 of 8 cells are there")
    assert "2 cells: its control 'dense' of seed 2 is missing" in done.stdout
    assert {seed for _, seed in points(project, "partial/tables/results.csv")} == {"1"}
    control.write_bytes(kept)

    (tmp_path / "mine.py").write_text(MINE.format(seed=0))
    ended = project.run()
    assert "report:  results/mine/report.html" in ended.stdout
    whole = points(project, "tables/results.csv")
    assert len(whole) == 8 and part.items() <= whole.items()
    assert project.stale() == []
    # What was made of a part is none of the study's jobs.
    assert shrinkflow(project, "verify", "--all", "--cores", "2").returncode == 0
