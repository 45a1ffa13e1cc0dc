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

from shrinkflow.errors import UserError, nearest

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
    study = _plain(config)
    errors = sorted(_validator().iter_errors(study), key=lambda error: str(error.absolute_path))
    faults = list(dict.fromkeys(_sentence(error) for error in errors))
    if faults:
        raise UserError("\n".join(faults))
    _fill(study, schema())
    return dict(study)


def fill(entry: dict[str, Any], collection: str) -> dict[str, Any]:
    """Return a new entry of a collection of named entries (`datasets`), completed by the defaults."""
    _fill(entry, schema()["properties"][collection]["additionalProperties"])
    return entry


def doubled_keys(path: Path) -> list[str]:
    """Return the keys a YAML file gives twice: YAML readers silently keep the last one."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return list(_doubled(root, "")) if root is not None else []


def _doubled(node: yaml.Node, where: str) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _doubled(child, f"{where}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, child in node.value:
            path = f"{where}.{key.value}".lstrip(".")
            if key.value in seen:
                yield path
            seen.add(key.value)
            yield from _doubled(child, path)


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


def _plain(value: Any) -> Any:
    """Copy into plain dicts and lists, whatever the reader of the YAML made them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


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


def _path(error: Any) -> str:
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _sentence(error: Any) -> str:
    """Turn a fault found by jsonschema into one sentence."""
    path, value, rule, limit = _path(error), error.instance, error.validator, error.validator_value
    inside = f" in '{path}'" if path else ""
    if error.parent is not None or "propertyNames" in error.absolute_schema_path:
        return f"'{value}'{inside} cannot be a name: {_NAME_RULE}"
    if rule == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(key for key in value if key not in known)
        return f"unknown key '{unknown}'{inside}{nearest(str(unknown), known)}"
    if rule == "required":
        missing = next(key for key in limit if key not in value)
        return f"the key '{missing}' is missing{inside}"
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
    if rule in _BOUNDS:
        return f"'{path}' must be {_BOUNDS[rule]} {limit}, not {_shown(value)}"
    if rule in ("pattern", "maxLength") and error.schema.get("maxLength") == 64:
        return f"'{path}' cannot be {_shown(value)}: {_NAME_RULE}"
    return f"'{path}' cannot be {_shown(value)}: {error.schema.get('description', error.message)}"


_NAME_RULE = (
    "a name has up to 64 letters, digits, '.', '_' and '-', starts with a letter or digit, and is "
    "quoted where YAML would read a number or a truth value"
)
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
    "minLength": "longer than",
}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return repr(value)
        return f"the text {value!r} (YAML reads a number only with a dot: 1.0e-3)"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
