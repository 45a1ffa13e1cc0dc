"""Recipes: how a network is trained, as data. One recipe type for pretraining and finetuning."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints


def _help(text: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Optimizer, learning-rate schedule, augmentation and early stopping of one training."""

    optimizer: Literal["sgd", "adam"] = _help("the optimizer")
    lr: float = _help("learning rate at the start (after the warm-up)")
    epochs: int = _help("epochs at most")
    batch_size: int = _help("pictures per step", 64)
    momentum: float = _help("momentum of sgd", 0.9)
    nesterov: bool = _help("Nesterov's momentum for sgd", False)
    weight_decay: float = _help("L2 penalty, on all parameters", 0.0)
    schedule: Literal["fixed", "step", "cosine"] = _help("learning-rate schedule", "fixed")
    milestones: tuple[int, ...] = _help("epochs after which 'step' multiplies by gamma", ())
    gamma: float = _help("factor of 'step'", 0.1)
    warmup: int = _help("epochs in which the learning rate rises linearly from 0", 0)
    flip: bool = _help("augment: mirror every second picture, at random", False)
    crop: int = _help("augment: pad by so many black pixels, crop back at random", 0)
    resized_crop: bool = _help("augment streamed pictures: a part of random size, resized", False)
    patience: int = _help("stop after so many epochs without a better validation accuracy; 0: never", 0)


def from_mapping(values: Mapping[str, Any]) -> Recipe:
    """Make a recipe from a study's mapping, already checked against the schema."""
    return Recipe(**{**values, "milestones": tuple(values.get("milestones", ()))})


def to_flags(recipe: Recipe) -> str:
    """Return a recipe as command-line flags, every field named: the inverse of `from_arguments`."""
    words: list[str] = []
    for name, value in asdict(recipe).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value != ():
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def stretched(recipe: Recipe, factor: float) -> Recipe:
    """Return a recipe with `factor` times as many epochs, its milestones moved in proportion."""
    epochs = max(1, round(recipe.epochs * factor))
    milestones = tuple(min(max(1, round(epoch * factor)), epochs) for epoch in recipe.milestones)
    return replace(recipe, epochs=epochs, milestones=milestones)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag per field of `Recipe`."""
    group = parser.add_argument_group("recipe")
    hints = get_type_hints(Recipe)
    for item in fields(Recipe):
        hint = hints[item.name]
        options: dict[str, Any] = {"help": item.metadata["help"]}
        if item.default is MISSING:
            options["required"] = True
        else:
            options["default"] = item.default
            options["help"] += " (default: %(default)s)" if item.default != () else ""
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
        elif get_origin(hint) is tuple:
            options |= {"type": int, "nargs": "*", "metavar": "N"}
        else:
            options |= {"type": hint, "metavar": "N" if hint is int else "X"}
        group.add_argument(f"--{item.name.replace('_', '-')}", **options)


def from_arguments(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags of `add_arguments` describe."""
    values = {item.name: getattr(args, item.name) for item in fields(Recipe)}
    return from_mapping(values)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate at a point of time, in epochs since the start (fractions: steps).

    Cosine: Loshchilov & Hutter 2017, one half period from `lr` to 0 over the epochs after the warm-up.
    """
    if epoch < recipe.warmup:
        return recipe.lr * epoch / recipe.warmup
    if recipe.schedule == "step":
        return recipe.lr * recipe.gamma ** sum(epoch >= m for m in recipe.milestones)
    if recipe.schedule == "cosine":
        progress = (epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.lr
