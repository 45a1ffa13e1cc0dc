"""A user's own score or model: one function in one Python file of theirs, which the study names."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shrinkflow.errors import UserError, nearest

# What a scoring function is called with, before its own parameters.
ARGUMENTS = ("model", "data", "generator")

# Checkpoints name the file that builds their model. One from elsewhere brings nothing along that is run: what
# comes with results, from an archive or a remote lies in these.
_FETCHED = ("data", "results", ".dvc", ".snakemake")


def parameters(file: str, function: str, wanted: tuple[str, ...] = ARGUMENTS) -> dict[str, Any]:
    """Return {parameter: default} of a function in a file, without running any of it.

    Raises:
        UserError: no such file or function in the project, no valid Python, or another signature than
            (model, data, generator, *, name=default, ...), the arguments `wanted` before the star.
    """
    if not os.path.isfile(file):
        raise UserError(f"there is no file '{file}'")
    # Provenance follows code by its place in the project.
    top = Path(os.path.relpath(file)).parts[0]
    if top == os.pardir:
        raise UserError(f"'{file}' lies outside the project; copy it into the project's folder")
    if top in _FETCHED:
        raise UserError(f"'{file}' lies in '{top}', where nothing is run; copy it into a folder of your own")
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"), filename=file)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"'{file}' is not valid Python: {' '.join(str(error).split())}") from None
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in found:
        raise UserError(f"'{file}' has no function '{function}'{nearest(function, found)}")
    arguments = found[function].args
    names = tuple(argument.arg for argument in (*arguments.posonlyargs, *arguments.args))
    if len(names) != len(wanted) or arguments.vararg or arguments.kwarg:
        raise UserError(f"function '{function}' in '{file}' must take ({', '.join(wanted)}, *, ...)")
    defaults = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        try:
            defaults[argument.arg] = ast.literal_eval(default) if default else None
        except (ValueError, TypeError, RecursionError, MemoryError):
            defaults[argument.arg] = None
        if not isinstance(defaults[argument.arg], bool | int | float | str):
            raise UserError(
                f"parameter '{argument.arg}' of function '{function}' in '{file}' needs a number, a text or "
                "a truth value as default"
            )
    return defaults


def load(file: str, function: str, wanted: tuple[str, ...] = ARGUMENTS) -> Callable[..., Any]:
    """Return the function, which raises `UserError` for whatever goes wrong in it: file, function, line."""
    parameters(file, function, wanted)
    module = types.ModuleType(f"shrinkflow_own_{re.sub('[^A-Za-z0-9]', '_', file)}")
    module.__file__ = file
    # Where dataclasses, for one, look for the module of a class.
    sys.modules[module.__name__] = module
    with told(f"'{file}' cannot be imported", file):
        # Not by import, which may take compiled code of a second ago for that of the file.
        exec(compile(Path(file).read_bytes(), file, "exec"), vars(module))
    found = getattr(module, function)
    if not inspect.isfunction(found):
        raise UserError(f"'{function}' in '{file}' is not a plain function")

    def call(*arguments: Any, **options: Any) -> Any:
        with told(f"function '{function}' in '{file}' failed", file):
            return found(*arguments, **options)

    return call


@contextmanager
def told(what: str, file: str) -> Iterator[None]:
    """Turn whatever goes wrong while code of `file` runs into a `UserError`: `what`, why, in which line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise _failed(what, file, error) from None


def check(values: Any, where: str) -> Mapping[str, Any]:
    """Return what a scoring function returned, if it is a mapping; `where` names file and function."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must return a mapping of names to tensors, not {type(values).__name__}")
    return values


def _failed(what: str, file: str, error: BaseException) -> UserError:
    path = os.path.realpath(file)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.realpath(frame.filename) == path]
    place = f" (line {lines[-1]})" if lines else ""
    return UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}{place}")
