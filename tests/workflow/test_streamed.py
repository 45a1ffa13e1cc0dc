"""A data set that is never in memory, end to end: the same bytes whoever reads it, wherever it lies."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from shrinkflow.provenance import lineage, rerun
from tests.unit.pictures import CLASSES, imagenet
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow

STREAMED = {
    "study": "streamed",
    "datasets": {
        "wnids": {
            "source": "imagefolder",
            "folder": "pictures",
            "stream": True,
            "shape": [3, 32, 32],
            "classes": 3,
            "validation": 0.25,
        }
    },
    "pairs": [{"dataset": "wnids", "model": "resnet20-x0.25"}],
    "weights": {"A": {"recipe": "short", "seed": 1}},
    "strategies": ["random", "global-magnitude", "global-gradient-magnitude"],
    "ratios": [2],
    "seeds": [1],
    "recipes": {
        "short": {
            "optimizer": "adam",
            "lr": 0.01,
            "epochs": 2,
            "batch_size": 8,
            "flip": True,
            "resized_crop": True,
        }
    },
    "finetune": "short",
}


def at(folder: str) -> dict:
    return STREAMED | {"datasets": {"wnids": STREAMED["datasets"]["wnids"] | {"folder": folder}}}


def test_same_bytes_whoever_reads_wherever_the_pictures_are(tmp_path, monkeypatch):
    """Grey, CMYK and PNG pictures of all sizes among them, as in ImageNet."""
    imagenet(tmp_path / "pictures")
    projects = []
    for name, workers, targets in (("inline", "0", ["metrics"]), ("threads", "3", [])):
        monkeypatch.setenv("SHRINKFLOW_WORKERS", workers)
        project = Project(tmp_path / name, STREAMED)
        shutil.copytree(tmp_path / "pictures", project.folder / "pictures")
        project.run("--cores", "2", *targets)
        projects.append(project)
    inline, threads = (project.artifacts() for project in projects)
    assert len(inline) > 40
    assert inline.items() <= threads.items()
    results = pd.read_csv(projects[1].folder / "results/streamed/tables/results.csv")
    assert len(results) == 4
    assert results["top5"].eq(1).all()  # of three classes

    # Neither another number of workers nor another place makes anything stale.
    project = projects[1]
    monkeypatch.setenv("SHRINKFLOW_WORKERS", "1")
    (project.folder / "pictures").rename(project.folder / "moved")
    project.configure(at("moved"))
    assert project.stale() == []

    # Jobs that read pictures can be done again elsewhere, which records say nothing of.
    monkeypatch.chdir(project.folder)
    cell = "results/streamed/cells/wnids/resnet20-x0.25/A/random/ratio2/seed1"
    prepare = rerun.Job((lineage.node("data/processed/streamed/wnids/dataset.safetensors"),))
    jobs = [*rerun.jobs_of([cell]), prepare]
    outcomes = rerun.verify(jobs, 2, lambda outcome: None, {"wnids": "moved"})
    # Scores, mask, checkpoint and history, metrics, data set.
    assert [outcome.identical for outcome in outcomes] == [True] * 6
    reading = [job for job in jobs if "mask" not in job.outputs[0].path]
    outcomes = rerun.verify(reading, 1, lambda outcome: None)
    assert {outcome.failure for outcome in outcomes} == {"its folder of pictures is not known"}

    # A byte that changed is told by the job that reads it, in one sentence.
    path = project.folder / "moved/train" / CLASSES[0] / f"{CLASSES[0]}_1.JPEG"
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    assert project.stale() == []
    done = project.snakemake("--cores", "2", "--forcerun", "pretrain")
    assert done.returncode != 0
    said = f"moved/train/{CLASSES[0]}/{CLASSES[0]}_1.JPEG was changed after the data set was made of it"
    assert said in done.stdout + done.stderr

    # A picture that is gone makes the data set stale, and nothing runs without the folder.
    path.unlink()
    assert project.counts()["prepare"] == 1
    (project.folder / "moved").rename(project.folder / "gone")
    done = project.snakemake("--dry-run", "--cores", "1")
    assert "'datasets.wnids.folder': there is no folder 'moved'" in done.stdout + done.stderr
