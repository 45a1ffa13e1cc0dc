"""What a data set is: its source, its pictures as read, and the one processed file of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkflow import files
from shrinkflow.errors import UserError

Shape = tuple[int, int, int]
"""(channels, height, width)"""


@dataclass(frozen=True)
class RawFile:
    """A file as published, and where it can be fetched.

    `name` is unique among all sources. `checksum` is "md5:<hex>" or "sha256:<hex>". `package` is a
    file that an installed package brings, "package/path/in/it".
    """

    name: str
    checksum: str
    urls: tuple[str, ...] = ()
    package: str | None = None


@dataclass(frozen=True, eq=False)
class Pictures:
    """All labelled pictures of a source.

    images: uint8 [n, channels, height, width]; labels: int64 [n], positions in `classes`.
    test: int64 indices of the source's own test part; None where it has none and one is split off.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    test: npt.NDArray[np.int64] | None


Loader = Callable[[Sequence[Path], Shape], Pictures]
"""Reads pictures of the given shape from the raw files, given in the order of `Source.raw`; a
source without raw files of its own gets the user's: one archive or folder."""


@dataclass(frozen=True)
class Source:
    """A kind of data set. `shape` and `classes` are None where the study has to state them.

    `pictures`: how many it has to train and to test with (0: a test part is split off), if that is fixed.
    """

    shape: Shape | None
    classes: int | None
    raw: tuple[RawFile, ...]
    load: Loader
    pictures: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A processed data set.

    images: uint8 [n, channels, height, width]; labels: int64 [n], positions in `classes`.
    mean, std: one number per channel over the training part, on the scale 0..1.
    train, validation, test: int64 indices, ascending, disjoint; together they are all pictures.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]

    @property
    def shape(self) -> Shape:
        """The shape of a picture."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


_TENSORS = ("images", "labels", "train", "validation", "test")


def write(path: str | os.PathLike[str], dataset: Dataset) -> None:
    """Write a data set as one safetensors file; the same data set gives the same bytes."""
    metadata = {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "normalisation": {"mean": list(dataset.mean), "std": list(dataset.std)},
    }
    files.write_tensors(path, {name: getattr(dataset, name) for name in _TENSORS}, metadata)


def read(path: str | os.PathLike[str]) -> Dataset:
    """Read what `write` wrote. Raises `UserError` for anything else."""
    tensors, metadata = files.read_tensors(path)
    try:
        return Dataset(
            name=metadata["name"],
            classes=tuple(metadata["classes"]),
            mean=tuple(metadata["normalisation"]["mean"]),
            std=tuple(metadata["normalisation"]["std"]),
            **{name: tensors[name] for name in _TENSORS},
        )
    except KeyError as error:
        raise UserError(
            f"{path} is no processed data set (it lacks {error}); make one with prepare.py"
        ) from None
