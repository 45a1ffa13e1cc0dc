"""What a study compares, as plain data: what its report says of it besides the tables."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from typing import Any

from shrinkflow import strategies
from shrinkflow.recipe import Recipe
from shrinkflow.study import Study


def of(study: Study) -> dict[str, Any]:
    """Return the outline of a study, JSON-able.

    `strategies` has the controls first; recipes and ways say only what is not usual; threads, device and
    addresses are left out, for they change no word of the report.
    """
    names = dict.fromkeys(cell.strategy for cell in study.cells())
    used = [study.strategy(name) for name in names if strategies.CROSSED not in name]
    found = [strategies.described(strategy) for strategy in used]
    return {
        "study": study.name,
        "description": study.description,
        "budget": study.budget,
        "seeds": list(study.seeds),
        "pairs": [
            {
                "dataset": pair.dataset,
                "model": pair.model,
                "weights": list(pair.weights),
                "finetune": pair.finetune,
                "ratios": list(pair.ratios),
            }
            for pair in study.pairs
        ],
        "weights": {
            name: {"recipe": entry.recipe, "seed": entry.seed}
            if entry.recipe
            else {"file": ", ".join(_weight_files(study, name))}
            for name, entry in study.weights.items()
        },
        "strategies": [
            {key: entry[key] for key in ("strategy", "score", "source", "way", "parameters")}
            for entry in found
        ],
        "recipes": {name: _unusual(entry) for name, entry in study.recipes.items()},
    }


def _weight_files(study: Study, weights: str) -> list[str]:
    """Return the files of weights that are read from files: of published ones, one for each model."""
    raw = [study.initial(weights, pair.model).raw for pair in study.pairs if weights in pair.weights]
    return sorted({fetch.file.name for fetch in raw if fetch})


def _unusual(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says, without the fields that have their defaults."""
    values = asdict(recipe)
    return {
        field.name: values[field.name]
        for field in fields(Recipe)
        if field.default is MISSING or values[field.name] != field.default
    }
