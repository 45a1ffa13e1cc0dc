"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, verified, unpacked and read by torchvision.

Names, addresses and hashes are torchvision's, repeated here because importing it takes seconds; a
test compares them. MNIST: LeCun et al. 1998. Fashion-MNIST: Xiao et al. 2017. CIFAR: Krizhevsky
2009.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from shrinkflow.data import SOURCES
from shrinkflow.data.dataset import Pictures, RawFile, Shape, Source
from shrinkflow.importing import import_torchvision


def load(kind: str, folder: str, prefix: str, raw: Sequence[Path], shape: Shape) -> Pictures:
    """Read a data set by torchvision's class `kind`; `raw` are its files, checksums verified.

    They are copied to where the class looks for them (`folder` of its root, names without
    `prefix`), since it unpacks beside them and downloads over a file whose hash is not its own.
    """
    reader = getattr(import_torchvision().datasets, kind)
    with tempfile.TemporaryDirectory(prefix="shrinkflow-") as root:
        Path(root, folder).mkdir(parents=True, exist_ok=True)
        for path in raw:
            shutil.copyfile(path, Path(root, folder, path.name.removeprefix(prefix)))
        train, test = (reader(root, train=own, download=True) for own in (True, False))
    images = np.concatenate([np.asarray(part.data, dtype=np.uint8) for part in (train, test)])
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in (train, test)])
    # [n, h, w] or [n, h, w, c] to [n, c, h, w]
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return Pictures(
        images=np.ascontiguousarray(images),
        labels=labels,
        classes=tuple(train.classes),
        test=np.arange(len(train.data), len(images), dtype=np.int64),
    )


def _register_mnist(name: str, kind: str, mirrors: Sequence[str], md5s: Mapping[str, str]) -> None:
    """MNIST and Fashion-MNIST name their files alike, so here the set's name goes before."""
    raw = tuple(
        RawFile(f"{name}-{file}", f"md5:{md5}", urls=tuple(mirror + file for mirror in mirrors))
        for file, md5 in md5s.items()
    )
    reader = partial(load, kind, f"{kind}/raw", f"{name}-")
    SOURCES.register(name, Source((1, 28, 28), 10, raw, reader, (60_000, 10_000)), __name__)


def _register_cifar(name: str, kind: str, classes: int, file: str, md5: str) -> None:
    raw = RawFile(file, f"md5:{md5}", urls=(f"https://www.cs.toronto.edu/~kriz/{file}",))
    reader = partial(load, kind, ".", "")
    SOURCES.register(name, Source((3, 32, 32), classes, (raw,), reader, (50_000, 10_000)), __name__)


_register_mnist(
    "mnist",
    "MNIST",
    ["https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"],
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
_register_mnist(
    "fashion-mnist",
    "FashionMNIST",
    ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"],
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)
_register_cifar("cifar10", "CIFAR10", 10, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
_register_cifar("cifar100", "CIFAR100", 100, "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
