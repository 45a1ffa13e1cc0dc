"""Named random generators. Every draw in a study comes from (a seed of the study, a purpose, keys).

Purposes are independent streams (numpy's `SeedSequence`, spawn keys): a strategy that draws more
numbers for its scores changes neither the order of the pictures nor their augmentation, so cells of
one seed are paired. Nothing else may draw random numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of every result: never change or reuse one."""

    SPLIT = 1
    LIMIT = 2
    INITIALISATION = 3
    ORDER = 4
    AUGMENTATION = 5
    DROPOUT = 6
    SCORE = 7
    SCORE_BATCH = 8
    REINITIALISATION = 9
    NORMALISATION = 10


def _sequence(seed: int, purpose: Purpose, keys: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(entropy=seed, spawn_key=(int(purpose), *keys))


def numpy_generator(seed: int, purpose: Purpose, *keys: int) -> np.random.Generator:
    """Return a numpy generator for `purpose`; `keys` (an epoch, say) name a stream within it."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, keys)))


def torch_seed(seed: int, purpose: Purpose, *keys: int) -> int:
    """Return a 63-bit seed for torch, for code that can only use torch's global generator."""
    return int(_sequence(seed, purpose, keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(seed: int, purpose: Purpose, *keys: int) -> torch.Generator:
    """Return a torch generator (on the CPU, whatever the device) for `purpose`."""
    import torch

    return torch.Generator().manual_seed(torch_seed(seed, purpose, *keys))
