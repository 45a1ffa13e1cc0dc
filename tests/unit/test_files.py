from __future__ import annotations

import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from shrinkflow import files
from shrinkflow.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"kept": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"bad": float("nan")})
    with pytest.raises(RuntimeError), files.atomic(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"kept": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_run_left_is_overwritten(tmp_path):
    (tmp_path / ".part.a.txt").write_text("half of something long")
    files.write_text(tmp_path / "a.txt", "whole\n")
    assert (tmp_path / "a.txt").read_bytes() == b"whole\n"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_tensors_and_metadata_come_back(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.uint8).reshape(2, 3).T, "a": np.array(3, dtype=np.int64)}
    files.write_tensors(tmp_path / "x.safetensors", arrays, {"n": 1, "list": ["z", "a"]})
    found, metadata = files.read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"n": 1, "list": ["z", "a"]}
    assert (found["b"] == arrays["b"]).all()
    assert found["a"] == 3
    assert found["a"].shape == ()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o666 & ~mask


def test_tensor_files_have_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys, numpy as np; from shrinkflow import files; files.write_tensors(sys.argv[1], "
        "{k: np.ones(3) for k in 'cab'}, {k: 1 for k in 'zyxwv'})"
    )
    for seed in ("0", "1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{seed}.safetensors")],
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_a_truncated_tensor_file_is_a_plain_error(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, {"a": np.ones(9)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"x.safetensors is not a whole safetensors file"):
        files.read_tensors(path)


def test_missing_and_damaged_files_are_plain_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        files.read_tensors(tmp_path / "none.safetensors")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"x.json is not valid JSON"):
        files.read_json(tmp_path / "x.json")


def test_md5_is_the_one_dvc_computes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.digest(tmp_path / "x") == "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize(
    ("path", "limit", "message"),
    [("a.txt", 1000, "File too large"), ("a.txt/b.txt", 10**6, "File exists")],
    ids=["no room", "a file where a folder should be"],
)
def test_a_write_that_cannot_be_is_a_plain_error_and_leaves_the_old_file(tmp_path, path, limit, message):
    (tmp_path / "a.txt").write_text("old")
    code = (
        "import resource, sys; from shrinkflow import errors, files; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2); "
        "errors.run(lambda: files.write_text(sys.argv[1], 'x' * 5000))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / path), str(limit)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}: ")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
