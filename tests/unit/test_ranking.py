"""Areas and ranks against worked examples, tables of quantiles, scipy and curves made by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2, friedmanchisquare

from shrinkflow import tables
from shrinkflow.ranking import area, critical_difference, ranking, ranks
from tests.unit import fake_results

# Table 6 of Demšar 2006: areas under the ROC curve of C4.5 as it is, with m, with cf, with both. The places
# 2 and 3 that he gives to the equal digits of "voting" say that there the last but one was the larger.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_ranks_of_demsar():
    """His mean ranks, critical difference (2.569 x .488) and conclusion; his chi squared corrected for ties.

    He gives 9.28. In four blocks two, two, two and four are equal: t^3 - t are 6, 6, 6 and 60, so it is
    divided by 1 - 78 / (14 x (4^3 - 4)).
    """
    found = ranks(DEMSAR)
    assert found.mean == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    assert found.blocks == 14
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    mean = np.array(found.mean)
    uncorrected = 12 * 14 / (4 * 5) * (float(mean @ mean) - 4 * 5**2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=5e-3)
    assert found.friedman_p == pytest.approx(chi2.sf(uncorrected / (1 - 78 / (14 * 60)), 3))
    # "The difference between the best and the worst is smaller than that."
    assert found.best_group == (True,) * 4


@pytest.mark.parametrize(
    ("k", "q"),
    list(enumerate([2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], start=3)),
)
def test_critical_differences_are_those_of_the_table(k, q):
    """Table 5 (a) of Demšar 2006, two-tailed Nemenyi test, level .05."""
    assert critical_difference(k, 20) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 20)), rel=3e-4)


def test_the_best_group_by_hand():
    # Five blocks in one order: ranks 1, 2, 3, 4; 2.569 x sqrt(4 x 5 / (6 x 5)) = 2.098.
    found = ranks(np.array([[0.9, 0.8, 0.7, 0.6]] * 5))
    assert found.mean == (1, 2, 3, 4)
    assert found.critical_difference == pytest.approx(2.098, abs=1e-3)
    assert found.best_group == (True, True, True, False)


def test_where_no_ranks_can_be_tested():
    for scores in (np.array([[0.9, 0.8, 0.7]]), np.array([[0.9, 0.8]] * 9)):
        found = ranks(scores)
        assert found.mean == (1, 2, 3)[: scores.shape[1]]
        assert math.isnan(found.friedman_p)
        assert math.isnan(found.critical_difference)
        assert set(found.best_group) == {None}


def test_equal_scores_share_the_mean_rank_and_tell_no_difference():
    found = ranks(np.full((4, 3), 0.5))
    assert (found.mean, found.friedman_p, found.best_group) == ((2, 2, 2), 1.0, (True,) * 3)


@given(arrays(float, (5, 4), elements=st.integers(0, 5).map(float)))
def test_ranks_against_scipy_and_mirrored(scores):
    found = ranks(scores)
    assert math.fsum(found.mean) == pytest.approx(10)
    if not (scores == scores[:, :1]).all():
        assert found.friedman_p == pytest.approx(float(friedmanchisquare(*scores.T).pvalue))
    assert ranks(scores[::-1]).mean == pytest.approx(found.mean)
    assert ranks(scores[:, ::-1]).mean == pytest.approx(found.mean[::-1])
    assert ranks(-scores).mean == pytest.approx([5 - rank for rank in found.mean])


def test_areas_by_hand():
    # Widths 1 and 2 in doublings: (.9 + .8) / 2 x 1 + (.8 + .4) / 2 x 2 = .85 + 1.2, by 3.
    assert area([0.9, 0.8, 0.4], [2, 4, 16]) == pytest.approx(2.05 / 3)
    assert area([0.7, 0.7, 0.7], [1.5, 4, 5]) == pytest.approx(0.7)
    # Straight against log2(ratio): the height in the middle.
    assert area([0.9, 0.8, 0.7, 0.6], [2, 4, 8, 16]) == pytest.approx(0.75)


def cells(accuracy: dict[str, dict[float, list[float]]], model: str = "m") -> pd.DataFrame:
    """Return results of {strategy: {ratio: top-1 of seeds 1, 2, ...}}; None is a cell that is not there."""
    listed = [
        {
            **{"dataset": "d", "model": model, "weights": "A", "strategy": name, "ratio": float(ratio)},
            **{"seed": seed, "control": "dense", "top1": top1},
        }
        for name, curve in ({"dense": {1: [0.99] * 3}} | accuracy).items()
        for ratio, found in curve.items()
        for seed, top1 in enumerate(found, start=1)
        if top1 is not None
    ]
    return pd.DataFrame(listed)


CURVES = {
    "a": {2: [0.90, 0.92], 8: [0.70, 0.76]},
    "b": {2: [0.95, 0.93], 8: [0.60, 0.62]},
    "c": {2: [0.50, 0.52], 8: [0.40, 0.42]},
}


def only(table: pd.DataFrame, strategy: str, model: str = "m") -> pd.Series:
    (place,) = np.flatnonzero((table["strategy"] == strategy) & (table["model"] == model))
    return table.iloc[place]


def test_a_table_by_hand():
    table = ranking(cells(CURVES))
    assert list(table.columns) == tables.RANKING_COLUMNS
    # The network, then the same over all networks; the control is ranked nowhere.
    assert table["strategy"].tolist() == ["a", "b", "c"] * 2
    assert table["model"].tolist() == ["m"] * 3 + ["all"] * 3
    row = only(table, "a")
    # (.90 + .70) / 2 and (.92 + .76) / 2; their deviation is .04 / sqrt 2; t(1; .975) = 12.7062
    assert (row["n"], row["area_mean"]) == (2, pytest.approx(0.82))
    assert row["area_sd"] == pytest.approx(0.04 / math.sqrt(2))
    assert row["area_high"] - row["area_mean"] == pytest.approx(12.7062 * 0.02, rel=1e-5)
    assert table["rank_mean"].tolist() == [1.5, 1.5, 3] * 2
    assert table["blocks"].tolist() == [2] * 6
    # chi squared = 12 x 2 / (3 x 4) x (2.25 + 2.25 + 9 - 12) = 3, two degrees of freedom: exp(-3 / 2)
    assert table["friedman_p"].tolist() == pytest.approx([math.exp(-1.5)] * 6)
    assert table["critical_difference"].tolist() == pytest.approx([2.343 * 1] * 6, rel=3e-4)
    assert table["area_mean"].isna().tolist() == [False] * 3 + [True] * 3


def test_over_all_networks_every_ratio_of_each_is_a_block():
    other = {name: {2: curve[8], 4: curve[2], 8: curve[8]} for name, curve in CURVES.items()} | {
        "d": {2: [0.1], 4: [0.1], 8: [0.1]}
    }
    table = ranking(pd.concat([cells(CURVES), cells(other, "n")]))
    together = table[table["model"] == "all"]
    # d is not in both networks; a wins both 8 and 2 of the other, b wins 2 and the other's 4
    assert together["strategy"].tolist() == ["a", "b", "c"]
    assert together["blocks"].tolist() == [5] * 3
    assert together["rank_mean"].tolist() == pytest.approx([7 / 5, 8 / 5, 3])


def test_seeds_that_not_all_have_are_left_out_of_the_ranks():
    """By its own mean over three seeds b would be best at 2; over the two that all have, it is not."""
    curves = CURVES | {"b": {2: [0.89, 0.91, 1.0], 8: [0.60, 0.62, 0.64]}}
    table = ranking(cells(curves))
    assert table["rank_mean"].tolist()[:3] == [1, 2, 3]
    assert table["n"].tolist()[:3] == [2, 3, 2]


def test_failed_cells():
    # Seed 1 of b at 8 is gone: no area of that seed, and ratio 8 is ranked by seed 2.
    table = ranking(cells(CURVES | {"b": {2: [0.95, 0.93], 8: [None, 0.99]}}))
    row = only(table, "b")
    assert (row["n"], row["area_mean"]) == (1, pytest.approx((0.93 + 0.99) / 2))
    assert math.isnan(row["area_sd"])
    assert (row["rank_mean"], row["blocks"]) == (1, 2)
    # One that is NaN says as little as one that is not there.
    assert ranking(cells(CURVES | {"b": {2: [0.95, 0.93], 8: [math.nan, 0.99]}})).equals(table)
    # No seed that all have: the ratio is no block.
    table = ranking(cells(CURVES | {"b": {2: [0.95, 0.93], 8: [None, None, 0.9]}}))
    assert table["blocks"].tolist()[:3] == [1] * 3
    assert table["friedman_p"].isna().all()
    assert only(table, "a")["area_mean"] == pytest.approx(0.82)
    assert math.isnan(only(table, "b")["area_mean"])


def test_a_strategy_of_one_ratio_is_not_ranked_beside_those_of_several():
    table = ranking(cells(CURVES | {"2of4": {2: [0.99, 0.99]}}))
    assert table["strategy"].tolist() == ["a", "b", "c"] * 2
    assert table["blocks"].tolist() == [2] * 6


def test_one_ratio_has_ranks_and_no_area():
    table = ranking(cells({name: {2: curve[2]} for name, curve in CURVES.items()}))
    assert table["rank_mean"].tolist()[:3] == [2, 1, 3]
    assert table["area_mean"].isna().all()
    assert table["best_group"].isna().all()


def test_nothing_that_is_pruned():
    assert ranking(cells({})).empty


def test_crossed_masks_are_not_ranked():
    assert ranking(cells(CURVES | {"a+mask1": {2: [0.1], 8: [0.1]}})).equals(ranking(cells(CURVES)))


def test_the_order_of_rows_does_not_matter(tmp_path):
    results, _ = fake_results.study(pairs=fake_results.PAIRS, weights=["A", "B"])
    table = ranking(results)
    pd.testing.assert_frame_equal(ranking(results.sample(frac=1, random_state=3)), table)
    tables.write("ranking", tmp_path / "ranking.csv", table)
    found = tables.read("ranking", tmp_path / "ranking.csv")
    assert len(found) == 7 * len(fake_results.STRATEGIES)
    assert found["rank_mean"].tolist() == pytest.approx(table["rank_mean"].tolist(), abs=1e-6)
    assert found["friedman_p"].tolist() == pytest.approx(table["friedman_p"].tolist(), rel=1e-5)
    assert found["best_group"].tolist() == [int(value) for value in table["best_group"]]
