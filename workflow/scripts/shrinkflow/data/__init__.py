"""Data sets: where their raw files come from, how they are read, divided and written as one file.

To add one, write a module in this package that registers a `dataset.Source`; nothing else changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shrinkflow.registry import Registry

if TYPE_CHECKING:
    from shrinkflow.data.dataset import Source

SOURCES: Registry[Source] = Registry("data set", "shrinkflow.data")
