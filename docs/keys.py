"""Write the table of keys in config/README.md from the schema of a study: `make docs`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow" / "schemas" / "study.schema.yaml"
README = ROOT / "config" / "README.md"
BEGIN = "<!-- keys: made by `make docs` from workflow/schemas/study.schema.yaml -->\n"
END = "<!-- end of keys -->\n"


@dataclass(frozen=True)
class Row:
    """One key: its dotted path, kind of value, default ("required" where there must be one), example."""

    key: str
    kind: str
    default: str
    description: str
    example: str


def rows(schema: Mapping[str, Any], path: str = "") -> Iterator[Row]:
    """Yield a row for every key of a schema, depth first."""
    definitions = schema.get("$defs", {})

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = node.get("$ref", "").removeprefix("#/$defs/")
        return {**definitions[reference], **node} if reference else node

    def below(node: Mapping[str, Any], path: str) -> Iterator[Row]:
        for key, raw in node.get("properties", {}).items():
            child = resolved(raw)
            here = f"{path}{key}"
            default = _yaml(child["default"]) if "default" in child else ""
            if key in node.get("required", ()):
                default = "**required**"
            example = _yaml(child["examples"][0]) if "examples" in child else ""
            yield Row(here, _kind(child), default, child.get("description", ""), example)
            yield from below(child, f"{here}.")
            for part, mark in (("items", "[]."), ("additionalProperties", ".NAME.")):
                if isinstance(child.get(part), Mapping):
                    yield from below(resolved(child[part]), f"{here}{mark}")

    yield from below(schema, path)


def table(schema: Mapping[str, Any]) -> str:
    """Return the Markdown table of all keys."""
    lines = ["| key | value | default | meaning | example |", "| --- | --- | --- | --- | --- |"]
    for row in rows(schema):
        example = f"`{row.example}`" if row.example else ""
        lines.append(f"| `{row.key}` | {row.kind} | {row.default} | {row.description} | {example} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the text of the README with its table made anew."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    before, rest = text.split(BEGIN)
    return before + BEGIN + table(schema) + END + rest.split(END)[1]


def _kind(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    names = {"object": "mapping", "array": "list", "string": "text", "boolean": "true or false"}
    kinds = [node["type"]] if isinstance(node["type"], str) else node["type"]
    if kinds == ["array"] and "properties" in node.get("items", {}):
        return "list of mappings" if node["items"]["type"] == "object" else "list of names or mappings"
    return " or ".join(names.get(kind, kind) for kind in kinds)


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) or not value else value


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
