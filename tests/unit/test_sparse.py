"""Sparse kernels compute what dense ones do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shrinkflow import sparse
from shrinkflow.models import build


def pruned(layer: nn.Module, part: float = 0.8) -> nn.Module:
    """Zero about a part of the weights."""
    generator = torch.Generator().manual_seed(0)
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight[torch.rand(weight.shape, generator=generator) < part] = 0
        weight.view(-1)[0] = 0
    return layer


def same(dense: nn.Module, pictures: torch.Tensor) -> nn.Module:
    twin = sparse.sparsified(nn.Sequential(dense).eval())
    with torch.inference_mode():
        torch.testing.assert_close(twin(pictures), dense.eval()(pictures), rtol=1e-4, atol=1e-5)
    return twin


@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    number=st.integers(1, 3),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_convolution(groups, inputs, outputs, kernel, stride, padding, dilation, number, bias) -> None:
    channels = groups * inputs, groups * outputs
    layer = nn.Conv2d(*channels, kernel, stride, padding, dilation, groups=groups, bias=bias)
    twin = same(pruned(layer), torch.randn(number, groups * inputs, 7, 9))
    assert isinstance(twin[0], sparse.Convolution)


def test_pictures_taken_together_are_computed_as_one_by_one() -> None:
    """As on a GPU."""
    layer = sparse.Convolution(pruned(nn.Conv2d(3, 4, 3, padding=1)))
    pictures = torch.randn(5, 3, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(layer._product(pictures), layer(pictures), rtol=1e-4, atol=1e-5)


def test_depthwise_convolution_stores_its_blocks_alone() -> None:
    layer = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    with torch.no_grad():
        layer.weight[2, 0, 1, 1] = 0
    twin = same(layer, torch.randn(2, 6, 8, 8))
    assert twin[0].weight.values().numel() == 6 * 9 - 1


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    same(pruned(nn.Linear(4, 5, bias=bias)), torch.randn(shape))


def test_a_layer_with_no_weight_left() -> None:
    same(pruned(nn.Conv2d(2, 3, 3), 1.1), torch.randn(2, 2, 5, 5))
    same(pruned(nn.Linear(4, 5), 1.1), torch.randn(3, 4))


def test_layers_that_were_not_pruned_stay_dense_and_the_network_as_it_was() -> None:
    network = build("resnet20", (3, 32, 32), 10, seed=1).eval()
    whole = {id(module) for module in network.modules()}
    pruned(network.get_submodule("layer1.0.conv1"))
    pictures = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        before = network(pictures)
        twin = sparse.sparsified(network)
        torch.testing.assert_close(twin(pictures), before, rtol=1e-4, atol=1e-4)
        assert torch.equal(network(pictures), before)
    assert {id(module) for module in network.modules()} == whole
    assert [name for name, m in twin.named_modules() if isinstance(m, sparse.Convolution)] == [
        "layer1.0.conv1"
    ]


def test_what_it_does_not_know_stays_dense() -> None:
    strange = nn.Sequential(
        pruned(nn.Conv2d(2, 2, 3, padding="same")),
        pruned(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
    )
    twin = sparse.sparsified(strange)
    assert all(type(module) is nn.Conv2d for module in twin)
