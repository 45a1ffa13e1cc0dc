"""Places365-Standard, streamed from the folder it was unpacked to. Zhou et al. 2018.

The layout is that of torchvision's Places365, small pictures (256 x 256) before large ones: the folders
data_256_standard and val_256, or data_large_standard and val_large, beside the lists of files and
categories. Torchvision reads and verifies those. `val` is the test part: the labels of the published one were
kept back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shrinkflow.data import SOURCES, imagenet, members
from shrinkflow.data.dataset import Listing, Source
from shrinkflow.errors import UserError
from shrinkflow.importing import import_torchvision

PARTS = ("train-standard", "val")


def find(folder: Path) -> Listing:
    """Find the pictures of Places365.

    Raises `UserError` where a list is missing or is not the published one, names a class that there is not,
    or a picture that is not there.
    """
    small = (folder / "data_256_standard").is_dir()
    train, val = (_listed(folder, part, small) for part in PARTS)
    for part in (train, val):
        if not Path(part.images_dir).is_dir():
            raise UserError(
                f"there is no folder {part.images_dir}; Places365 is read as torchvision unpacks it"
            )
    found = sorted([(path, label, False) for path, label in train.imgs] + [(*one, True) for one in val.imgs])
    paths = [Path(path).relative_to(folder).as_posix() for path, _, _ in found]
    _check(folder, paths, [label for _, label, _ in found], train.classes)
    return Listing(
        paths,
        np.array([label for _, label, _ in found], dtype=np.int64),
        tuple(sorted(train.class_to_idx, key=train.class_to_idx.__getitem__)),
        np.flatnonzero([test for _, _, test in found]).astype(np.int64),
    )


def _listed(folder: Path, part: str, small: bool) -> Any:
    """Return torchvision's Places365 of a part. It opens no picture."""
    try:
        return import_torchvision().datasets.Places365(str(folder), part, small=small)
    except RuntimeError as error:
        raise UserError(
            f"{folder} is not as torchvision unpacks Places365 ({str(error).partition('. ')[0]}); unpack "
            "filelist_places365-standard.tar there"
        ) from None


def _check(folder: Path, paths: list[str], labels: list[int], classes: list[str]) -> None:
    for path, label in zip(paths, labels, strict=True):
        if not 0 <= label < len(classes):
            raise UserError(f"{folder}: {path} has the label {label}, but there are {len(classes)} classes")
    here = members.listing(folder)[0]
    missing = [path for path in paths if path not in here]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing):,} of {len(paths):,} pictures, {missing[0]} among them; unpack "
            "the archives again"
        )


SOURCES.register(
    "places365",
    Source(
        (3, 224, 224),
        365,
        (),
        None,
        (1_803_460, 36_500),
        find=find,
        own=("folder",),
        normalisation=imagenet.NORMALISATION,
    ),
    __name__,
)
