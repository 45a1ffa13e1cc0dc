"""Pictures of the user's own, in class folders, in a folder or archive; streamed from a folder if need be.

The layouts, each with or without one folder around it:

    <class>/<picture>               a test part is split off
    {train,test}/<class>/<picture>  its own test part
    {train,val}/<class>/<picture>   `val` is the test part, as is the custom for ImageNet

All of train, val and test are refused: validation pictures are held out of train here. Hidden files
are passed over; so is any other file outside the class folders that is no picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from shrinkflow.data import SOURCES, decoding, members
from shrinkflow.data.dataset import Listing, Pictures, Shape, Source
from shrinkflow.errors import UserError


@dataclass(frozen=True)
class _Layout:
    """Sorted classes, sorted paths, and the label of each path and whether it is a test picture."""

    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]
    tests: list[bool]
    own_test: bool

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The labels as an array."""
        return np.array(self.labels, dtype=np.int64)

    @property
    def test(self) -> npt.NDArray[np.int64] | None:
        """The indices of the test pictures, if there are any of its own."""
        return np.flatnonzero(self.tests).astype(np.int64) if self.own_test else None


def load(paths: Sequence[Path], shape: Shape) -> Pictures:
    """Read all pictures of one folder or archive, in the order of their paths.

    Colour pictures are read as RGB (3 channels) or turned grey (1 channel, ITU-R 601 luma).
    Raises `UserError` naming the offender: a picture that cannot be read or has another size, an
    empty class, a class missing from one part, a layout that is none of the above, a bad archive.
    """
    if len(paths) != 1:
        raise UserError(f"give one folder or archive of pictures, not {len(paths)}")
    decoding.check_channels(shape[0])
    with members.opened(paths[0]) as found:
        layout = _layout(paths[0], list(found.files), found.folders)
        images = _read_all(paths[0], found, layout.paths, shape)
    return Pictures(images, layout.numbers, layout.classes, layout.test)


def find(folder: Path) -> Listing:
    """Find all pictures of one folder, in the order of their paths; files are not opened.

    Raises `UserError` as `load` does for a layout that is none of the above.
    """
    sizes, folders = members.listing(folder)
    return arrange(folder, list(sizes), folders)


def arrange(where: Path, paths: Sequence[str], folders: set[str]) -> Listing:
    """Return the pictures, classes and parts of one of the layouts above; see `find`."""
    layout = _layout(where, paths, folders)
    return Listing(layout.paths, layout.numbers, layout.classes, layout.test)


def _layout(where: Path, paths: Sequence[str], folders: set[str]) -> _Layout:
    inside: dict[str, list[str]] = {folder: [] for folder in (*folders, "")}
    subfolders: dict[str, list[str]] = {folder: [] for folder in inside}
    for path in sorted(paths):
        inside[_parent(path)].append(path)
    for folder in sorted(folders):
        subfolders[_parent(folder)].append(folder)

    top = ""
    while len(subfolders[top]) == 1 and subfolders[subfolders[top][0]]:
        top = subfolders[top][0]
    parts = _parts(where, top, subfolders)
    names = {part: [_name(folder) for folder in subfolders[part]] for part in parts}
    if len(set(map(tuple, names.values()))) > 1:
        first, second = parts
        for one, other in ((first, second), (second, first)):
            for name in sorted(set(names[one]) - set(names[other])):
                raise UserError(f"{where}: class '{name}' is in {_name(one)} but not in {_name(other)}")

    classes = tuple(names[parts[0]])
    labelled: list[tuple[str, int, bool]] = []
    for part in parts:
        for label, folder in enumerate(subfolders[part]):
            if subfolders[folder]:
                raise UserError(
                    f"{where}: {subfolders[folder][0]} is a folder in the class folder {folder}; "
                    "put its pictures directly into the class folder"
                )
            if not inside[folder]:
                raise UserError(f"{where}: the class folder {folder} is empty; fill or remove it")
            labelled += [(path, label, part != parts[0]) for path in inside[folder]]
    if not labelled:
        raise UserError(f"{where} holds no pictures in class folders")
    in_classes = {path for path, _, _ in labelled}
    for path in sorted(paths):
        if path not in in_classes and PurePosixPath(path).suffix.lower() in decoding.SUFFIXES:
            raise UserError(f"{where}: {path} lies outside the class folders; move or remove it")
    labelled.sort()
    in_order, labels, tests = (list(column) for column in zip(*labelled, strict=True))
    return _Layout(classes, in_order, labels, tests, own_test=len(parts) == 2)


def _parts(where: Path, top: str, subfolders: dict[str, list[str]]) -> list[str]:
    """Return the folders that hold class folders: [top], or [train, test] below it."""
    if not any(subfolders[folder] for folder in subfolders[top]):
        return [top]
    names = {_name(folder): folder for folder in subfolders[top]}
    if set(names) == {"train", "val", "test"}:
        raise UserError(
            f"{where} has train, val and test; validation pictures are held out of train, so move "
            "those of val into train or remove them"
        )
    for test in ("test", "val"):
        if set(names) == {"train", test}:
            return [names["train"], names[test]]
    raise UserError(
        f"{where} has the folders {', '.join(names)}; expected class folders that hold pictures, "
        "or train and test that hold class folders"
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _read_all(
    where: Path, found: members.Members, paths: Sequence[str], shape: Shape
) -> npt.NDArray[np.uint8]:
    """Decode the pictures in the order they are stored in, each into its place in `paths`."""
    channels, height, width = shape
    if len(paths) * channels * height * width > members.LARGEST_TOTAL:
        raise UserError(
            f"{where}: {len(paths):,} pictures of {width} x {height} need more than "
            f"{members.LARGEST_TOTAL >> 30} GiB of memory; use fewer or smaller ones"
        )
    images = np.empty((len(paths), *shape), dtype=np.uint8)
    places = {path: i for i, path in enumerate(paths)}
    previous = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for path, read in found.files.items():
            if path in places:
                images[places[path]] = _decode(where, path, read(), shape, previous)
                previous = path
    return images


def _decode(where: Path, path: str, data: bytes, shape: Shape, previous: str | None) -> npt.NDArray[np.uint8]:
    """Return one picture, uint8 of `shape`; `previous` is another that had the right size."""
    channels, height, width = shape

    def check(size: tuple[int, int]) -> None:
        if size != (width, height):
            raise _wrong_size(where, path, size, shape, previous)

    pixels = np.asarray(decoding.decode(f"{where}: {path}", data, channels, check))
    return np.moveaxis(pixels.reshape(height, width, channels), 2, 0)


def _wrong_size(
    where: Path, path: str, size: tuple[int, int], shape: Shape, previous: str | None
) -> UserError:
    found, expected = f"{size[0]} x {size[1]}", f"{shape[2]} x {shape[1]}"
    if previous is None:
        return UserError(f"{where}: {path} is {found} pixels, but shape says {expected}")
    return UserError(
        f"{where}: {path} is {found} pixels, but {previous} is {expected}; make all the same size"
    )


SOURCES.register(
    "imagefolder",
    Source(shape=None, classes=None, raw=(), load=load, find=find, own=("folder", "archive")),
    __name__,
)
