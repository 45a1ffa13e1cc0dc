"""A study through profiles/slurm and a real Slurm, with all that goes wrong: the same bytes as without."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cluster.conftest import Cluster, submitted
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow

# A network whose first pretraining fails.
NETWORK = """
import pathlib
import sys

from torch import nn


def build(shape, classes):
    marker = pathlib.Path("failed-once")
    if sys.argv[0].endswith("pretrain.py") and not marker.exists():
        marker.touch()
        raise RuntimeError("the first attempt fails")
    first, second = nn.Conv2d(shape[0], 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head)
"""
STUDY = {
    "study": "queued",
    "datasets": {"digits": {"limit": {"train": 100, "validation": 50, "test": 50}}},
    "models": {"net": {"file": "net.py", "function": "build"}},
    "pairs": [{"dataset": "digits", "model": "net"}],
    "weights": {"A": {"recipe": "short", "seed": 1}},
    "strategies": ["random", "global-magnitude"],
    "ratios": [2],
    "seeds": [1],
    "recipes": {"short": {"optimizer": "adam", "lr": 0.004, "epochs": 1}},
    "finetune": "short",
}
# A dense control beside the two.
CELLS = 3
WORK = "finetune_measure_prune"
# A cluster for tests needs less patience, has no accounting, and a node of four cores.
PATIENCE = """
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 2
latency-wait: 20
cores: 2
"""
LIMIT = 1800


def project(folder: Path) -> Project:
    made = Project(folder, STUDY)
    (folder / "net.py").write_text(NETWORK)
    profile = folder / "profiles/slurm/config.yaml"
    text = re.sub("^(latency-wait|cores): .*$", "", profile.read_text(), flags=re.MULTILINE)
    profile.write_text(text + PATIENCE)
    return made


def command(*arguments: str) -> list[str]:
    start = [sys.executable, "-m", "snakemake", "--workflow-profile", "slurm", "--configfile", "study.yaml"]
    return [*start, "--seconds-between-status-checks", "1", *arguments]


def run(cluster: Cluster, made: Project, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = cluster.environment(made.folder / "submissions") | more
    return subprocess.run(
        command(*arguments),
        cwd=made.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def shared(
    name: str, factory: pytest.TempPathFactory, worker_id: str, run_it: Callable[[Project], None]
) -> Project:
    """Return a project that was run by whichever worker wanted it first."""
    base = factory.getbasetemp()
    root = base if worker_id == "master" else base.parent
    with FileLock(root / f"{name}.lock"):
        if (root / f"{name}.done").exists():
            return Project.existing(root / name, STUDY)
        made = project(root / name)
        run_it(made)
        (root / f"{name}.done").touch()
    return made


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """The study, run without a cluster. Tests must leave it as it is."""

    def run_it(made: Project) -> None:
        (made.folder / "failed-once").touch()
        made.run("--cores", "2")

    return shared("local", tmp_path_factory, worker_id, run_it)


@pytest.fixture(scope="module")
def queued(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """The study, run by Slurm: scores as an array, a GPU for the pretraining. Tests must leave it as it is."""

    def run_it(made: Project) -> None:
        done = run(cluster, made, "--slurm-array-jobs", "score", "--set-resources", "pretrain:gpu=1")
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        # Another worker may have another cluster.
        (made.folder / "jobs").write_text(cluster.ask("scontrol", "show", "job"))

    return shared("queued", tmp_path_factory, worker_id, run_it)


def jobs(made: Project, rule: str) -> list[str]:
    """Return what Slurm knew of the jobs of a rule when the study was done."""
    return [job for job in (made.folder / "jobs").read_text().split("\n\n") if f"/rule_{rule}/" in job]


def same(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []


def test_every_artifact_has_the_bytes_of_a_local_run(queued, local):
    same(queued.artifacts(), local.artifacts())
    assert any(path.endswith("report.html") for path in queued.artifacts())
    assert queued.stale() == []


def test_jobs_share_submissions(queued):
    found = Counter(one.jobs for one in submitted(queued.folder / "submissions"))
    # A pretraining that was tried twice, an array, a group for each cell, and one for all tables.
    wanted = {"fetch": 1, "prepare": 1, "pretrain": 2, "score": 1, f"cell-1_{WORK}": 1, f"cell-2_{WORK}": 2}
    assert found == wanted | {"tables_collect_compare_draw_report_summarise": 1}
    # Each job a submission, there would have been more than twice as many.
    assert sum(queued.counts("--forceall").values()) == 3 + CELLS * (1 + 3 + 1) + 1 + 1 + 2 + 1


def test_scores_were_an_array(queued):
    (array,) = (one for one in submitted(queued.folder / "submissions") if one.jobs == "score")
    assert array.option("--array") == f"1-{CELLS}"
    found = [dict(re.findall(r"(\w+)=(\S+)", job)) for job in jobs(queued, "score")]
    tasks = {job["ArrayTaskId"] for job in found}
    assert tasks == {str(task + 1) for task in range(CELLS)}
    assert Counter(job["JobState"] for job in found) == {"COMPLETED": CELLS}


def test_a_failed_job_is_tried_again_with_more(queued):
    first, second = (one for one in submitted(queued.folder / "submissions") if one.jobs == "pretrain")
    for name in ("-t", "--mem"):
        assert int(second.option(name)) == 2 * int(first.option(name)) > 0
    states = [re.search(r"JobState=(\w+)", job)[1] for job in jobs(queued, "pretrain")]
    assert sorted(states) == ["COMPLETED", "FAILED"]


def test_a_gpu_is_asked_for_where_the_profile_says_so(queued):
    found = [(one.jobs, one.option("--gpus")) for one in submitted(queued.folder / "submissions")]
    assert [(name, gpus) for name, gpus in found if gpus] == [("pretrain", "1")] * 2
    assert all("TresPerJob=gres:gpu:1" in job for job in jobs(queued, "pretrain"))


def test_a_study_for_gpus_asks_for_them(queued, cluster, tmp_path):
    made = Project.existing(tmp_path / "gpu", STUDY)
    shutil.copytree(queued.folder, made.folder)
    (made.folder / "submissions").unlink()
    made.configure({**STUDY, "device": "cuda"})
    done = run(cluster, made, "--retries", "0", "--until", "pretrain", REFUSE="1")
    assert done.returncode != 0
    (one,) = submitted(made.folder / "submissions")
    assert (one.jobs, one.option("--gpus")) == ("pretrain", "1")


def test_a_killed_controller_goes_on_to_the_same_bytes(queued, cluster, tmp_path):
    made = Project.existing(tmp_path / "killed", STUDY)
    shutil.copytree(queued.folder, made.folder)
    submissions = made.folder / "submissions"
    submissions.unlink()
    results = made.folder / "results/queued"
    for folder in ("tables", "figures"):
        shutil.rmtree(results / folder)
    (results / "report.html").unlink()
    for strategy in ("random", "global-magnitude"):
        shutil.rmtree(results / "cells/digits/net/A" / strategy)
    controller = subprocess.Popen(
        command(),
        cwd=made.folder,
        env=cluster.environment(submissions),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + LIMIT
    masks = results / "cells/digits/net/A"
    while len(list(masks.glob("*/ratio2/seed1/mask.safetensors"))) < 2 and time.monotonic() < deadline:
        assert controller.poll() is None
        time.sleep(0.1)
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    # What it had submitted runs on, by the name of its run, and is cancelled as docs/clusters.md says.
    (name,) = {one.option("--job-name") for one in submitted(submissions)}
    assert cluster.ask("squeue", "--noheader", "--name", name, "--states=RUNNING,PENDING")
    cluster.ask("scancel", "--name", name)
    made.run("--unlock", "--cores", "1")
    while cluster.ask("squeue", "--noheader", "--name", name, "--states=RUNNING,PENDING,COMPLETING"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    done = run(cluster, made)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    again = Counter(one.jobs for one in submitted(submissions) if one.option("--job-name") != name)
    # Its cells and tables, and nothing that was done before.
    assert again.pop("tables_collect_compare_draw_report_summarise") == 1
    assert again and all(jobs == f"cell-2_{WORK}" for jobs in again)
    left = {path: data for path, data in made.artifacts().items() if "/.part." not in path}
    same(left, queued.artifacts())
    assert made.stale() == []
