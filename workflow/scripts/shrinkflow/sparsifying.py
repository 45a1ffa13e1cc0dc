"""Schedules that prune while the network trains: gradual, and soft filter pruning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from shrinkflow import scoring, selection
from shrinkflow.scoring import Scorer
from shrinkflow.targets import Sizes, Target
from shrinkflow.training import Masking, Split

# From scores to the masks of whole filters.
Choice = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Gradual(Masking):
    """Prunes in `rounds` steps, spread evenly over the first part (`ramp`) of the epochs.

    After step t of n the sparsity is s (1 - (1 - t/n)^3), s being the final one (Zhu & Gupta 2018). What was
    pruned stays pruned; each step scores the weights as they are then.
    """

    def __init__(
        self, chosen: Scorer, split: Split, seed: int, sizes: Sizes, target: Target, epochs: int
    ) -> None:
        super().__init__()
        self._scorer, self._split, self._seed = chosen, split, seed
        self._sizes, self._target = sizes, target
        self._length = target.way.ramp * epochs
        self._model: nn.Module | None = None

    def start(self, model: nn.Module) -> None:
        """Take the network; nothing is pruned yet."""
        self._model = model

    def after_step(self, progress: float) -> None:
        """Prune further where a step is due, and keep zero what is pruned."""
        rounds = self._target.way.rounds
        due = min(rounds, math.floor(progress / self._length * rounds + 1e-9)) if self._length else rounds
        if due > self.done and self._model is not None:
            self.done = due
            self._prune(self._model, due / rounds)
        self._apply()

    def complete(self, epoch: int) -> bool:
        """Whether all steps were made."""
        return self.done == self._target.way.rounds

    def _prune(self, model: nn.Module, part: float) -> None:
        scores = scoring.score(self._scorer, copy.deepcopy(model), self._split, self._seed, self.done)
        final = selection.fraction(scores, self._sizes, self._target)
        kept = 1 - (1 - final) * (1 - (1 - part) ** 3)
        previous = {name: mask.numpy() for name, mask in self.masks.items()} or None
        masks = selection.choose(scores, self._sizes, self._target, kept, previous)
        self.masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        self._place(model)


class Soft(Masking):
    """Zeroes the weakest filters after every epoch; they are free to recover (He et al. 2018).

    What an epoch is judged by, and what is kept of it, is the network with these filters really gone: their
    batch-norm and biases too.
    """

    def __init__(
        self,
        chosen: Scorer,
        split: Split,
        seed: int,
        choice: Choice,
        without: Callable[[nn.Module, Any], nn.Module],
    ) -> None:
        super().__init__()
        self._scorer, self._split, self._seed = chosen, split, seed
        self._choice, self._without = choice, without

    def start(self, model: nn.Module) -> None:
        """Take the network; nothing is pruned yet."""

    def after_step(self, progress: float) -> None:
        """Leave the network alone: between epochs filters recover."""

    def after_epoch(self, model: nn.Module, epoch: int) -> nn.Module:
        """Zero the weakest filters, and return the network without them."""
        masks = self._choice(
            scoring.score(self._scorer, copy.deepcopy(model), self._split, self._seed, epoch)
        )
        self.masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        scoring.apply(model, {name: _filters(mask) for name, mask in masks.items()})
        return self._without(model, masks)


def _filters(mask: np.ndarray) -> np.ndarray:
    """Return the mask of the filters alone: the columns of what reads them stay."""
    rows = mask.reshape(len(mask), -1).any(axis=1).astype(np.uint8)
    return np.broadcast_to(rows.reshape(-1, *[1] * (mask.ndim - 1)), mask.shape).copy()
