"""Which strategies differ: by hand, against scipy, and where cells are missing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from shrinkflow import tables
from shrinkflow.comparisons import (
    A_BETTER,
    B_BETTER,
    CONSTANT,
    EQUAL,
    NO_SEED,
    ONE_SEED,
    comparisons,
)
from tests.unit import fake_results

Curves = dict[str, dict[int, float]]


def cells(
    top1: Curves, ratio: float = 4, dense: dict[int, float] | None = None, **names: str
) -> pd.DataFrame:
    """Return the results of {strategy: {seed: top-1}} at one ratio, and of the control."""
    place = {"dataset": "d", "model": "m", "weights": "A"} | names
    dense = dense or {seed: 0.9 + seed / 1000 for seed in range(1, 9)}
    listed = [
        place
        | {
            "strategy": name,
            "ratio": at,
            "seed": seed,
            "control": "dense",
            "top1": value,
            "dense_top1": dense[seed],
        }
        for name, at, values in [
            ("dense", 1.0, dense),
            *((name, ratio, values) for name, values in top1.items()),
        ]
        for seed, value in values.items()
    ]
    return pd.DataFrame(listed)


def only(table: pd.DataFrame, a: str, b: str) -> pd.Series:
    (place,) = np.flatnonzero((table["a"] == a) & (table["b"] == b))
    return table.iloc[place]


THREE = {
    "a": {1: 0.80, 2: 0.82, 3: 0.81},
    "b": {1: 0.79, 2: 0.80, 3: 0.78},
    "c": {1: 0.50, 2: 0.51, 3: 0.52},
}


def test_a_table_by_hand():
    table = comparisons(cells(THREE))
    assert list(table.columns) == tables.COMPARISONS_COLUMNS
    pairs = list(zip(table["a"], table["b"], strict=True))
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c"), ("a", "dense"), ("b", "dense"), ("c", "dense")]
    assert table[["dataset", "model", "weights", "ratio"]].drop_duplicates().values.tolist() == [
        ["d", "m", "A", 4]
    ]
    # Differences .01, .02, .03: mean .02, deviation .01, t = 2 sqrt 3 on two degrees of freedom, whose
    # distribution is known: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14). The least effect of the family.
    row = only(table, "a", "b")
    assert (row["n"], row["difference"], row["sd"]) == (3, pytest.approx(0.02), pytest.approx(0.01))
    assert row["high"] - row["difference"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert row["p"] == row["p_holm"] == pytest.approx(1 - math.sqrt(12 / 14))
    assert row["verdict"] == EQUAL
    # An effect of 2 needs five pairs (power .909; four have .755).
    assert row["seeds_needed"] == 5
    # .30, .31, .29: t = 30 sqrt 3, p = 1 - sqrt(2700 / 2702); by three, still small.
    row = only(table, "a", "c")
    assert row["p"] == pytest.approx(1 - math.sqrt(2700 / 2702))
    assert row["p_holm"] == pytest.approx(3 * row["p"])
    assert row["verdict"] == A_BETTER
    assert only(table, "c", "dense")["verdict"] == B_BETTER
    assert only(table, "a", "dense")["difference"] == pytest.approx(0.81 - 0.902)


def test_against_scipy():
    results, _ = fake_results.study(weights=["A", "B"], seeds=5)
    table = comparisons(results)
    k = len(fake_results.STRATEGIES)
    assert len(table) == 2 * len(fake_results.RATIOS) * (k * (k - 1) // 2 + k)
    key = ["weights", "strategy", "ratio"]
    top1 = {name: part.sort_values("seed")["top1"].to_numpy() for name, part in results.groupby(key)}
    for row in table.itertuples(index=False):
        theirs = ttest_rel(
            top1[row.weights, row.a, row.ratio],
            top1[row.weights, row.b, 1 if row.b == "dense" else row.ratio],
        )
        assert row.p == pytest.approx(theirs.pvalue, rel=1e-6)
        interval = theirs.confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert {A_BETTER, B_BETTER, EQUAL} == set(table["verdict"])


def test_pairing_finds_what_two_samples_would_not():
    """What a seed does to both cancels: deviations of .05 each, of .0007 between them."""
    shift = {1: 0.0, 2: 0.05, 3: 0.1}
    a = {seed: 0.8 + value for seed, value in shift.items()}
    b = {seed: 0.8 + value - 0.01 - seed * 0.0005 for seed, value in shift.items()}
    assert only(comparisons(cells({"a": a, "b": b})), "a", "b")["verdict"] == A_BETTER


def test_every_place_and_both_kinds_are_families_of_their_own():
    alone = comparisons(cells(THREE))
    more = comparisons(pd.concat([cells(THREE), cells(THREE, 8), cells(THREE, model="n")]))
    here = more[(more["model"] == "m") & (more["ratio"] == 4)]
    pd.testing.assert_frame_equal(here.reset_index(drop=True), alone)
    # Three comparisons each: the smallest p of either kind is multiplied by three.
    for part in (alone[alone["b"] != "dense"], alone[alone["b"] == "dense"]):
        assert part["p_holm"].min() == pytest.approx(3 * part["p"].min())


def test_one_seed_says_nothing(tmp_path):
    table = comparisons(cells({name: {1: values[1]} for name, values in THREE.items()}))
    assert table["verdict"].unique().tolist() == [ONE_SEED]
    assert table["n"].unique().tolist() == [1]
    assert table[["sd", "low", "high", "p", "p_holm", "seeds_needed"]].isna().all(axis=None)
    assert only(table, "a", "b")["difference"] == pytest.approx(0.01)
    tables.write("comparisons", tmp_path / "comparisons.csv", table)
    first = (tmp_path / "comparisons.csv").read_text().splitlines()[1]
    assert first == "d,m,A,4,a,b,1,0.010000,,,,,,one seed,"
    assert tables.read("comparisons", tmp_path / "comparisons.csv")["p"].isna().all()


@pytest.mark.parametrize("missing", ["row", "NaN"])
def test_seeds_in_common_are_compared(missing):
    curves = THREE | {"b": dict(THREE["b"])}
    if missing == "row":
        del curves["b"][2]
    else:
        curves["b"][2] = math.nan
    table = comparisons(cells(curves))
    row = only(table, "a", "b")
    # Seeds 1 and 3: .01 and .03; t = 2 on one degree of freedom, p = 1 - 2 atan(2) / pi.
    assert (row["n"], row["difference"]) == (2, pytest.approx(0.02))
    assert row["p"] == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    assert only(table, "a", "c")["n"] == 3
    assert only(table, "b", "dense")["n"] == 2


def test_no_seed_in_common():
    row = only(comparisons(cells({"a": {1: 0.8, 2: 0.8}, "b": {3: 0.8}})), "a", "b")
    assert (row["n"], row["verdict"]) == (0, NO_SEED)
    assert math.isnan(row["difference"])
    assert math.isnan(row["p"])


def test_comparisons_that_cannot_be_made_count_in_their_family():
    full = comparisons(cells(THREE))
    part = comparisons(cells(THREE | {"b": {1: 0.79}}))
    assert only(part, "a", "b")["verdict"] == ONE_SEED
    assert only(part, "a", "c")["p_holm"] == only(full, "a", "c")["p_holm"]


def test_equal_accuracies_are_not_distinguishable():
    row = only(comparisons(cells({"a": THREE["a"], "b": THREE["a"]})), "a", "b")
    assert (row["difference"], row["sd"], row["p"], row["verdict"]) == (0, 0, 1, EQUAL)
    assert row["seeds_needed"] is None or math.isnan(row["seeds_needed"])


@pytest.mark.parametrize("pictures", [3_000, 36_500, 50_000])
def test_the_same_difference_in_every_seed_is_no_certainty(pictures):
    """Tables have six decimals: seven pictures of 3,000 are .002333 or .002334 apart, and no deviation."""
    right = {1: 2411, 2: 2412, 3: 2419, 4: 2500}
    a = {seed: round((count + 7) / pictures, 6) for seed, count in right.items()}
    b = {seed: round(count / pictures, 6) for seed, count in right.items()}
    row = only(comparisons(cells({"a": a, "b": b})), "a", "b")
    assert row["difference"] == pytest.approx(7 / pictures, abs=1e-6)
    assert (row["sd"], row["verdict"]) == (0, CONSTANT)
    assert row[["low", "high", "p", "p_holm"]].isna().all()
    # One picture more in one seed, and there is a deviation.
    a[4] = round((right[4] + 8) / pictures, 6)
    row = only(comparisons(cells({"a": a, "b": b})), "a", "b")
    assert row["sd"] == pytest.approx(0.5 / pictures, rel=0.1)
    assert row["p"] < 0.001


def test_crossed_masks_and_controls_are_not_compared():
    crossed = cells({"a+mask1": {2: 0.1, 3: 0.1}})
    pd.testing.assert_frame_equal(comparisons(pd.concat([cells(THREE), crossed])), comparisons(cells(THREE)))
    assert comparisons(cells({})).empty
    assert list(comparisons(cells({})).columns) == tables.COMPARISONS_COLUMNS


ACCURACIES = st.lists(st.integers(0, 1000), min_size=3, max_size=5).map(
    lambda counts: {seed: count / 1000 for seed, count in enumerate(counts, start=1)}
)
STUDIES = st.fixed_dictionaries({"a": ACCURACIES, "b": ACCURACIES, "c": ACCURACIES})


@settings(max_examples=10)
@given(STUDIES, st.integers(0, 99))
def test_the_order_of_rows_does_not_matter(curves, seed):
    results = cells(curves)
    pd.testing.assert_frame_equal(
        comparisons(results.sample(frac=1, random_state=seed)), comparisons(results)
    )


@settings(max_examples=10)
@given(STUDIES)
def test_exchanging_two_names_mirrors_their_comparison(curves):
    mirrored = curves | {"a": curves["b"], "b": curves["a"]}
    one, other = (only(comparisons(cells(found)), "a", "b") for found in (curves, mirrored))
    assert one["difference"] == -other["difference"]
    for name in ("n", "sd", "p", "p_holm"):
        assert one[name] == other[name] or (pd.isna(one[name]) and pd.isna(other[name]))
    assert one["low"] == -other["high"] or math.isnan(one["low"])
    turned = {A_BETTER: B_BETTER, B_BETTER: A_BETTER}
    assert one["verdict"] == turned.get(other["verdict"], other["verdict"])


@settings(max_examples=10)
@given(STUDIES, ACCURACIES)
def test_one_more_strategy_changes_nothing_but_the_adjustment(curves, added):
    before, after = comparisons(cells(curves)), comparisons(cells(curves | {"z": added}))
    kept = after[(after["a"] != "z") & (after["b"] != "z")].reset_index(drop=True)
    own = ["p_holm", "verdict"]
    pd.testing.assert_frame_equal(kept.drop(columns=own), before.drop(columns=own), check_dtype=False)
    assert ((kept["p_holm"] >= before["p_holm"]) | before["p_holm"].isna()).all()
