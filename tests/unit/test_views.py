"""shrinkflow.data.views: to the pixel what torchvision makes of the same picture."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from shrinkflow.data import views
from shrinkflow.data.dataset import usual_resize
from shrinkflow.importing import import_torchvision
from tests.unit.pictures import encoded

import_torchvision()
from torchvision import transforms  # noqa: E402
from torchvision.transforms import functional  # noqa: E402


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(encoded(0, (width, height), form="PNG"))).convert(mode)


def test_usual_resize() -> None:
    assert usual_resize((3, 224, 224)) == 256
    assert usual_resize((3, 32, 32)) == 37  # 36.57
    assert usual_resize((1, 112, 224)) == 256


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(8, 40), st.integers(0, 20), st.booleans())
def test_centre_is_torchvisions(width: int, height: int, side: int, more: int, grey: bool) -> None:
    given_picture = picture(width, height, "L" if grey else "RGB")
    seen = views.centre(given_picture, side + more, side, side - 3)
    wanted = functional.center_crop(functional.resize(given_picture, side + more), [side, side - 3])
    assert views.pixels(seen).shape == (side, side - 3, 1 if grey else 3)
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(wanted))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_a_random_part_lies_inside_and_has_its_proportions(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = views.box((width, height), np.random.default_rng(seed))
    w, h = right - left, bottom - top
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Sides are rounded: by half a pixel.
    assert (w - 0.5) / (h + 0.5) <= 4 / 3
    assert (w + 0.5) / (h - 0.5) >= 3 / 4
    assert (w + 0.5) * (h + 0.5) >= 0.08 * width * height or max(width / height, height / width) > 4 / 3


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 3), (498, 0, 502, 3)), ((3, 1000), (0, 498, 3, 502)), ((1, 1), (0, 0, 1, 1))],
)
def test_where_nothing_drawn_fits_the_middle_is_taken(
    size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    found = {views.box(size, np.random.default_rng(seed)) for seed in range(20)}
    # As torchvision: 3 pixels high are 4 wide, and (1000 - 4) // 2 is 498.
    assert expected in found
    if size != (1, 1):
        tries = transforms.RandomResizedCrop.get_params(picture(*size), [0.08, 1.0], [3 / 4, 4 / 3])
        assert (tries[1], tries[0], tries[1] + tries[3], tries[0] + tries[2]) == expected


@pytest.mark.parametrize("size", [(100, 100), (500, 375), (120, 260)])
def test_parts_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    """Kolmogorov and Smirnov's test on areas, proportions and places; seeds are fixed."""
    generator = np.random.default_rng(7)
    torch.manual_seed(7)
    given_picture = picture(*size)
    ours, theirs = [], []
    for _ in range(3000):
        left, top, right, bottom = views.box(size, generator)
        ours.append((left, top, right - left, bottom - top))
        i, j, h, w = transforms.RandomResizedCrop.get_params(given_picture, [0.08, 1.0], [3 / 4, 4 / 3])
        theirs.append((j, i, w, h))
    for of in (lambda b: b[2] * b[3], lambda b: math.log(b[2] / b[3]), lambda b: b[0], lambda b: b[1]):
        assert stats.ks_2samp(list(map(of, ours)), list(map(of, theirs))).pvalue > 1e-3


def test_a_resized_crop_is_torchvisions_of_the_same_part() -> None:
    given_picture = picture(97, 61)
    for seed in range(10):
        left, top, right, bottom = views.box(given_picture.size, np.random.default_rng(seed))
        seen = views.resized_crop(given_picture, 24, 32, np.random.default_rng(seed))
        wanted = functional.resized_crop(given_picture, top, left, bottom - top, right - left, [24, 32])
        np.testing.assert_array_equal(np.asarray(seen), np.asarray(wanted))
