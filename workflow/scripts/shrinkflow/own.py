"""A user's own score: one function in one Python file of theirs, which the study names."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shrinkflow.errors import UserError, nearest

# What a scoring function is called with, before its own parameters.
ARGUMENTS = ("model", "data", "generator")


def parameters(file: str, function: str) -> dict[str, Any]:
    """Return {parameter: default} of a function in a file, without running any of it.

    Raises:
        UserError: no such file or function in the project, no valid Python, or another signature than
            (model, data, generator, *, name=default, ...).
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file '{file}'")
    # Provenance follows code by its place in the project.
    if os.path.relpath(path).startswith(os.pardir):
        raise UserError(f"'{file}' lies outside the project; copy it into the project's folder")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=file)
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"'{file}' is not valid Python: {error}") from None
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in found:
        raise UserError(f"'{file}' has no function '{function}'{nearest(function, found)}")
    arguments = found[function].args
    names = tuple(argument.arg for argument in (*arguments.posonlyargs, *arguments.args))
    if len(names) != len(ARGUMENTS) or arguments.vararg or arguments.kwarg:
        raise UserError(f"function '{function}' in '{file}' must take ({', '.join(ARGUMENTS)}, *, ...)")
    defaults = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        try:
            defaults[argument.arg] = ast.literal_eval(default) if default else None
        except ValueError:
            defaults[argument.arg] = None
        if not isinstance(defaults[argument.arg], bool | int | float | str):
            raise UserError(
                f"parameter '{argument.arg}' of function '{function}' in '{file}' needs a number, a text or "
                "a truth value as default"
            )
    return defaults


def load(file: str, function: str) -> Callable[..., Any]:
    """Return the function, which raises `UserError` for whatever goes wrong in it: file, function, line."""
    parameters(file, function)
    spec = importlib.util.spec_from_file_location(f"shrinkflow_own_{Path(file).stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(f"'{file}' cannot be imported", file, error) from None
    wanted = getattr(module, function)
    if not inspect.isfunction(wanted):
        raise UserError(f"'{function}' in '{file}' is not a plain function")

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return wanted(*arguments, **options)
        except Exception as error:
            raise _failed(f"function '{function}' in '{file}' failed", file, error) from None

    return call


def check(values: Any, where: str) -> Mapping[str, Any]:
    """Return what a scoring function returned, if it is a mapping; `where` names file and function."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must return a mapping of names to tensors, not {type(values).__name__}")
    return values


def _failed(what: str, file: str, error: Exception) -> UserError:
    path = os.path.realpath(file)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.realpath(frame.filename) == path]
    place = f" (line {lines[-1]})" if lines else ""
    return UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}{place}")
