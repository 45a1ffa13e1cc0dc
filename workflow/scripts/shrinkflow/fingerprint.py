"""The fingerprint of a job: a hash of the code it can reach, comments and formatting left out.

A program's import closure is followed through the library; a strategy, model, data set or figure is
found by name at run time, so its one file is passed beside the program. What is hashed is the syntax
tree without docstrings and positions: editing a comment, a docstring or the layout changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).resolve().parent
PINS = LIBRARY.parents[2] / "requirements.txt"

# Import names that differ from the name of the distribution.
_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "torch_pruning": "torch-pruning",
}


def fingerprint(*files: str | Path) -> str:
    """Return 16 hexadecimal digits that change when, and only when, reachable code changes."""
    hashes = {name(path): _parse(path)[0] for path in closure(*files)}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


def packages(*files: str | Path) -> dict[str, str]:
    """Return {distribution: pinned version} of the third-party packages the code reaches.

    The pins are the study's statement of its environment: they are parameters of every job, so that a
    new version of torch makes cells stale, and a new version of seaborn only figures.
    """
    found = {module for path in closure(*files) for module in _parse(path)[2]}
    pins = _pins()
    names = {_DISTRIBUTIONS.get(module, module) for module in found}
    return {package: pins[package] for package in sorted(names) if package in pins}


def closure(*files: str | Path) -> tuple[Path, ...]:
    """Return the files whose code the given ones can reach, themselves among them."""
    return _closure(tuple(sorted({Path(file).resolve() for file in files})))


def name(path: str | Path) -> str:
    """Return how records call a file of code, seen from the programs: not by where the project lies."""
    path, root = Path(path).resolve(), LIBRARY.parent
    if not path.is_relative_to(root) and not path.is_relative_to(PINS.parent):
        return path.name
    return Path(os.path.relpath(path, root)).as_posix()


@cache
def _closure(files: tuple[Path, ...]) -> tuple[Path, ...]:
    seen: set[Path] = set()
    queue = list(files)
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue.extend(_parse(path)[1])
    return tuple(sorted(seen))


@cache
def _parse(path: Path) -> tuple[str, tuple[Path, ...], frozenset[str]]:
    """Return (hash of the syntax tree, library files it imports, third-party packages it imports)."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    local: set[Path] = set()
    foreign: set[str] = set()
    for module in _imports(tree, path):
        if module.split(".")[0] == LIBRARY.name:
            local.update(_files(module))
        else:
            foreign.add(module.split(".")[0])
    parts: list[str] = []
    _canonical(tree, parts)
    text = "".join(parts)
    return hashlib.sha256(text.encode()).hexdigest(), tuple(sorted(local)), frozenset(foreign)


def _imports(node: ast.AST, path: Path) -> Iterator[str]:
    """Yield the dotted names imported by the statements of `node`, those for type checkers left out."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            raise ValueError(f"{path}:{node.lineno}: relative import; write it absolute")
        yield str(node.module)
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        # Only statements hold imports; expressions, most of a tree, are passed by.
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, part, None)
            if isinstance(children, list):
                for child in children:
                    yield from _imports(child, path)


def _files(module: str) -> Iterator[Path]:
    """Yield the files that importing a dotted library module runs: it and its parent packages."""
    parts = module.split(".")[1:]
    for depth in range(len(parts) + 1):
        base = LIBRARY.joinpath(*parts[:depth])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if (depth and file.is_file()) or file == LIBRARY / "__init__.py":
                yield file


def _canonical(node: Any, parts: list[str]) -> None:
    """Append a text form of a syntax tree that is the same in every Python version.

    Empty fields are left out: newer versions add fields (`type_params`) that are empty in old code.
    """
    if isinstance(node, ast.AST):
        parts.append(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            # Load or store is said by where a name stands; the rest is how something was written.
            if value is None or value == [] or name in ("ctx", "kind", "type_ignores"):
                continue
            if name == "body" and _has_docstring(node):
                value = value[1:]
            parts.append(f" {name}=")
            _canonical(value, parts)
        parts.append(")")
    elif isinstance(node, list):
        parts.append("[")
        for item in node:
            _canonical(item, parts)
        parts.append("]")
    else:
        parts.append(f"{type(node).__name__}:{node!r}")


def _has_docstring(node: ast.AST) -> bool:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None


@cache
def _pins() -> dict[str, str]:
    pattern = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;+]+)", re.MULTILINE)
    return dict(pattern.findall(PINS.read_text(encoding="utf-8")))
