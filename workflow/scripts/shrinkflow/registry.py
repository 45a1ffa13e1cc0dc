"""Registries: a name, the function or object behind it, and the one file that defines it."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from shrinkflow.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, registered by the modules of one package.

    The modules are imported on first use, by name and not by an `import` statement: so a job's
    fingerprint covers the one module it uses and not its neighbours (see `fingerprint`).
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, tuple[T, str]] = {}
        self._complete = False

    def register(self, name: str, entry: T, module: str) -> None:
        """Add an entry. `module` is the `__name__` of the module that defines it."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = (entry, module)

    def adder(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a function under `name`."""

        def add(entry: T) -> T:
            self.register(name, entry, entry.__module__)
            return entry

        return add

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._discover()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        self._discover()
        return self._find(name)[0]

    def file(self, name: str) -> Path:
        """Return the file that defines `name`: what a fingerprint has to cover."""
        self._discover()
        return Path(str(sys.modules[self._find(name)[1]].__file__))

    def _find(self, name: str) -> tuple[T, str]:
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)}")
        return self._entries[name]

    def _discover(self) -> None:
        if self._complete:
            return
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._complete = True
