"""Data sets: where their raw files come from, how they are read, divided and written as one file.

To add one, write a module in this package that registers a `dataset.Source`; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shrinkflow.registry import Registry

if TYPE_CHECKING:
    from shrinkflow.data.dataset import Source

SOURCES: Registry[Source] = Registry("data set", "shrinkflow.data")


def streamed(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether the pictures of a data set stay in their folder; `entry` is what a study says of it.

    Raises `UserError` where it names a source that there is not.
    """
    return SOURCES[entry.get("source", name)].load is None or bool(entry.get("stream"))
