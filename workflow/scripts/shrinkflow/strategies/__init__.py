"""Strategies: which weights matter. One file per score; selection, schedules and training live elsewhere.

A score is a function `(model, data, generator, *, parameters...)` that returns one tensor per prunable
weight, higher meaning more important: of the weight's shape, or, for whole filters, of shape [outputs]. The
model is in evaluation mode and is the function's to use up; `data(batches, batch_size)` yields normalised
training pictures with labels, drawn by a stream of their own; `generator` is for the score's own draws.
Parameters that say how many pictures are drawn are named as in `DRAWN`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shrinkflow import own, way
from shrinkflow.errors import UserError, nearest, value_text
from shrinkflow.registry import Registry
from shrinkflow.way import Way

if TYPE_CHECKING:
    import torch
    from torch import nn

    Scores = dict[str, torch.Tensor]

    class Data(Protocol):
        """The source of a score's pictures: normalised [b, c, h, w], and labels [b], of each batch."""

        def __call__(
            self, batches: int, batch_size: int, crop: int = 0, flip: bool = False
        ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            """Yield batches of training pictures, augmented where that is asked for."""


CONTROL = "dense"
# Parameters whose product is the number of pictures that a score draws: what it costs is estimated by them.
DRAWN = ("batches", "gradients", "examples", "batch_size")
# Before the names of scores and strategies that do as ShrinkBench does.
CONFORMING = "shrinkbench-"


@dataclass(frozen=True)
class Score:
    """A scoring function, the paper it comes from, what it costs, and the strategies made of it.

    `granularity` is what it scores: "weight" or "filter". `update` is a function that moves the weights
    that stay, once it is known which; `comparable` says whether filters of all layers are ranked as they
    are scored; `check` raises `UserError` for a network that cannot be scored (see `score` for all three).
    """

    function: Callable[..., Scores]
    source: str
    cost: str
    strategies: Mapping[str, Way]
    granularity: str = way.WEIGHT
    update: Callable[..., Scores] | None = None
    comparable: bool = False
    check: Callable[[nn.Module, torch.Tensor], object] | None = None

    def parameters(self) -> dict[str, Any]:
        """Return {parameter: default} of what a study may set."""
        signature = inspect.signature(self.function)
        return {p.name: p.default for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Strategy:
    """What a name under a study's `strategies` stands for. `file`: the user's own, where the score lies."""

    name: str
    score: str
    parameters: Mapping[str, Any]
    way: Way
    file: str | None = None


# Bounds of the whole numbers among parameters of scores.
_AUGMENTATION, _MOST = ("crop",), 1_000_000

# `random+mask2`: the masks that `random` chose with seed 2. No name of a study has a plus sign.
CROSSED = "+mask"

SCORES: Registry[Score] = Registry("score", "shrinkflow.strategies")


def score(
    name: str,
    *,
    source: str,
    cost: str,
    strategies: Mapping[str, Way],
    granularity: str = way.WEIGHT,
    update: Callable[..., Scores] | None = None,
    comparable: bool = False,
    check: Callable[[nn.Module, torch.Tensor], object] | None = None,
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register a scoring function.

    Args:
        name: of the score.
        source: the paper, or papers: author and year.
        cost: what scoring takes, in a few words: "1 batch, forward and backward".
        strategies: {strategy name: way}, for the strategies that need no parameters.
        granularity: "weight" or "filter".
        update: `(model, data, masks, *, parameters...)` with the score's parameters, and masks (bool, True =
            kept) by name; returns new values for prunable weights, those pruned being zero (Hassibi 1993).
        comparable: of filters: scores of all layers have one unit, so they are ranked as they are; otherwise
            those of each layer are divided by their mean first.
        check: `(model, pictures)`: raises `UserError` for a network that cannot be scored. It is tried before
            anything runs, on the meta device, with models whose layers are not written here.
    """

    def add(function: Callable[..., Scores]) -> Callable[..., Scores]:
        entry = Score(function, source, cost, strategies, granularity, update, comparable, check)
        SCORES.register(name, entry, function.__module__)
        return function

    return add


def registered() -> dict[str, Strategy]:
    """Return every strategy of the registry by name, sorted."""
    found = [
        Strategy(name, score_name, SCORES[score_name].parameters(), chosen)
        for score_name in SCORES.names()
        for name, chosen in SCORES[score_name].strategies.items()
    ]
    return {strategy.name: strategy for strategy in sorted(found, key=lambda s: s.name)}


def resolve(entry: str | Mapping[str, Any], conformance: str = "none") -> Strategy:
    """Return the strategy that an entry of a study's list stands for: a name, or a mapping.

    `conformance` is "none" or "shrinkbench": then a strategy does as ShrinkBench does, under its own name.
    Raises `UserError` for unknown names, and for keys that do not go together.
    """
    known = registered()
    if isinstance(entry, str):
        if entry not in known:
            raise UserError(f"unknown strategy '{entry}'{nearest(entry, known)}")
        if conformance == "none" or entry.startswith(CONFORMING):
            return known[entry]
        if f"{CONFORMING}{entry}" not in known:
            theirs = [name.removeprefix(CONFORMING) for name in known if name.startswith(CONFORMING)]
            raise UserError(f"ShrinkBench has no '{entry}' to conform with; it has {', '.join(theirs)}")
        return replace(known[f"{CONFORMING}{entry}"], name=entry)
    keys = {
        key: value
        for key, value in entry.items()
        if key not in ("name", "score", "file", "function", "parameters")
    }
    parameters = entry.get("parameters", {})
    if conformance != "none":
        raise UserError(f"'conformance: {conformance}' is for strategies of the registry; name one of them")
    if ("score" in entry) == ("file" in entry):
        raise UserError("give either 'score', or 'file' and 'function'")
    if "score" in entry:
        if "function" in entry:
            raise UserError("'function' goes with 'file' only; remove it")
        return combine(entry["name"], entry["score"], parameters, keys)
    if "function" not in entry:
        raise UserError("the key 'function' is missing: which function of 'file' scores?")
    title = f"function '{entry['function']}' in '{entry['file']}'"
    chosen = complete(title, own.parameters(entry["file"], entry["function"]), parameters)
    return Strategy(entry["name"], entry["function"], chosen, way.from_mapping(keys), entry["file"])


def combine(name: str, score_name: str, parameters: Mapping[str, Any], keys: Mapping[str, Any]) -> Strategy:
    """Return a study's own combination, its parameters checked and completed by the defaults.

    `keys` are those of `Way`. Raises `UserError` for an unknown score or parameter, a parameter of another
    type than its default, and keys that do not go together or not with the score.
    """
    entry = SCORES[score_name]
    chosen = way.from_mapping(keys)
    filters = chosen.granularity == way.FILTER
    if filters != (entry.granularity == way.FILTER):
        kind = "whole filters" if entry.granularity == way.FILTER else "single weights"
        raise UserError(
            f"score '{score_name}' is of {kind}, which does not go with 'granularity: {chosen.granularity}'"
        )
    if entry.update and (chosen.while_training or chosen.retraining != way.FINETUNE or chosen.pattern):
        raise UserError(
            f"score '{score_name}' moves the weights that stay, once, before finetuning; "
            "remove 'schedule', 'retraining' or 'granularity'"
        )
    title = f"score '{score_name}'"
    values = complete(title, entry.parameters(), parameters)
    for key, value in values.items():
        # How many of something, or a factor; only an augmentation can be left away.
        least = 0 if key in _AUGMENTATION else 1
        if type(value) is int and not least <= value <= _MOST:
            raise UserError(
                f"parameter '{key}' of {title} must be from {least} to {_MOST}, not {value_text(value)}"
            )
        if type(value) is float and value <= 0:
            raise UserError(f"parameter '{key}' of {title} must be above 0, not {value}")
    return Strategy(name, score_name, values, chosen)


def complete(what: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, checked against their defaults and completed by them; `what` names the score."""
    for key, value in given.items():
        if key not in defaults:
            known = nearest(key, defaults) if defaults else " (it takes none)"
            raise UserError(f"{what} has no parameter '{key}'{known}")
        wanted = type(defaults[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(
                f"parameter '{key}' of {what} must be of type {wanted.__name__}, not {value_text(value)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"parameter '{key}' of {what} must be a finite number, not {value}")
    return {**defaults, **given}


def file(strategy: Strategy) -> Path:
    """Return the file that defines a strategy's score: what its fingerprint has to cover."""
    return Path(strategy.file) if strategy.file else SCORES.file(strategy.score)


def moves(strategy: Strategy) -> bool:
    """Return whether a strategy moves the weights that stay."""
    return not strategy.file and SCORES[strategy.score].update is not None


def described(strategy: Strategy) -> dict[str, Any]:
    """Return what people want to know of a strategy."""
    score = None if strategy.file else SCORES[strategy.score]
    return {
        "strategy": strategy.name,
        "score": strategy.score,
        "source": score.source if score else strategy.file,
        "way": way.to_mapping(strategy.way),
        "parameters": dict(strategy.parameters),
        "cost": score.cost if score else "unknown",
        "training": way.training(strategy.way),
    }


def text(described: Mapping[str, Any]) -> str:
    """Return the same in lines."""
    lines = [described["strategy"], f"    score: {described['score']}", f"    source: {described['source']}"]
    for key in ("way", "parameters"):
        if described[key]:
            lines.append(
                f"    {key}: " + ", ".join(f"{name} {value}" for name, value in described[key].items())
            )
    return "\n".join(
        [*lines, f"    cost of scoring: {described['cost']}", f"    then: {described['training']}"]
    )
