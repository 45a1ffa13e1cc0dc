"""shrinkflow.data.vision: torchvision's tables repeated truly, its readers used, no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import socket
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from shrinkflow import importing
from shrinkflow.data import SOURCES, building
from shrinkflow.data.dataset import Pictures
from shrinkflow.data.splits import Plan

KINDS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


@pytest.fixture(scope="module")
def datasets() -> ModuleType:
    module: ModuleType = importing.import_torchvision().datasets
    return module


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_tables_are_torchvisions(name: str, datasets: ModuleType) -> None:
    kind = getattr(datasets, KINDS[name])
    found = [(raw.name, raw.checksum, raw.urls) for raw in SOURCES[name].raw]
    assert found == [
        (f"{name}-{file}", f"md5:{md5}", tuple(mirror + file for mirror in kind.mirrors))
        for file, md5 in kind.resources
    ]
    assert SOURCES[name].classes == len(kind.classes)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_tables_are_torchvisions(name: str, datasets: ModuleType) -> None:
    kind = getattr(datasets, KINDS[name])
    (raw,) = SOURCES[name].raw
    assert (raw.name, raw.checksum, raw.urls) == (kind.filename, f"md5:{kind.tgz_md5}", (kind.url,))


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST: a magic number that holds the number of axes, sizes, bytes."""
    header = np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_files_are_read(
    name: str, datasets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"train": random(0, 40, 28, 28), "t10k": random(1, 20, 28, 28)}
    labels = {part: (np.arange(len(images[part])) % 10).astype(np.uint8) for part in images}
    files = {f"{part}-images-idx3-ubyte.gz": idx(images[part]) for part in images}
    files |= {f"{part}-labels-idx1-ubyte.gz": idx(labels[part]) for part in labels}
    kind = getattr(datasets, KINDS[name])
    monkeypatch.setattr(kind, "resources", [(file, md5(data)) for file, data in files.items()])
    for file, data in files.items():
        (tmp_path / f"{name}-{file}").write_bytes(data)

    found = load(name, sorted(tmp_path.iterdir()))
    np.testing.assert_array_equal(found.images[:40, 0], images["train"])
    np.testing.assert_array_equal(found.images[40:, 0], images["t10k"])
    np.testing.assert_array_equal(found.labels[:40], labels["train"])
    np.testing.assert_array_equal(found.labels[40:], labels["t10k"])
    assert found.test is not None
    assert found.test.tolist() == list(range(40, 60))
    assert found.classes == tuple(kind.classes)
    building.build(name, found, (1, 28, 28), 10, Plan(validation=0.25))
    assert len(list(tmp_path.iterdir())) == 4


def cifar_archive(
    kind: Any, monkeypatch: pytest.MonkeyPatch, classes: list[str], label_key: str
) -> tuple[bytes, dict[str, np.ndarray], dict[str, list[int]]]:
    """Write a tiny archive in CIFAR's format, and make torchvision expect its hashes."""
    images, labels, members = {}, {}, {}
    for i, (file, _) in enumerate([*kind.train_list, *kind.test_list]):
        images[file] = random(i, 10, 3, 32, 32)
        labels[file] = [(i + j) % len(classes) for j in range(10)]
        batch = {"data": images[file].reshape(10, -1), label_key: labels[file]}
        members[file] = pickle.dumps(batch, protocol=2)
    members[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: classes}, protocol=2)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for file, data in members.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for attribute in ("train_list", "test_list"):
        files = [file for file, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, [[file, md5(members[file])] for file in files])
    meta = kind.meta | {"md5": md5(members[kind.meta["filename"]])}
    monkeypatch.setattr(kind, "meta", meta)
    monkeypatch.setattr(kind, "tgz_md5", md5(stream.getvalue()))
    return stream.getvalue(), images, labels


@pytest.mark.parametrize(
    ("name", "label_key", "batches"), [("cifar10", "labels", 6), ("cifar100", "fine_labels", 2)]
)
def test_cifar_files_are_read(
    name: str,
    label_key: str,
    batches: int,
    datasets: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = getattr(datasets, KINDS[name])
    classes = [f"class{i}" for i in range(10)]
    data, images, labels = cifar_archive(kind, monkeypatch, classes, label_key)
    path = tmp_path / SOURCES[name].raw[0].name
    path.write_bytes(data)

    found = load(name, [path])
    np.testing.assert_array_equal(found.images, np.concatenate(list(images.values())))
    assert found.labels.tolist() == [label for batch in labels.values() for label in batch]
    assert found.test is not None
    n = 10 * batches
    assert found.test.tolist() == list(range(n - 10, n))
    assert found.classes == tuple(classes)
    assert found.images.flags.c_contiguous
    assert path.read_bytes() == data


def load(name: str, paths: list[Path]) -> Pictures:
    source = SOURCES[name]
    assert source.shape is not None
    return source.load(paths, source.shape)


def test_imported_torchvision_is_usable_and_stays_the_same(datasets: ModuleType) -> None:
    import torch

    found = importing.import_torchvision()
    assert found is sys.modules["torchvision"]
    assert found.datasets is datasets
    model = found.models.get_model("squeezenet1_1").eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_a_torchvision_that_imports_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declaring an operator that its library then defines would end the process."""
    import torch

    module = ModuleType("torchvision")
    monkeypatch.setattr(importing, "_torchvision", lambda: module)
    monkeypatch.setattr(torch.library, "define", lambda *_: pytest.fail("declared"))
    assert importing.import_torchvision() is module


def test_other_errors_of_the_import_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> ModuleType:
        raise RuntimeError("something else")

    monkeypatch.setattr(importing, "_torchvision", fail)
    with pytest.raises(RuntimeError, match="something else"):
        importing.import_torchvision()
