"""Handwritten digits, 8 x 8: 1,797 real scans that scikit-learn brings with it, so no download.

The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI machine
learning repository): each pixel counts the inked cells of a 4 x 4 square, 0..16.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shrinkflow.data import SOURCES
from shrinkflow.data.dataset import Pictures, RawFile, Shape, Source


def load(raw: Sequence[Path], shape: Shape) -> Pictures:
    """Read the scans; 0..16 is stored as multiples of 15, 0..240, so that nothing is rounded."""
    with gzip.open(raw[0], "rt", encoding="ascii") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.int64)
    return Pictures(
        images=(table[:, :-1] * 15).astype(np.uint8).reshape(-1, *shape),
        labels=table[:, -1],
        classes=tuple("0123456789"),
        test=None,
    )


SOURCES.register(
    "digits",
    Source(
        shape=(1, 8, 8),
        classes=10,
        raw=(
            RawFile(
                name="digits.csv.gz",
                checksum="sha256:09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
                package="sklearn/datasets/data/digits.csv.gz",
            ),
        ),
        load=load,
        pictures=(1797, 0),
    ),
    __name__,
)
