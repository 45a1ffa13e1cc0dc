"""What is written and not computed of a report: its template, and the captions of figures.

The captions are those that `snakemake --report` shows too. They are reStructuredText of plain paragraphs
and ``literals``, and nothing more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from shrinkflow import files
from shrinkflow.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "report"
TEMPLATE = FOLDER / "report.html.j2"


def used(figures: Iterable[str]) -> list[Path]:
    """Return the template and the captions of some figures; raise `UserError` where a caption is missing."""
    return [TEMPLATE, *map(_path, sorted(figures))]


def content(figures: Iterable[str]) -> str:
    """Return the md5 of the template and of the captions of some figures.

    A parameter of the report, because no job makes them. Raises `UserError` where one is not there.
    """
    listing = [f"{path.name} {files.digest(path)}" for path in used(figures)]
    return hashlib.md5("\n".join(listing).encode()).hexdigest()


def paragraphs(figure: str) -> list[str]:
    """Return the paragraphs of a figure's caption, each in one line."""
    text = _path(figure).read_text(encoding="utf-8")
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _path(figure: str) -> Path:
    path = FOLDER / f"{figure}.rst"
    if not path.is_file():
        raise UserError(f"the figure '{figure}' has no caption; write one as workflow/report/{figure}.rst")
    return path
