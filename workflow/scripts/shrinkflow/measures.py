"""Measures of a model: parameters, multiply-accumulates, accuracy, loss.

Definitions after Blalock et al., "What is the State of Neural Network Pruning?" (2020): compression
ratio = all parameters / nonzero parameters; theoretical speedup = MACs / MACs whose weight is
nonzero. A MAC is one multiply-accumulate of a forward pass for one picture, and two FLOPs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable, weights


@dataclass(frozen=True)
class Layer:
    """The weight tensor of a Conv2d, a Linear or an attention, under its `named_parameters` name.

    `weights` and `kept` count its entries and its nonzero entries; `macs` covers every use of the
    tensor, should several layers share it.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    macs: int
    macs_nonzero: int
    prunable: bool


@dataclass(frozen=True)
class Counts:
    """Parameters and MACs of a whole model; `layers` in the order of `named_parameters`."""

    params: int
    params_nonzero: int
    macs: int
    macs_nonzero: int
    layers: tuple[Layer, ...]

    @property
    def compression(self) -> float:
        """The compression ratio reached; infinite if no parameter is left."""
        return self.params / self.params_nonzero if self.params_nonzero else math.inf

    @property
    def speedup(self) -> float:
        """The theoretical speedup; infinite if no MAC is left."""
        return self.macs / self.macs_nonzero if self.macs_nonzero else math.inf


@dataclass(frozen=True)
class Evaluation:
    """Means over `count` examples: top-1 and top-5 accuracy as fractions, cross-entropy in nats."""

    top1: float
    top5: float
    loss: float
    count: int


def count(model: nn.Module, shape: tuple[int, int, int]) -> Counts:
    """Count the parameters and MACs of a model for pictures of `shape` (channels, height, width).

    MACs are those of Conv2d and Linear, positions in the padding included, without biases and
    batch-norm. The Linear layers inside nn.MultiheadAttention count; its products of queries with keys
    and of attention with values do not, for they have no weights. On the meta device every parameter
    counts as nonzero. The model is left as it was: mode, batch-norm statistics and hooks.

    Raises `UserError` where one attention weight projects different numbers of queries, keys and values.
    """
    uses = _uses(model, shape)
    eligible = prunable(model)
    layers = []
    for name, parameter in model.named_parameters():
        if parameter in uses:
            kept = _nonzero(parameter)
            layers.append(
                Layer(
                    name=name,
                    shape=tuple(parameter.shape),
                    weights=parameter.numel(),
                    kept=kept,
                    macs=parameter.numel() * uses[parameter],
                    macs_nonzero=kept * uses[parameter],
                    prunable=name in eligible,
                )
            )
    parameters = list(model.parameters())
    return Counts(
        params=sum(parameter.numel() for parameter in parameters),
        params_nonzero=sum(_nonzero(parameter) for parameter in parameters),
        macs=sum(layer.macs for layer in layers),
        macs_nonzero=sum(layer.macs_nonzero for layer in layers),
        layers=tuple(layers),
    )


def sizes(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return what a selection has to know of a model, as metadata of its scores.

    All parameters ("params"), all MACs for a picture of `shape` ("macs"), and how many MACs an entry of each
    parameter takes ("uses": 0 for biases and batch-norm).
    """
    counts = count(model, shape)
    uses = {layer.name: layer.macs // layer.weights for layer in counts.layers}
    return {
        "params": counts.params,
        "macs": counts.macs,
        "uses": {name: uses.get(name, 0) for name, _ in model.named_parameters()},
    }


def saved(model: nn.Module, shape: tuple[int, int, int], masks: Mapping[str, torch.Tensor]) -> float:
    """Return MACs of a model / MACs that masks leave of it, for a picture of `shape`."""
    layers = count(model, shape).layers
    left = sum(
        layer.macs
        // layer.weights
        * (int(masks[layer.name].count_nonzero()) if layer.name in masks else layer.weights)
        for layer in layers
    )
    return sum(layer.macs for layer in layers) / left if left else math.inf


def collapsed(layers: Iterable[Layer]) -> list[str]:
    """Return the names of the prunable layers with no weight left (layer collapse)."""
    return [layer.name for layer in layers if layer.prunable and layer.kept == 0]


def score_logits(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Evaluation:
    """Return accuracy and loss over all examples of (logits [n, classes], labels [n]) batches.

    Of classes with equal logits the lower index ranks higher, so a network that answers the same
    for every class is not always right. With five classes or fewer, every answer is right in the
    top 5. An example with a NaN among its logits is wrong, and the loss is then NaN. Raises
    `UserError` if there are no examples.
    """
    top1 = top5 = examples = 0
    loss = 0.0
    for logits, labels in batches:
        # On the CPU, because not every accelerator has float64 and sums there depend on the device.
        scores = logits.detach().to("cpu", torch.float64)
        truth = labels.detach().to("cpu", torch.int64)
        if scores.shape[:1] != truth.shape or scores.dim() != 2:
            raise ValueError(f"logits {tuple(scores.shape)} do not fit labels {tuple(truth.shape)}")
        # Checked here because cross_entropy silently skips labels of -100.
        if not ((truth >= 0) & (truth < scores.shape[1])).all():
            raise ValueError(f"labels must lie in 0 .. {scores.shape[1] - 1}")
        own = scores.gather(1, truth[:, None])
        before = torch.arange(scores.shape[1])[None, :] < truth[:, None]
        rank = ((scores > own) | ((scores == own) & before)).sum(dim=1)
        valid = ~scores.isnan().any(dim=1)
        top1 += int(((rank < 1) & valid).sum())
        top5 += int(((rank < 5) & valid).sum())
        loss += float(functional.cross_entropy(scores, truth, reduction="sum"))
        examples += len(truth)
    if not examples:
        raise UserError("there are no examples to evaluate on; give the split more pictures")
    return Evaluation(top1 / examples, top5 / examples, loss / examples, examples)


def _uses(model: nn.Module, shape: tuple[int, int, int]) -> Counter[torch.Tensor]:
    """Return how often one forward pass for one picture uses each entry of every weight tensor.

    An entry is used once per output position: an output of c channels (or features) and n values
    in all has n / c positions, whatever groups, stride, padding and dilation are.
    """
    uses: Counter[torch.Tensor] = Counter()

    def record(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        weight = module.get_parameter("weight")
        uses[weight] += output.numel() // weight.shape[0]

    def attend(module: nn.Module, inputs: Any, named: Mapping[str, Any], _output: Any) -> None:
        # It multiplies with the weights of its layers itself, out_proj's too, and calls none of them.
        assert isinstance(module, nn.MultiheadAttention)
        given = dict(zip(("query", "key", "value"), inputs, strict=False)) | dict(named)
        widths = {"query": module.embed_dim, "key": module.kdim, "value": module.vdim}
        queries, keys, values = (given[name].numel() // width for name, width in widths.items())
        if module.in_proj_weight is None:
            uses[module.q_proj_weight] += queries
            uses[module.k_proj_weight] += keys
            uses[module.v_proj_weight] += values
        elif queries == keys == values:
            uses[module.in_proj_weight] += queries
        else:
            raise UserError(
                f"an attention layer projects {queries} queries, {keys} keys and {values} values by one "
                "weight, whose MACs cannot be told apart; project them by three Linear layers"
            )
        uses[module.out_proj.weight] += queries

    modes = {module: module.training for module in model.modules()}
    # A layer the forward pass leaves out is listed all the same, with no MACs.
    uses.update(dict.fromkeys(weights(model).values(), 0))
    hooks = [
        module.register_forward_hook(attend, with_kwargs=True)
        if isinstance(module, nn.MultiheadAttention)
        else module.register_forward_hook(record)
        for module in modes
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention)
    ]
    first = next(model.parameters())
    try:
        # In train mode this pass would move the statistics of batch-norm.
        model.eval()
        with torch.inference_mode():
            model(torch.zeros(1, *shape, dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return uses


def _nonzero(parameter: nn.Parameter) -> int:
    return parameter.numel() if parameter.is_meta else int(parameter.detach().count_nonzero())
