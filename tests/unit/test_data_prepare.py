"""prepare.py: from raw files to one processed file and its record, the same bytes every time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare
from shrinkflow import files
from shrinkflow.data import dataset, members
from shrinkflow.errors import UserError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from importlib.resources import files as resources

    path = tmp_path_factory.mktemp("raw") / "digits.csv.gz"
    path.write_bytes((resources("sklearn") / "datasets/data/digits.csv.gz").read_bytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: object) -> dataset.Dataset:
    words = ("prepare.py", "--name", "mine", "--out", out, *words)
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    prepare.main()
    return dataset.read(out)


def record(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(f"{out}.record.json").read_text())
    return found


def test_digits(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.safetensors"
    data = run(monkeypatch, out, "--source", "digits", "--raw", digits)
    assert (data.name, data.images.shape) == ("mine", (1797, 1, 8, 8))
    assert [len(data.train), len(data.validation), len(data.test)] == [1294, 144, 359]
    found = record(out)
    assert found["parameters"] == {
        "name": "mine",
        "source": "digits",
        "shape": [1, 8, 8],
        "classes": 10,
        "validation": 0.1,
        "test": 0.2,
        "split_seed": 0,
        "limits": {},
        "folder": None,
    }
    (described,) = found["inputs"]  # type: ignore[misc]
    assert described["md5"] == files.digest(digits)


def test_twice_gives_the_same_bytes_and_another_seed_others(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--source", "digits", "--raw", digits, "--limit-train", 100, "--limit-test", 50]
    outs = [tmp_path / name for name in ("a", "b", "c")]
    for out, seed in zip(outs, (3, 3, 4), strict=True):
        data = run(monkeypatch, out, *words, "--split-seed", seed)
        assert [len(data.train), len(data.validation), len(data.test)] == [100, 144, 50]
        assert len(data.images) == 294
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert outs[0].read_bytes() != outs[2].read_bytes()
    assert record(outs[0])["parameters"]["limits"] == {"train": 100, "test": 50}  # type: ignore[index]


IMAGES = ["--source", "imagefolder", "--shape", 3, 4, 6, "--classes", 2]


def test_folder_and_archive_give_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "pets.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(folder, "pets")
    one = run(monkeypatch, tmp_path / "a", *IMAGES, "--folder", folder)
    run(monkeypatch, tmp_path / "b", *IMAGES, "--raw", archive)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert one.classes == ("cat", "dog")
    assert [len(one.train), len(one.validation), len(one.test)] == [29, 3, 8]
    of_folder, of_archive = record(tmp_path / "a"), record(tmp_path / "b")
    assert of_folder["inputs"] == []
    assert of_folder["parameters"]["folder"] == members.folder_digest(folder)  # type: ignore[index]
    assert of_archive["parameters"]["folder"] is None  # type: ignore[index]
    assert str(tmp_path / "pets/") not in json.dumps(of_folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "digit"], "unknown data set 'digit'; did you mean 'digits'"),
        (["--source", "imagefolder", "--classes", 2], "shape is missing"),
        (["--source", "imagefolder", "--shape", 3, 4, 6], "classes is missing"),
        (["--source", "digits", "--classes", 9], "classes is 9, but this data set has 10"),
        (["--source", "digits", "--validation", 1.5], "validation is 1.5"),
        (["--source", "digits", "--limit-test", 360], "limit.test is 360, but .* has 359"),
        (["--source", "cifar10"], "read from cifar-10-python.tar.gz"),
    ],
)
def test_mistakes(
    words: list[object],
    message: str,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=message):
        run(monkeypatch, tmp_path / "out", *words, "--raw", digits)
    assert list(tmp_path.iterdir()) == []


def test_pictures_other_than_stated(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--source", "imagefolder", "--folder", folder, "--shape", 3, 4, 6, "--classes", 3]
    with pytest.raises(UserError, match="classes of mine is stated as 3, but it has 2: cat, dog"):
        run(monkeypatch, tmp_path / "out", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_raw_file_with_other_bytes(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "digits.csv.gz"
    shutil.copy(digits, other)
    other.write_bytes(other.read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"digits\.csv\.gz has sha256"):
        run(monkeypatch, tmp_path / "out", "--source", "digits", "--raw", other)


def test_a_mistake_is_one_line_on_stderr(digits: Path, tmp_path: Path) -> None:
    words = ["--name", "x", "--source", "digits", "--raw", digits, "--out", tmp_path / "x"]
    words += ["--shape", 3, 8, 8]
    done = subprocess.run(
        [sys.executable, prepare.__file__, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: shape is (3, 8, 8), but this data set has (1, 8, 8)")
    assert done.stderr.count("\n") == 1
