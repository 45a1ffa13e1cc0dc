"""shrinkflow.data.splits: exact, stratified, disjoint, paired; refusals that name the class."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shrinkflow.data.splits import PARTS, Plan, allocate, divide
from shrinkflow.errors import UserError


def names(n: int) -> tuple[str, ...]:
    return tuple(f"class{i}" for i in range(n))


@pytest.mark.parametrize(
    ("total", "sizes", "shares"),
    [
        (10, [50, 30, 20], [5, 3, 2]),
        # quotas 12/7, 12/7, 4/7: one each for the two largest remainders
        (4, [3, 3, 1], [2, 2, 0]),
        # equal remainders: the first wins
        (1, [5, 5], [1, 0]),
        (3, [2, 2, 2, 2], [1, 1, 1, 0]),
        (0, [4, 4], [0, 0]),
        (8, [5, 0, 3], [5, 0, 3]),
    ],
)
def test_allocate_by_hand(total: int, sizes: list[int], shares: list[int]) -> None:
    assert allocate(total, sizes) == shares


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20), st.data())
def test_allocate_is_exact_and_within_one_of_the_quota(sizes: list[int], data: st.DataObject) -> None:
    assume(sum(sizes))
    total = data.draw(st.integers(0, sum(sizes)))
    shares = allocate(total, sizes)
    assert sum(shares) == total
    for share, size in zip(shares, sizes, strict=True):
        assert 0 <= share <= size
        assert abs(share - Fraction(total * size, sum(sizes))) < 1


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Labels of 2 to 5 classes in random order, unbalanced."""
    sizes = draw(st.lists(st.integers(6, 60), min_size=2, max_size=5))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).permutation(labels), len(sizes)


def parts_or_error(
    labels: np.ndarray, n: int, test: np.ndarray | None, plan: Plan
) -> dict[str, np.ndarray] | str:
    try:
        return divide(labels, names(n), test, plan)
    except UserError as error:
        return str(error)


fractions = st.floats(0.01, 0.9)


@settings(deadline=None)
@given(labelled(), fractions, fractions, st.integers(0, 1000), st.booleans())
def test_divide_without_limits(
    pictures: tuple[np.ndarray, int], validation: float, test: float, seed: int, own: bool
) -> None:
    labels, n = pictures
    given_test = np.flatnonzero(np.arange(len(labels)) % 3 == 0) if own else None
    if given_test is not None:
        assume(set(labels[given_test]) == set(range(n)))
    plan = Plan(validation, test, seed)
    parts = parts_or_error(labels, n, given_test, plan)
    if isinstance(parts, str):
        assert "class 'class" in parts
        return
    assert tuple(parts) == PARTS
    together = np.concatenate(list(parts.values()))
    assert sorted(together) == list(range(len(labels)))
    for part in parts.values():
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert set(labels[part]) == set(range(n))
    if given_test is None:
        pool = np.arange(len(labels))
        assert len(parts["test"]) == round(test * len(labels))
        check_proportional(labels, pool, parts["test"], n)
    else:
        np.testing.assert_array_equal(parts["test"], given_test)
    pool = np.setdiff1d(np.arange(len(labels)), parts["test"])
    assert len(parts["validation"]) == round(validation * len(pool))
    check_proportional(labels, pool, parts["validation"], n)
    again = divide(labels, names(n), given_test, plan)
    for name in PARTS:
        np.testing.assert_array_equal(parts[name], again[name])


def check_proportional(labels: np.ndarray, pool: np.ndarray, part: np.ndarray, n: int) -> None:
    of_pool, of_part = (np.bincount(labels[x], minlength=n) for x in (pool, part))
    assert (abs(of_part - of_pool * (len(part) / len(pool))) < 1 + 1e-9).all()


@settings(deadline=None)
@given(labelled(), st.data())
def test_limits_are_exact_subsets_and_independent(
    pictures: tuple[np.ndarray, int], data: st.DataObject
) -> None:
    labels, n = pictures
    whole = divide(labels, names(n), None, Plan(0.25, 0.25, 7))
    limits = {
        name: data.draw(st.integers(1, len(whole[name])), label=name)
        for name in data.draw(st.sets(st.sampled_from(PARTS)))
    }
    parts = parts_or_error(labels, n, None, Plan(0.25, 0.25, 7, limits))
    if isinstance(parts, str):
        assert re.search(r"class 'class\d' has no picture in .* limit\.", parts)
        return
    for name in PARTS:
        if name in limits:
            assert len(parts[name]) == limits[name]
            assert set(parts[name]) <= set(whole[name])
            assert set(labels[parts[name]]) == set(range(n))
            check_proportional(labels, whole[name], parts[name], n)
        else:
            np.testing.assert_array_equal(parts[name], whole[name])


def test_seed_matters_and_is_pinned() -> None:
    """The numbers are part of every published result: a change here makes all of them differ."""
    labels = np.arange(40) % 2
    parts = divide(labels, names(2), None, Plan(0.25, 0.2, 0))
    assert parts["test"].tolist() == [2, 5, 20, 27, 28, 31, 32, 33]
    assert parts["validation"].tolist() == [6, 8, 11, 14, 16, 17, 21, 37]
    limited = divide(labels, names(2), None, Plan(0.25, 0.2, 0, {"train": 4}))
    assert limited["train"].tolist() == [9, 22, 29, 30]
    other = divide(labels, names(2), None, Plan(0.25, 0.2, 1))
    assert other["test"].tolist() != parts["test"].tolist()


def test_validation_does_not_depend_on_the_test_pictures_of_the_source() -> None:
    """More test pictures of its own must not move the training part of a source."""
    labels = np.arange(60) % 3
    short = divide(labels[:50], names(3), np.arange(40, 50), Plan())
    long = divide(labels, names(3), np.arange(40, 60), Plan())
    np.testing.assert_array_equal(short["train"], long["train"])
    np.testing.assert_array_equal(short["validation"], long["validation"])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["validation", "test"])
def test_fraction_out_of_range(key: str, fraction: float) -> None:
    with pytest.raises(UserError, match=f"{key} is .*between 0 and 1"):
        divide(np.arange(40) % 2, names(2), None, Plan(**{key: fraction}))


@pytest.mark.parametrize(
    ("labels", "plan", "message"),
    [
        ([0] * 40, Plan(), "class 'class1' has no picture in the training part"),
        ([0] * 40 + [1], Plan(), r"class 'class1' has too few pictures \(1\) to hold out test"),
        ([0] * 9 + [1] * 4, Plan(0.04), r"class 'class0' has too few .* validation: 0.04"),
        ([0] * 40 + [1], Plan(test=0.99), r"class 'class0' has too few pictures \(40\)"),
        ([0] * 20 + [1] * 20, Plan(limits={"train": 1}), "class 'class0' .* limit.train: 1"),
        ([0] * 20 + [1] * 20, Plan(limits={"train": 30}), "limit.train is 30, but .* has 29"),
        ([0] * 20 + [1] * 20, Plan(limits={"test": 0}), "limit.test is 0, but"),
        ([0] * 20 + [1] * 20, Plan(limits={"test": -3}), "limit.test is -3, but"),
        ([0] * 20 + [1] * 20, Plan(limits={"tset": 3}), "no part 'tset'; did you mean 'test'"),
        ([0] * 20 + [1] * 20, Plan(seed=-1), "split_seed is -1"),
    ],
)
def test_refusals(labels: list[int], plan: Plan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        divide(np.array(labels), names(2), None, plan)


def test_own_test_part_that_lacks_a_class() -> None:
    labels = np.array([0, 1] * 20 + [0, 0])
    with pytest.raises(UserError, match="class 'class1' has no picture in the test part"):
        divide(labels, names(2), np.array([40, 41]), Plan())


def test_limit_of_all_is_all() -> None:
    labels = np.arange(40) % 2
    whole = divide(labels, names(2), None, Plan())
    limited = divide(labels, names(2), None, Plan(limits={p: len(whole[p]) for p in PARTS}))
    for part in PARTS:
        np.testing.assert_array_equal(whole[part], limited[part])
