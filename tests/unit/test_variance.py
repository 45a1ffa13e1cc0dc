"""Components of variance: a published example, additive tables by hand, and drawn ones without bias."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from shrinkflow import tables
from shrinkflow.variance import (
    MISSING,
    NEGATIVE,
    NO_SEEDS,
    NO_WEIGHTS,
    NOT_CROSSED,
    of_masks,
    of_seeds,
    variance,
)
from tests.unit import fake_results

# Four judges of six targets, table 2 of Shrout & Fleiss 1979. Their mean squares: between targets 11.24, between
# judges 32.49, the rest 1.02, within targets 6.26; ICC(2, 1) = .29.
TARGETS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def test_weights_and_seeds_by_the_example_of_shrout_and_fleiss():
    """Two-way random effects: targets (11.24 - 1.02) / 4; judges and the rest together, within targets."""
    found = of_seeds(TARGETS)
    assert found.weights == pytest.approx((11.24 - 1.02) / 4, abs=0.005)
    assert found.finetuning == pytest.approx(6.26, abs=0.005)
    assert found.weights / (found.weights + found.finetuning) == pytest.approx(0.29, abs=0.005)
    assert math.isnan(found.mask)


def test_masks_of_one_network_by_the_same_example():
    found = of_masks(TARGETS[None])
    assert found.mask == pytest.approx((11.24 - 1.02) / 4, abs=0.005)
    assert found.finetuning == pytest.approx(6.26, abs=0.005)
    assert math.isnan(found.weights)


def test_one_weights():
    found = of_seeds(np.array([[0.1, 0.2, 0.3]]))
    assert math.isnan(found.weights)
    assert found.finetuning == pytest.approx(0.01)


def test_sums_of_effects_by_hand():
    """Without interactions every component is the sample variance of its own effects."""
    weights, masks, seeds = np.array([0.0, 0.3]), np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.02, 0.07])
    found = of_masks(weights[:, None, None] + masks[None, :, None] + seeds[None, None, :])
    assert found.weights == pytest.approx(0.045)
    assert found.mask == pytest.approx(0.01)
    assert found.finetuning == pytest.approx(0.0013)
    found = of_seeds(weights[:, None] + seeds[None, :])
    assert (found.weights, found.finetuning) == (pytest.approx(0.045), pytest.approx(0.0013))


def test_a_negative_estimate_by_hand():
    # Means of weights are equal, so only the interaction is left: (0 - 2 x .25) / 2 of .5, -.5.
    found = of_seeds(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert (found.weights, found.finetuning) == (pytest.approx(-0.5), pytest.approx(0.5))


DEVIATIONS = {"w": 3.0, "m": 2.0, "s": 1.5, "wm": 1.0, "ws": 0.8, "ms": 0.6, "wms": 0.5}


def drawn(a: int, masks: int, seeds: int, count: int) -> np.ndarray:
    """Return `count` tables float [a, masks, seeds] with all interactions, of DEVIATIONS."""
    generator = np.random.default_rng(5)
    sizes = {"w": a, "m": masks, "s": seeds}
    table = np.zeros((count, a, masks, seeds))
    for effect, sd in DEVIATIONS.items():
        shape = [size if way in effect else 1 for way, size in sizes.items()]
        table += generator.normal(0, sd, (count, *shape))
    return table


@pytest.mark.parametrize(("a", "masks", "seeds"), [(2, 3, 3), (4, 2, 5), (1, 3, 3)])
def test_estimates_have_no_bias(a, masks, seeds):
    """The mean of 1,000 estimates is the truth within four standard errors.

    A mask's component takes in that it differs between weights; the finetuning's, all that a seed is part of.
    """
    found = [of_masks(table) for table in drawn(a, masks, seeds, 1000)]
    v = {effect: sd**2 for effect, sd in DEVIATIONS.items()}
    truth = {
        "mask": v["m"] + v["wm"],
        "finetuning": v["s"] + v["ws"] + v["ms"] + v["wms"],
        **({"weights": v["w"]} if a > 1 else {}),
    }
    for name, expected in truth.items():
        values = np.array([getattr(components, name) for components in found])
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(len(values)), name


def test_estimates_of_the_diagonal_have_no_bias():
    """Mask and seed are one there, and so are their components."""
    found = [of_seeds(table[:, range(3), range(3)]) for table in drawn(4, 3, 3, 1000)]
    v = {effect: sd**2 for effect, sd in DEVIATIONS.items()}
    for name, expected in (("weights", v["w"]), ("finetuning", sum(v.values()) - v["w"])):
        values = np.array([getattr(components, name) for components in found])
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(len(values)), name


def cells(top1: np.ndarray, strategy: str = "random", crossed: bool = True) -> pd.DataFrame:
    """Return results of float [weights, masks, seeds] of one strategy at ratio 4; the diagonal where not crossed."""
    listed = [
        {
            **{"dataset": "d", "model": "m", "weights": "AB"[w], "ratio": 4.0, "seed": seed + 1},
            "strategy": strategy if mask == seed else f"{strategy}+mask{mask + 1}",
            **{"control": "dense", "top1": round(float(value), 6)},
        }
        for (w, mask, seed), value in np.ndenumerate(top1)
        if crossed or mask == seed
    ]
    return pd.DataFrame(listed)


WEIGHTS, MASKS, SEEDS = np.array([0.0, 0.3]), np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.02, 0.07])
TABLE = 0.2 + WEIGHTS[:, None, None] + MASKS[None, :, None] + SEEDS[None, None, :]


def test_a_table_by_hand():
    table = variance(cells(TABLE))
    assert list(table.columns) == tables.VARIANCE_COLUMNS
    (row,) = table.to_dict("records")
    assert [row[name] for name in ("dataset", "model", "strategy", "ratio")] == ["d", "m", "random", 4]
    assert [row[name] for name in ("weights_n", "masks_n", "seeds_n")] == [2, 3, 3]
    components = {"weights": 0.045, "mask": 0.01, "finetuning": 0.0013}
    for name, value in components.items():
        assert row[f"{name}_variance"] == pytest.approx(value)
        assert row[f"{name}_share"] == pytest.approx(value / 0.0563)
    assert pd.isna(row["mask_and_finetuning_variance"])
    assert row["note"] == ""


def test_without_crossed_masks_two_components_are_one(tmp_path):
    table = variance(cells(TABLE, crossed=False))
    (row,) = table.to_dict("records")
    # 0, .12, .27 within either weights
    within = float(np.var([0, 0.12, 0.27], ddof=1))
    assert row["mask_and_finetuning_variance"] == pytest.approx(within)
    assert row["weights_variance"] == pytest.approx(0.045)
    assert pd.isna(row["mask_variance"])
    assert row["note"] == NOT_CROSSED
    tables.write("variance", tmp_path / "variance.csv", table)
    assert tables.read("variance", tmp_path / "variance.csv")["weights_variance"].tolist() == [0.045]


def test_a_control_has_no_mask():
    results = cells(TABLE, crossed=False).assign(strategy="dense", ratio=1.0)
    (row,) = variance(results).to_dict("records")
    assert row["masks_n"] is None or math.isnan(row["masks_n"])
    assert row["finetuning_variance"] == pytest.approx(float(np.var([0, 0.12, 0.27], ddof=1)))
    assert pd.isna(row["mask_and_finetuning_variance"])
    assert row["note"] == ""


def test_one_seed():
    (row,) = variance(cells(TABLE[:, :1, :1])).to_dict("records")
    assert (row["note"], row["seeds_n"]) == (NO_SEEDS, 1)
    assert all(pd.isna(row[f"{name}_variance"]) for name in tables.COMPONENTS)


def test_one_set_of_weights():
    (row,) = variance(cells(TABLE[:1])).to_dict("records")
    assert row["note"] == NO_WEIGHTS
    assert pd.isna(row["weights_variance"])
    assert row["mask_share"] == pytest.approx(0.01 / 0.0113)
    # One component alone has no share.
    (row,) = variance(cells(TABLE[:1], crossed=False)).to_dict("records")
    assert row["note"] == f"{NO_WEIGHTS}; {NOT_CROSSED}"
    assert pd.isna(row["mask_and_finetuning_share"])


@pytest.mark.parametrize("missing", ["row", "NaN"])
def test_failed_cells(missing):
    def without(results: pd.DataFrame, strategy: str, seed: int) -> pd.DataFrame:
        place = (results["strategy"] == strategy) & (results["seed"] == seed) & (results["weights"] == "B")
        if missing == "row":
            return results[~place]
        return results.assign(top1=results["top1"].mask(place))

    # A seed of one of the weights: neither uses it.
    (row,) = variance(without(cells(TABLE), "random", 2)).to_dict("records")
    assert (row["seeds_n"], row["note"]) == (2, MISSING)
    # Masks and seeds 1 and 3 are left: .2^2 / 2 and .07^2 / 2.
    assert row["mask_variance"] == pytest.approx(0.02)
    assert row["finetuning_variance"] == pytest.approx(0.00245)
    assert row["weights_variance"] == pytest.approx(0.045)
    # A mask that another seed should have trained: the diagonal is whole, and is used.
    (row,) = variance(without(cells(TABLE), "random+mask1", 2)).to_dict("records")
    assert (row["seeds_n"], row["note"]) == (3, MISSING)
    assert pd.isna(row["mask_variance"])
    assert row["mask_and_finetuning_variance"] == pytest.approx(float(np.var([0, 0.12, 0.27], ddof=1)))


def test_negative_estimates_are_told():
    top1 = np.array([[[0.9, 0.8]] * 2, [[0.8, 0.9]] * 2])
    (row,) = variance(cells(top1)).to_dict("records")
    assert row["weights_variance"] == row["mask_variance"] == 0
    assert row["finetuning_share"] == 1
    assert NEGATIVE in row["note"]


def test_equal_accuracies_have_no_shares_and_no_negative_estimates():
    """Thirds, rounded to six decimals and averaged: what is left of them is none."""
    (row,) = variance(cells(np.full((2, 3, 3), 1 / 3))).to_dict("records")
    assert row["weights_variance"] == row["mask_variance"] == row["finetuning_variance"] == 0
    assert pd.isna(row["mask_share"])
    assert row["note"] == ""


def test_the_order_of_rows_does_not_matter():
    results, _ = fake_results.study(weights=["A", "B"])
    results = pd.concat([results, cells(TABLE)])
    table = variance(results)
    pd.testing.assert_frame_equal(variance(results.sample(frac=1, random_state=1)), table)
    # A strategy more is a row more, and changes none.
    more = variance(pd.concat([results, cells(TABLE, "zero")]))
    kept = more[more["strategy"] != "zero"].reset_index(drop=True)
    assert len(more) == len(table) + 1
    pd.testing.assert_frame_equal(kept, table, check_dtype=False)
