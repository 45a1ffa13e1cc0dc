"""YAML that anyone may have written: read as data, its oddities told, in plain dicts and lists."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from shrinkflow.errors import UserError, key_text, value_text

# Far beyond any study, and soon reached by one whose YAML aliases multiply each other.
MOST_ENTRIES = 100_000
DEEPEST = 20
# Bits of an integer: one that no float holds.
LARGEST = 1000
# Snakemake's reader of YAML runs the Python in a file that has this key (YTE, yte-template-engine.github.io).
_TEMPLATE = "__use_yte__"
# Control characters, halves of characters, separators of lines; and what makes a text read in another order.
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")
_REVERSING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# Places whose text may have several lines.
_LINES = (("description",),)


def read(path: Path) -> Any:
    """Return what a YAML file says. No tag in it makes anything run.

    Raises:
        UserError: it is no YAML, or no text in UTF-8.
    """
    with _told():
        return yaml.safe_load(_text(path))


def refuse_odd_keys(path: Path) -> None:
    """Raise `UserError` for keys of a YAML file that its readers keep silent about.

    Of a key that is given twice they keep the last; and one key makes Snakemake run the file as a program.
    """
    document = read(path)
    if isinstance(document, dict) and _TEMPLATE in document:
        raise UserError(
            f"the key '{_TEMPLATE}' makes Snakemake run Python in this file, but a study is data; write out "
            "what that computes, and remove the key"
        )
    with _told():
        root = yaml.compose(_text(path), Loader=yaml.SafeLoader)
    doubled = list(_doubled(root, "", set())) if root is not None else []
    if doubled:
        raise UserError("\n".join(f"the key '{key}' is given twice; remove one" for key in doubled))


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put the name of a file before each line of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError("\nerror: ".join(f"{where}: {line}" for line in str(error).split("\n"))) from None


def plain(config: Any) -> Any:
    """Copy into plain dicts and lists, whatever the reader of the YAML made them.

    Raises:
        UserError: there is more, or it lies deeper, than in any study, or is a larger number.
    """
    left = MOST_ENTRIES

    def copied(value: Any, where: tuple[Any, ...]) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or len(where) > DEEPEST:
            raise UserError(
                f"the key '{key_text(where[0])}' holds more than a study can have, {MOST_ENTRIES:,} entries "
                f"in {DEEPEST} levels; write out what YAML aliases multiply"
            )
        if isinstance(value, Mapping):
            return {key: copied(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copied(item, (*where, index)) for index, item in enumerate(value)]
        if isinstance(value, int) and value.bit_length() > LARGEST:
            raise UserError(f"'{dotted(where)}' is a number of hundreds of digits; give one that fits")
        return value

    return copied(config, ())


def hidden(value: Any, where: tuple[Any, ...] = ()) -> Iterator[str]:
    """Yield which texts of what `plain` returned have characters that are not seen, or hide others."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from hidden(key, (*where, key))
            yield from hidden(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from hidden(item, (*where, index))
    elif isinstance(value, str) and not value.isprintable():
        allowed = "\n\t" if where in _LINES else ""
        for character in sorted(set(value) - set(allowed)):
            if unicodedata.category(character) in _HIDDEN or character in _REVERSING:
                yield (
                    f"'{dotted(where)}' has a character that is not seen (U+{ord(character):04X}) in "
                    f"{value_text(value)}; remove it"
                )
                return


def dotted(where: Iterable[Any]) -> str:
    """Return a place in a study as messages name it: pairs[0].model."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{key_text(part)}" for part in where)
    return "".join(parts).lstrip(".")


@contextmanager
def _told() -> Iterator[None]:
    """Turn what goes wrong while a file is read as YAML into a `UserError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise UserError(
            f"this is no text in UTF-8 (byte {error.start} is {found:#04x}); save it so"
        ) from None
    except RecursionError:
        raise UserError("this is not valid YAML: it is nested too deeply; use few levels") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"this is not valid YAML: {error.problem or error.context}{place}") from None
    except OSError:
        raise
    except Exception as error:  # a value that its tag does not go with can raise nearly anything
        raise UserError(f"this is not valid YAML: {' '.join(str(error).split())}") from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _doubled(node: yaml.Node, where: str, known: set[int]) -> Iterator[str]:
    """Yield the paths of keys that are given twice. `known`: nodes that were looked into, for aliases."""
    if id(node) in known:
        return
    known.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _doubled(child, f"{where}[{index}]", known)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # which YAML's readers refuse
            path = f"{where}.{key_text(key.value)}".lstrip(".")
            if key.value in keys:
                yield path
            keys.add(key.value)
            yield from _doubled(child, path, known)
