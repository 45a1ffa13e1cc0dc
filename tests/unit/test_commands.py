"""The commands of shrinkflow that need no results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from shrinkflow import strategies

ROOT = Path(__file__).parents[2]


def shrinkflow(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    command = [sys.executable, "-m", "shrinkflow", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_strategies_lists_the_registry_with_source_cost_and_parameters():
    done = shrinkflow("strategies", "--json")
    assert done.returncode == 0, done.stderr
    found = {row["strategy"]: row for row in json.loads(done.stdout)}
    assert set(found) == set(strategies.registered())
    assert all(row["source"] and row["cost"] for row in found.values())
    assert found["synflow"] == {
        "strategy": "synflow",
        "score": "synflow",
        "source": "Tanaka et al. 2020",
        "way": {"start": "initialisation", "rounds": 100},
        "parameters": {},
        "cost": strategies.SCORES["synflow"].cost,
        "training": "training by the recipe of the weights",
    }
    assert found["woodfisher"]["parameters"]["block_size"] == 50


def test_strategies_are_told_in_lines_for_people():
    said = shrinkflow("strategies").stdout
    assert (
        "\n\nlottery-ticket\n    score: magnitude\n    source: Janowsky 1989; Han et al. 2015\n"
        "    way: schedule iterative, retraining weight-rewinding\n    cost of scoring: nothing\n"
        "    then: training by the recipe of the weights, once for every factor 2 of the ratio\n"
    ) in said
    assert max(map(len, said.splitlines())) <= 100


def test_strategies_of_a_study_are_those_it_names(tmp_path):
    study = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    study["strategies"] = [*study["strategies"], {"name": "mine", "score": "lamp", "scope": "layer"}]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    said = shrinkflow("strategies", "--configfile", str(tmp_path / "study.yaml")).stdout
    assert "mine\n    score: lamp\n    source: Lee et al. 2021\n    way: scope layer\n" in said
    assert "synflow" not in said


def test_a_study_that_is_not_there_or_cannot_work_is_told():
    assert shrinkflow("strategies", "--configfile", "no.yaml").stderr.startswith("error: No such file")
    done = shrinkflow("strategies", "--configfile", "dvc.yaml")
    assert done.returncode == 1
    assert "error: dvc.yaml: unknown key 'stages'" in done.stderr
    assert "Traceback" not in done.stderr
