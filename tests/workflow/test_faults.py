"""Killed half-way at any moment, a run leaves nothing half written and ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from shrinkflow import files, records
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow


def test_a_killed_run_goes_on_to_the_same_bytes(finished, tmp_path):
    project = Project(tmp_path)
    # SIGTERM asks Snakemake to stop; SIGKILL takes it and its jobs with it.
    for kind, cells in ((signal.SIGTERM, 1), (signal.SIGKILL, 3)):
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "study.yaml"]
        run = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while len(list(tmp_path.rglob("metrics.json"))) < cells and time.monotonic() < deadline:
            assert run.poll() is None
            time.sleep(0.05)
        (os.killpg if kind == signal.SIGKILL else os.kill)(run.pid, kind)
        run.wait(timeout=120)
        # What has a record is whole.
        for record in tmp_path.rglob(f"*{records.SUFFIX}"):
            artifact = files.read_json(record)["artifact"]
            assert files.digest(tmp_path / artifact["path"]) == artifact["md5"]
    project.run("--unlock")
    project.run()
    ours, theirs = finished.artifacts(), project.artifacts()
    assert [path for path in ours if ours[path] != theirs.get(path)] == []
    assert [path for path in theirs if path not in ours and "/.part." not in path] == []
    assert project.stale() == []


def test_two_runs_at_once_are_refused_plainly(copy):
    lock = copy.folder / ".snakemake" / "locks"
    lock.mkdir(parents=True, exist_ok=True)
    (lock / "0.output.lock").write_text("results/tiny/tables/results.csv\n")
    (copy.folder / "results/tiny/tables/results.csv").unlink()
    done = copy.snakemake("--cores", "1")
    assert done.returncode != 0
    assert "lock" in (done.stdout + done.stderr).lower()
    assert "Traceback" not in done.stdout + done.stderr
