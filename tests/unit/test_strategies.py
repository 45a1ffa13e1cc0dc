from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from shrinkflow import models, scoring, strategies, training
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES
from tests.unit.test_training import split


def no_data(batches: int, batch_size: int):
    raise AssertionError("this score wants no pictures")


def call(name: str, model: nn.Module, data=no_data, seed: int = 1, **parameters):
    return SCORES[name].function(model, data, torch_generator(seed, Purpose.SCORE), **parameters)


def two_layers() -> nn.Module:
    """Two linear layers; the first may be pruned, the second is the classifier."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    return model.eval()


def test_the_registry_holds_the_five_baselines_and_the_control():
    found = {name: (s.score, s.scope) for name, s in strategies.registered().items()}
    assert found == {
        "dense": ("none", "global"),
        "global-gradient-magnitude": ("gradient-magnitude", "global"),
        "global-magnitude": ("magnitude", "global"),
        "layerwise-gradient-magnitude": ("gradient-magnitude", "layer"),
        "layerwise-magnitude": ("magnitude", "layer"),
        "random": ("random", "global"),
    }
    assert all(SCORES[name].source for name in SCORES.names())


def test_magnitude_by_hand():
    assert call("magnitude", two_layers())["0.weight"].tolist() == [[1, 2], [0, 3]]


def test_gradient_magnitude_by_hand():
    # One picture x = (1, 1), label 0: hidden = W x = (-1, 3) = logits; p = softmax(logits).
    # dL/dhidden = p - onehot = (p0 - 1, p1); g = dL/dhidden x^T; score = |w * g|.
    def data(batches: int, batch_size: int):
        yield torch.ones(1, 2), torch.tensor([0])

    p1 = 1 / (1 + np.exp(-4))
    found = call("gradient-magnitude", two_layers(), data)["0.weight"].numpy()
    np.testing.assert_allclose(found, [[p1, 2 * p1], [0, 3 * p1]], rtol=1e-6)


def test_gradient_magnitude_is_of_the_mean_over_pictures_not_over_batches():
    torch.manual_seed(0)
    pictures, labels = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])

    def data(batches: int, batch_size: int):
        yield pictures[:4], labels[:4]
        yield pictures[4:], labels[4:]

    model = two_layers()
    loss = nn.functional.cross_entropy(model(pictures), labels)
    (gradient,) = torch.autograd.grad(loss, model[0].weight)
    expected = (model[0].weight * gradient).abs()
    torch.testing.assert_close(call("gradient-magnitude", model, data)["0.weight"], expected)


def test_random_is_uniform_and_a_function_of_the_seed():
    model = models.build("digitsnet", (1, 8, 8), 10, seed=1)
    one, again, other = (call("random", model, seed=seed) for seed in (1, 1, 2))
    assert all(one[name].equal(again[name]) for name in one)
    assert not any(one[name].equal(other[name]) for name in one)
    values = torch.cat([part.flatten() for part in one.values()])
    assert abs(values.mean().item() - 0.5) < 0.01
    assert 0 <= values.min().item() < values.max().item() < 1


@pytest.mark.parametrize("name", SCORES.names())
def test_every_score_covers_the_prunable_weights_and_leaves_the_network_alone(name):
    training.start(1, "cpu")
    model = models.build("digitsnet", (1, 8, 8), 3, seed=1)
    model.train()  # as a checkpoint is loaded
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = scoring.score(name, model, split(), 1, {})
    weights = prunable(model)
    assert list(found) == list(weights)
    assert all(found[key].shape == tuple(weights[key].shape) for key in weights)
    assert all(found[key].dtype == np.float32 for key in weights)
    # Scoring in train mode would move the statistics of batch-norm, as ShrinkBench does.
    assert all(before[key].equal(value) for key, value in model.state_dict().items())
    again = scoring.score(name, model, split(), 1, {})
    assert all((found[key] == again[key]).all() for key in found)


def test_all_scores_see_the_same_pictures_for_one_seed():
    seen = []

    def look(model, data, generator):
        torch.rand(3, generator=generator)
        seen.append([labels.tolist() for _, labels in data(2, 4)])
        return {name: weight.detach() for name, weight in prunable(model).items()}

    model = models.build("digitsnet", (1, 8, 8), 3, seed=1)
    for _ in range(2):
        with registered("look", look):
            scoring.score("look", model, split(), 7, {})
    assert seen[0] == seen[1]
    assert [len(batch) for batch in seen[0]] == [4, 4]


class registered:  # noqa: N801
    """Put a scoring function into the registry for a while."""

    def __init__(self, name: str, function) -> None:
        self.name, self.function = name, function

    def __enter__(self) -> None:
        SCORES.names()
        strategies.score(self.name, source="a test", strategies={})(self.function)

    def __exit__(self, *_: object) -> None:
        del SCORES._entries[self.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found.popitem(),
            "must return one tensor per prunable weight; it differs in",
        ),
        (lambda found: found.update(extra=torch.zeros(1)), r"it differs in \['extra'\]"),
        (
            lambda found: found.update({"features.0.weight": torch.zeros(2)}),
            r"returned shape \(2,\) for 'features.0.weight', whose shape is \(32, 1, 3, 3\)",
        ),
        (lambda found: next(iter(found.values())).fill_(torch.nan), "that is not finite"),
    ],
)
def test_what_a_score_returns_is_checked(change, message):
    def broken(model, data, generator):
        found = {name: weight.detach().clone() for name, weight in prunable(model).items()}
        change(found)
        return found

    model = models.build("digitsnet", (1, 8, 8), 3, seed=1)
    with registered("broken", broken), pytest.raises(UserError, match=message):
        scoring.score("broken", model, split(), 1, {})


def test_combinations_are_completed_by_defaults():
    found = strategies.combine("mine", "gradient-magnitude", "layer", {"batches": 8})
    assert found.parameters == {"batches": 8, "batch_size": 64}


@pytest.mark.parametrize(
    ("score", "parameters", "message"),
    [
        ("gradient-magnitud", {}, "unknown score 'gradient-magnitud'; did you mean"),
        ("gradient-magnitude", {"batch": 2}, "has no parameter 'batch'; did you mean 'batches'"),
        ("magnitude", {"batch": 2}, r"has no parameter 'batch' \(it takes none\)"),
        ("gradient-magnitude", {"batches": 2.5}, "'batches' of .* must be of type int, not 2.5"),
        ("gradient-magnitude", {"batches": True}, "must be of type int, not True"),
    ],
)
def test_combinations_are_checked(score, parameters, message):
    with pytest.raises(UserError, match=message):
        strategies.combine("mine", score, "global", parameters)
