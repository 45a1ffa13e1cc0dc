"""Which tensors of a model are weights of layers, and which of these may be pruned."""

from __future__ import annotations

from torch import nn

# nn.MultiheadAttention holds three Linear layers, which project queries, keys and values, as tensors of its
# own: all in one, or one each where keys or values have another width than queries.
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight tensors of every Conv2d and Linear, those inside nn.MultiheadAttention among them.

    In the order and under the names of `named_parameters`; a weight that several layers share appears once.
    """
    found = {id(weight) for module in model.modules() for weight in _own(module)}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in found}


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the prunable weight tensors: all of `weights` but the classifier's.

    The classifier is the last Linear in the order of definition; a weight it shares is not prunable.
    Biases, normalisations, class tokens and position embeddings are never pruned.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    classifier = {id(layer.weight) for layer in linear[-1:]}
    return {name: weight for name, weight in weights(model).items() if id(weight) not in classifier}


def _own(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, nn.Conv2d | nn.Linear):
        return [module.get_parameter("weight")]
    if isinstance(module, nn.MultiheadAttention):
        found = (getattr(module, name) for name in _PROJECTIONS)
        return [weight for weight in found if weight is not None]
    return []
