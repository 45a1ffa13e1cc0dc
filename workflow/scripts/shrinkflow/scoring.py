"""Call a strategy's scoring function the same way for every strategy, and check what it returns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shrinkflow import own
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.strategies import SCORES, complete
from shrinkflow.training import Split
from shrinkflow.way import FILTER, WEIGHT


@dataclass(frozen=True)
class Scorer:
    """A scoring function with its parameters, and how messages call it."""

    title: str
    function: Callable[..., Any]
    parameters: Mapping[str, Any]
    granularity: str
    file: Path
    comparable: bool = False


def scorer(
    name: str, parameters: Mapping[str, Any], file: str | None = None, granularity: str = WEIGHT
) -> Scorer:
    """Return a score of the registry, or the function `name` in a user's `file`, which is run for that."""
    if file:
        title = f"function '{name}' in '{file}'"
        chosen = complete(title, own.parameters(file, name), parameters)
        return Scorer(title, own.load(file, name), chosen, granularity, Path(file))
    entry = SCORES[name]
    title = f"score '{name}'"
    chosen = complete(title, entry.parameters(), parameters)
    return Scorer(title, entry.function, chosen, entry.granularity, SCORES.file(name), entry.comparable)


def pictures(split: Split, seed: int) -> Callable[..., Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the source of pictures of scores: which are drawn depends on the seed alone."""

    def data(
        batches: int, batch_size: int, crop: int = 0, flip: bool = False
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return split.drawn(torch_generator(seed, Purpose.SCORE_BATCH), batches, batch_size, crop, flip)

    return data


def score(chosen: Scorer, model: nn.Module, split: Split, seed: int, *keys: int) -> dict[str, np.ndarray]:
    """Return float32 scores per prunable weight, in `named_parameters` order; the model is used up.

    The model is scored in evaluation mode: batch-norm uses its statistics and does not move them, and
    dropout is off. `keys` tell rounds of scoring apart, for the score's own draws.

    Raises:
        UserError: the function left out a weight, gave another shape, or a value that is not finite.
    """
    weights = prunable(model)
    shapes = {key: weight.shape for key, weight in weights.items()}
    others = {key: value.shape for key, value in model.named_parameters()}
    if chosen.granularity == FILTER:
        shapes = {key: shape[:1] for key, shape in shapes.items()}
    model.eval()
    generator = torch_generator(seed, Purpose.SCORE, *keys)
    found = own.check(
        chosen.function(model, pictures(split, seed), generator, **chosen.parameters), chosen.title
    )
    odd = sorted(map(str, (shapes.keys() - found.keys()) | (found.keys() - others.keys())))
    if odd:
        raise UserError(f"{chosen.title} must return one tensor per prunable weight; it differs in {odd}")
    result = {}
    for key in [name for name in others if name in found]:
        values, shape = found[key], shapes.get(key, others[key])
        if not isinstance(values, torch.Tensor) or values.shape != shape:
            kind = (
                f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
            )
            raise UserError(f"{chosen.title} returned {kind} for '{key}', whose shape is {tuple(shape)}")
        if not values.isfinite().all():
            raise UserError(f"{chosen.title} returned a value for '{key}' that is not finite")
        result[key] = values.detach().float().cpu().numpy()
    return result


@torch.no_grad()
def apply(model: nn.Module, masks: Mapping[str, np.ndarray]) -> None:
    """Set the weights to zero that masks prune."""
    named = dict(model.named_parameters())
    for name, mask in masks.items():
        named[name].mul_(torch.from_numpy(mask).to(named[name]))


def update(
    name: str,
    parameters: Mapping[str, Any],
    model: nn.Module,
    split: Split,
    seed: int,
    masks: Mapping[str, torch.Tensor],
) -> None:
    """Move the weights that stay, by the rule that belongs to a score; set those pruned to zero.

    Raises:
        UserError: the score has no such rule, or the new weights are not finite.
    """
    rule = SCORES[name].update
    if rule is None:
        raise UserError(f"score '{name}' has no rule to move weights by; finetune without it")
    kept = {key: mask.bool() for key, mask in masks.items()}
    model.eval()
    found = rule(copy.deepcopy(model), pictures(split, seed), kept, **parameters)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for key, values in found.items():
            if not values.isfinite().all():
                raise UserError(f"score '{name}' moved the weights of '{key}' to values that are not finite")
            named[key].copy_(values)
    apply(model, {key: mask.numpy() for key, mask in masks.items()})
