"""Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels, from the archive as published, or unpacked.

Of Stanford's course CS231n (Le & Yang 2015). Its layout, with or without one folder around it:
train/<wnid>/images/*.JPEG, val/images/*.JPEG with val/val_annotations.txt, and wnids.txt. `val` is the test
part; the pictures in `test` have no labels and are passed over. Some pictures are grey; they become RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shrinkflow.data import SOURCES, decoding, members
from shrinkflow.data.dataset import Pictures, RawFile, Shape, Source
from shrinkflow.errors import UserError

CLASSES = 200
PICTURES = (100_000, 10_000)
_ANNOTATIONS = "val/val_annotations.txt"


def load(paths: Sequence[Path], shape: Shape) -> Pictures:
    """Read all labelled pictures of the archive, or of the folder it was unpacked to, by their paths.

    Raises `UserError` naming what is missing, cannot be read, has another size, or an unknown class.
    """
    (where,) = paths
    with members.opened(where) as found:
        top = _top(where, found)
        texts = {name: _text(where, found, top + name) for name in ("wnids.txt", _ANNOTATIONS)}
        classes = tuple(sorted(texts["wnids.txt"].split()))
        if len(classes) != CLASSES:
            raise UserError(f"{where}: wnids.txt names {len(classes)} classes, Tiny ImageNet has {CLASSES}")
        labels = _labels(where, found, top, classes, texts[_ANNOTATIONS])
        images = np.empty((len(labels), *shape), dtype=np.uint8)
        places = {path: place for place, path in enumerate(sorted(labels))}
        # In the order of the archive, where reading is fast.
        for path, read in found.files.items():
            if path in places:
                images[places[path]] = _pixels(f"{where}: {path}", read(), shape)
    return Pictures(
        images=images,
        labels=np.array([labels[path] for path in places], dtype=np.int64),
        classes=classes,
        test=np.flatnonzero([path.startswith(f"{top}val/") for path in places]).astype(np.int64),
    )


def _top(where: Path, found: members.Members) -> str:
    """Return what stands before the paths: nothing, or the one folder around all."""
    for path in sorted(found.files, key=len):
        if path.rpartition("/")[2] == "wnids.txt" and path.count("/") <= 1:
            return path.removesuffix("wnids.txt")
    raise UserError(f"{where} has no wnids.txt; Tiny ImageNet is read as tiny-imagenet-200.zip holds it")


def _text(where: Path, found: members.Members, path: str) -> str:
    if path not in found.files:
        raise UserError(f"{where} has no {path}; Tiny ImageNet is not complete, unpack it again")
    return found.files[path]().decode("utf-8", "replace")


def _labels(
    where: Path, found: members.Members, top: str, classes: Sequence[str], annotations: str
) -> dict[str, int]:
    """Return the label of every picture of train and val by its path."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels: dict[str, int] = {}
    for path in found.files:
        parts = path.removeprefix(top).split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images":
            if parts[1] not in numbers:
                raise UserError(f"{where}: the class of {path} does not stand in wnids.txt; remove it")
            labels[path] = numbers[parts[1]]
    empty = sorted(set(numbers.values()) - set(labels.values()))
    if empty:
        raise UserError(
            f"{where}: {len(empty)} of {len(classes)} classes have no pictures in {top}train, "
            f"'{classes[empty[0]]}' among them; Tiny ImageNet is not complete, unpack it again"
        )
    for number, line in enumerate(annotations.splitlines(), 1):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in numbers:
            raise UserError(f"{where}: line {number} of {_ANNOTATIONS} names the unknown class '{wnid}'")
        path = f"{top}val/images/{name}"
        if path not in found.files:
            raise UserError(f"{where} has no {path}; Tiny ImageNet is not complete, unpack it again")
        labels[path] = numbers[wnid]
    tests = len(annotations.splitlines())
    if (len(labels) - tests, tests) != PICTURES:
        raise UserError(
            f"{where} has {len(labels) - tests:,} training and {tests:,} validation pictures, Tiny ImageNet "
            f"{PICTURES[0]:,} and {PICTURES[1]:,}; it is not complete, unpack it again"
        )
    return labels


def _pixels(what: str, data: bytes, shape: Shape) -> np.ndarray:
    channels, height, width = shape

    def check(size: tuple[int, int]) -> None:
        if size != (width, height):
            raise UserError(f"{what} is {size[0]} x {size[1]} pixels, expected {width} x {height}")

    return np.moveaxis(np.asarray(decoding.decode(what, data, channels, check)), 2, 0)


SOURCES.register(
    "tiny-imagenet",
    Source(
        (3, 64, 64),
        CLASSES,
        (
            RawFile(
                "tiny-imagenet-200.zip",
                "md5:90528d7ca1a48142e341f4ef8d21d0de",
                urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
            ),
        ),
        load,
        PICTURES,
        own=("folder",),
    ),
    __name__,
)
