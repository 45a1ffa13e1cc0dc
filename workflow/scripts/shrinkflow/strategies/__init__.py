"""Strategies: which weights matter. One file per score; selection, scope and budget live elsewhere.

A score is a function `(model, data, generator, *, parameters...)` that returns one tensor per prunable
weight, of its shape, higher meaning more important. The model is in evaluation mode and is the
function's to use up; `data(batches, batch_size)` yields normalised training pictures with labels, drawn
by a stream of their own; `generator` is for the score's own draws.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shrinkflow.errors import UserError, nearest
from shrinkflow.registry import Registry

if TYPE_CHECKING:
    import torch

    Data = Callable[[int, int], Iterator[tuple[torch.Tensor, torch.Tensor]]]
    Scores = dict[str, torch.Tensor]

CONTROL = "dense"


@dataclass(frozen=True)
class Score:
    """A scoring function, the paper it comes from, and the strategies it makes: scope by name."""

    function: Callable[..., Scores]
    source: str
    strategies: Mapping[str, str]

    def parameters(self) -> dict[str, Any]:
        """Return {parameter: default} of what a study may set."""
        signature = inspect.signature(self.function)
        return {p.name: p.default for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Strategy:
    """What a name under a study's `strategies` stands for."""

    name: str
    score: str
    scope: str
    parameters: Mapping[str, Any]


SCORES: Registry[Score] = Registry("score", "shrinkflow.strategies")


def score(
    name: str, *, source: str, strategies: Mapping[str, str]
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register a scoring function: its name, its source, and {strategy name: scope}."""

    def add(function: Callable[..., Scores]) -> Callable[..., Scores]:
        SCORES.register(name, Score(function, source, strategies), function.__module__)
        return function

    return add


def registered() -> dict[str, Strategy]:
    """Return every strategy of the registry by name, sorted."""
    found = [
        Strategy(name, score_name, scope, SCORES[score_name].parameters())
        for score_name in SCORES.names()
        for name, scope in SCORES[score_name].strategies.items()
    ]
    return {strategy.name: strategy for strategy in sorted(found, key=lambda s: s.name)}


def combine(name: str, score_name: str, scope: str, parameters: Mapping[str, Any]) -> Strategy:
    """Return a study's own combination, its parameters checked and completed by the defaults.

    Raises:
        UserError: an unknown score or parameter, or a parameter of another type than its default.
    """
    defaults = SCORES[score_name].parameters()
    for key, value in parameters.items():
        if key not in defaults:
            known = nearest(key, defaults) if defaults else " (it takes none)"
            raise UserError(f"score '{score_name}' has no parameter '{key}'{known}")
        wanted = type(defaults[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(
                f"parameter '{key}' of score '{score_name}' must be of type {wanted.__name__}, not {value!r}"
            )
    return Strategy(name, score_name, scope, {**defaults, **parameters})


def file(strategy: Strategy) -> Path:
    """Return the file that defines a strategy's score: what its fingerprint has to cover."""
    return SCORES.file(strategy.score)
