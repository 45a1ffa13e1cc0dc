"""shrinkflow.data.building: statements checked, unused pictures dropped, exact normalisation."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkflow.data import building
from shrinkflow.data.dataset import Pictures, RawFile, Shape, Source
from shrinkflow.data.splits import PARTS, Plan
from shrinkflow.errors import UserError


def unused(paths: object, shape: object) -> Pictures:
    raise AssertionError("not to be called")


def pictures(n: int = 40, classes: int = 2, own_test: int = 0) -> Pictures:
    """Picture i is filled with the value i, so that it is known wherever it goes."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 1, 2, 3))
    names = tuple("abcdefgh"[:classes])
    test = np.arange(n - own_test, n) if own_test else None
    return Pictures(images.copy(), np.arange(n) % classes, names, test)


def test_normalisation_by_hand() -> None:
    images = np.zeros((2, 2, 1, 2), dtype=np.uint8)
    images[:, 0] = [[[0, 255]], [[0, 255]]]  # mean 1/2, deviation 1/2
    images[:, 1] = [[[51, 51]], [[51, 255]]]  # 0.2 three times and 1: mean 0.4, variance 0.12
    mean, std = building.normalisation(images)
    assert mean == (0.5, 0.4)
    assert std[0] == 0.5
    assert std[1] == pytest.approx(math.sqrt(0.12), rel=1e-15)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 3))
def test_normalisation_is_numpys_and_the_same_in_any_order(seed: int, n: int, channels: int) -> None:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, channels, 4, 4), dtype=np.uint8)
    mean, std = building.normalisation(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)
    assert (mean, std) == building.normalisation(generator.permutation(images))


def test_normalisation_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    whole = building.normalisation(images)
    for chunk in (1, 48, 100, 7 * 48):
        monkeypatch.setattr(building, "_CHUNK", chunk)
        assert building.normalisation(images) == whole


def test_large_bright_pictures_do_not_overflow() -> None:
    images = np.full((40, 1, 400, 400), 255, dtype=np.uint8)
    images[0, 0, 0, 0] = 254
    mean, std = building.normalisation(images)
    n = images.size
    assert mean[0] == pytest.approx(1 - 1 / (255 * n), rel=1e-15)
    assert std[0] == pytest.approx(math.sqrt((n - 1) / n**2) / 255, rel=1e-12)


def test_constant_channel_is_refused() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    images[:, 1] = 77
    with pytest.raises(UserError, match="channel 1 has the same value"):
        building.normalisation(images)


def test_build_keeps_every_picture_with_its_label() -> None:
    data = building.build("x", pictures(classes=4), (1, 2, 3), 4, Plan(0.25, 0.25))
    assert data.name == "x"
    assert data.classes == ("a", "b", "c", "d")
    np.testing.assert_array_equal(data.images[:, 0, 0, 0], np.arange(40))
    np.testing.assert_array_equal(data.labels, np.arange(40) % 4)
    train = data.images[data.train] / 255
    assert data.mean == pytest.approx((train.mean(),), rel=1e-12)
    assert data.std == pytest.approx((train.std(),), rel=1e-12)


def test_build_drops_the_pictures_outside_the_limits() -> None:
    whole = building.build("x", pictures(), (1, 2, 3), 2, Plan())
    limits = {"train": 10, "validation": 2, "test": 4}
    data = building.build("x", pictures(), (1, 2, 3), 2, Plan(limits=limits))
    assert data.images.shape == (16, 1, 2, 3)
    together = np.concatenate([getattr(data, part) for part in PARTS])
    assert sorted(together) == list(range(16))
    for part in PARTS:
        kept = data.images[getattr(data, part), 0, 0, 0]
        assert len(kept) == limits[part]
        assert set(kept) <= set(whole.images[getattr(whole, part), 0, 0, 0])
        np.testing.assert_array_equal(data.labels[getattr(data, part)], kept % 2)


def test_normalisation_is_measured_on_training_pictures_alone() -> None:
    dark = pictures(own_test=10)
    bright = pictures(own_test=10)
    bright.images[-10:] = 255
    plan = Plan()
    first = building.build("x", dark, (1, 2, 3), 2, plan)
    second = building.build("x", bright, (1, 2, 3), 2, plan)
    assert (first.mean, first.std) == (second.mean, second.std)


def test_build_checks_what_was_stated() -> None:
    with pytest.raises(UserError, match=r"shape of x is stated as \(1, 3, 2\).*\(1, 2, 3\)"):
        building.build("x", pictures(), (1, 3, 2), 2, Plan())
    with pytest.raises(UserError, match=r"classes of x is stated as 3, but it has 2: a, b$"):
        building.build("x", pictures(), (1, 2, 3), 3, Plan())
    with pytest.raises(UserError, match=r"but it has 8: a, b, c, d, e, \.\.\.$"):
        building.build("x", pictures(classes=8), (1, 2, 3), 3, Plan())


FIXED = Source((1, 8, 8), 10, (), unused)
FREE = Source(None, None, (), unused)


@pytest.mark.parametrize(
    ("source", "shape", "classes", "expected"),
    [
        (FIXED, None, None, ((1, 8, 8), 10)),
        (FIXED, (1, 8, 8), 10, ((1, 8, 8), 10)),
        (FREE, (3, 4, 5), 6, ((3, 4, 5), 6)),
    ],
)
def test_stated(
    source: Source, shape: Shape | None, classes: int | None, expected: tuple[Shape, int]
) -> None:
    assert building.stated(source, shape, classes) == expected


@pytest.mark.parametrize(
    ("source", "shape", "classes", "message"),
    [
        (FREE, None, 5, "shape is missing"),
        (FREE, (3, 4, 5), None, "classes is missing"),
        (FIXED, (3, 8, 8), None, r"shape is \(3, 8, 8\), but this data set has \(1, 8, 8\)"),
        (FIXED, None, 9, "classes is 9, but this data set has 10"),
        (FREE, (3, 0, 5), 5, "each at least 1"),
        (FREE, (3, 4, 5), 1, "classes is 1; there must be at least 2"),
        (FREE, (3, 4, 5), 0, "classes is 0; there must be at least 2"),
    ],
)
def test_stated_refuses(source: Source, shape: Shape | None, classes: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        building.stated(source, shape, classes)


def test_raw_files_are_ordered_and_verified(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("one", "two")}
    for name, path in paths.items():
        path.write_text(name)
    raw = tuple(RawFile(name, "md5:" + hashlib.md5(name.encode()).hexdigest()) for name in ("two", "one"))
    source = Source((1, 8, 8), 10, raw, unused)
    assert building.raw_files(source, list(paths.values())) == [paths["two"], paths["one"]]
    with pytest.raises(UserError, match="read from two, one"):
        building.raw_files(source, [paths["one"]])
    with pytest.raises(UserError, match="read from two, one"):
        building.raw_files(source, [paths["one"], paths["two"], paths["two"]])
    paths["two"].write_text("damaged")
    with pytest.raises(UserError, match=f"{paths['two']} has md5"):
        building.raw_files(source, list(paths.values()))


def test_raw_files_of_the_user_pass() -> None:
    assert building.raw_files(FREE, [Path("a.zip")]) == [Path("a.zip")]
