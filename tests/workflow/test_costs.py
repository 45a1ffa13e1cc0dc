"""Costs are measured where that is asked for, and change nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from shrinkflow import costs, files, records
from shrinkflow.provenance import rerun
from tests.workflow.conftest import TINY, Project

pytestmark = pytest.mark.slow

STUDY = TINY | {
    "weights": {"A": TINY["weights"]["B"]},
    "strategies": ["random", "global-magnitude", "filter-l1"],
    "ratios": [4],
    "costs": {"strategies": ["global-magnitude", "filter-l1"], "batch_size": 8, "rounds": 3},
}


def test_on_request_and_beside_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path / "project", STUDY)
    project.run()
    before = project.artifacts()
    assert not any("/costs/" in path for path in before)
    project.run("--cores", "2", "costs")

    after = project.artifacts()
    assert {path: after[path] for path in before} == before
    assert all(path.startswith("results/tiny/costs/") for path in after.keys() - before.keys())
    assert project.stale() == project.stale("costs") == []

    folder = project.folder / "results/tiny/costs"
    with open(folder / "costs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == costs.COLUMNS
    assert [(row["strategy"], row["ratio"], row["granularity"], row["kernel"]) for row in rows] == [
        ("dense", "1", "none", "dense"),
        ("global-magnitude", "4", "weight", "dense"),
        ("global-magnitude", "4", "weight", "csr"),
        ("filter-l1", "4", "filter", "dense"),
    ]
    assert all(
        float(row[name]) > 0 for row in rows for name in ("latency_ms", "throughput", "latency_speedup")
    )
    dense, zeroed, sparse, removed = (
        {name: float(row[f"bytes_{name}"]) for name in costs.FORMS} for row in rows
    )
    # Zeros take room in a dense file; filters that are removed do not.
    assert dense["dense"] == zeroed["dense"] > 3 * removed["dense"]
    assert zeroed == sparse and zeroed["bitmask"] < dense["dense"] / 3
    memory = [float(row["peak_memory_mb"]) for row in rows]
    assert memory[3] < memory[0] == memory[1]

    cell = folder / "digits/digitsnet/A/filter-l1/ratio4/seed1.json"
    found = files.read_json(cell)
    assert found["hardware"]["processor"] and found["protocol"]["threads"] == 1
    assert len(found["control"]["latency_s"]) == len(found["kernels"][0]["batch_s"]) == 3
    assert "shrinkflow/structure.py" in records.read(records.record_path(cell))["code"]["plugins"]
    page = (folder / "report.html").read_text()
    assert 'id="costs"' in page and "save a dense kernel nothing" in page
    assert 'href="../tables/results.csv"' in page

    # What varies from run to run is not compared when everything is done again.
    monkeypatch.chdir(project.folder)
    verified = [node.path for job in rerun.everything("tiny") for node in job.outputs]
    assert verified and not any("/costs/" in path for path in verified)
