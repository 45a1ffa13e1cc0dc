from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from shrinkflow import measures, models, scoring, sparsifying, training
from shrinkflow.prunable import prunable
from shrinkflow.recipe import Recipe
from shrinkflow.targets import Sizes, Target
from shrinkflow.way import Way
from tests.unit.test_training import split


def network():
    training.start(1, "cpu")
    return models.build("digitsnet", (1, 8, 8), 3, seed=5)


class Watched(sparsifying.Gradual):
    """Notes the sparsity after every step."""

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        assert self._model is not None
        weights = list(prunable(self._model).values())
        left = sum(int(weight.count_nonzero()) for weight in weights)
        self.seen = [*getattr(self, "seen", []), (progress, left)]


def gradual(model, rounds: int = 4, ramp: float = 0.5, ratio: float = 8.0, epochs: int = 4) -> Watched:
    sizes = Sizes.of(measures.sizes(model, (1, 8, 8)))
    way = Way(schedule="gradual", rounds=rounds, ramp=ramp)
    return Watched(scoring.scorer("magnitude", {}), split(), 1, sizes, Target(way, ratio), epochs)


def train(model, masking, epochs: int = 4):
    recipe = Recipe("sgd", 0.05, epochs, batch_size=10)
    return training.train(model, split(), split("validation"), recipe, 1, "a cell", masking)


def test_gradual_pruning_follows_the_cubic_schedule():
    model = network()
    masking = gradual(model)
    found = train(model, masking)
    size = sum(weight.numel() for weight in prunable(model).values())
    total = sum(parameter.numel() for parameter in model.parameters())
    kept = (total / 8 - (total - size)) / size
    # 3 steps an epoch; four prunings in the first two epochs: after steps 2, 3, 5, 6 (of 1.5 each, rounded up).
    cubic = [round((1 - (1 - kept) * (1 - (1 - t / 4) ** 3)) * size) for t in range(5)]
    expected = [cubic[0], cubic[1], cubic[2], cubic[2], cubic[3], cubic[4], *[cubic[4]] * 6]
    assert [left for _, left in masking.seen] == expected
    assert sum(int(mask.sum()) for mask in found.masks.values()) == round(kept * size)
    # Only epochs with the whole sparsity may be chosen.
    assert found.best_epoch >= 2
    assert all(not found.state[name][mask == 0].any() for name, mask in found.masks.items())


def test_what_gradual_pruning_pruned_stays_pruned():
    model = network()
    masking = gradual(model, rounds=6, ramp=1.0)
    seen = []
    original = masking._prune

    def prune(*arguments):
        original(*arguments)
        seen.append({name: mask.clone() for name, mask in masking.masks.items()})

    masking._prune = prune
    train(model, masking)
    assert len(seen) == 6
    for before, after in itertools.pairwise(seen):
        assert all((after[name] <= before[name]).all() for name in after)


def test_a_ramp_of_nothing_prunes_at_once():
    model = network()
    masking = gradual(model, rounds=3, ramp=0.0)
    train(model, masking, epochs=1)
    assert len({left for _, left in masking.seen}) == 1


def soft(model, ratio: float = 2.0) -> sparsifying.Soft:
    structure = pytest.importorskip("shrinkflow.structure")

    def choice(scores):
        return structure.choose(model, (1, 8, 8), scores, 1 / ratio, "parameters", "layer")

    def without(trained, masks):
        return structure.without(trained, (1, 8, 8), masks)

    chosen = scoring.scorer("filter-l2", {})
    return sparsifying.Soft(chosen, split(), 1, choice, without)


def test_softly_pruned_filters_are_zero_after_each_epoch_and_recover():
    model = network()
    masking = soft(network())
    zeros, seen = [], []
    original = masking.after_epoch

    def after_epoch(trained, epoch):
        seen.append([int(w.detach().flatten(1).abs().sum(1).eq(0).sum()) for w in prunable(trained).values()])
        pruned = original(trained, epoch)
        zeros.append(
            [int(w.detach().flatten(1).abs().sum(1).eq(0).sum()) for w in prunable(trained).values()]
        )
        return pruned

    masking.after_epoch = after_epoch
    found = train(model, masking)
    # Filters that were zero after an epoch had moved again by the end of the next.
    assert all(sum(counts) > 0 for counts in zeros)
    assert all(sum(counts) == 0 for counts in seen)
    # What is kept is the network without them: mask and weights agree, batch-norm of dead channels is zero.
    assert all(not found.state[name][mask == 0].any() for name, mask in found.masks.items())
    rows = found.masks["features.0.weight"].flatten(1).bool().any(dim=1)
    assert 0 < rows.sum() < 32
    assert (
        not found.state["features.1.weight"][~rows].any() and not found.state["features.1.bias"][~rows].any()
    )


def test_soft_pruning_meets_its_ratio():
    model = network()
    found = train(model, soft(network(), ratio=3.0))
    model.load_state_dict(found.state)
    assert measures.count(model, (1, 8, 8)).compression == pytest.approx(3.0, rel=0.03)


def test_schedules_depend_on_the_seed_alone():
    one, again = (train(model := network(), gradual(model)) for _ in range(2))
    assert all(one.state[name].equal(value) for name, value in again.state.items())
    assert isinstance(one.masks["features.0.weight"], torch.Tensor)
    assert np.isfinite([line.val_loss for line in one.history]).all()
