"""Killed half-way at any moment, a run leaves nothing half written and ends in the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import kills
from shrinkflow import files, records
from tests.workflow.conftest import TINY, Project

pytestmark = pytest.mark.slow

A = "results/tiny/pretrained/digits/digitsnet/A"
COMMAND = ("--cores", "2", "--configfile", "study.yaml")


def whole(folder: Path) -> None:
    """What has a record is whole."""
    for record in folder.rglob(f"*{records.SUFFIX}"):
        artifact = files.read_json(record)["artifact"]
        assert files.digest(folder / artifact["path"]) == artifact["md5"]


def test_killed_at_twenty_random_moments_a_study_ends_in_the_same_bytes(finished, tmp_path):
    project = Project(tmp_path / "killed")
    run = kills.Run(project.folder, COMMAND)
    # Jobs that outlive Snakemake would be at work beside those of the next run: not here, where bytes are compared
    # after each kill.
    ways = [way for way in kills.WAYS if not way.endswith("alone")]
    kills.disturb(run, 20, seed=1, span=1.5, ways=ways, look=lambda: whole(project.folder))
    assert len(run.done) == 20
    assert set(run.done) == set(ways)
    # SIGTERM ends Snakemake and its jobs; neither waits for anything.
    assert max(run.ends) < 30
    if run.locked():
        project.run("--unlock")
    project.run()
    ours, theirs = finished.artifacts(), project.artifacts()
    assert [path for path in ours if ours[path] != theirs.get(path)] == []
    assert [path for path in theirs if path not in ours] == []
    assert not (project.folder / "results/tiny/resume").exists()
    assert project.stale() == []


def long() -> dict:
    return TINY | {
        "weights": {"A": {"recipe": "long", "seed": 1}},
        "recipes": TINY["recipes"]
        | {"long": TINY["recipes"]["long"] | {"epochs": 300, "schedule": "cosine"}},
    }


def epoch_of(point: Path) -> int:
    return int(files.read_tensors(point)[1]["state"]["epoch"])


def test_a_training_killed_and_terminated_goes_on_to_the_same_bytes(tmp_path):
    project = Project(tmp_path / "project", long())
    project.run("--cores", "1", "data/processed/tiny/digits/dataset.safetensors")
    other = Project.existing(tmp_path / "other", project.study)
    shutil.copytree(project.folder, other.folder)
    point = project.folder / "results/tiny/resume/digits/digitsnet/A.safetensors"
    log = project.folder / "results/tiny/logs/pretrain/digits/digitsnet/A.log"
    target = f"{A}/checkpoint.safetensors"
    run = kills.Run(project.folder, (target, "--cores", "1", "--configfile", "study.yaml"))
    reached = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGTERM):
        process = run.snakemake()
        deadline = time.monotonic() + 120
        while not point.exists() or epoch_of(point) < reached + 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        if reached:
            assert f"resumed after epoch {reached} of 300" in log.read_text()
        began = time.monotonic()
        # The job first, as if memory were out; then Snakemake, as a user would.
        os.kill(kills.jobs(process)[0].pid if number == signal.SIGKILL else process.pid, number)
        assert process.wait(timeout=60) != 0
        assert time.monotonic() - began < 30
        reached = epoch_of(point)
        assert not (project.folder / target).exists()
        assert [path for path in project.folder.rglob(".part.*") if path != files.part_of(point)] == []
    project.run("--cores", "1", target)
    assert f"resumed after epoch {reached} of 300" in log.read_text()
    assert not point.exists()
    other.run("--cores", "1", target)
    assert "resumed" not in (other.folder / log.relative_to(project.folder)).read_text()
    assert project.artifacts() == other.artifacts()
    assert project.stale(target) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pretrain(project: Project, out: Path, *more: str) -> subprocess.CompletedProcess:
    """Train the weights A of the tiny study by hand."""
    record = files.read_json(project.folder / f"{A}/checkpoint.safetensors{records.SUFFIX}")
    program, *words = record["command"]
    words = [str(out / Path(word).name) if word.startswith(A) else word for word in words]
    return subprocess.run(
        [sys.executable, str(project.folder / "workflow/scripts" / program), *words, *more],
        cwd=project.folder,
        capture_output=True,
        text=True,
    )


def test_a_full_disk_costs_the_resume_point_but_no_result(finished, small, tmp_path):
    (small / "all").write_bytes(bytes(2**20))
    done = pretrain(finished, tmp_path / "out", "--resume", str(small / "point.safetensors"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written (No space left on device)") == 1
    assert [path.name for path in small.iterdir()] == ["all"]
    for name in ("checkpoint.safetensors", "history.csv", "kept.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (finished.folder / A / name).read_bytes()


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_outputs_that_cannot_be_written_are_told_and_earlier_ones_kept(finished, small, tmp_path, reason):
    for name in ("checkpoint.safetensors", "history.csv"):
        (small / name).write_text("earlier")
    (small / "more").write_bytes(bytes(800_000))
    if reason.startswith("Read"):
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    point = tmp_path / "point.safetensors"
    done = pretrain(finished, small, "--resume", str(point))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {reason}: {small / 'kept.safetensors'}"
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in small.iterdir()) == ["checkpoint.safetensors", "history.csv", "more"]
    assert (small / "checkpoint.safetensors").read_text() == "earlier"
    # Mended, the job has nothing to train.
    done = pretrain(finished, tmp_path / "out", "--resume", str(point))
    assert done.returncode == 0
    assert not point.exists()


def set_clock(project: Project, seconds: float) -> None:
    """Give all artifacts one time."""
    for top in ("data", "results"):
        for path in (project.folder / top).rglob("*"):
            if path.is_file():
                os.utime(path, (seconds, seconds))


def test_a_clock_that_jumps_makes_nothing_stale_and_hides_nothing(copy):
    """A run while the clock was a year ahead left its results; now the clock is right."""
    set_clock(copy, time.time() + 365 * 86400)
    assert copy.stale() == []
    copy.configure(TINY | {"recipes": TINY["recipes"] | {"long": TINY["recipes"]["long"] | {"lr": 0.002}}})
    counts = copy.counts()
    assert counts["pretrain"] == 1 and counts["finetune"] == 4
    # Snakemake refuses an output that seems older than its input, and says why.
    target = f"{A}/checkpoint.safetensors"
    done = copy.snakemake("--cores", "1", target)
    assert done.returncode != 0
    assert "has older modification time" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    set_clock(copy, time.time() - 60)
    copy.run("--cores", "1", target)


def test_two_runs_at_once_are_refused_plainly(copy):
    lock = copy.folder / ".snakemake" / "locks"
    lock.mkdir(parents=True, exist_ok=True)
    (lock / "0.output.lock").write_text("results/tiny/tables/results.csv\n")
    (copy.folder / "results/tiny/tables/results.csv").unlink()
    done = copy.snakemake("--cores", "1")
    assert done.returncode != 0
    assert "lock" in (done.stdout + done.stderr).lower()
    assert "Traceback" not in done.stdout + done.stderr
