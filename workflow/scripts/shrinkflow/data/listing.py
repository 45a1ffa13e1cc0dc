"""Making a processed data set of pictures that stay in their folder: checked, divided, hashed, measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkflow.data import building, decoding, splits, streaming, views
from shrinkflow.data.dataset import Dataset, Files, Listing, Normalisation, Shape
from shrinkflow.seeds import Purpose, numpy_generator

# Training pictures that the normalisation is measured over. Means of pictures scatter by some 0.15, so that
# of a thousand is known to 0.005.
SAMPLE = 1000
# Pictures in the hands of each thread.
_AHEAD = 8


def build(
    name: str,
    folder: Path,
    found: Listing,
    shape: Shape,
    classes: int,
    resize: int,
    plan: splits.Plan,
    normalisation: Normalisation | None = None,
) -> Dataset:
    """Divide the pictures as planned; read once each that is used, to see that it is whole and to hash it.

    Where no normalisation is given, it is measured over `SAMPLE` training pictures, drawn by the plan's
    seed, as evaluation sees them.
    Raises `UserError` where the pictures are not what was stated, are damaged, or cannot be divided so.
    """
    decoding.check_channels(shape[0])
    building.check_classes(name, found.classes, classes)
    parts = splits.divide(found.labels, found.classes, found.test, plan)
    used = np.sort(np.concatenate(list(parts.values())))
    paths = [found.paths[index] for index in used.tolist()]
    indices = {part: np.searchsorted(used, kept) for part, kept in parts.items()}
    threads = streaming.workers(os.cpu_count() or 1)
    files = Files.of(paths, _digests(folder, paths, threads), resize, folder)
    if normalisation is None:
        generator = numpy_generator(plan.seed, Purpose.NORMALISATION)
        sample = np.sort(generator.permutation(indices["train"])[:SAMPLE])
        normalisation = building.normalisation(_seen(files, sample, shape, threads))
    return Dataset(
        name=name,
        images=np.empty((0, *shape), dtype=np.uint8),
        labels=found.labels[used],
        classes=found.classes,
        mean=normalisation[0],
        std=normalisation[1],
        files=files,
        **indices,
    )


def _digests(folder: Path, paths: Sequence[str], threads: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [n, 16], the hash of each picture, having seen that it can be decoded."""

    def inspected(path: str) -> bytes:
        data = streaming.read(folder / path)
        decoding.inspect(str(folder / path), data)
        return streaming.digest(data)

    digests = streaming.in_order(inspected, paths, threads, _AHEAD * threads)
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(paths), 16)


def _seen(files: Files, indices: npt.NDArray[np.int64], shape: Shape, threads: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [n, channels, height, width], pictures as evaluation sees them."""
    channels, height, width = shape

    def seen(index: int) -> npt.NDArray[np.uint8]:
        picture = streaming.picture(files, index, channels)
        return views.pixels(views.centre(picture, files.resize, height, width))

    found = np.stack(list(streaming.in_order(seen, indices.tolist(), threads, _AHEAD * threads)))
    return np.moveaxis(found, 3, 1)
