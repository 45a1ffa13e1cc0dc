"""What goes wrong around a snapshot: each gives one plain sentence, and leaves what was good as it was."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from shrinkflow import files, records
from tests.workflow import versioned
from tests.workflow.versioned import CELL, FIGURE, Versioned

pytestmark = pytest.mark.slow

CHECKPOINT = f"{CELL}/checkpoint.safetensors"


def stored(store: Path, md5: str) -> Path:
    """Where DVC keeps an object."""
    return store / "files/md5" / md5[:2] / md5[2:]


@pytest.fixture
def bare(spoilt: Versioned, tmp_path: Path) -> Versioned:
    """A fresh clone, with the remote at hand."""
    return versioned.clone(spoilt, tmp_path / "clone")


def test_an_object_missing_from_the_remote(spoilt, bare, tmp_path):
    md5 = files.digest(spoilt.folder / CHECKPOINT)
    place = stored(tmp_path / "remote", md5)
    place.rename(tmp_path / "mislaid")
    said = bare.refused("restore")
    assert "could not be brought" in said or "neither in DVC's cache nor in the remote" in said
    assert "dvc push" in said
    said = bare.refused("restore", CELL)
    assert f"{CHECKPOINT} is neither in DVC's cache nor in the remote" in said
    status, trail = spoilt.trail(CHECKPOINT)
    assert status == 1
    assert f"{CHECKPOINT}: is not in the remote; run 'dvc push'" in trail["faults"]
    (tmp_path / "mislaid").rename(place)
    assert bare.shrinkflow("restore").returncode == 0
    bare.quiet()


def test_a_corrupt_object_in_the_remote(spoilt, bare, tmp_path):
    place = stored(tmp_path / "remote", files.digest(spoilt.folder / CHECKPOINT))
    place.chmod(0o644)
    good = place.read_bytes()
    place.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    status, trail = spoilt.trail(CHECKPOINT)
    assert status == 1
    assert any("is damaged in the remote" in fault for fault in trail["faults"])
    said = bare.refused("restore", CHECKPOINT)
    assert "damaged" in said
    assert not (bare.folder / CHECKPOINT).exists()
    said = bare.refused("restore")
    assert "checkpoint.safetensors" in said or "damaged" in said or "could not be brought" in said
    assert bare.snakemake("-n").returncode == 0
    place.write_bytes(good)
    shutil.rmtree(bare.folder / ".dvc/cache")
    shutil.rmtree(bare.folder / "results")
    assert bare.shrinkflow("restore").returncode == 0
    bare.quiet()


def test_a_corrupt_object_in_the_cache(spoilt, tmp_path):
    md5 = files.digest(spoilt.folder / CHECKPOINT)
    place = stored(spoilt.folder / ".dvc/cache", md5)
    place.chmod(0o644)
    data = place.read_bytes()
    place.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    good = spoilt.artifacts()
    shutil.rmtree(spoilt.folder / "results")
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    said = spoilt.refused("restore")
    assert "checkpoint.safetensors" in said or "results/tiny/cells" in said or "could not be brought" in said
    # The remote's copy mends it.
    (tmp_path / "elsewhere").rename(tmp_path / "remote")
    assert spoilt.shrinkflow("restore").returncode == 0
    assert spoilt.artifacts() == good


def test_no_remote_and_a_remote_that_is_gone(bare, tmp_path):
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    for target in ([], [CELL]):
        said = bare.refused("restore", *target)
        assert "remote" in said
    bare.does("dvc", "remote", "remove", "store")
    for target in ([], [CELL]):
        assert "remote" in bare.refused("restore", *target)
    assert bare.artifacts() == {}


def test_an_unreachable_remote_is_a_disagreement_unless_it_is_not_asked(spoilt, tmp_path):
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    assert "the remote 'store' cannot be reached" in spoilt.refused("trace", FIGURE)
    assert spoilt.trail(FIGURE, "--no-remote")[0] == 0


def test_a_lock_that_is_no_yaml(spoilt):
    (spoilt.folder / "dvc.lock").write_text("stages: [")
    for command in (("trace", FIGURE), ("restore",), ("snapshot", "--allow-dirty")):
        said = spoilt.refused(*command)
        assert "dvc.lock" in said
        assert said.count("\n") <= 2
    assert spoilt.lock() == b"stages: ["


def test_a_dirty_tree(spoilt):
    path = spoilt.folder / "workflow/scripts/shrinkflow/seeds.py"
    path.write_text(path.read_text() + "# A thought.\n")
    before = spoilt.lock()
    said = spoilt.refused("snapshot")
    assert "workflow/scripts/shrinkflow/seeds.py" in said and "commit them first" in said
    assert spoilt.lock() == before
    status, trail = spoilt.trail(FIGURE)
    assert status == 0
    assert trail["git"]["dirty"] == ["workflow/scripts/shrinkflow/seeds.py"]
    assert spoilt.shrinkflow("snapshot", "--allow-dirty").returncode == 0


def test_two_at_once(spoilt):
    """Snakemake at work, or DVC: who comes second is told, and the first is not disturbed."""
    (spoilt.folder / CHECKPOINT).unlink()
    (spoilt.folder / f"{CHECKPOINT}{records.SUFFIX}").unlink()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", CHECKPOINT]
    environment = spoilt.environment()
    run = subprocess.Popen(command, cwd=spoilt.folder, env=environment, stderr=subprocess.DEVNULL)
    locks = spoilt.folder / ".snakemake/locks"
    deadline = time.monotonic() + 60
    while not any(locks.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGSTOP)
    try:
        assert "Snakemake is at work in this folder" in spoilt.refused("snapshot")
    finally:
        os.kill(run.pid, signal.SIGCONT)
    assert run.wait(timeout=300) == 0
    spoilt.quiet()
    held = "import time\nfrom dvc.repo import Repo\nwith Repo('.') as r, r.lock:\n print('held', flush=True); time.sleep(60)"
    dvc = subprocess.Popen([sys.executable, "-c", held], cwd=spoilt.folder, stdout=subprocess.PIPE, text=True)
    try:
        assert dvc.stdout.readline() == "held\n"
        before = spoilt.lock()
        assert "DVC is at work in this folder" in spoilt.refused("snapshot")
        assert spoilt.lock() == before
    finally:
        dvc.kill()
        dvc.wait()


def test_a_disk_that_is_full_during_a_snapshot(spoilt):
    """The limit on the size of files stands for a full disk: writing ends in the middle of a file."""
    # An earlier lock, of fewer stages, and an empty cache: all has to be written.
    document = yaml.safe_load(spoilt.lock())
    del document["stages"]["figures"]
    (spoilt.folder / "dvc.lock").write_text(yaml.safe_dump(document, sort_keys=False))
    shutil.rmtree(spoilt.folder / ".dvc/cache")
    before = spoilt.lock()
    limit = 100_000
    assert (spoilt.folder / CHECKPOINT).stat().st_size > limit

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = spoilt.shrinkflow("snapshot", preexec_fn=small)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr, done.stderr
    assert "File too large" in done.stderr or "is the disk full?" in done.stderr
    assert spoilt.lock() == before
    assert not list(spoilt.folder.rglob(".part.*"))
    assert spoilt.shrinkflow("snapshot").returncode == 0
    assert spoilt.lock() != before
    spoilt.quiet()


def test_a_pull_that_was_killed_goes_on(spoilt, bare):
    for seconds in (1.0, 1.5, 2.0):
        command = [sys.executable, "-m", "shrinkflow", "restore"]
        environment = bare.environment()
        run = subprocess.Popen(command, cwd=bare.folder, env=environment, start_new_session=True)
        time.sleep(seconds)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    # DVC's own lock file of a killed run does not stand in the way.
    done = bare.shrinkflow("restore")
    assert done.returncode == 0, done.stderr
    assert bare.artifacts() == spoilt.artifacts()
    bare.quiet()


def test_local_changes_are_not_overwritten_by_a_restore(spoilt):
    path = spoilt.folder / CHECKPOINT
    path.write_bytes(b"mine, and nowhere else")
    said = spoilt.refused("restore")
    assert "checkpoint.safetensors" in said or "results/tiny/cells" in said
    assert path.read_bytes() == b"mine, and nowhere else"


def test_restore_without_a_snapshot_and_of_what_is_in_none(spoilt):
    assert "no snapshot holds results/tiny/nothing" in spoilt.refused("restore", "results/tiny/nothing")
    (spoilt.folder / "dvc.lock").unlink()
    assert "there is no dvc.lock: no snapshot of this study was taken" in spoilt.refused("restore")


def test_a_stage_file_that_is_behind_the_study_is_refused(spoilt):
    (spoilt.folder / "dvc.yaml").write_text((spoilt.folder / "dvc.yaml").read_text() + "# mine\n")
    assert "run 'shrinkflow stages'" in spoilt.refused("stages", "--check")
    assert "run 'shrinkflow stages'" in spoilt.refused("stage", "tables")
    assert spoilt.shrinkflow("stages").returncode == 0
    assert spoilt.shrinkflow("stages", "--check").returncode == 0
    assert "has no stage 'table'; did you mean 'tables'?" in spoilt.refused("stage", "table")


def test_a_stage_whose_inputs_are_not_good_is_refused(spoilt):
    dataset = "data/processed/tiny/digits/dataset.safetensors"
    data = bytearray((spoilt.folder / dataset).read_bytes())
    data[-1] ^= 1
    (spoilt.folder / dataset).write_bytes(data)
    (spoilt.folder / CHECKPOINT).unlink()
    said = spoilt.refused("stage", "cells-digits-digitsnet-random")
    assert f"{dataset}: was changed after it was made" in said
    assert not (spoilt.folder / CHECKPOINT).exists()


def test_what_was_edited_is_not_thrown_away_by_a_stage(spoilt):
    path = spoilt.folder / CHECKPOINT
    path.write_bytes(b"edited")
    said = spoilt.call("dvc", "repro")
    assert said.returncode != 0
    assert f"{CHECKPOINT}: was changed after it was made" in said.stderr
    assert path.read_bytes() == b"edited"


def test_a_folder_that_is_no_project(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "shrinkflow", "snapshot"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} lies in no shrinkflow project")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace", FIGURE, "--where", "ratio"], "is not NAME=VALUE"),
        (["verify", "--sample", "0"], "is not a whole number above 0"),
        (["snapsot"], "invalid choice: 'snapsot'"),
    ],
)
def test_arguments_that_cannot_be(spoilt, arguments, message):
    done = spoilt.shrinkflow(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_stages_of_the_default_study_are_current():
    """dvc.yaml, which is generated, is committed."""
    root = versioned.ROOT
    done = subprocess.run(
        [sys.executable, "-m", "shrinkflow", "stages", "--check"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    assert all(
        out[name] == {"persist": True}
        for stage in stages.values()
        for out in stage.get("outs", [])
        for name in out
    )
    config = (root / ".dvc/config").read_text()
    assert 'type = "reflink,copy"' in config
