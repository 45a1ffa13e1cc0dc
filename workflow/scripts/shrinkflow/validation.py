"""A study's YAML against its JSON schema: every fault one plain sentence that names the key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from shrinkflow import documents
from shrinkflow.errors import UserError, key_text, nearest, value_text

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "study.schema.yaml"

_TYPES = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


@cache
def schema() -> dict[str, Any]:
    """Return the schema of a study."""
    return dict(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a study's mapping with the schema's defaults filled in.

    Raises:
        UserError: where it does not follow the schema; one line per fault.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"a study is a mapping of keys like 'study' and 'pairs', not {value_text(config)}")
    study = documents.plain(config)
    errors = sorted(_validator().iter_errors(study), key=lambda error: str(error.absolute_path))
    faults = list(dict.fromkeys(sentence for error in errors for sentence in _sentences(error)))
    faults = faults or list(documents.hidden(study))
    if faults:
        raise UserError("\n".join(faults))
    _fill(study, schema())
    return dict(study)


def fill(entry: dict[str, Any], collection: str) -> dict[str, Any]:
    """Return a new entry of a collection of named entries (`datasets`), completed by the defaults."""
    _fill(entry, schema()["properties"][collection]["additionalProperties"])
    return entry


@cache
def _validator() -> Any:
    # JSON knows no integers apart from numbers, and YAML has .nan: a seed is 1, not 1.0 nor nan.
    def is_integer(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def is_number(checker: Any, value: Any) -> bool:
        return is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))

    base = jsonschema.Draft202012Validator
    checker = base.TYPE_CHECKER.redefine_many({"integer": is_integer, "number": is_number})
    return jsonschema.validators.extend(base, type_checker=checker)(schema())


def _resolve(node: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = node.get("$ref")
    return schema()["$defs"][reference.removeprefix("#/$defs/")] if reference else node


def _fill(value: Any, node: Mapping[str, Any]) -> None:
    node = _resolve(node)
    if isinstance(value, dict):
        properties = node.get("properties", {})
        for key, child in properties.items():
            if key not in value and "default" in child:
                value[key] = deepcopy(child["default"])
        others = node.get("additionalProperties")
        for key, item in value.items():
            child = properties.get(key, others if isinstance(others, Mapping) else {})
            _fill(item, child)
    elif isinstance(value, list):
        for item in value:
            _fill(item, node.get("items", {}))


def _sentences(error: Any) -> Iterator[str]:
    """Turn what jsonschema found into sentences, one for each key that is unknown or missing."""
    value, rule, limit = error.instance, error.validator, error.validator_value
    path = documents.dotted(error.absolute_path)
    inside = f" in '{path}'" if path else ""
    if rule == "additionalProperties":
        known = error.schema["properties"]
        for key in (key for key in value if key not in known):
            yield f"unknown key '{key_text(key)}'{inside}{nearest(key_text(key), known)}"
    elif rule == "required":
        for key in (key for key in limit if key not in value):
            yield f"the key '{key}' is missing{inside}"
    else:
        yield _sentence(error, path)


def _sentence(error: Any, path: str) -> str:
    value, rule, limit = error.instance, error.validator, error.validator_value
    if error.parent is not None or "propertyNames" in error.absolute_schema_path:
        return f"'{key_text(value)}' in '{path}' cannot be a name: {_NAME_RULE}"
    if rule == "type":
        kinds = " or ".join(_TYPES[kind] for kind in ([limit] if isinstance(limit, str) else limit))
        return f"'{path}' must be {kinds}, not {_shown(value)}"
    if rule == "enum":
        return f"'{path}' must be one of {', '.join(map(str, limit))}, not {_shown(value)}"
    if rule == "uniqueItems":
        twice = next(item for index, item in enumerate(value) if item in value[:index])
        return f"'{path}' lists {_shown(twice)} twice; remove one"
    if rule in ("minItems", "maxItems", "minProperties"):
        bound = "at most" if rule == "maxItems" else "at least"
        return f"'{path}' needs {bound} {limit} entr{'y' if limit == 1 else 'ies'}, it has {len(value)}"
    if rule == "minLength":
        return f"'{path}' is empty; fill it in, or remove the key"
    if rule in _BOUNDS:
        return f"'{path}' must be {_BOUNDS[rule]} {limit}, not {_shown(value)}"
    if rule == "maxLength" and limit != _NAME_LENGTH:
        return f"'{path}' has {len(value)} characters; {limit} are the most"
    if rule in ("pattern", "maxLength") and error.schema.get("maxLength") == _NAME_LENGTH:
        return f"'{path}' cannot be {_shown(value)}: {_NAME_RULE}"
    return f"'{path}' cannot be {_shown(value)}: {error.schema.get('description', error.message)}"


_NAME_LENGTH = 64
_NAME_RULE = (
    "a name has up to 64 letters, digits, '.', '_' and '-', starts with a letter or digit, and is "
    "quoted where YAML would read a number or a truth value"
)
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return value_text(value)
        return f"the text {value_text(value)} (YAML reads a number only with a dot: 1.0e-3)"
    return value_text(value)
