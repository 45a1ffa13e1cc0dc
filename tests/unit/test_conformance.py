from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks import conformance as benchmark
from shrinkflow import budget, conformance, models, selection, strategies, training
from shrinkflow.conformance import DRAWS, GLOBAL, LAYER, SCOPES, select
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES
from shrinkflow.strategies.shrinkbench import dropout_seed, with_biases
from shrinkflow.targets import Sizes, Target
from shrinkflow.way import Way


def scores(**parts: list) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=np.float32) for name, values in parts.items()}


def as_lists(masks: dict[str, np.ndarray]) -> dict[str, list]:
    return {name: mask.tolist() for name, mask in masks.items()}


@pytest.mark.parametrize(
    ("values", "fraction", "kept"),
    [
        # The quantile 0.5 of four lies at position 0.5 * 3 = 1.5, between 2 and 3, at 2.5.
        ([4, 1, 3, 2], 0.5, [1, 0, 1, 0]),
        # Position 0.3 * 3 = 0.9: 1.9. Without interpolation the threshold were 1, and nothing pruned.
        ([4, 1, 3, 2], 0.7, [1, 0, 1, 1]),
        # Position 0.9 * 3 = 2.7: 3.7. One stays, where the exact count is round(0.4) = 0.
        ([4, 1, 3, 2], 0.1, [1, 0, 0, 0]),
        # Position 0.5 * 4 = 2: the threshold is 3 itself, and 3 stays. The exact count is round(2.5) = 2.
        ([5, 1, 3, 2, 4], 0.5, [1, 0, 1, 0, 1]),
        # Ties at the threshold stay: position 0.6 * 4 = 2.4 lies between 2 and 2.
        ([2, 1, 2, 3, 2], 0.4, [1, 0, 1, 1, 1]),
        ([7, 7, 7, 7], 0.25, [1, 1, 1, 1]),
        # 60 % zeros, keep 50 %: position 4.5 lies between 0 and 0, and nothing is below 0.
        ([0, 5, 0, 4, 0, 3, 0, 2, 0, 0], 0.5, [1] * 10),
        ([4, 1, 3, 2], 1.0, [1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("scope", [GLOBAL, LAYER])
def test_what_lies_below_the_interpolated_quantile_is_pruned(values, fraction, kept, scope):
    mask = select(scores(a=values), fraction, scope)["a"]
    assert mask.tolist() == kept
    assert mask.dtype == np.uint8


def test_global_is_one_pool_and_layer_a_pool_for_each_weight_and_each_bias():
    parts = {
        "conv.weight": np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32),
        "conv.bias": np.array([10, 20], dtype=np.float32),
    }
    # All six: position 0.5 * 5 = 2.5 lies between 0.3 and 0.4.
    assert as_lists(select(parts, 0.5, GLOBAL)) == {"conv.weight": [[0, 0], [0, 1]], "conv.bias": [1, 1]}
    # Apart: thresholds 0.25 and 15.
    assert as_lists(select(parts, 0.5, LAYER)) == {"conv.weight": [[0, 0], [1, 1]], "conv.bias": [0, 1]}


def test_a_single_bias_always_stays():
    assert as_lists(select(scores(a=[1, 2, 3, 4], b=[0]), 0.01, LAYER)) == {"a": [0, 0, 0, 1], "b": [1]}


def test_draws_keep_what_is_not_above_the_fraction():
    # The fraction is a power of two, so that a draw can equal it.
    assert as_lists(select(scores(a=[[0, 0.25], [0.26, 1]], b=[0.24]), 0.25, DRAWS)) == {
        "a": [[1, 1], [0, 0]],
        "b": [1],
    }


def test_the_number_of_draws_kept_varies_as_a_binomial_does():
    counts = [
        select({"a": np.random.default_rng(seed).random(1000)}, 0.3, DRAWS)["a"].sum() for seed in range(200)
    ]
    # Binomial(1000, 0.3): mean 300, standard deviation 14.5; of the mean of 200, 1.02.
    assert abs(np.mean(counts) - 300) < 4
    assert 12 < np.std(counts) < 17


distinct = st.lists(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), min_size=1, max_size=4
)


@given(distinct, st.floats(0.01, 1), st.sampled_from([(GLOBAL, "global"), (LAYER, "layer")]))
def test_without_ties_it_differs_from_the_exact_count_by_one_weight_a_pool_at_most(layers, fraction, scopes):
    # Made distinct across layers too.
    parts = {str(i): np.array(values, dtype=np.float64) * 4 + i for i, values in enumerate(layers)}
    theirs, ours = (
        select(parts, fraction, scopes[0]),
        selection.select(parts, fraction, scopes[1]),
    )
    pools = [list(parts)] if scopes[0] == GLOBAL else [[name] for name in parts]
    for pool in pools:
        differing = [(theirs[name] != ours[name]).sum() for name in pool]
        assert sum(differing) <= 1


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_must_be_finite(scope, bad):
    with pytest.raises(UserError, match="scores of 'b' are not all finite"):
        select(scores(a=[0, 1], b=[bad, 1]), 0.5, scope)


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_draws_are_from_0_to_1(bad):
    with pytest.raises(UserError, match=r"takes draws from 0 to 1, .* 'b' are not; use score"):
        select(scores(a=[0, 1], b=[bad]), 0.5, DRAWS)


def test_an_unknown_scope_is_refused():
    with pytest.raises(UserError, match="unknown scope 'global'; known: shrinkbench-global"):
        select(scores(a=[1]), 0.5, "global")


def test_the_strategies_are_those_of_shrinkbench_under_names_of_their_own():
    found = {
        name.removeprefix("shrinkbench-"): (strategy.score, strategy.way)
        for name, strategy in strategies.registered().items()
        if name.startswith("shrinkbench-")
    }
    expected: dict[str, tuple[str, Way]] = {"random": ("shrinkbench-random", Way(scope=DRAWS))}
    for score in ("magnitude", "gradient-magnitude", "activation-magnitude"):
        expected[f"global-{score}"] = (f"shrinkbench-{score}", Way(scope=GLOBAL))
        expected[f"layerwise-{score}"] = (f"shrinkbench-{score}", Way(scope=LAYER))
    assert found == expected
    # Each has a counterpart to be compared with.
    assert found.keys() <= strategies.registered().keys()


def test_the_fraction_counts_the_biases():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    total = sum(part.numel() for part in network.parameters())
    parts = {name: part.detach().abs().numpy() for name, part in with_biases(network).items()}
    sizes = Sizes(params=total, macs=8, uses={"0.weight": 1})
    target = Target(Way(scope=LAYER), 1.5)
    # 8 of 12 parameters stay; 6 are the classifier's, so 2 of the 6 of the first layer.
    assert selection.fraction(parts, sizes, target) == pytest.approx(2 / 6)
    masks = selection.choose(parts, sizes, target, 2 / 6)
    # Positions 2/3 * 3 = 2 of four weights and 2/3 of two biases: 2 weights and 1 bias stay.
    assert [mask.sum() for mask in masks.values()] == [2, 1]


@given(st.integers(1, 10**7), st.integers(0, 10**6), st.floats(1, 100))
def test_the_fraction_is_that_of_its_formula(prunable_count, rest, ratio):
    # Its documentation: total / prunable * (1 / compression - 1) + 1.
    total = prunable_count + rest
    if 1 <= ratio <= budget.reachable(total, prunable_count):
        found = budget.fraction_to_keep(total, prunable_count, ratio)
        assert found == pytest.approx(total / prunable_count * (1 / ratio - 1) + 1, rel=1e-6, abs=1e-9)


def batch_of(pictures: torch.Tensor, labels: torch.Tensor, asked: list | None = None):
    def data(batches: int, batch_size: int, crop: int = 0, flip: bool = False):
        if asked is not None:
            asked.append((batches, batch_size, crop, flip))
        yield pictures, labels

    return data


def no_data(*_: object):
    raise AssertionError("this score wants no pictures")


def call(name: str, model: nn.Module, data=no_data, seed: int = 1, **parameters):
    generator = torch_generator(seed, Purpose.SCORE)
    return SCORES[f"shrinkbench-{name}"].function(model.eval(), data, generator, **parameters)


def fill(*pairs: tuple[nn.Parameter, list]) -> None:
    with torch.no_grad():
        for parameter, values in pairs:
            parameter.copy_(torch.tensor(values))


def two_layers() -> nn.Module:
    """Return a layer that may be pruned, with a bias, and a classifier that is the identity."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    fill(
        (model[0].weight, [[1.0, -2.0], [0.0, 3.0]]),
        (model[0].bias, [0.5, -1.0]),
        (model[1].weight, [[1.0, 0.0], [0.0, 1.0]]),
    )
    return model


def small(dropout: float = 0.0) -> nn.Module:
    """Return convolution with bias, batch-norm, dropout, two linear layers."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(8, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def examples(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, 6, 6, generator=generator), torch.arange(count) % 3


def test_biases_of_prunable_layers_follow_their_weights():
    # Neither batch-norm nor the classifier; the second convolution has no bias.
    assert list(with_biases(small())) == ["0.weight", "0.bias", "4.weight", "7.weight", "7.bias"]


def test_of_cifar_vgg_all_convolutions_and_the_first_linear_have_biases():
    parts = with_biases(models.build("cifar-vgg", (3, 32, 32), 10, seed=None))
    biases = sum(part.numel() for name, part in parts.items() if name.endswith(".bias"))
    # 2 x 64 + 2 x 128 + 3 x 256 + 6 x 512 of convolutions, 512 of the linear layer.
    assert (len(parts), biases) == (28, 4224 + 512)


def test_magnitude_by_hand():
    found = call("magnitude", two_layers())
    assert as_lists(found) == {"0.weight": [[1, 2], [0, 3]], "0.bias": [0.5, 1]}


def test_gradient_magnitude_by_hand():
    # x = (1, 1), label 0: hidden = W x + b = (-0.5, 2) = logits; p = softmax; dL/dhidden = (-p1, p1).
    # Weights: |w * dL/dhidden * x|; biases: |b * dL/dhidden|.
    found = call("gradient-magnitude", two_layers(), batch_of(torch.ones(1, 2), torch.tensor([0])))
    p1 = 1 / (1 + np.exp(-2.5))
    np.testing.assert_allclose(found["0.weight"], [[p1, 2 * p1], [0, 3 * p1]], rtol=1e-6)
    np.testing.assert_allclose(found["0.bias"], [0.5 * p1, p1], rtol=1e-6)


def test_gradient_magnitude_is_of_the_mean_cross_entropy_in_train_mode():
    model, (pictures, labels) = small(), examples()
    expected = {}
    for training_mode in (True, False):
        twin = copy.deepcopy(model).train(training_mode)
        nn.functional.cross_entropy(twin(pictures), labels).backward()
        expected[training_mode] = {name: (p * p.grad).abs() for name, p in with_biases(twin).items()}
    found = call("gradient-magnitude", model, batch_of(pictures, labels))
    assert list(found) == list(with_biases(model))
    for name, values in found.items():
        torch.testing.assert_close(values, expected[True][name], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(found["4.weight"], expected[False]["4.weight"], rtol=0.01)


def test_a_bias_before_batch_norm_has_no_gradient_in_train_mode():
    # Batch-norm takes the mean of the batch away, and the bias with it: ShrinkBench prunes these first.
    found = call("gradient-magnitude", small(), batch_of(*examples()))
    assert found["0.bias"].max() < 1e-4 * found["0.weight"].max()


def test_activation_magnitude_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(2, 1), nn.Linear(1, 2))
    fill(
        (model[0].weight, [[[[2.0]], [[-5.0]]]]),
        (model[0].bias, [-0.1]),
        (model[2].weight, [[1.0, -1.0]]),
        (model[2].bias, [-3.0]),
    )
    # Two pictures of 2 channels, 1 x 2. Means over them: (2, -1) and (0, 2), so L1 norms 3 and 2.
    pictures = torch.tensor([[[[1.0, -3.0]], [[0.0, 4.0]]], [[[3.0, 1.0]], [[0.0, 0.0]]]])
    found = call("activation-magnitude", model, batch_of(pictures, torch.tensor([0, 1])))
    # Divided by 1 * 2: 1.5 and 1. The bias: 0.1 * (3 + 2) / 2, not divided.
    np.testing.assert_allclose(found["0.weight"].flatten(), [3, 5], rtol=1e-6)
    np.testing.assert_allclose(found["0.bias"], [0.25], rtol=1e-6)
    # Its outputs (1.9, -26.1) and (5.9, 1.9), mean (3.9, -12.1); the bias: 3 * (3.9 + 12.1) / 2.
    np.testing.assert_allclose(found["2.weight"], [[3.9, 12.1]], rtol=1e-5)
    np.testing.assert_allclose(found["2.bias"], [24], rtol=1e-5)


def test_activation_magnitude_sees_batch_norm_by_the_statistics_of_the_batch():
    model, (pictures, labels) = small(), examples()
    pictures = pictures * 10 + 5
    with torch.no_grad():
        # The first four modules, in train mode.
        mean = copy.deepcopy(model)[:4].train()(pictures).mean(0)
    expected = model[4].weight.abs() * mean.abs().mean((1, 2))[None, :, None, None]
    found = call("activation-magnitude", model, batch_of(pictures, labels))
    torch.testing.assert_close(found["4.weight"], expected.detach(), rtol=1e-4, atol=1e-6)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(self.hidden(x)))


def test_activation_magnitude_refuses_what_shrinkbench_cannot_score():
    with pytest.raises(UserError, match="uses layer 'hidden' twice"):
        call("activation-magnitude", Twice(), batch_of(torch.ones(2, 4), torch.tensor([0, 1])))
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match="layer '0' do not read all of its input channels"):
        call("activation-magnitude", grouped, batch_of(torch.ones(2, 4, 1, 1), torch.tensor([0, 1])))


@pytest.mark.parametrize("name", ["gradient-magnitude", "activation-magnitude"])
def test_one_augmented_batch_is_asked_for(name):
    asked: list = []
    call(name, small(), batch_of(*examples(), asked))
    call(name, small(), batch_of(*examples(), asked), batch_size=128, crop=2, flip=False)
    assert asked == [(1, 64, 4, True), (1, 128, 2, False)]


@pytest.mark.parametrize("name", ["gradient-magnitude", "activation-magnitude"])
def test_dropout_is_on_and_drops_by_the_generator_given(name):
    model, data = small(dropout=0.5), batch_of(*examples())
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, again, other = (call(name, copy.deepcopy(model), data, seed) for seed in (1, 1, 2))
    assert torch.get_rng_state().equal(before)
    assert all(one[key].equal(again[key]) for key in one)
    assert not one["4.weight"].equal(other["4.weight"])
    # What torch's own generator would have dropped, seeded alike.
    torch.manual_seed(dropout_seed(torch_generator(1, Purpose.SCORE)))
    model.train()
    pictures, labels = examples()
    features = model[:4](pictures)
    if name == "gradient-magnitude":
        nn.functional.cross_entropy(model[4:](features), labels).backward()
        expected = (model[4].weight * model[4].weight.grad).abs()
    else:
        expected = model[4].weight.abs() * features.mean(0).abs().mean((1, 2))[None, :, None, None]
    torch.testing.assert_close(one["4.weight"], expected.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["gradient-magnitude", "activation-magnitude"])
def test_the_memory_layout_of_a_job_changes_no_bit(name):
    # Dropout drops by place in memory: channels last, another gradient comes of the same seed.
    model, (pictures, labels) = small(dropout=0.5), examples()
    plain = call(name, copy.deepcopy(model), batch_of(pictures, labels))
    job = training.to(copy.deepcopy(model), torch.device("cpu"))
    last = pictures.to(memory_format=torch.channels_last)
    found = call(name, job, batch_of(last, labels))
    assert all(plain[key].equal(found[key]) for key in plain)


def test_random_draws_uniformly_for_weights_and_biases_and_by_the_seed():
    model = models.build("mnistnet", (1, 28, 28), 10, seed=1)
    one, again, other = (call("random", model, seed=seed) for seed in (1, 1, 2))
    assert list(one) == list(with_biases(model))
    assert all(one[name].equal(again[name]) and not one[name].equal(other[name]) for name in one)
    values = torch.cat([part.flatten() for part in one.values()])
    assert 0 <= values.min() < 1e-4 and 1 - 1e-4 < values.max() < 1
    assert abs(values.mean().item() - 0.5) < 0.005


def test_it_prunes_biases_where_the_exact_count_prunes_none():
    model = small()
    magnitudes = {name: part.detach().abs().numpy() for name, part in with_biases(model).items()}
    masks = conformance.select(magnitudes, 0.5, LAYER)
    assert [int(masks[name].sum()) for name in ("0.bias", "7.bias")] == [4, 3]
    assert list(prunable(model)) == ["0.weight", "4.weight", "7.weight"]


def test_the_comparison_names_what_is_no_clone(tmp_path: Path):
    with pytest.raises(UserError, match=r"is no clone of github.com/JJGO/shrinkbench; clone it"):
        benchmark.load(tmp_path)


def test_the_comparison_counts_weights_and_biases_apart():
    theirs = {"a.weight": np.array([1, 0, 0]), "a.bias": np.array([0, 0, 1])}
    assert benchmark.differing(theirs, theirs) == "0 + 0"
    # Normal mode keeps every bias.
    assert benchmark.differing(theirs, {"a.weight": np.array([1, 1, 0])}) == "1 + 2"
    assert benchmark.differing({"a.weight": theirs["a.weight"]}, {"a.weight": np.zeros(3)}) == "1"
