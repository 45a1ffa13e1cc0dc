from __future__ import annotations

import argparse
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkflow import recipe
from shrinkflow.recipe import Recipe, learning_rate

recipes = st.builds(
    Recipe,
    optimizer=st.sampled_from(["sgd", "adam"]),
    lr=st.floats(1e-8, 10),
    epochs=st.integers(1, 500),
    batch_size=st.integers(2, 4096),
    nesterov=st.booleans(),
    weight_decay=st.floats(0, 1),
    schedule=st.sampled_from(["fixed", "step", "cosine"]),
    milestones=st.lists(st.integers(1, 99), max_size=3).map(tuple),
    flip=st.booleans(),
    patience=st.integers(0, 10),
)


@given(recipes)
def test_flags_give_back_the_recipe(wanted):
    parser = argparse.ArgumentParser()
    recipe.add_arguments(parser)
    args = parser.parse_args(shlex.split(recipe.to_flags(wanted)))
    assert recipe.from_arguments(args) == wanted


def test_flags_name_every_field_in_order():
    assert recipe.to_flags(Recipe("sgd", 0.1, 2, milestones=(1,), schedule="step", flip=True)) == (
        "--optimizer sgd --lr 0.1 --epochs 2 --batch-size 64 --momentum 0.9 --no-nesterov "
        "--weight-decay 0.0 --schedule step --milestones 1 --gamma 0.1 --warmup 0 --flip --crop 0 "
        "--no-resized-crop --patience 0"
    )


@pytest.mark.parametrize(
    ("options", "epoch", "expected"),
    [
        ({}, 7.5, 0.4),
        ({"schedule": "step", "milestones": (4, 6)}, 3.99, 0.4),
        ({"schedule": "step", "milestones": (4, 6)}, 4.0, 0.04),
        ({"schedule": "step", "milestones": (4, 6), "gamma": 0.5}, 6.0, 0.1),
        ({"schedule": "cosine"}, 0.0, 0.4),
        ({"schedule": "cosine"}, 4.0, 0.2),
        ({"schedule": "cosine"}, 2.0, 0.2 * (1 + 0.5**0.5)),
        ({"schedule": "cosine"}, 8.0, 0.0),
        ({"warmup": 4}, 1.0, 0.1),
        ({"warmup": 4, "schedule": "cosine"}, 6.0, 0.2),
    ],
)
def test_learning_rates_by_hand(options, epoch, expected):
    assert learning_rate(Recipe("sgd", 0.4, 8, **options), epoch) == pytest.approx(expected)
