from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from shrinkflow import measures, models, rounds, scoring, selection, strategies, training
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES
from shrinkflow.targets import Sizes, Target
from shrinkflow.way import Way
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
    found = {name: (s.score, s.way) for name, s in strategies.registered().items()}
    assert found.items() >= {
        ("dense", ("none", Way())),
        ("global-gradient-magnitude", ("gradient-magnitude", Way())),
        ("global-magnitude", ("magnitude", Way())),
        ("layerwise-gradient-magnitude", ("gradient-magnitude", Way(scope="layer"))),
        ("layerwise-magnitude", ("magnitude", Way(scope="layer"))),
        ("random", ("random", Way())),
    }
    assert all(SCORES[name].source and SCORES[name].cost for name in SCORES.names())


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
    chosen = scoring.scorer(name, {})
    found = scoring.score(chosen, model, split(), 1)
    weights = prunable(model)
    assert [key for key in found if key in weights] == list(weights)
    ends = 1 if chosen.granularity == "filter" else None
    assert all(found[key].shape == tuple(weights[key].shape)[:ends] for key in weights)
    assert all(found[key].dtype == np.float32 for key in weights)
    if not name.startswith(strategies.CONFORMING):
        # Scoring in train mode would move the statistics of batch-norm, as ShrinkBench does.
        assert all(before[key].equal(value) for key, value in model.state_dict().items())
    model.load_state_dict(before)
    again = scoring.score(chosen, model, split(), 1)
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
            scoring.score(scoring.scorer("look", {}), model, split(), 7)
    assert seen[0] == seen[1]
    assert [len(batch) for batch in seen[0]] == [4, 4]


class registered:  # noqa: N801
    """Put a scoring function into the registry for a while."""

    def __init__(self, name: str, function) -> None:
        self.name, self.function = name, function

    def __enter__(self) -> None:
        SCORES.names()
        strategies.score(self.name, source="a test", cost="nothing", strategies={})(self.function)

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
        scoring.score(scoring.scorer("broken", {}), model, split(), 1)


def test_combinations_are_completed_by_defaults():
    found = strategies.combine("mine", "gradient-magnitude", {"batches": 8}, {"scope": "layer"})
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
        strategies.combine("mine", score, parameters, {})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scope": "layers"}, "'scope' must be one of global, layer, erk, .*like:STRATEGY, not 'layers'"),
        ({"granularity": "4:2"}, "'granularity: 4:2' keeps everything; N must be smaller than M"),
        ({"granularity": "2:4", "scope": "layer"}, "'scope' says nothing where 'granularity' is N:M"),
        ({"granularity": "2-4"}, "'granularity' must be one of weight, filter, N:M, not '2-4'"),
        ({"factor": 3.0}, "'factor' goes with 'schedule: iterative' only"),
        ({"ramp": 0.5}, "'ramp' goes with 'schedule: gradual' only"),
        ({"rounds": 3, "schedule": "iterative"}, "'rounds' goes with 'schedule: one-shot or gradual' only"),
        ({"rewind_to": 3}, "'rewind_to' goes with 'retraining: weight-rewinding or learning-rate-rewinding'"),
        ({"equal": "macs"}, "'equal' goes with 'retraining: scratch' only"),
        ({"schedule": "soft"}, "'schedule: soft' does not go with 'granularity: weight'"),
        (
            {"granularity": "2:4", "schedule": "gradual"},
            "'schedule: gradual' does not go with 'granularity: 2:4'",
        ),
        ({"granularity": "2:4", "schedule": "iterative"}, "'schedule: iterative' does not go with"),
        ({"granularity": "filter"}, "score 'magnitude' is of single weights, which does not go with"),
        ({"scope": "like:x", "schedule": "iterative"}, "'scope: like:x' goes with one-shot pruning"),
        (
            {"scope": "shrinkbench-global", "schedule": "iterative"},
            "'scope: shrinkbench-global' goes with one-shot",
        ),
        ({"start": "initialisation", "retraining": "scratch"}, "'start: initialisation' is pruning before"),
        ({"schedule": "gradual", "retraining": "scratch"}, "'schedule: gradual' prunes while it finetunes"),
    ],
)
def test_keys_that_do_not_go_together_are_told(keys, message):
    with pytest.raises(UserError, match=message):
        strategies.combine("mine", "magnitude", {}, keys)


def test_a_score_of_filters_takes_no_single_weights():
    with pytest.raises(
        UserError, match="score 'fpgm' is of whole filters, which does not go with 'granularity: weight'"
    ):
        strategies.combine("mine", "fpgm", {}, {})
    with pytest.raises(UserError, match="'scope: erk' does not go with 'granularity: filter'"):
        strategies.combine("mine", "fpgm", {}, {"granularity": "filter", "scope": "erk"})


def test_a_score_that_moves_weights_is_finetuned_from_there():
    with pytest.raises(UserError, match="score 'woodfisher' moves the weights that stay, once"):
        strategies.combine("mine", "woodfisher", {}, {"retraining": "scratch"})


def test_conformance_takes_the_counterparts_under_their_own_names():
    found = strategies.resolve("global-magnitude", "shrinkbench")
    assert (found.name, found.score, found.way.scope) == (
        "global-magnitude",
        "shrinkbench-magnitude",
        "shrinkbench-global",
    )
    with pytest.raises(UserError, match=r"ShrinkBench has no 'synflow' to conform with; it has .*random"):
        strategies.resolve("synflow", "shrinkbench")


def in_rounds(name: str, number: int, ratio: float, model: nn.Module) -> dict[str, np.ndarray]:
    sizes = Sizes.of(measures.sizes(model, (1, 8, 8)))
    target = Target(Way(rounds=number), ratio)
    return rounds.scores(scoring.scorer(name, {}), model, split(), 1, sizes, target)


def test_rounds_prune_what_they_pruned_before_first():
    seen = []

    def look(model, data, generator):
        weights = prunable(model)
        seen.append({name: int(weight.count_nonzero()) for name, weight in weights.items()})
        return {name: weight.detach().abs() for name, weight in weights.items()}

    model = models.build("digitsnet", (1, 8, 8), 3, seed=1)
    size = sum(weight.numel() for weight in prunable(model).values())
    total = sum(parameter.numel() for parameter in model.parameters())
    with registered("look", look):
        scores = in_rounds("look", 4, 10.0, model)
    kept = (total / 10 - (total - size)) / size
    # Before round k the network has the fraction kept^((k-1)/4) of its weights.
    assert [sum(counts.values()) for counts in seen] == [round(kept ** (k / 4) * size) for k in range(4)]
    # Weights lost in an earlier round rank below all others.
    flat = np.sort(np.concatenate([array.ravel() for array in scores.values()]))
    assert (flat[: size - sum(seen[-1].values())] == flat[0]).all() and flat[0] < 0
    # The network given is left alone.
    assert sum(int(weight.count_nonzero()) for weight in prunable(model).values()) == size


def test_magnitude_in_rounds_is_magnitude_at_once():
    model = models.build("digitsnet", (1, 8, 8), 3, seed=1)
    at_once = selection.select(in_rounds("magnitude", 1, 8.0, model), 0.1, "global")
    in_five = selection.select(in_rounds("magnitude", 5, 8.0, model), 0.1, "global")
    assert all((at_once[name] == in_five[name]).all() for name in at_once)


def test_gradual_pruning_takes_ten_steps_unless_told_otherwise():
    assert strategies.combine("mine", "magnitude", {}, {"schedule": "gradual"}).way.rounds == 10
    assert strategies.combine("mine", "magnitude", {}, {"schedule": "gradual", "rounds": 1}).way.rounds == 1
