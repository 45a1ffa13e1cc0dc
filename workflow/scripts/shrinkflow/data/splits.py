"""Dividing pictures into training, validation and test parts, every class in proportion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shrinkflow.errors import UserError, nearest
from shrinkflow.seeds import Purpose, numpy_generator

Indices = npt.NDArray[np.int64]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Plan:
    """How pictures are divided.

    test: the fraction of all pictures split off where the source has no test part of its own.
    validation: the fraction of the training part that is held out of it.
    limits: the number of pictures kept of a part, by its name; a part not named is kept whole.
    """

    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)


def divide(labels: Indices, classes: Sequence[str], test: Indices | None, plan: Plan) -> dict[str, Indices]:
    """Return the indices of the pictures of each of `PARTS`, ascending and disjoint.

    labels: int64 [n], positions in `classes`. test: indices of the source's own test part, or
    None. Without limits the parts together are all pictures. The draws for test, validation and
    each limit are independent, so a limit on one part changes no other.
    Raises `UserError` where a part would lack a class, or a limit asks for more than there is.
    """
    if plan.seed < 0:
        raise UserError(f"split_seed is {plan.seed}; give a whole number from 0")
    train = np.arange(len(labels), dtype=np.int64)
    if test is None:
        train, test = _hold_out("test", train, labels, classes, plan.test, plan.seed)
    else:
        train = np.setdiff1d(train, test)
    train, validation = _hold_out("validation", train, labels, classes, plan.validation, plan.seed)
    parts = dict(zip(PARTS, (train, validation, np.sort(test)), strict=True))
    for name, limit in plan.limits.items():
        if name not in parts:
            raise UserError(f"limit: there is no part '{name}'{nearest(name, PARTS)}")
        parts[name] = _limit(name, parts[name], labels, classes, limit, plan.seed)
    for name, part in parts.items():
        _require_all(_sizes(part, labels, classes), classes, f"the {name} part")
    return parts


def allocate(total: int, sizes: Sequence[int]) -> list[int]:
    """Share `total` in proportion to `sizes` by the largest remainder (Hamilton's method), exactly.

    Of equal remainders the first wins. No share exceeds its size as long as `total` does not exceed
    their sum.
    """
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % whole))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _hold_out(
    name: str,
    pool: Indices,
    labels: Indices,
    classes: Sequence[str],
    fraction: float,
    seed: int,
) -> tuple[Indices, Indices]:
    """Return (what stays of `pool`, the part `name` taken out of it)."""
    if not 0 < fraction < 1:
        raise UserError(f"{name} is {fraction:g}; give a fraction between 0 and 1")
    sizes = _sizes(pool, labels, classes)
    _require_all(sizes, classes, "the training part")
    shares = allocate(round(fraction * len(pool)), sizes)
    for label, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        if not 0 < share < size:
            raise UserError(
                f"class '{classes[label]}' has too few pictures ({size}) to hold out {name}: "
                f"{fraction:g}; add pictures or change that fraction"
            )
    generator = numpy_generator(seed, Purpose.SPLIT, PARTS.index(name))
    taken = _draw(pool, labels, shares, generator)
    return np.setdiff1d(pool, taken), taken


def _limit(
    name: str, part: Indices, labels: Indices, classes: Sequence[str], limit: int, seed: int
) -> Indices:
    if not 0 < limit <= len(part):
        raise UserError(
            f"limit.{name} is {limit}, but the {name} part has {len(part)} pictures; "
            f"give a number from 1 to {len(part)} or leave it out"
        )
    shares = allocate(limit, _sizes(part, labels, classes))
    _require_all(shares, classes, f"the {name} part under limit.{name}: {limit}")
    return _draw(part, labels, shares, numpy_generator(seed, Purpose.LIMIT, PARTS.index(name)))


def _sizes(part: Indices, labels: Indices, classes: Sequence[str]) -> list[int]:
    """Return the number of pictures of each class."""
    counts: list[int] = np.bincount(labels[part], minlength=len(classes)).tolist()
    return counts


def _require_all(sizes: Sequence[int], classes: Sequence[str], where: str) -> None:
    if 0 in sizes:
        raise UserError(f"class '{classes[sizes.index(0)]}' has no picture in {where}; every class needs one")


def _draw(pool: Indices, labels: Indices, shares: Sequence[int], generator: np.random.Generator) -> Indices:
    """Return, ascending, `shares[label]` indices drawn from those of each label in `pool`."""
    by_label = pool[np.argsort(labels[pool], kind="stable")]
    ends = np.cumsum(np.bincount(labels[pool], minlength=len(shares)))
    of_label = np.split(by_label, ends[:-1])
    drawn = [generator.permutation(own)[:share] for own, share in zip(of_label, shares, strict=True)]
    return np.sort(np.concatenate(drawn))
