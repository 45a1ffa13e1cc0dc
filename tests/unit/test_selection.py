from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shrinkflow.errors import UserError
from shrinkflow.selection import collapsed, select


def scores(**layers: list) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=np.float32) for name, values in layers.items()}


def as_lists(masks: dict[str, np.ndarray]) -> dict[str, list]:
    return {name: mask.tolist() for name, mask in masks.items()}


def test_global_scope_ranks_all_layers_in_one_pool():
    masks = select(scores(a=[[0.1, 0.9], [0.8, 0.2]], b=[0.7, 0.3]), 0.5, "global")
    assert as_lists(masks) == {"a": [[0, 1], [1, 0]], "b": [1, 0]}
    assert all(mask.dtype == np.uint8 for mask in masks.values())


def test_layer_scope_ranks_each_layer_by_itself():
    masks = select(scores(a=[0.1, 0.2, 0.3, 0.4], b=[10.0, 20.0]), 0.5, "layer")
    assert as_lists(masks) == {"a": [0, 0, 1, 1], "b": [0, 1]}


def test_ties_are_broken_by_position():
    # ShrinkBench prunes nothing where all scores are equal.
    assert as_lists(select(scores(a=[1, 1, 1], b=[1, 1, 1]), 0.5, "global")) == {
        "a": [1, 1, 1],
        "b": [0, 0, 0],
    }


def test_many_zeros_do_not_stop_the_pruning():
    # 60 % zeros, keep 50 %: ShrinkBench prunes nothing.
    masks = select(scores(a=[0, 5, 0, 4, 0, 3, 0, 2, 0, 0]), 0.5, "global")
    assert as_lists(masks) == {"a": [1, 1, 0, 1, 0, 1, 0, 1, 0, 0]}


def test_positive_and_negative_zero_tie():
    assert as_lists(select(scores(a=[-0.0, 0.0, -0.0, 0.0]), 0.5, "global")) == {"a": [1, 1, 0, 0]}


@pytest.mark.parametrize(("fraction", "kept"), [(1.0, 4), (0.25, 1), (0.1, 0), (0.9, 4), (0.6, 2)])
def test_count_is_the_rounded_fraction(fraction, kept):
    assert select(scores(a=[4, 3, 2, 1]), fraction, "global")["a"].sum() == kept


def test_what_an_earlier_round_pruned_stays_pruned():
    # ShrinkBench's second global call does nothing, its layerwise one revives pruned weights.
    previous = {"a": np.array([0, 1, 1, 1, 1, 0], dtype=np.uint8)}
    masks = select(scores(a=[9, 1, 2, 3, 4, 9]), 1 / 3, "layer", previous)
    assert as_lists(masks) == {"a": [0, 0, 0, 1, 1, 0]}


def test_an_earlier_round_may_not_have_kept_less():
    previous = {"a": np.array([1, 0, 0, 0], dtype=np.uint8)}
    with pytest.raises(UserError, match=r"cannot keep 2 of the 4 weights in 'a': .* left 1"):
        select(scores(a=[1, 2, 3, 4]), 0.5, "global", previous)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(bad):
    with pytest.raises(UserError, match="scores of 'b' are not all finite"):
        select(scores(a=[1, 2], b=[bad, 1]), 0.5, "global")


def test_unknown_scope():
    with pytest.raises(UserError, match="unknown scope 'locally'"):
        select(scores(a=[1, 2]), 0.5, "locally")


def test_collapsed_layers_are_named():
    masks = select(scores(a=[1, 2], b=[3, 4]), 0.5, "global")
    assert collapsed(masks) == ["a"]


layers = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
        elements=st.floats(-4, 4, width=32).map(lambda value: round(value) / 2),
    ),
    min_size=1,
    max_size=4,
)


@given(layers, st.floats(0.01, 1), st.sampled_from(["global", "layer"]))
def test_exact_count_best_first_lowest_position_among_equals(layers, fraction, scope):
    masks = select(layers, fraction, scope)
    pools = [list(layers)] if scope == "global" else [[name] for name in layers]
    for pool in pools:
        flat = np.concatenate([layers[name].ravel() for name in pool])
        kept = np.concatenate([masks[name].ravel() for name in pool]).astype(bool)
        assert kept.sum() == round(fraction * flat.size)
        # The definition, spelt out: rank by score, then by position.
        ranked = sorted(range(flat.size), key=lambda i: (-flat[i], i))
        assert set(np.flatnonzero(kept)) == set(ranked[: kept.sum()])


@given(layers, st.floats(0.01, 1), st.floats(0.01, 1), st.sampled_from(["global", "layer"]))
def test_smaller_masks_lie_in_larger_ones(layers, one, other, scope):
    small, large = sorted((one, other))
    inner, outer = select(layers, small, scope), select(layers, large, scope)
    assert all((inner[name] <= outer[name]).all() for name in layers)
    again = select(layers, small, scope, previous=outer)
    assert all((again[name] == inner[name]).all() for name in layers)
