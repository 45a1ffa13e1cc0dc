from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from shrinkflow import models, strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES
from shrinkflow.way import FILTER, Way

FILTERS = [name for name in SCORES.names() if SCORES[name].granularity == FILTER]


def no_data(batches: int, batch_size: int):
    raise AssertionError("this score wants no pictures")


def noise(shape: tuple[int, int, int], classes: int):
    """Return a source of random pictures, the same for every call."""

    def data(batches: int, batch_size: int):
        generator = torch.Generator().manual_seed(5)
        for _ in range(batches):
            labels = torch.randint(classes, (batch_size,), generator=generator)
            yield torch.randn(batch_size, *shape, generator=generator), labels

    return data


def call(name: str, model: nn.Module, data=no_data, seed: int = 1, **parameters):
    return SCORES[name].function(model, data, torch_generator(seed, Purpose.SCORE), **parameters)


def linear(*rows: list[float]) -> nn.Module:
    """Return a layer with these filters, and a classifier that passes its outputs on."""
    weight = torch.tensor(rows)
    model = nn.Sequential(
        nn.Linear(weight.shape[1], len(rows), bias=False), nn.Linear(len(rows), len(rows), bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(weight)
        model[1].weight.copy_(torch.eye(len(rows)))
    return model.eval()


def test_filter_strategies_are_registered_with_filters_as_what_they_score():
    assert set(FILTERS) >= {
        "filter-bn-scale", "filter-l1", "filter-l2", "filter-random", "filter-taylor", "fpgm"
    }  # fmt: skip
    for name in FILTERS:
        assert SCORES[name].source and SCORES[name].cost
        assert strategies.registered()[name].way.granularity == FILTER
    layerwise, soft = (
        strategies.registered()[name] for name in ("layerwise-filter-l1", "soft-filter-pruning")
    )
    assert (layerwise.score, layerwise.way) == ("filter-l1", Way(granularity=FILTER, scope="layer"))
    assert (soft.score, soft.way) == ("filter-l2", Way(granularity=FILTER, scope="layer", schedule="soft"))


@pytest.mark.parametrize("name", FILTERS)
def test_every_score_has_one_finite_value_per_filter_and_is_repeatable(name):
    torch.set_num_threads(1)
    model = models.build("digitsnet", (1, 8, 8), 3, seed=1).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found, again = (call(name, model, noise((1, 8, 8), 3)) for _ in range(2))
    assert list(found) == list(prunable(model))
    for key, weight in prunable(model).items():
        assert found[key].shape == weight.shape[:1]
        assert found[key].isfinite().all() and not found[key].requires_grad
        assert found[key].equal(again[key])
    assert all(before[key].equal(value) for key, value in model.state_dict().items())


def test_sums_and_norms_by_hand():
    model = linear([3.0, -4.0], [0.0, 1.0])
    assert call("filter-l1", model)["0.weight"].tolist() == [7, 1]
    assert call("filter-l2", model)["0.weight"].tolist() == [5, 1]


def test_a_filter_of_a_convolution_is_all_that_makes_one_output():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(24.0).view(3, 2, 2, 2))
    # 0 + ... + 7, 8 + ... + 15, 16 + ... + 23.
    assert call("filter-l1", model)["0.weight"].tolist() == [28, 92, 156]


def test_fpgm_by_hand_prunes_the_filter_that_others_can_replace_and_not_the_smallest():
    # On a line at 0, 3, 4: the sums of distances are 3 + 4, 3 + 1, 4 + 1. The middle one goes first, where
    # norms would take the zero.
    model = linear([0.0, 0.0], [0.0, 3.0], [0.0, 4.0])
    np.testing.assert_allclose(call("fpgm", model)["0.weight"].numpy(), [7, 4, 5], atol=1e-6)
    assert call("filter-l2", model)["0.weight"].argmin() == 0


def test_fpgm_is_the_sum_of_all_distances_of_a_layer():
    model = models.build("mnistnet", (1, 28, 28), 10, seed=1)
    weight = prunable(model)["conv2.weight"].detach().numpy().reshape(50, -1).astype(np.float64)
    expected = [sum(np.sqrt(((one - other) ** 2).sum()) for other in weight) for one in weight]
    np.testing.assert_allclose(call("fpgm", model)["conv2.weight"].numpy(), expected, rtol=1e-6)


def test_equal_filters_have_equal_distances():
    rows = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    rows[17] = rows[3]
    found = call("fpgm", linear(*rows.tolist()))["0.weight"]
    assert found[17].item() == pytest.approx(found[3].item(), rel=1e-7)


class Crossed(nn.Module):
    """Batch-norms defined in another order than they are used in."""

    def __init__(self, direct: bool = True) -> None:
        super().__init__()
        self.second = nn.BatchNorm1d(2)
        self.first = nn.BatchNorm2d(2)
        self.conv = nn.Conv2d(1, 2, 1)
        self.linear = nn.Linear(2, 2)
        self.classifier = nn.Linear(2, 2)
        self.direct = direct

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(self.conv(x))).mean(dim=(2, 3))
        x = self.linear(x)
        return self.classifier(self.second(x if self.direct else functional.relu(x)))


def test_the_scale_is_that_of_the_batch_norm_that_takes_the_output():
    model = Crossed().eval()
    with torch.no_grad():
        model.first.weight.copy_(torch.tensor([1.0, -2.0]))
        model.second.weight.copy_(torch.tensor([-0.5, 0.0]))
    found = call("filter-bn-scale", model, noise((1, 4, 4), 2))
    assert {name: values.tolist() for name, values in found.items()} == {
        "conv.weight": [1, 2],
        "linear.weight": [0.5, 0],
    }
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (models.build("mnistnet", (1, 28, 28), 10, seed=1), "conv1.weight"),
        (Crossed(direct=False), "linear.weight"),
    ],
    ids=["no batch-norm", "something between"],
)
def test_a_layer_without_a_batch_norm_is_named_with_the_remedy(model, layer):
    shape = (1, 28, 28)
    with pytest.raises(UserError, match=rf"behind every layer, but '{layer}' has none; use 'filter-l1'"):
        call("filter-bn-scale", model.eval(), noise(shape, 10))


def test_every_layer_of_cifar_vgg_has_a_scale():
    model = models.build("cifar-vgg", (3, 32, 32), 10, seed=1).eval()
    with torch.no_grad():
        model.classifier[2].weight.fill_(3)
    found = call("filter-bn-scale", model, noise((3, 32, 32), 10))
    assert list(found) == list(prunable(model))
    assert (found["classifier.1.weight"] == 3).all()


def test_taylor_by_hand():
    # One picture x = (1, 1), label 0: hidden = W x = (-1, 3) = logits; p = softmax(logits).
    # g = (p - onehot) x^T, so the sums of w * g are (p0 - 1) * (1 - 2) = p1 and p1 * (0 + 3) = 3 p1.
    def data(batches: int, batch_size: int):
        yield torch.ones(1, 2), torch.tensor([0])

    p1 = 1 / (1 + np.exp(-4))
    found = call("filter-taylor", linear([1.0, -2.0], [0.0, 3.0]), data)["0.weight"]
    np.testing.assert_allclose(found.numpy(), [p1**2, 9 * p1**2], rtol=1e-6)


def test_taylor_squares_before_it_averages_over_batches():
    # As above; with label 1 the sums are -p0 * -1 ... = -p0 and -3 p0: they would cancel in a mean.
    def data(batches: int, batch_size: int):
        yield torch.ones(1, 2), torch.tensor([0])
        yield torch.ones(1, 2), torch.tensor([1])

    p1 = 1 / (1 + np.exp(-4))
    found = call("filter-taylor", linear([1.0, -2.0], [0.0, 3.0]), data)["0.weight"]
    mean = (p1**2 + (1 - p1) ** 2) / 2
    np.testing.assert_allclose(found.numpy(), [mean, 9 * mean], rtol=1e-6)


def test_taylor_predicts_what_the_loss_does_when_a_filter_shrinks():
    torch.set_num_threads(1)
    model = models.build("digitsnet", (1, 8, 8), 3, seed=1).double().eval()
    pictures, labels = next(noise((1, 8, 8), 3)(1, 16))

    def data(batches: int, batch_size: int):
        yield pictures.double(), labels

    found = call("filter-taylor", copy.deepcopy(model), data)["features.3.weight"]
    small = 1e-6
    with torch.no_grad():
        loss = functional.cross_entropy(model(pictures.double()), labels)
        for filter_ in (0, 11, 63):
            shrunk = copy.deepcopy(model)
            shrunk.features[3].weight[filter_] *= 1 - small
            change = (functional.cross_entropy(shrunk(pictures.double()), labels) - loss) / small
            assert found[filter_].item() == pytest.approx(change.item() ** 2, rel=1e-3)


def test_taylor_scores_a_layer_that_is_not_used_zero():
    model = Crossed().eval()
    model.conv2 = nn.Conv2d(2, 5, 1)
    found = call("filter-taylor", model, noise((1, 4, 4), 2), batches=2, batch_size=3)
    assert list(found) == list(prunable(model))
    assert (found["conv2.weight"] == 0).all() and (found["conv.weight"] > 0).any()


def test_random_filters_are_uniform_and_a_function_of_the_seed():
    model = models.build("cifar-vgg", (3, 32, 32), 10, seed=None)
    one, again, other = (call("filter-random", model, seed=seed) for seed in (1, 1, 2))
    assert all(one[name].equal(again[name]) and not one[name].equal(other[name]) for name in one)
    values = torch.cat(list(itertools.chain(one.values())))
    assert len(values) == 4736
    assert abs(values.mean().item() - 0.5) < 0.02
    assert 0 <= values.min().item() < values.max().item() < 1
