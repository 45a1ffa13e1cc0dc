"""What a study would run, fetch and read, told without running any of it: for studies of strangers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shrinkflow import documents, validation

_TITLES = {"archive": "an archive", "file": "weights", "url": "an address", "folder": "a folder of pictures"}


def lines(configfile: str) -> list[str]:
    """Return what a study's file names that lies outside it: code, addresses, files.

    Raises `UserError` for a file that is no study, or that Snakemake would run as a program.
    """
    with documents.named(configfile):
        documents.refuse_odd_keys(Path(configfile))
        values = validation.complete(documents.read(Path(configfile)))
    found = list(_named(values))
    return [
        f"{configfile} is a study. Beside the registry's, it names{':' if found else ' nothing.'}",
        *found,
    ]


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    own = [entry for entry in values["strategies"] if isinstance(entry, dict)]
    for entry in (*own, *values["models"].values()):
        if "file" in entry:
            yield f"  code that will run: {entry['file']}"
    for entry in (*values["datasets"].values(), *values["weights"].values()):
        for key, title in _TITLES.items():
            if key in entry:
                yield f"  {title}: {entry[key]}"
