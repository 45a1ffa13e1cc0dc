from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from shrinkflow import measures
from shrinkflow.errors import UserError
from shrinkflow.models import MODELS, build

CIFAR = (3, 32, 32)
SHAPES = {"digitsnet": (1, 8, 8), "mnistnet": (1, 28, 28)}
# Millions of MACs to the digits that definitions give them; digitsnet by hand:
# 9 * 32 * 16 + 9 * 32 * 64 * 4 + 9 * 64 * 128 * 4 + 128 * 10.
MMACS = {
    "resnet20": "40.55",
    "resnet32": "68.86",
    "resnet44": "97.17",
    "resnet56": "125.49",
    "resnet110": "252.89",
    "cifar-vgg": "313.46",
    "mnistnet": "2.293",
    "digitsnet": "0.374528",
}


def torch_macs(model: nn.Module, shape: tuple[int, ...], device: str = "cpu") -> int:
    """MACs by torch's own counter, which counts two FLOPs for each."""
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", sorted(MMACS))
def test_macs_are_the_published_ones_and_those_of_torch(name: str) -> None:
    shape = SHAPES.get(name, CIFAR)
    model = build(name, shape, 10, seed=None)
    counts = measures.count(model, shape)
    digits = len(MMACS[name].split(".")[1])
    assert f"{counts.macs / 1e6:.{digits}f}" == MMACS[name]
    assert counts.macs == torch_macs(model, shape, "meta")


def test_every_model_has_published_macs() -> None:
    assert set(MMACS) <= set(MODELS.names())


@given(
    groups=st.integers(1, 4),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=60, deadline=None)
def test_any_convolution_counts_as_in_torch(
    groups: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    model = nn.Conv2d(groups * inputs, groups * outputs, kernel, stride, padding, dilation, groups=groups)
    shape = (groups * inputs, 11, 13)
    assert measures.count(model, shape).macs == torch_macs(model, shape)


def test_depthwise_convolution_by_hand() -> None:
    model = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    counts = measures.count(model, (6, 5, 4))
    assert counts.macs == 6 * 3 * 3 * 5 * 4
    assert counts.layers[0].shape == (6, 1, 3, 3)


def test_linear_counts_once_per_position() -> None:
    # A linear layer applied to each of the 7 rows of a picture of 7 x 3.
    assert measures.count(nn.Linear(3, 5), (1, 7, 3)).macs == 7 * 3 * 5


class Net(nn.Module):
    """One convolution used twice, one never, batch-norm, dropout, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.idle = nn.Conv2d(2, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(2 * 4 * 4, 3)
        self.broken = False

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if self.broken:
            raise RuntimeError("broken")
        features = self.dropout(self.norm(self.conv(self.conv(pictures))))
        logits: torch.Tensor = self.classifier(features.flatten(1))
        return logits


def ones(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)


def test_counts_by_hand() -> None:
    model = Net()
    ones(model)
    with torch.no_grad():
        model.conv.weight[0] = 0  # 18 of 36 weights
        model.classifier.weight[:, 3] = 0  # 3 of 96
        model.norm.bias[0] = -0.0
    counts = measures.count(model, (2, 4, 4))
    assert counts.params == (36 + 2) + 4 + 4 + (96 + 3)
    assert counts.params_nonzero == counts.params - 18 - 3 - 1
    assert counts.macs == 2 * 36 * 16 + 96
    assert counts.macs_nonzero == 2 * 18 * 16 + 93
    assert counts.compression == 145 / 123
    assert counts.speedup == 1248 / 669
    assert counts.layers == (
        measures.Layer("conv.weight", (2, 2, 3, 3), 36, 18, 1152, 576, True),
        measures.Layer("idle.weight", (2, 2, 1, 1), 4, 4, 0, 0, True),
        measures.Layer("classifier.weight", (3, 32), 96, 93, 96, 93, False),
    )


def test_shared_weights_count_once_and_their_macs_every_time() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 1, 3, bias=False))
    model[1].weight = model[0].weight
    counts = measures.count(model, (1, 7, 7))
    assert counts.params == 9
    assert [layer.name for layer in counts.layers] == ["0.weight"]
    assert counts.macs == 9 * (5 * 5 + 3 * 3)


def test_nothing_left_is_an_infinite_ratio() -> None:
    model = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)  # type: ignore[arg-type]
    counts = measures.count(model, (1, 2, 2))
    assert counts.compression == math.inf
    assert counts.speedup == math.inf


def test_counting_leaves_the_model_as_it_was() -> None:
    model = Net()
    model.norm.eval()  # a mixture of modes has to come back as it was
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    measures.count(model, (2, 4, 4))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    # The weights can still be trained: no tensor of the counting pass is left in the model.
    model(torch.randn(2, 2, 4, 4)).sum().backward()
    assert model.conv.weight.grad is not None


def test_counting_in_train_mode_does_not_move_batch_norm() -> None:
    model = build("digitsnet", (1, 8, 8), 10, seed=0).train()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    measures.count(model, (1, 8, 8))
    assert all(int(b) == 0 for key, b in model.named_buffers() if key.endswith("tracked"))
    assert all(not b.any() for key, b in model.named_buffers() if key.endswith("mean"))


def test_a_failing_forward_pass_leaves_no_hooks_and_no_mode() -> None:
    model = Net().train()
    model.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        measures.count(model, (2, 4, 4))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


class Allocations(TorchDispatchMode):
    """Remembers every tensor made on another device than meta."""

    def __init__(self) -> None:
        super().__init__()
        self.real: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else (result,)
        if any(isinstance(out, torch.Tensor) and not out.is_meta for out in outputs):
            self.real.append(str(func))
        return result


def test_counting_on_the_meta_device_allocates_nothing() -> None:
    with Allocations() as allocations:
        model = build("cifar-vgg", CIFAR, 10, seed=None)
        counts = measures.count(model, CIFAR)
    assert allocations.real == []
    assert counts.params_nonzero == counts.params == 14_991_946
    assert counts.compression == counts.speedup == 1


def test_collapsed_names_prunable_layers_with_nothing_left() -> None:
    model = build("digitsnet", (1, 8, 8), 10, seed=0)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        parameters["features.3.weight"].zero_()
        parameters["features.6.weight"].zero_()[3, 2, 1, 0] = 1e-30
        parameters["classifier.weight"].zero_()
    layers = measures.count(model, (1, 8, 8)).layers
    assert measures.collapsed(layers) == ["features.3.weight"]


def batches(
    logits: torch.Tensor, labels: torch.Tensor, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(logits.split(size), labels.split(size), strict=True)


def test_perfect_classifier_scores_exactly_1_whatever_the_last_batch() -> None:
    labels = torch.arange(10).repeat(9)
    logits = 100 * functional.one_hot(labels, 10).float()
    found = measures.score_logits(batches(logits, labels, 64))
    assert (found.top1, found.top5, found.count) == (1.0, 1.0, 90)
    assert found.loss == pytest.approx(0, abs=1e-12)


def test_last_partial_batch_weighs_by_its_examples() -> None:
    # Three right in the first batch, one wrong in the second: 3/4, and not (3/3 + 0/1) / 2.
    logits = torch.tensor([[2.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 0, 1])
    found = measures.score_logits(batches(logits, labels, 3))
    assert found.top1 == 0.75
    right = math.log(1 + math.exp(-2))
    assert found.loss == pytest.approx((3 * right + (2 + right)) / 4, rel=1e-12)


def test_equal_logits_are_not_all_right() -> None:
    labels = torch.arange(10)
    found = measures.score_logits([(torch.zeros(10, 10), labels)])
    # Ties go to the lower index: class 0 is the answer, classes 0 to 4 the five answers.
    assert found.top1 == 0.1
    assert found.top5 == 0.5
    assert found.loss == pytest.approx(math.log(10))


def test_top1_agrees_with_argmax_on_ties() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [3.0, 3.0, 1.0]])
    assert measures.score_logits([(logits, torch.tensor([1, 0]))]).top1 == 1.0
    assert measures.score_logits([(logits, torch.tensor([2, 1]))]).top1 == 0.0


def test_top5_by_hand() -> None:
    logits = torch.arange(7.0).repeat(7, 1)  # class 6 first, 2 fifth, 1 and 0 outside
    found = measures.score_logits([(logits, torch.arange(7))])
    assert found.top1 == 1 / 7
    assert found.top5 == 5 / 7


@pytest.mark.parametrize("classes", [2, 4, 5])
def test_top5_of_five_classes_or_fewer_is_1(classes: int) -> None:
    logits = torch.randn(20, classes)
    assert measures.score_logits([(logits, torch.zeros(20).long())]).top5 == 1.0


def test_nan_is_wrong_and_shows_in_the_loss() -> None:
    logits = torch.tensor([[5.0, 0.0], [math.nan, 0.0], [5.0, math.nan], [math.nan, math.nan]])
    found = measures.score_logits([(logits, torch.zeros(4).long())])
    assert found.top1 == 0.25
    assert found.top5 == 0.25
    assert math.isnan(found.loss)


def test_no_examples_are_an_error() -> None:
    with pytest.raises(UserError, match="no examples"):
        measures.score_logits([])
    with pytest.raises(UserError, match="no examples"):
        measures.score_logits([(torch.zeros(0, 3), torch.zeros(0).long())])


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_labels_outside_the_classes_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"0 \.\. 2"):
        measures.score_logits([(torch.zeros(2, 3), torch.tensor([0, label]))])


@pytest.mark.parametrize("labels", [torch.zeros(3).long(), torch.zeros(2, 1).long()])
def test_labels_must_fit_the_logits(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        measures.score_logits([(torch.zeros(2, 3), labels)])


def test_half_precision_logits_do_not_overflow_the_loss() -> None:
    logits = torch.tensor([[0.0, 60000.0]], dtype=torch.float16).repeat(1000, 1)
    found = measures.score_logits([(logits, torch.zeros(1000).long())])
    assert found.loss == pytest.approx(60000, rel=1e-3)


@given(
    st.integers(1, 40),
    st.integers(2, 9),
    st.integers(1, 41),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_scores_agree_with_sorting_and_do_not_depend_on_the_batches(
    count: int, classes: int, size: int, seed: int, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes))
    if coarse:  # many ties
        logits = logits.round()
    labels = rng.integers(0, classes, count)
    found = measures.score_logits(batches(torch.tensor(logits), torch.tensor(labels), size))
    order = np.argsort(-logits, axis=1, kind="stable")
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(count), labels]
    assert found.count == count
    assert found.top1 == (order[:, :1] == labels[:, None]).any(axis=1).mean()
    assert found.top5 == (order[:, :5] == labels[:, None]).any(axis=1).mean()
    assert found.loss == pytest.approx(losses.mean(), rel=1e-9, abs=1e-12)
