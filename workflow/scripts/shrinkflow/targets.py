"""What a cell keeps, as data and as command-line arguments, and by which score."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shrinkflow import budget, way
from shrinkflow.way import Way


@dataclass(frozen=True)
class Target:
    """What a cell keeps: by which way, down to which ratio of the whole model, of parameters or MACs."""

    way: Way
    ratio: float
    axis: str = budget.PARAMETERS


@dataclass(frozen=True)
class Sizes:
    """The costs of a model: all its parameters and MACs, and how many MACs each entry of a tensor takes."""

    params: int
    macs: int
    uses: Mapping[str, int]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Sizes:
        """Return the sizes that stand in the metadata of scores."""
        return cls(described["params"], described["macs"], described["uses"])


def add_score(parser: argparse.ArgumentParser) -> None:
    """Add what names a score: `--score`, `--score-file`, `--parameter`, and `--seed` of its draws."""
    parser.add_argument("--score", required=True, metavar="NAME", help="score, or function of --score-file")
    parser.add_argument(
        "--score-file", metavar="FILE", help="your own Python file with the function; it is run"
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=VALUE",
        help="parameter of the score; may be repeated",
    )
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of every draw")


def add_target(parser: argparse.ArgumentParser, ratio: bool = True) -> None:
    """Add what says which weights stay; `ratio`: whether `--ratio` has to be given."""
    group = parser.add_argument_group("what stays")
    group.add_argument(
        "--ratio", type=float, required=ratio, default=1, metavar="X", help="cost of the model / cost left"
    )
    group.add_argument(
        "--budget", choices=list(budget.AXES), default=budget.PARAMETERS, help="what the ratio is of"
    )
    group.add_argument("--scope", default="global", metavar="SCOPE", help="global, layer, erk, like:STRATEGY")
    group.add_argument("--granularity", default=way.WEIGHT, help="weight, filter, or N:M")
    group.add_argument("--exclude", nargs="+", default=[], metavar="NAME", help="weights that stay dense")
    group.add_argument("--rounds", type=int, metavar="N", help="rounds of scoring and selection")


def target(args: argparse.Namespace, **more: Any) -> Target:
    """Return the target that the flags of `add_target` describe; `more`: further fields of the way."""
    keys = {"scope": args.scope, "granularity": args.granularity, "exclude": args.exclude}
    keys = {key: value for key, value in keys.items() if value and value != getattr(way.Way(), key)}
    keys |= {"rounds": args.rounds} if args.rounds else {}
    return Target(way.from_mapping({**keys, **more}), args.ratio, args.budget)


def described(chosen: Target) -> dict[str, Any]:
    """Return a target as records hold it."""
    return {
        "ratio": chosen.ratio,
        "budget": chosen.axis,
        "scope": chosen.way.scope,
        **way.to_mapping(chosen.way),
    }


def _parameter(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as JSON where it is JSON, as text otherwise."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
