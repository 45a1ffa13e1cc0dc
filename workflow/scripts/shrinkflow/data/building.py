"""Making a processed data set of a source's pictures: checks, parts, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkflow.data import fetching, splits
from shrinkflow.data.dataset import Dataset, Pictures, Shape, Source
from shrinkflow.errors import UserError

# Values whose squares are held in memory at a time, as int64.
_CHUNK = 1 << 22


def raw_files(source: Source, paths: Sequence[Path]) -> list[Path]:
    """Return the raw files in the order of `source.raw`, their checksums verified.

    The paths of a source without raw files of its own, and the user's folder, are returned as they are.
    """
    if not source.raw or ("folder" in source.own and len(paths) == 1 and paths[0].is_dir()):
        return list(paths)
    given = {path.name: path for path in paths}
    wanted = [raw.name for raw in source.raw]
    if sorted(given) != sorted(wanted) or len(paths) != len(wanted):
        raise UserError(
            f"--raw names {', '.join(sorted(given)) or 'no file'}; this source is read from "
            f"{', '.join(wanted)}"
        )
    for raw in source.raw:
        fetching.verify(given[raw.name], raw.checksum)
    return [given[name] for name in wanted]


def stated(source: Source, shape: Shape | None, classes: int | None) -> tuple[Shape, int]:
    """Return shape and number of classes, each fixed by the source or stated by the user.

    Raises `UserError` where neither says, where both do and differ, or where a value is senseless.
    """
    for key, known, given in (
        ("shape", source.shape, shape),
        ("classes", source.classes, classes),
    ):
        if known is None and given is None:
            raise UserError(f"{key} is missing: state it for a data set of your own")
        if known is not None and given is not None and known != given:
            raise UserError(f"{key} is {given}, but this data set has {known}; leave it out")
    shape, classes = source.shape or shape, source.classes or classes
    assert shape is not None
    assert classes is not None
    if min(shape) < 1:
        raise UserError(f"shape is {shape}; give channels, height and width, each at least 1")
    if classes < 2:
        raise UserError(f"classes is {classes}; there must be at least 2")
    return shape, classes


def build(name: str, pictures: Pictures, shape: Shape, classes: int, plan: splits.Plan) -> Dataset:
    """Divide the pictures as planned, drop those in no part, and measure the normalisation.

    Raises `UserError` where the pictures are not what was stated or cannot be divided so.
    """
    found = pictures.images.shape[1:]
    if found != shape:
        raise UserError(f"shape of {name} is stated as {shape}, but its pictures are {found}")
    check_classes(name, pictures.classes, classes)
    parts = splits.divide(pictures.labels, pictures.classes, pictures.test, plan)
    used = np.sort(np.concatenate(list(parts.values())))
    images = pictures.images[used]
    indices = {part: np.searchsorted(used, kept) for part, kept in parts.items()}
    mean, std = normalisation(images[indices["train"]])
    return Dataset(
        name=name,
        images=images,
        labels=pictures.labels[used],
        classes=pictures.classes,
        mean=mean,
        std=std,
        files=None,
        **indices,
    )


def check_classes(name: str, found: Sequence[str], classes: int) -> None:
    """Raise `UserError` unless as many classes were found as were stated."""
    if len(found) != classes:
        raise UserError(f"classes of {name} is stated as {classes}, but it has {len(found)}: {_some(found)}")


def normalisation(
    images: npt.NDArray[np.uint8],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return each channel's mean and population standard deviation, pixels on the scale 0..1.

    images: uint8 [n, channels, height, width]. The sums are exact integers and the quotients exact
    fractions, rounded only at the end, so neither the order of summation nor numpy's version can
    change a bit. A channel that is the same everywhere cannot be normalised and tells a network
    nothing: it is a `UserError`.
    """
    sums = np.zeros(images.shape[1], dtype=np.int64)
    squares = np.zeros_like(sums)
    step = max(1, _CHUNK // images[0].size)
    for start in range(0, len(images), step):
        chunk = images[start : start + step].astype(np.int64)
        sums += chunk.sum(axis=(0, 2, 3))
        squares += np.square(chunk).sum(axis=(0, 2, 3))
    n = images[:, 0].size
    means, deviations = [], []
    for channel, (total, square) in enumerate(zip(sums.tolist(), squares.tolist(), strict=True)):
        variance = Fraction(square, n) - Fraction(total, n) ** 2
        if variance == 0:
            raise UserError(
                f"channel {channel} has the same value in every training picture; "
                "leave that channel out of the pictures or check them"
            )
        means.append(float(Fraction(total, 255 * n)))
        deviations.append(math.sqrt(variance / 255**2))
    return tuple(means), tuple(deviations)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
