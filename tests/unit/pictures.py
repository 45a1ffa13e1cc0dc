"""Folders of generated pictures, as ImageNet holds them: any size, some grey, CMYK, or PNG by another name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")


def encoded(seed: int, size: tuple[int, int], label: int = 0, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """Return a picture of size (width, height), brighter in the channel that `label` names."""
    pixels = np.random.default_rng(seed).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., label % 3] += 100
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def imagenet(root: Path, train: int = 12, val: int = 4, sizes: tuple[int, int] = (30, 90)) -> Path:
    """Write train/<class>/*.JPEG and val/<class>/*.JPEG; the first of each class in train are the odd ones."""
    generator = np.random.default_rng(0)
    odd = {0: ("L", "JPEG"), 1: ("CMYK", "JPEG"), 2: ("RGB", "PNG")}
    for part, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                width, height = (int(side) for side in generator.integers(*sizes, 2))
                mode, form = odd[label] if (part, i) == ("train", 0) else ("RGB", "JPEG")
                data = encoded(100 * label + i, (width, height), label, mode, form)
                (folder / f"{name}_{i}.JPEG").write_bytes(data)
    return root
