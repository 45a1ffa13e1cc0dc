"""How scores become a pruned and trained network: scope, granularity, schedule, retraining, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from shrinkflow import conformance
from shrinkflow.errors import UserError

PRETRAINED, INITIALISATION = "pretrained", "initialisation"
ONE_SHOT, ITERATIVE, GRADUAL, SOFT = "one-shot", "iterative", "gradual", "soft"
FINETUNE, WEIGHTS, RATE, SCRATCH = "finetune", "weight-rewinding", "learning-rate-rewinding", "scratch"
WEIGHT, FILTER = "weight", "filter"
LIKE = "like:"

# Values a field may have; a scope may also be `like:STRATEGY`, a granularity also N:M.
CHOICES = {
    "scope": ("global", "layer", "erk", *conformance.SCOPES),
    "granularity": (WEIGHT, FILTER),
    "start": (PRETRAINED, INITIALISATION),
    "schedule": (ONE_SHOT, ITERATIVE, GRADUAL, SOFT),
    "retraining": (FINETUNE, WEIGHTS, RATE, SCRATCH),
    "equal": ("epochs", "macs"),
}
# Fields that mean something only beside certain values of another.
_ONLY = {
    "factor": ("schedule", (ITERATIVE,)),
    "ramp": ("schedule", (GRADUAL,)),
    "rounds": ("schedule", (ONE_SHOT, GRADUAL)),
    "rewind_to": ("retraining", (WEIGHTS, RATE)),
    "equal": ("retraining", (SCRATCH,)),
}
# Steps of a gradual pruning, unless the study says how many.
STEPS = 10
_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


@dataclass(frozen=True)
class Way:
    """The parts of a strategy that are no score; each is written once and works with every score.

    Attributes:
        scope: which weights are ranked together: "global" (all), "layer" (each layer keeps the same part),
            "erk" (Erdos-Renyi kernel: Mocanu et al. 2018, Evci et al. 2020), or "like:S": each layer keeps
            as many weights as strategy S of the study keeps there.
        granularity: "weight", "filter" (output channels, physically removed), or "N:M": N of every M
            successive input channels are kept (Mishra et al. 2021).
        exclude: names of weight tensors that stay dense, or, of filters, whose filters all stay.
        start: what is scored and pruned: the pretrained network, or one freshly initialised by the cell's
            seed and then trained by the recipe of the weights.
        rounds: in how many steps a one-shot pruning scores and selects (SynFlow: 100), without training
            between; or how often a gradual one does, while it trains (10, unless a study says otherwise).
        schedule: "one-shot"; "iterative": rounds of pruning and retraining, each by `factor` (Han et al.
            2015); "gradual": while finetuning, by the cubic schedule of Zhu & Gupta 2018; "soft": filters
            are zeroed after every epoch and may recover (He et al. 2018).
        factor: by how much a round of the iterative schedule raises the ratio; ratio R takes
            log(R) / log(factor) rounds, rounded up.
        ramp: the part of a gradual schedule's epochs in which it prunes.
        retraining: "finetune"; "weight-rewinding": weights of epoch `rewind_to` of pretraining, then its
            recipe from there (Frankle et al. 2020; epoch 0: the lottery ticket of Frankle & Carbin 2019);
            "learning-rate-rewinding": the recipe alone goes back (Renda et al. 2020); "scratch": a fresh
            network with the same mask (Liu et al. 2019).
        rewind_to: the epoch of the pretraining to go back to.
        equal: whether "scratch" trains for as many epochs as the recipe says, or for as many MACs as the
            dense network, but at most twice the epochs, as Liu et al. 2019 do.
        recipe: name of the recipe that trains the pruned network, where not the usual one: the study's
            `finetune` for a pretrained network that is finetuned, otherwise that of the weights.
    """

    scope: str = "global"
    granularity: str = WEIGHT
    exclude: tuple[str, ...] = ()
    start: str = PRETRAINED
    rounds: int = 1
    schedule: str = ONE_SHOT
    factor: float = 2.0
    ramp: float = 0.5
    retraining: str = FINETUNE
    rewind_to: int = 0
    equal: str = "epochs"
    recipe: str | None = None

    @property
    def pattern(self) -> tuple[int, int] | None:
        """Return (N, M) of the granularity N:M."""
        found = _PATTERN.fullmatch(self.granularity)
        return (int(found[1]), int(found[2])) if found else None

    @property
    def like(self) -> str | None:
        """Return the strategy whose layer sizes are taken over."""
        return self.scope.removeprefix(LIKE) if self.scope.startswith(LIKE) else None

    @property
    def while_training(self) -> bool:
        """Return whether one job prunes and trains."""
        return self.schedule in (GRADUAL, SOFT)

    @property
    def finetuned(self) -> bool:
        """Return whether the network is trained by the recipe for finetuning, unless told otherwise."""
        return self.start == PRETRAINED and self.retraining == FINETUNE


def from_mapping(values: Mapping[str, Any]) -> Way:
    """Return a way from the keys that a study gives.

    Raises:
        UserError: keys that do not go together.
    """
    steps = {"rounds": STEPS} if values.get("schedule") == GRADUAL else {}
    way = Way(**{**steps, **values, "exclude": tuple(values.get("exclude", ()))})
    for name, value in values.items():
        other, allowed = _ONLY.get(name, (name, ()))
        if allowed and getattr(way, other) not in allowed:
            raise UserError(f"'{name}' goes with '{other}: {' or '.join(allowed)}' only; remove it")
        if name in CHOICES and value not in CHOICES[name] and not _named(name, way):
            known = ", ".join(CHOICES[name]) + {"scope": ", like:STRATEGY", "granularity": ", N:M"}.get(
                name, ""
            )
            raise UserError(f"'{name}' must be one of {known}, not {value!r}")
    pattern = way.pattern
    if pattern and pattern[0] >= pattern[1]:
        raise UserError(f"'granularity: {way.granularity}' keeps everything; N must be smaller than M")
    if pattern and "scope" in values:
        raise UserError(
            "'scope' says nothing where 'granularity' is N:M, which keeps N of every M; remove it"
        )
    for clash, text in (
        (way.granularity == FILTER and way.scope not in ("global", "layer"), f"'scope: {way.scope}'"),
        (way.granularity == FILTER and way.rounds > 1, "'rounds'"),
        (way.granularity != FILTER and way.schedule == SOFT, "'schedule: soft'"),
        (way.granularity != WEIGHT and way.schedule == GRADUAL, "'schedule: gradual'"),
        (pattern and way.schedule == ITERATIVE, "'schedule: iterative'"),
        (pattern and way.rounds > 1, "'rounds'"),
    ):
        if clash:
            raise UserError(f"{text} does not go with 'granularity: {way.granularity}'; change one of them")
    alone = way.like or way.scope in conformance.SCOPES
    if alone and (way.rounds > 1 or way.schedule != ONE_SHOT):
        raise UserError(
            f"'scope: {way.scope}' goes with one-shot pruning in one round only; change one of them"
        )
    if way.start == INITIALISATION and (way.retraining != FINETUNE or way.schedule == ITERATIVE):
        raise UserError(
            "'start: initialisation' is pruning before any training; remove 'retraining' or "
            "'schedule: iterative'"
        )
    if way.while_training and way.retraining != FINETUNE:
        raise UserError(f"'schedule: {way.schedule}' prunes while it finetunes; remove 'retraining'")
    return way


def to_mapping(way: Way) -> dict[str, Any]:
    """Return the fields of a way that are not the defaults."""
    return {
        field.name: value
        for field, value in zip(fields(Way), asdict(way).values(), strict=True)
        if field.default is MISSING or value != field.default
    }


def training(way: Way) -> str:
    """Return how a network that a way has pruned is trained, in a few words: what it costs beside scoring."""
    recipe = f"recipe '{way.recipe}'" if way.recipe else "the recipe of the weights"
    words = "finetuning" if way.finetuned and not way.recipe else f"training by {recipe}"
    if way.rewind_to:
        words += f", from its epoch {way.rewind_to}"
    if way.equal == "macs":
        words += ", for as many MACs as the dense network, at most twice the epochs"
    if way.schedule == ITERATIVE:
        words += f", once for every factor {way.factor:g} of the ratio"
    return f"{words}, pruning meanwhile" if way.while_training else words


def _named(name: str, way: Way) -> bool:
    return (name == "scope" and bool(way.like)) or (name == "granularity" and way.pattern is not None)
