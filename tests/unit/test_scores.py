from __future__ import annotations

import copy
import inspect
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from shrinkflow import models, selection, strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES
from shrinkflow.way import Way


def no_data(batches: int, batch_size: int):
    raise AssertionError("this score wants no pictures")


def source(pictures: torch.Tensor, labels: torch.Tensor, sizes: list[int] | None = None):
    """Return a batch source of these pictures in order; `sizes` overrules the batch size asked for."""

    def data(batches: int, batch_size: int, crop: int = 0, flip: bool = False):
        count = min(len(pictures), batches * batch_size)
        parts = sizes or [min(batch_size, count - i) for i in range(0, count, batch_size)]
        for end, size in zip(itertools.accumulate(parts), parts, strict=True):
            yield pictures[end - size : end], labels[end - size : end]

    return data


def call(name: str, model: nn.Module, data=no_data, seed: int = 1, **parameters):
    found = SCORES[name].function(model, data, torch_generator(seed, Purpose.SCORE), **parameters)
    return {key: value.detach().double().numpy() for key, value in found.items()}


def two_layers() -> nn.Module:
    """Two linear layers; the first may be pruned, the second is the classifier."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        model[1].weight.copy_(torch.eye(2))
    return model.eval()


def smooth(count: int = 9):
    """A tiny network with two prunable layers (6 and 9 weights), in double precision, and pictures for it."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    model = model.double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape))
    return model, torch.randn(count, 2).double(), torch.arange(count) % 2


def losses(model: nn.Module, pictures, labels, temperature: float = 1.0):
    """Return (flat weights, a function from them to the loss of each picture, {name: slice of them})."""
    weights = {n: w for n, w in model.named_parameters() if n.endswith("weight")}
    parts, at = {}, 0
    for name, weight in weights.items():
        parts[name] = slice(at, at + weight.numel())
        at += weight.numel()

    def function(flat: torch.Tensor) -> torch.Tensor:
        values = {name: flat[part].view(weights[name].shape) for name, part in parts.items()}
        logits = torch.func.functional_call(model, values, (pictures,)) / temperature
        return functional.cross_entropy(logits, labels, reduction="none")

    return torch.cat([w.detach().flatten() for w in weights.values()]), function, parts


def per_picture_gradients(model: nn.Module, pictures, labels):
    flat, function, parts = losses(model, pictures, labels)
    jacobian = torch.autograd.functional.jacobian(function, flat).numpy()
    return {name: jacobian[:, part] for name, part in parts.items()}


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    scans = load_digits()
    pictures = torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return pictures, torch.tensor(scans.target)


def train(model: nn.Module, digits, epochs: int, masks=None, seed: int = 0) -> nn.Module:
    pictures, labels = digits
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(pictures), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(pictures[chosen]), labels[chosen]).backward()
            optimizer.step()
            if masks:
                apply(model, masks)
    return model.eval()


@pytest.fixture(scope="module")
def trained(digits) -> nn.Module:
    return train(models.build("digitsnet", (1, 8, 8), 10, seed=1), digits, epochs=6)


@torch.no_grad()
def apply(model: nn.Module, masks) -> nn.Module:
    for name, weight in prunable(model).items():
        weight.mul_(torch.as_tensor(masks[name]).to(weight.dtype))
    return model


@torch.no_grad()
def loss(model: nn.Module, digits) -> float:
    return functional.cross_entropy(model(digits[0]), digits[1]).item()


def pruned_loss(model: nn.Module, digits, scores, fraction: float) -> float:
    masks = selection.select(scores, fraction, "global")
    return loss(apply(copy.deepcopy(model), masks), digits)


def fresh(seed: int = 1) -> nn.Module:
    return models.build("digitsnet", (1, 8, 8), 10, seed=seed).eval()


def test_the_strategies_of_these_scores():
    ways = {
        "global-activation-magnitude": ("activation-magnitude", Way()),
        "layerwise-activation-magnitude": ("activation-magnitude", Way(scope="layer")),
        "snip": ("snip", Way(start="initialisation")),
        "grasp": ("grasp", Way(start="initialisation")),
        "synflow": ("synflow", Way(start="initialisation", rounds=100)),
        "obd-fisher": ("obd-fisher", Way()),
        "obd-hessian": ("obd-hessian", Way()),
        "woodfisher": ("woodfisher", Way()),
        "lamp": ("lamp", Way()),
    }
    found = strategies.registered()
    assert {name: (found[name].score, found[name].way) for name in ways} == ways


def test_the_update_of_woodfisher_takes_the_parameters_of_its_score():
    update = SCORES["woodfisher"].update
    keywords = {
        p.name: p.default for p in inspect.signature(update).parameters.values() if p.kind == p.KEYWORD_ONLY
    }
    assert keywords == SCORES["woodfisher"].parameters()


# Activation magnitude


def test_activation_magnitude_of_a_linear_layer_by_hand():
    # Inputs (1, -1) and (3, 1): mean size of the features (2, 1), size of their mean (2, 0).
    data = source(torch.tensor([[1.0, -1.0], [3.0, 1.0]]), torch.zeros(2, dtype=torch.long))
    assert call("activation-magnitude", two_layers(), data)["0.weight"].tolist() == [[2, 2], [0, 3]]
    found = call("activation-magnitude", two_layers(), data, average_first=True)
    assert found["0.weight"].tolist() == [[2, 0], [0, 0]]


def test_activation_magnitude_of_a_convolution_by_hand():
    # Channel 0: |1| + |-1| + |2| + 0 = 4, over 2 x 2 pixels: 1. Channel 1: 4 x 3 / 4 = 3.
    model = nn.Sequential(nn.Conv2d(2, 1, 2), nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 0.0], [5.0, -2.0]]]]))
    picture = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]]]])
    found = call("activation-magnitude", model, source(picture, torch.zeros(1, dtype=torch.long)))
    assert found["0.weight"].tolist() == [[[[1, 2], [3, 4]], [[3, 0], [15, 6]]]]


def test_activation_magnitude_as_the_code_of_shrinkbench_computes_it(digits):
    model, pictures = fresh(), digits[0][:64]
    found = call("activation-magnitude", model, source(*digits), average_first=True)
    inputs = pictures
    for name, layer in model.features.named_children():
        if isinstance(layer, nn.Conv2d):
            mean = inputs.detach().numpy().mean(axis=0)
            norms = np.array([np.linalg.norm(channel.ravel(), 1) for channel in mean]) / mean[0].size
            expected = np.abs(layer.weight.detach().numpy() * norms[:, None, None])
            np.testing.assert_allclose(found[f"features.{name}.weight"], expected, rtol=2e-5)
        inputs = layer(inputs)
    plain = call("activation-magnitude", model, source(*digits))
    # Behind a ReLU nothing cancels; the first layer's pictures have both signs.
    np.testing.assert_allclose(plain["features.3.weight"], found["features.3.weight"], rtol=1e-5)
    assert (plain["features.0.weight"] > 1.05 * found["features.0.weight"]).all()


def test_activation_magnitude_of_a_grouped_convolution_uses_each_groups_own_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 2)).eval()
    pictures = torch.randn(5, 4, 3, 3)
    found = call("activation-magnitude", model, source(pictures, torch.zeros(5, dtype=torch.long)))
    weight = model[0].weight.detach().numpy()
    expected = np.zeros_like(weight)
    for output, inner in itertools.product(range(6), range(2)):
        channel = inner + 2 * (output // 3)  # outputs 0..2 see channels 0 and 1, outputs 3..5 the others
        expected[output, inner] = np.abs(weight[output, inner]) * np.abs(pictures[:, channel].numpy()).mean()
    np.testing.assert_allclose(found["0.weight"], expected, rtol=1e-5)


def test_activation_magnitude_weighs_pictures_not_batches():
    torch.manual_seed(0)
    pictures, labels = torch.randn(5, 2), torch.zeros(5, dtype=torch.long)
    whole = call("activation-magnitude", two_layers(), source(pictures, labels))
    parts = call("activation-magnitude", two_layers(), source(pictures, labels, sizes=[4, 1]))
    np.testing.assert_allclose(parts["0.weight"], whole["0.weight"], rtol=1e-6)


def test_activation_magnitude_counts_every_use_of_a_layer_and_leaves_no_hook():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.classifier = nn.Linear(1, 1, bias=False), nn.Linear(1, 2)

        def forward(self, pictures):
            return self.classifier(self.layer(self.layer(pictures)))

    model = Twice().eval()
    nn.init.constant_(model.layer.weight, -3.0)
    data = source(torch.tensor([[2.0]]), torch.tensor([0]))
    # Inputs 2, then -3 x 2 = -6: |-3| x (2 + 6) = 24.
    assert call("activation-magnitude", model, data)["layer.weight"].tolist() == [[24]]
    assert not model.layer._forward_pre_hooks


# SNIP


def test_snip_by_hand():
    # x = (1, 1), label 0: |w * g| = p1 x [[1, 2], [0, 3]] (see gradient magnitude), whose sum is 6 p1.
    found = call("snip", two_layers(), source(torch.ones(1, 2), torch.tensor([0])))["0.weight"]
    np.testing.assert_allclose(found, [[1 / 6, 2 / 6], [0, 3 / 6]], rtol=1e-6)


def test_snip_sums_to_one_over_all_layers_and_ranks_as_gradient_magnitude(digits):
    data = source(*digits)
    found = call("snip", fresh(), data)
    plain = call("gradient-magnitude", fresh(), data, batch_size=128)
    assert sum(part.sum() for part in found.values()) == pytest.approx(1, rel=1e-6)
    ratios = np.concatenate([found[n][plain[n] > 0] / plain[n][plain[n] > 0] for n in plain])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)


def test_snip_of_a_network_without_gradients_is_zero_and_not_nan():
    model = two_layers()
    nn.init.zeros_(model[1].weight)
    found = call("snip", model, source(torch.ones(1, 2), torch.tensor([0])))
    assert found["0.weight"].tolist() == [[0, 0], [0, 0]]


# GraSP


def test_grasp_by_hand():
    # One weight w = 1 before the classifier v = (1, 0), x = 1, label 0, temperature 1. With h = w x,
    # d = v0 - v1 = 1 and p = sigmoid(-d h): g = (dL/dw, dL/dv0, dL/dv1) = (-p d x, -p h, p h), so
    # g'g = p^2 (d^2 x^2 + 2 w^2 x^2), and H g = half its gradient. By w, as dp/dw = -p (1 - p) d x:
    # p (-p (1 - p)) (1 + 2) + p^2 2. The score is w = 1 times that.
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
    p = 1 / (1 + np.e)
    found = call("grasp", model, source(torch.ones(1, 1), torch.tensor([0])), temperature=1.0)
    assert found["0.weight"].item() == pytest.approx(-3 * p**2 * (1 - p) + 2 * p**2, rel=1e-5)


@pytest.mark.parametrize("sizes", [[9], [4, 5], [6, 2, 1]])
def test_grasp_is_the_product_with_the_full_hessian(sizes):
    model, pictures, labels = smooth()
    found = call("grasp", model, source(pictures, labels, sizes), temperature=3.0)
    flat, each, parts = losses(model, pictures, labels, temperature=3.0)
    hessian = torch.autograd.functional.hessian(lambda w: each(w).mean(), flat)
    gradient = torch.autograd.functional.jacobian(lambda w: each(w).mean(), flat)
    expected = (flat * (hessian @ gradient)).numpy()
    assert list(found) == ["0.weight", "2.weight"]  # the classifier counts, but is not scored
    for name, values in found.items():
        np.testing.assert_allclose(values.ravel(), expected[parts[name]], rtol=1e-9, atol=1e-15)


def flow(model: nn.Module, pictures, labels, temperature: float = 200.0) -> float:
    layers = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    value = functional.cross_entropy(model(pictures) / temperature, labels)
    return sum(g.double().square().sum().item() for g in torch.autograd.grad(value, layers))


def test_grasp_keeps_what_carries_gradient_flow_and_removes_what_hinders_it(digits):
    pictures, labels = digits[0][:128], digits[1][:128]
    scores = call("grasp", fresh(), source(*digits))
    # Batch-norm normalises by the batch, as it will while the network trains.
    dense = flow(fresh().train(), pictures, labels)
    best = selection.select(scores, 0.002, "global")
    worst = selection.select({name: -values for name, values in scores.items()}, 0.002, "global")

    def without(masks) -> float:
        pruned = apply(fresh(), {name: 1 - mask for name, mask in masks.items()})
        return flow(pruned.train(), pictures, labels)

    assert without(best) < 0.9 * dense
    assert without(worst) > 1.1 * dense


def test_grasp_is_the_derivative_of_the_flow_through_batch_statistics():
    # Without the kinks of ReLU: weakening weights a little lowers the flow by 2 x little x their scores.
    torch.manual_seed(2)
    layers = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    model = nn.Sequential(*layers).double().eval()
    pictures, labels = torch.randn(20, 4).double(), torch.arange(20) % 3
    statistics = model[1].running_mean.clone()
    dense, changed = copy.deepcopy(model), copy.deepcopy(model)
    scores = call("grasp", model, source(pictures, labels))["0.weight"]
    little = 1e-4 * torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        changed[0].weight.mul_(1 - little)
    before, after = (
        flow(dense.train(), pictures, labels),
        flow(changed.train(), pictures, labels),
    )
    assert after - before == pytest.approx(-2 * (scores * little.numpy()).sum(), rel=1e-3)
    assert model[1].running_mean.equal(statistics)


# SynFlow


def test_synflow_by_hand():
    # Ones through |W| and |V|: the flow of W[i, j] is |W[i, j]| x (sum of column i of |V|), columns 5 and 2.
    model = two_layers()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [-4.0, 2.0]]))
    data = source(torch.full((1, 2), -7.0), torch.tensor([0]))
    expected = np.array([[1 * 5, 2 * 5], [0, 3 * 2]]) / 10 * 2.0**126
    np.testing.assert_allclose(call("synflow", model, data)["0.weight"], expected, rtol=1e-6)


def test_synflow_is_conserved_through_hidden_channels():
    # Tanaka et al. 2020, theorem 1: what flows into a hidden neuron flows out of it. Also through max-pooling.
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 2, bias=False), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)),
    ).eval()
    found = call("synflow", model, source(torch.zeros(1, 1, 8, 8), torch.tensor([0])))
    into, out_of = found["0.weight"].sum(axis=(1, 2, 3)), found["3.weight"].sum(axis=(0, 2, 3))
    np.testing.assert_allclose(into, out_of, rtol=1e-5)
    into, out_of = found["3.weight"].sum(axis=(1, 2, 3)), found["6.weight"].reshape(5, 4, 4).sum(axis=(0, 2))
    np.testing.assert_allclose(into, out_of, rtol=1e-5)


def test_synflow_uses_no_data_but_a_pictures_shape_and_leaves_the_network_alone():
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    one = call("synflow", model, source(torch.zeros(1, 1, 8, 8), torch.tensor([0])))
    other = call("synflow", model, source(torch.randn(1, 1, 8, 8), torch.tensor([9])))
    assert all((one[name] == other[name]).all() for name in one)
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())


@pytest.mark.parametrize("size", [1e3, 1e-3])
def test_synflow_of_a_deep_network_fits_float32(size):
    # 60 layers multiply the flow by 12 x size each: about 1e245, or 1e-115; float32 ends at 1e38 and 1e-45.
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(8, 8, bias=False) for _ in range(60)), nn.Linear(8, 2, bias=False)
    ).eval()
    for layer in model:
        nn.init.uniform_(layer.weight, size, 2 * size, generator=generator)
    found = call("synflow", model, source(torch.zeros(1, 8), torch.tensor([0])))
    # The same flow from both ends, every step rescaled; each layer passes on all of it, so its sum is known.
    weights = [layer.weight.detach().double().numpy() for layer in model]
    forward, backward = [np.ones(8)], [np.ones(2)]
    for weight in weights[:-1]:
        forward.append(weight @ forward[-1] / (weight @ forward[-1]).sum())
    for weight in weights[:0:-1]:
        backward.append(weight.T @ backward[-1] / (weight.T @ backward[-1]).sum())
    expected = [w * np.outer(b, f) for w, f, b in zip(weights, forward, backward[::-1], strict=True)][:-1]
    expected = np.stack([layer / layer.sum() for layer in expected])
    values = np.stack(list(found.values()))
    assert values.max() == 2.0**126
    np.testing.assert_allclose(values / 2.0**126, expected / expected.max(), rtol=1e-5)


def in_rounds(name: str, model: nn.Module, data, fraction: float, rounds: int):
    masks = None
    for step in range(1, rounds + 1):
        scores = call(name, model, data)
        masks = selection.select(scores, fraction ** (step / rounds), "global", masks)
        apply(model, masks)
    return masks


def test_synflow_keeps_every_layer_alive_where_magnitude_collapses(digits):
    fraction = 0.0007  # 65 of 92,448 weights
    model = fresh()
    masks = in_rounds("synflow", model, source(*digits), fraction, rounds=100)
    assert sum(int(mask.sum()) for mask in masks.values()) == 65
    assert not selection.collapsed(masks)
    # Not only is something left of every layer: a signal passes through all of them.
    assert any(part.any() for part in call("synflow", model, source(*digits)).values())
    assert selection.collapsed(selection.select(call("magnitude", fresh()), fraction, "global"))


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_pruning_before_training_beats_random_pruning(name, digits):
    # 2 % of the weights are kept, and trained for one epoch: a loss of about 0.5, against 2.2.
    reached = {}
    for score, rounds in ((name, 20 if name == "synflow" else 1), ("random", 1)):
        masks = in_rounds(score, fresh(), source(*digits), 0.02, rounds)
        reached[score] = loss(train(apply(fresh(), masks), digits, epochs=1, masks=masks), digits)
    assert reached[name] < 0.5 * reached["random"]


# Optimal Brain Damage


def test_obd_fisher_by_hand():
    # W x = logits. x = (1, 1), label 0: logits (-1, 3), p = sigmoid(4); the gradient is [[-p, -p], [p, p]].
    # x = (1, 0), label 1: logits (1, 0), q = sigmoid(1); the gradient is [[q, 0], [-q, 0]].
    # F = [[(p^2 + q^2) / 2, p^2 / 2], same]; W^2 = [[1, 4], [0, 9]]; score = W^2 F / 2.
    p, q = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-1))
    data = source(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    expected = [[(p**2 + q**2) / 4, 4 * p**2 / 4], [0, 9 * p**2 / 4]]
    np.testing.assert_allclose(call("obd-fisher", two_layers(), data)["0.weight"], expected, rtol=1e-5)


def test_obd_fisher_is_the_mean_of_every_pictures_squared_gradient():
    model, pictures, labels = smooth()
    found = call("obd-fisher", model, source(pictures, labels), examples=7)
    for name, gradients in per_picture_gradients(model, pictures[:7], labels[:7]).items():
        if name in found:
            weight = dict(model.named_parameters())[name].detach().numpy().ravel()
            expected = weight**2 * (gradients**2).mean(axis=0) / 2
            np.testing.assert_allclose(found[name].ravel(), expected, rtol=1e-10)


def test_obd_hessian_of_a_single_weight_is_exact_with_one_probe():
    # L = log(1 + exp(-d w x)), d = 2: h = p (1 - p) d^2 x^2, p = sigmoid(-d w x); w = 0.5, x = 3.
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(0.5)
        model[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    p = 1 / (1 + np.exp(3))
    found = call("obd-hessian", model, source(torch.tensor([[3.0]]), torch.tensor([0])), probes=1)
    assert found["0.weight"].item() == pytest.approx(0.5**2 * p * (1 - p) * 36 / 2, rel=1e-4)


def test_obd_hessian_converges_to_the_true_diagonal_and_takes_its_absolute_value():
    model, pictures, labels = smooth()
    flat, each, _ = losses(model, pictures, labels)
    hessian = torch.autograd.functional.hessian(lambda w: each(w).mean(), flat).numpy()[:15, :15]
    diagonal = np.diag(hessian)
    assert (diagonal < -0.01).any()  # or the absolute value would be untested
    found = call("obd-hessian", model, source(pictures, labels), batches=1, batch_size=9, probes=4000)
    scores = np.concatenate([found["0.weight"].ravel(), found["2.weight"].ravel()])
    weights = flat.numpy()[:15]
    # Five standard errors of the estimate (its variance is in the docstring).
    error = 5 * np.sqrt(((hessian - np.diag(diagonal)) ** 2).sum(axis=1) / 4000)
    assert (np.abs(2 * scores / weights**2 - np.abs(diagonal)) < error).all()
    assert (error < 0.15 * np.abs(diagonal).max()).all()


def test_obd_hessian_draws_from_the_generator_given_and_weighs_pictures():
    model, pictures, labels = smooth()
    one, again, other = (call("obd-hessian", model, source(pictures, labels), seed=s) for s in (1, 1, 2))
    assert all((one[name] == again[name]).all() for name in one)
    assert not any((one[name] == other[name]).any() for name in one)
    # Batches of 6 and 3: with many probes the same as one batch of 9.
    whole = call("obd-hessian", model, source(pictures, labels), batches=1, batch_size=9, probes=2000)
    parts = call("obd-hessian", model, source(pictures, labels, [6, 3]), probes=2000)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], atol=0.15 * whole[name].max())


def test_obd_costs_less_loss_than_magnitude_at_half_size(trained, digits):
    data = source(*digits)
    by_magnitude = pruned_loss(trained, digits, call("magnitude", trained), 0.5)
    assert pruned_loss(trained, digits, call("obd-fisher", trained, data, examples=500), 0.5) < by_magnitude


# WoodFisher


def blocks(count: int, size: int):
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def fisher(gradients: np.ndarray, damping: float) -> np.ndarray:
    return gradients.T @ gradients / len(gradients) + damping * np.eye(gradients.shape[1])


def woodbury(gradients: np.ndarray, damping: float) -> np.ndarray:
    """Return the inverse as the paper computes it, gradient by gradient (its equation 8)."""
    inverse = np.eye(gradients.shape[1]) / damping
    for g in gradients:
        column = inverse @ g
        inverse = inverse - np.outer(column, column) / (len(gradients) + g @ column)
    return inverse


@pytest.mark.parametrize(("size", "count"), [(1, 9), (4, 9), (5, 16), (50, 9), (4, 39)])
def test_woodfisher_scores_are_those_of_the_papers_recursion(size, count):
    model, pictures, labels = smooth(count)
    found = call("woodfisher", model, source(pictures, labels), block_size=size, damping=1e-3)
    for name, gradients in per_picture_gradients(model, pictures, labels).items():
        if name in found:
            weight = dict(model.named_parameters())[name].detach().numpy().ravel()
            for part in blocks(weight.size, size):
                inverse = woodbury(gradients[:, part], 1e-3)
                np.testing.assert_allclose(
                    inverse, np.linalg.inv(fisher(gradients[:, part], 1e-3)), rtol=1e-6
                )
                expected = weight[part] ** 2 / (2 * np.diag(inverse))
                np.testing.assert_allclose(found[name].ravel()[part], expected, rtol=1e-8)


def test_woodfisher_takes_mean_gradients_of_batches():
    model, pictures, labels = smooth(8)
    found = call(
        "woodfisher", model, source(pictures, labels), gradients=3, batch_size=2, block_size=9, damping=0.01
    )
    gradients = per_picture_gradients(model, pictures[:6], labels[:6])["2.weight"]
    inverse = woodbury(gradients.reshape(3, 2, 9).mean(axis=1), 0.01)
    expected = model[2].weight.detach().numpy().ravel() ** 2 / (2 * np.diag(inverse))
    np.testing.assert_allclose(found["2.weight"].ravel(), expected, rtol=1e-8)


def test_woodfisher_does_not_count_on_weights_that_an_earlier_round_pruned():
    model, pictures, labels = smooth(20)
    with torch.no_grad():
        model[2].weight.view(-1)[[2, 5]] = 0
    found = call("woodfisher", model, source(pictures, labels), block_size=9, damping=1e-3)
    left = [0, 1, 3, 4, 6, 7, 8]
    gradients = per_picture_gradients(model, pictures, labels)["2.weight"][:, left]
    expected = model[2].weight.detach().numpy().ravel()[left] ** 2 / (2 * np.diag(woodbury(gradients, 1e-3)))
    np.testing.assert_allclose(found["2.weight"].ravel()[left], expected, rtol=1e-8)


def move(model: nn.Module, data, masks, **parameters):
    parameters = {**SCORES["woodfisher"].parameters(), **parameters}
    masks = {name: torch.as_tensor(mask).bool() for name, mask in masks.items()}
    return SCORES["woodfisher"].update(model, data, masks, **parameters)


def test_woodfisher_moves_the_survivors_of_each_block_jointly():
    model, pictures, labels = smooth(30)
    generator = np.random.default_rng(0)
    masks = {name: generator.random(weight.shape) < 0.5 for name, weight in prunable(model).items()}
    found = move(model, source(pictures, labels), masks, block_size=4, damping=1e-3)
    for name, gradients in per_picture_gradients(model, pictures, labels).items():
        if name not in found:
            continue
        weight = dict(model.named_parameters())[name].detach().numpy().ravel()
        for part in blocks(weight.size, 4):
            inverse = np.linalg.inv(fisher(gradients[:, part], 1e-3))
            gone = np.flatnonzero(~masks[name].ravel()[part])
            step = -inverse[:, gone] @ np.linalg.solve(inverse[np.ix_(gone, gone)], weight[part][gone])
            np.testing.assert_allclose(
                found[name].detach().numpy().ravel()[part], weight[part] + step, rtol=1e-7, atol=1e-9
            )
        assert (found[name].detach().numpy()[~masks[name]] == 0).all()


def test_woodfisher_score_is_the_predicted_cost_of_removing_one_weight_and_moving_the_others():
    model, pictures, labels = smooth(30)
    data = source(pictures, labels)
    scores = call("woodfisher", model, data, block_size=9, damping=1e-3)["2.weight"].ravel()
    matrix = fisher(per_picture_gradients(model, pictures, labels)["2.weight"], 1e-3)
    for gone in range(9):
        masks = {name: torch.ones_like(weight) for name, weight in prunable(model).items()}
        masks["2.weight"].view(-1)[gone] = 0
        found = move(model, data, masks, block_size=9, damping=1e-3)
        step = (found["2.weight"] - model[2].weight).detach().numpy().ravel()
        assert step @ matrix @ step / 2 == pytest.approx(scores[gone], rel=1e-6)
        assert found["0.weight"].equal(model[0].weight)  # nothing went there, so nothing moves


def test_woodfisher_with_nothing_or_everything_pruned():
    model, pictures, labels = smooth()
    for value in (1, 0):
        masks = {name: torch.full(weight.shape, value) for name, weight in prunable(model).items()}
        found = move(model, source(pictures, labels), masks, block_size=4)
        assert all(found[name].equal(weight * value) for name, weight in prunable(model).items())


def test_woodfisher_with_much_damping_is_magnitude_and_moves_nothing(trained, digits):
    data = source(*digits)
    scores = call("woodfisher", trained, data, gradients=20, damping=1e6)
    magnitudes = call("magnitude", trained)
    for name, values in scores.items():
        np.testing.assert_allclose(values, magnitudes[name] ** 2 * 1e6 / 2, rtol=1e-5)
    masks = selection.select(magnitudes, 0.3, "global")
    found = move(trained, data, masks, gradients=20, damping=1e6)
    for name, weight in apply(copy.deepcopy(trained), masks).named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], weight.detach(), rtol=1e-5, atol=1e-7)


def test_woodfisher_without_damping_says_what_to_do():
    model, pictures, labels = smooth(2)  # two gradients cannot fill a 6 x 6 matrix
    with pytest.raises(UserError, match=r"'0.weight' cannot be inverted with damping 0; raise 'damping'"):
        call("woodfisher", model, source(pictures, labels), damping=0.0)


def test_woodfisher_prunes_at_less_loss_than_magnitude_and_its_update_helps(trained, digits):
    data = source(*digits)
    scores = call("woodfisher", trained, data, gradients=400)
    masks = selection.select(scores, 0.2, "global")
    plain = loss(apply(copy.deepcopy(trained), masks), digits)
    found = move(trained, data, masks, gradients=400)
    again = move(trained, data, masks, gradients=400)
    model = copy.deepcopy(trained)
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.copy_(found[name])
            assert found[name].equal(again[name])
            assert found[name].dtype == torch.float32
            assert (found[name].numpy()[masks[name] == 0] == 0).all()
    by_magnitude = pruned_loss(trained, digits, call("magnitude", trained), 0.2)
    assert plain < 0.8 * by_magnitude
    assert loss(model, digits) < 0.7 * plain


# LAMP


def test_lamp_by_hand():
    # Squares 1, 4, 0, 9: 9/9, 4/(4 + 9), 1/(1 + 4 + 9), 0.
    found = call("lamp", two_layers())["0.weight"]
    np.testing.assert_allclose(found, [[1 / 14, 4 / 13], [0, 1]], rtol=1e-12)


def test_lamp_by_brute_force(trained):
    weight = trained.features[0].weight.detach().double().numpy().ravel() ** 2
    expected = [w / weight[weight >= w].sum() for w in weight]
    found = call("lamp", trained)["features.0.weight"].ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_lamp_breaks_ties_by_position_and_gives_a_zero_layer_zeros():
    model = two_layers()
    nn.init.constant_(model[0].weight, -2)
    found = call("lamp", model)["0.weight"]
    np.testing.assert_allclose(found, [[1, 1 / 2], [1 / 3, 1 / 4]], rtol=1e-12)
    nn.init.zeros_(model[0].weight)
    assert call("lamp", model)["0.weight"].tolist() == [[0, 0], [0, 0]]


def test_lamp_keeps_the_largest_weights_of_each_layer(trained):
    lamp, magnitude = (
        {n: v.astype(np.float32) for n, v in call(s, trained).items()} for s in ("lamp", "magnitude")
    )
    for fraction in (0.5, 0.03):
        masks = selection.select(lamp, fraction, "global")
        for name, mask in masks.items():
            alone = selection.select({name: magnitude[name]}, mask.sum() / mask.size, "global")
            np.testing.assert_array_equal(mask, alone[name])


def test_lamp_keeps_every_layer_alive_where_magnitude_collapses():
    fraction = 0.0007
    model = fresh()
    assert selection.collapsed(selection.select(call("magnitude", model), fraction, "global"))
    scores = call("lamp", model)
    assert not selection.collapsed(selection.select(scores, fraction, "global"))
    # Down to as many weights as there are layers, each has one.
    last = selection.select(scores, 3 / 92448, "global")
    assert [int(mask.sum()) for mask in last.values()] == [1, 1, 1]


# All of them


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "obd-fisher", "obd-hessian", "woodfisher"])
def test_pruned_weights_score_nothing(name, digits):
    model = fresh()
    with torch.no_grad():
        model.features[3].weight[:, 0] = 0
    found = call(name, model, source(*digits))["features.3.weight"]
    assert (found[:, 0] == 0).all() and (found[:, 1:] != 0).any()


@pytest.mark.parametrize("name", ["grasp", "synflow", "obd-fisher", "obd-hessian", "woodfisher"])
def test_a_layer_that_is_not_used_is_no_error(name, digits):
    torch.manual_seed(0)

    class Spare(nn.Module):  # as the auxiliary classifiers that some networks have for training only
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.spare, self.classifier = nn.Linear(64, 5), nn.Linear(64, 5), nn.Linear(5, 10)

        def forward(self, pictures):
            return self.classifier(torch.relu(self.layer(pictures.flatten(1))))

    found = call(name, Spare().eval(), source(*digits))
    assert found["spare.weight"].shape == (5, 64) and np.isfinite(found["spare.weight"]).all()
    assert found["layer.weight"].any()
    if name != "woodfisher":  # to which damping is a reason to keep a weight
        assert not found["spare.weight"].any()
