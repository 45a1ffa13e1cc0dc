from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import nct, ttest_rel
from scipy.stats import t as student

from shrinkflow.statistics import Moments, describe, holm, paired_p, pairs_needed


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


# Hours of sleep gained by ten patients, one drug against another (Student 1908, the table on page 20).
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_paired_test_on_the_data_of_student():
    """The mean 1.58, t = 4.0621 and p = 0.002833 are what R's documentation of `sleep` leads to."""
    moments = describe(SLEEP)
    assert moments.mean == pytest.approx(1.58)
    assert moments.mean / (moments.sd / math.sqrt(10)) == pytest.approx(4.0621, abs=5e-5)
    assert paired_p(moments) == pytest.approx(0.002833, abs=5e-7)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_paired_test_is_that_of_scipy(n):
    generator = np.random.default_rng(n)
    for _ in range(20):
        a, b = generator.normal(0.9, 0.01, (2, n))
        theirs = ttest_rel(a, b)
        mine = describe((a - b).tolist())
        assert paired_p(mine) == pytest.approx(theirs.pvalue, rel=1e-9)
        low, high = theirs.confidence_interval(0.95)
        assert (mine.low, mine.high) == pytest.approx((low, high), rel=1e-9)


def test_what_no_paired_test_can_be_made_of():
    assert math.isnan(paired_p(describe([0.1])))
    assert math.isnan(paired_p(Moments(0, math.nan)))
    assert math.isnan(paired_p(describe([0.1, math.nan])))
    # A difference that does not vary gives t = infinity, and p = 0, after two runs.
    assert math.isnan(paired_p(describe([0.1, 0.1])))
    assert paired_p(describe([0.0, 0.0])) == 1


def test_holm_by_hand():
    # In order .01 x 4, .02 x 3, .03 x 2, .04 x 1 = .04, .06, .06, .04, of which none may fall: the last is .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


def test_holm_on_the_example_of_demsar():
    """Demšar 2006, section 3.2.2: of three comparisons with C4.5, the p values to three digits.

    .016 and .019 lie under .05 / 3 and .05 / 2: both are rejected; .607 is not.
    """
    assert holm([0.016, 0.019, 0.607]) == pytest.approx([0.048, 0.048, 0.607])


def test_a_test_that_could_not_be_made_counts_in_the_family():
    adjusted = holm([math.nan, 0.01, 0.2])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.03, 0.4])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_bonferroni_closed(p):
    """A hypothesis falls where Bonferroni's test rejects every set that holds it (Marcus et al. 1976)."""
    sets = [chosen for size in range(1, len(p) + 1) for chosen in combinations(range(len(p)), size)]
    closed = [
        max(min(1.0, len(chosen) * min(p[i] for i in chosen)) for chosen in sets if member in chosen)
        for member in range(len(p))
    ]
    assert holm(p) == pytest.approx(closed)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_pairs_needed_are_those_of_the_tables(effect, pairs):
    """As G*Power (Faul et al. 2007) and statsmodels' TTestPower tell for Cohen's effects, power .8."""
    assert pairs_needed(Moments(3, effect, 1.0)) == pairs
    assert pairs_needed(Moments(3, -0.01 * effect, 0.01)) == pairs


@pytest.mark.parametrize("effect", [0.05, 0.3, 0.7, 1.5, 3.0, 4.0])
def test_pairs_needed_are_the_fewest_by_the_noncentral_t(effect):
    def power(n: int) -> float:
        critical = student.isf(0.025, n - 1)
        shift = effect * math.sqrt(n)
        return float(nct.sf(critical, n - 1, shift) + nct.cdf(-critical, n - 1, shift))

    n = pairs_needed(Moments(5, effect, 1.0))
    assert n is not None
    assert power(n) >= 0.8 > power(n - 1)


def test_pairs_needed_of_very_small_and_very_large_differences():
    # Normal quantiles do for many: (1.959964 + 0.841621)^2 / effect^2 = 7.848880e6.
    assert pairs_needed(Moments(3, 1e-3, 1.0)) == pytest.approx(7.848880e6, rel=1e-5)
    for effect in np.geomspace(15, 1e6, 400).tolist():
        assert pairs_needed(Moments(3, effect, 1.0)) == 2
    assert pairs_needed(Moments(3, 10.0, 1.0)) == 3


@pytest.mark.parametrize(
    "moments",
    [
        describe([0.1]),
        describe([0.1, 0.1]),
        describe([-0.1, 0.1]),
        describe([0.1, math.nan]),
        Moments(0, math.nan),
    ],
)
def test_pairs_needed_where_nothing_can_be_said(moments):
    assert pairs_needed(moments) is None


def test_power_of_the_pairs_needed_by_drawing():
    """Of 1,000 experiments with 15 pairs and an effect of .8, about 82.13 % find it; deviation 1.2 %."""
    generator = np.random.default_rng(7)
    found = sum(paired_p(describe(row)) <= 0.05 for row in generator.normal(0.8, 1, (1000, 15)).tolist())
    assert abs(found / 1000 - 0.8213) < 3.5 * 0.012


def test_false_differences_in_a_family_are_rare():
    """Four equal strategies by four seeds, 1,000 times: 5 % at most tell any difference; deviation .7 %."""
    generator = np.random.default_rng(11)
    false = 0
    for family in generator.normal(0.8, 0.01, (1000, 4, 4)):
        p = [paired_p(describe((a - b).tolist())) for a, b in combinations(family, 2)]
        false += min(holm(p)) <= 0.05
    assert 0 < false / 1000 < 0.05 + 3 * 0.007
