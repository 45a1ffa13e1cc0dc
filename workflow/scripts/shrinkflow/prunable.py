"""Which parameters of a model may be pruned."""

from __future__ import annotations

from torch import nn


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the prunable weight tensors, in the order and under the names of `named_parameters`.

    These are the weights of every Conv2d and Linear except the classifier, which is the last Linear
    in the order of definition. A weight that several layers share appears once, and not at all if
    the classifier shares it. Biases and batch-norm are never pruned.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weights = {id(layer.weight) for layer in layers} - {id(layer.weight) for layer in linear[-1:]}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in weights}
