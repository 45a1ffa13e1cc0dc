"""What a network gets to see of a picture of any size: its centre, or a random part of it.

To the pixel what torchvision's transforms make of a PIL picture: Resize (bilinear, antialiased) and
CenterCrop for evaluation, RandomResizedCrop for training (Szegedy et al. 2015).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def centre(picture: Image.Image, resize: int, height: int, width: int) -> Image.Image:
    """Return the centre of a picture whose shorter side was made `resize`, at least height and width."""
    short, long = sorted(picture.size)
    other = int(resize * long / short)
    size = (resize, other) if picture.width <= picture.height else (other, resize)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    left = round((picture.width - width) / 2.0)
    top = round((picture.height - height) / 2.0)
    return picture.crop((left, top, left + width, top + height))


def resized_crop(
    picture: Image.Image, height: int, width: int, generator: np.random.Generator
) -> Image.Image:
    """Return a random part of a picture, resized: 8 % to all of its area, 3:4 to 4:3."""
    left, top, right, bottom = box(picture.size, generator)
    return picture.crop((left, top, right, bottom)).resize((width, height), Image.Resampling.BILINEAR)


def box(size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a random part of a picture of size (width, height).

    Where ten draws do not fit, the largest part in the middle whose sides are in proportion.
    """
    width, height = size
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*SCALE)
        aspect = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(width - w + 1))
            top = int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def pixels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Return uint8 [height, width, channels]."""
    found = np.asarray(picture)
    return found if found.ndim == 3 else found[:, :, None]
