from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shrinkflow.errors import UserError
from shrinkflow.selection import choose, collapsed, erk_counts, fraction, pattern, select
from shrinkflow.targets import Sizes, Target
from shrinkflow.way import Way


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


def test_erk_by_hand():
    # Raw densities (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w): a: (4 + 2) / 8 = 0.75, b: 20 / 100 = 0.2.
    # To keep 40 of 108: 0.75 s * 8 + 0.2 s * 100 = 40, s = 40 / 26: a would be 1.15 and is full, so 8; b: 32.
    assert erk_counts({"a": (4, 2), "b": (10, 10)}, 40 / 108) == {"a": 8, "b": 32}
    # To keep 13 of 108: s = 0.5, so a keeps 0.375 * 8 = 3 and b 0.1 * 100 = 10.
    assert erk_counts({"a": (4, 2), "b": (10, 10)}, 13 / 108) == {"a": 3, "b": 10}


def test_erk_counts_kernels():
    # a: (2 + 4 + 3 + 3) / 72 = 1/6, b: (2 + 4) / 8 = 3/4. To keep 9: s (12 + 6) = 9, so a 6 and b 3.
    assert erk_counts({"a": (4, 2, 3, 3), "b": (4, 2)}, 9 / 80) == {"a": 6, "b": 3}


@given(
    st.lists(st.lists(st.integers(1, 8), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6),
    st.floats(0.001, 1),
)
def test_erk_keeps_the_exact_count_and_no_more_than_there_is(shapes, part):
    named = {f"layer{i}": shape for i, shape in enumerate(shapes)}
    counts = erk_counts(named, part)
    size = sum(int(np.prod(shape)) for shape in shapes)
    assert sum(counts.values()) == round(part * size)
    assert all(0 <= counts[name] <= np.prod(named[name]) for name in named)


def test_erk_gives_a_layer_no_more_than_an_earlier_round_left():
    # Densities 0.75 and 0.2. To keep 30 of 108: s = 30 / 26, a 6.92 and b 23.08; to keep 29: a 6.69, b 22.31.
    shapes = {"a": (4, 2), "b": (10, 10)}
    assert erk_counts(shapes, 29 / 108) == {"a": 7, "b": 22}
    assert erk_counts(shapes, 29 / 108, alive={"a": 6, "b": 24}) == {"a": 6, "b": 23}
    assert erk_counts(shapes, 28 / 108, alive={"a": 7, "b": 100}) == erk_counts(shapes, 28 / 108)


def test_erk_can_be_met_in_many_rounds():
    # By largest remainders alone the first layer would have 2 of 6 weights in one round, and 3 in the next.
    shapes = {"a": (2, 3, 1, 1), "b": (4, 8, 3, 3), "c": (2, 8, 5, 5), "d": (16, 16, 1, 1)}
    draws = np.random.default_rng(1)
    arrays = {name: draws.random(shape).astype(np.float32) for name, shape in shapes.items()}
    size = sum(array.size for array in arrays.values())
    counts, masks = [], None
    for step in range(1, 31):
        fraction = 0.03 + 0.97 * (1 - step / 30) ** 3
        masks = select(arrays, fraction, "erk", masks)
        assert sum(int(mask.sum()) for mask in masks.values()) == round(fraction * size)
        counts.append({name: int(mask.sum()) for name, mask in masks.items()})
    assert all(later[name] <= before[name] for before, later in itertools.pairwise(counts) for name in shapes)
    assert erk_counts(shapes, 0.03028740740740754)["a"] == 3


def test_layer_sizes_of_another_strategy_are_taken_over():
    other = {"a": np.array([1, 1, 0, 0]), "b": np.array([0, 0, 1, 0])}
    masks = select(scores(a=[1, 2, 3, 4], b=[8, 7, 6, 5]), 0.5, "like", like=other)
    assert as_lists(masks) == {"a": [0, 0, 1, 1], "b": [1, 0, 0, 0]}


def test_a_pool_by_macs_keeps_the_best_that_the_budget_pays():
    # Costs 4 and 1: 10 of 20 MACs pay for 9 (4), 8 (4), 7 (1), 6 (1); not for the next, which costs 4.
    values = scores(a=[9, 8, 5], b=[7, 6, 4, 3, 2, 1, 0.5, 0.2])
    masks = select(values, 0.5, "global", costs={"a": 4, "b": 1})
    assert as_lists(masks) == {"a": [1, 1, 0], "b": [1, 1, 0, 0, 0, 0, 0, 0]}


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_a_ratio_of_macs_is_met_within_one_percent(scope):
    generator = np.random.default_rng(1)
    shapes = {"a": (32, 3, 3, 3), "b": (64, 32, 3, 3), "c": (128, 64)}
    values = {name: generator.random(shape).astype(np.float32) for name, shape in shapes.items()}
    uses = {"a": 64, "b": 16, "c": 1}
    dense = sum(values[name].size * uses[name] for name in values) + 1280
    sizes, target = Sizes(0, dense, uses), Target(Way(scope=scope), 4.0, "macs")
    masks = choose(values, sizes, target, fraction(values, sizes, target))
    left = 1280 + sum(int(masks[name].sum()) * uses[name] for name in masks)
    assert abs(dense / left / 4 - 1) < 0.01


def test_excluded_layers_stay_dense_and_the_others_pay():
    values = scores(a=[1, 1, 1, 1], b=[8, 7, 6, 5, 4, 3, 2, 1])
    sizes, target = Sizes(14, 0, {}), Target(Way(exclude=("a",)), 2.0)
    # 14 parameters, of which 7 stay: 2 that are not prunable, 4 of a, and so one of b.
    masks = choose(values, sizes, target, fraction(values, sizes, target))
    assert as_lists(masks) == {"a": [1, 1, 1, 1], "b": [1, 0, 0, 0, 0, 0, 0, 0]}


def test_two_of_four_by_hand():
    mask = pattern(np.array([[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0]]), 2, 4)
    assert mask.tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 12]), st.integers(1, 3)),
        elements=st.floats(-2, 2, width=32),
    ),
    st.sampled_from([(1, 4), (2, 4), (3, 4), (1, 2)]),
)
def test_n_of_every_m_inputs_stay_and_they_are_the_best(values, n_of_m):
    n, m = n_of_m
    mask = pattern(values, n, m)
    for output in range(values.shape[0]):
        for place in range(values.shape[2]):
            for first in range(0, values.shape[1], m):
                group = mask[output, first : first + m, place].astype(bool)
                kept = values[output, first : first + m, place]
                assert group.sum() == n
                assert kept[group].min() >= kept[~group].max()


def test_a_pattern_that_does_not_fit_names_the_layer():
    with pytest.raises(UserError, match=r"2:4 does not fit 'conv1.weight', whose 3 inputs 4 does not divide"):
        pattern(np.zeros((8, 3, 3, 3)), 2, 4, "conv1.weight")


def test_ratio_one_keeps_everything_whatever_the_way():
    values = scores(a=[[1, 2, 3, 4]])
    for way in (Way(), Way(granularity="2:4"), Way(scope="shrinkbench-draws")):
        assert choose(values, Sizes(4, 0, {}), Target(way, 1.0), 1.0)["a"].all()
