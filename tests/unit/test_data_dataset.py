"""shrinkflow.data.dataset: the processed file; shrinkflow.data: the registry stays light."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from shrinkflow import files
from shrinkflow.data import SOURCES, dataset
from shrinkflow.errors import UserError

EXAMPLE = dataset.Dataset(
    name="tiny",
    images=np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2),
    labels=np.array([0, 1, 0, 1]),
    classes=("cat", "Hund \N{DOG FACE}"),
    mean=(0.1, 0.2, 1 / 3),
    std=(0.4, 0.5, 0.6),
    train=np.array([0, 1]),
    validation=np.array([2]),
    test=np.array([3]),
)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    dataset.write(tmp_path / "tiny.safetensors", EXAMPLE)
    found = dataset.read(tmp_path / "tiny.safetensors")
    for field in fields(dataset.Dataset):
        before, after = getattr(EXAMPLE, field.name), getattr(found, field.name)
        assert type(before) is type(after)
        np.testing.assert_array_equal(before, after)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype


def test_bytes_are_stable_and_depend_on_content(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, example in zip(paths, [EXAMPLE, EXAMPLE, replace(EXAMPLE, name="o")], strict=True):
        dataset.write(path, example)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()


@pytest.mark.parametrize("lost", ["images", "test", "classes", "normalisation"])
def test_another_safetensors_file_is_refused(lost: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    dataset.write(path, EXAMPLE)
    tensors, metadata = files.read_tensors(path)
    tensors.pop(lost, None)
    metadata.pop(lost, None)
    files.write_tensors(path, tensors, metadata)
    with pytest.raises(UserError, match=f"lacks '{lost}'"):
        dataset.read(path)


def test_damaged_or_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    dataset.write(path, EXAMPLE)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        dataset.read(path)
    with pytest.raises(UserError, match="does not exist"):
        dataset.read(tmp_path / "y")


def test_all_sources_are_registered() -> None:
    assert SOURCES.names() == [
        "cifar10",
        "cifar100",
        "digits",
        "fashion-mnist",
        "imagefolder",
        "imagenet",
        "mnist",
        "places365",
        "tiny-imagenet",
    ]


def test_raw_file_names_are_unique() -> None:
    """They share one mirror folder, and MNIST and Fashion-MNIST are published under equal names."""
    names = [raw.name for source in SOURCES.names() for raw in SOURCES[source].raw]
    assert len(names) == 4 + 4 + 1 + 1 + 1 + 1
    assert len(set(names)) == len(names)


def test_registry_imports_neither_torch_nor_torchvision_nor_sklearn() -> None:
    code = (
        "import sys; from shrinkflow.data import SOURCES; SOURCES.names();"
        "print({'torch', 'torchvision', 'sklearn'} & set(sys.modules))"
    )
    scripts = Path(dataset.__file__).parents[2]
    found = subprocess.check_output([sys.executable, "-c", code], cwd=scripts, text=True)
    assert found == "set()\n"
