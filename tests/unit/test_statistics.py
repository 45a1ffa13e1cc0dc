from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkflow.statistics import describe


def test_worked_example():
    # Sum 40, squared deviations 9+1+1+1+0+0+4+16 = 32; t(7; .975) = 2.364624 from the tables;
    # half the interval = 2.364624 * sqrt(32 / 7) / sqrt(8) = 1.787488.
    moments = describe([2, 4, 4, 4, 5, 5, 7, 9])
    assert (moments.n, moments.mean) == (8, 5)
    assert moments.sd == pytest.approx(math.sqrt(32 / 7), rel=1e-15)
    assert moments.low == pytest.approx(5 - 1.787488, abs=1e-6)
    assert moments.high == pytest.approx(5 + 1.787488, abs=1e-6)


def test_three_seeds():
    # sd = .01 exactly by hand; t(2; .975) = 4.302653; half = 4.302653 * .01 / sqrt(3) = .0248414.
    moments = describe([0.90, 0.91, 0.92])
    assert moments.mean == pytest.approx(0.91)
    assert moments.sd == pytest.approx(0.01)
    assert moments.low == pytest.approx(0.91 - 0.0248414, abs=1e-7)
    assert moments.high == pytest.approx(0.91 + 0.0248414, abs=1e-7)


@pytest.mark.parametrize(("n", "t"), [(2, 12.70620), (10, 2.262157), (30, 2.045230)])
def test_interval_uses_the_t_of_the_tables(n, t):
    values = [float(i) for i in range(n)]
    moments = describe(values)
    assert (moments.high - moments.mean) / (moments.sd / math.sqrt(n)) == pytest.approx(t, rel=1e-6)


def test_one_run_has_a_mean_and_nothing_else():
    moments = describe([0.5])
    assert (moments.n, moments.mean) == (1, 0.5)
    assert all(math.isnan(value) for value in (moments.sd, moments.low, moments.high))


def test_equal_values_deviate_by_exactly_zero():
    moments = describe([0.1] * 7)
    assert (moments.mean, moments.sd, moments.low, moments.high) == (0.1, 0, 0.1, 0.1)


def test_a_missing_value_is_not_left_out_quietly():
    moments = describe([0.5, math.nan, 0.7])
    assert moments.n == 3
    assert math.isnan(moments.mean)
    assert math.isnan(moments.sd)


def test_an_infinite_value_leaves_an_infinite_mean():
    moments = describe([2.0, math.inf])
    assert moments.mean == math.inf
    assert all(math.isnan(value) for value in (moments.sd, moments.low, moments.high))


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="nothing"):
        describe([])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8), st.randoms())
def test_the_order_changes_no_bit(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert describe(shuffled) == describe(values)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_interval_holds_the_mean(values):
    moments = describe(values)
    assert moments.sd >= 0
    assert moments.low <= moments.mean <= moments.high
    assert min(values) - 1e-12 <= moments.mean <= max(values) + 1e-12
