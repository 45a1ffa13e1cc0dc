"""What a data set is: its source, its pictures as read or listed, and the one processed file of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
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


@dataclass(frozen=True, eq=False)
class Listing:
    """All labelled pictures of a folder, by their paths in it, not read.

    labels: int64 [n], positions in `classes`. test: as of `Pictures`.
    """

    paths: Sequence[str]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    test: npt.NDArray[np.int64] | None


Loader = Callable[[Sequence[Path], Shape], Pictures]
"""Reads pictures of the given shape from the raw files, given in the order of `Source.raw`; a
source without raw files of its own gets the user's: one archive or folder."""

Lister = Callable[[Path], Listing]
"""Finds the pictures of a folder."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""(means, standard deviations), one number per channel, on the scale 0..1."""


@dataclass(frozen=True)
class Source:
    """A kind of data set. `shape` and `classes` are None where the study has to state them.

    `load` is None where the pictures are too many for memory, `find` where they always go there.
    `pictures`: how many it has to train and to test with (0: a test part is split off), if that is fixed.
    `own`: how the study can name the user's copy: by "folder", by "archive".
    `normalisation`: that of streamed pictures, where everybody uses the same.
    """

    shape: Shape | None
    classes: int | None
    raw: tuple[RawFile, ...]
    load: Loader | None
    pictures: tuple[int, int] | None = None
    find: Lister | None = None
    own: tuple[str, ...] = ()
    normalisation: Normalisation | None = None


@dataclass(frozen=True, eq=False)
class Files:
    """Pictures that stay in their files, and are decoded whenever they are wanted.

    names, ends: the paths in the folder, UTF-8, one after the other (uint8), and where each ends (int64 [n]).
    digests: uint8 [n, 16], the md5 of each file. resize: what the shorter side of a picture becomes before
    the centre is cut out. folder: where they are; None: nobody said. That is no part of the data set.
    """

    names: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]
    resize: int
    folder: Path | None = None

    def path(self, index: int) -> str:
        """Return the path of a picture in the folder."""
        begin = self.ends[index - 1] if index else 0
        return os.fsdecode(self.names[begin : self.ends[index]].tobytes())

    @classmethod
    def of(
        cls, paths: Sequence[str], digests: npt.NDArray[np.uint8], resize: int, folder: Path | None = None
    ) -> Files:
        """Return the same of a list of paths."""
        names = list(map(os.fsencode, paths))
        ends = np.fromiter(accumulate(map(len, names)), dtype=np.int64, count=len(names))
        blob = np.frombuffer(b"".join(names), dtype=np.uint8)
        return cls(blob, ends, digests, resize, folder)


def usual_resize(shape: Shape) -> int:
    """Return what the shorter side of a picture becomes before the centre is cut out: 256 for 224 x 224."""
    return round(max(shape[1:]) * 256 / 224)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A processed data set.

    images: uint8 [n, channels, height, width]; n is 0 where the pictures stay in `files`.
    labels: int64 [n], positions in `classes`.
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
    files: Files | None = None

    @property
    def shape(self) -> Shape:
        """The shape of a picture, as a network sees it."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


_TENSORS = ("images", "labels", "train", "validation", "test")
_OF_FILES = ("names", "ends", "digests")


def write(path: str | os.PathLike[str], dataset: Dataset) -> None:
    """Write a data set as one safetensors file; the same data set gives the same bytes.

    Of streamed pictures it holds the paths in their folder and the hashes, not where the folder is.
    """
    metadata: dict[str, object] = {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "normalisation": {"mean": list(dataset.mean), "std": list(dataset.std)},
    }
    tensors = {name: getattr(dataset, name) for name in _TENSORS}
    if dataset.files is not None:
        metadata["resize"] = dataset.files.resize
        tensors |= {name: getattr(dataset.files, name) for name in _OF_FILES}
    files.write_tensors(path, tensors, metadata)


def read(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Read what `write` wrote; `folder` is where the pictures are, if they are streamed.

    Raises `UserError` for anything else.
    """
    tensors, metadata = files.read_tensors(path)
    try:
        listed = None
        if "resize" in metadata:
            listed = Files(
                **{name: tensors[name] for name in _OF_FILES},
                resize=metadata["resize"],
                folder=Path(folder) if folder else None,
            )
        found = Dataset(
            name=metadata["name"],
            classes=tuple(metadata["classes"]),
            mean=tuple(metadata["normalisation"]["mean"]),
            std=tuple(metadata["normalisation"]["std"]),
            files=listed,
            **{name: tensors[name] for name in _TENSORS},
        )
    except (KeyError, TypeError) as error:
        lack = f"it lacks {error}" if isinstance(error, KeyError) else "its metadata are of another kind"
        raise UserError(f"{path} is no processed data set ({lack}); make one with prepare.py") from None
    fault = _fault(found)
    if fault:
        raise UserError(f"{path} is no processed data set ({fault}); delete it and make it again")
    return found


def _fault(dataset: Dataset) -> str | None:
    """Return what contradicts the promises of `Dataset` in what was read, if anything does."""
    images, labels = dataset.images, dataset.labels
    if images.ndim != 4 or images.dtype != np.uint8 or labels.ndim != 1 or labels.dtype != np.int64:
        return "its pictures or labels are of another kind"
    if dataset.files is None and len(images) != len(labels):
        return f"it has {len(images)} pictures and {len(labels)} labels"
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(dataset.classes):
        return f"it has labels from {labels.min()} to {labels.max()}, and {len(dataset.classes)} classes"
    channels = images.shape[1]
    if len(dataset.mean) != channels or len(dataset.std) != channels:
        return f"it has {channels} channels, and a normalisation of another number"
    parts = (dataset.train, dataset.validation, dataset.test)
    if any(part.ndim != 1 or part.dtype != np.int64 for part in parts):
        return "its parts are of another kind"
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels))):
        return "its parts are not all pictures, each once"
    return None
