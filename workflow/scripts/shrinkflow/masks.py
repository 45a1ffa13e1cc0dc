"""Masks on disk: one uint8 tensor per prunable weight under its `named_parameters` name, 1 = kept.

In conformance with ShrinkBench a mask covers biases too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from shrinkflow import files
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable


def read(path: str | os.PathLike[str], model: nn.Module) -> dict[str, torch.Tensor]:
    """Read a mask for a model.

    Raises:
        UserError: a prunable weight is missing, a name or shape is none of the model's, or there are
            entries other than 0 and 1.
    """
    arrays, _ = files.read_tensors(path)
    named = dict(model.named_parameters())
    if not prunable(model).keys() <= arrays.keys() <= named.keys() or any(
        array.shape != tuple(named[name].shape) for name, array in arrays.items()
    ):
        raise UserError(f"{path} is not a mask for this model: its names or shapes differ")
    if any(not np.isin(array, (0, 1)).all() for array in arrays.values()):
        raise UserError(f"{path} is not a mask: it holds other values than 0 and 1")
    return {name: torch.from_numpy(arrays[name]) for name in named if name in arrays}


def respected(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> bool:
    """Say whether every weight masked 0 is exactly zero."""
    named = dict(model.named_parameters())
    return not any(named[name][part == 0].any() for name, part in mask.items())
