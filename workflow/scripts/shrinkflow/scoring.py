"""Call a strategy's scoring function the same way for every strategy, and check what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES
from shrinkflow.training import Split


def score(
    name: str, model: nn.Module, split: Split, seed: int, parameters: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return float32 scores per prunable weight, in `named_parameters` order.

    The model is scored in evaluation mode: batch-norm uses its statistics and does not move them, and
    dropout is off. Which pictures are drawn depends on the seed alone, so all strategies see the same.

    Raises:
        UserError: the function left out a weight, gave another shape, or a value that is not finite.
    """
    weights = prunable(model)
    shapes = {key: weight.shape for key, weight in weights.items()}
    model.eval()

    def data(batches: int, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return split.drawn(torch_generator(seed, Purpose.SCORE_BATCH), batches, batch_size)

    generator = torch_generator(seed, Purpose.SCORE)
    found = SCORES[name].function(model, data, generator, **parameters)
    if found.keys() != shapes.keys():
        odd = sorted(found.keys() ^ shapes.keys())
        raise UserError(f"score '{name}' must return one tensor per prunable weight; it differs in {odd}")
    for key, values in found.items():
        if values.shape != shapes[key]:
            raise UserError(
                f"score '{name}' returned shape {tuple(values.shape)} for '{key}', "
                f"whose shape is {tuple(shapes[key])}"
            )
        if not values.isfinite().all():
            raise UserError(f"score '{name}' returned a value for '{key}' that is not finite")
    return {key: found[key].detach().float().cpu().numpy() for key in shapes}
