"""How far apart two versions of an artifact are, for people: in tensors, fields, rows, pixels or bytes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from shrinkflow import files
from shrinkflow.errors import UserError

_CHUNK = 1 << 20


def distance(then: Path, now: Path) -> str:
    """Return how two files, then and now, of one kind and with different bytes, differ."""
    compare = _COMPARE.get(then.suffix)
    if compare is None:
        return _bytes(then, now)
    try:
        found = "; ".join(compare(then, now))
    except (UserError, OSError, ValueError, SyntaxError, csv.Error):
        # A damaged file; Pillow calls it a SyntaxError.
        return f"not a whole {then.suffix.removeprefix('.')} file; {_bytes(then, now)}"
    return found or f"the same values, written differently; {_bytes(then, now)}"


def _bytes(then: Path, now: Path) -> str:
    start = 0
    with open(then, "rb") as old, open(now, "rb") as new:
        while (ours := old.read(_CHUNK)) == (theirs := new.read(_CHUNK)) and ours:
            start += len(ours)
    shorter = min(len(ours), len(theirs))
    offset = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    sizes = then.stat().st_size, now.stat().st_size
    length = f", length {sizes[0]} then, {sizes[1]} now" if sizes[0] != sizes[1] else ""
    return f"bytes differ from offset {start + offset}{length}"


def _tensors(then: Path, now: Path) -> Iterator[str]:
    (old, described), (new, redescribed) = files.read_tensors(then), files.read_tensors(now)
    yield from _only("tensors", old, new)
    common = [name for name in old if name in new]
    alike = [name for name in common if _kind(old[name]) == _kind(new[name])]
    yield from (
        f"{name} is {_kind(old[name])} then, {_kind(new[name])} now" for name in common if name not in alike
    )
    gaps = {name: gap for name in alike if (gap := _gaps(old[name], new[name])).size}
    if gaps:
        differing = sum(gap.size for gap in gaps.values())
        total = sum(old[name].size for name in alike)
        known = {name: float(gap[np.isfinite(gap)].max(initial=0.0)) for name, gap in gaps.items()}
        farthest = max(known, key=lambda name: known[name])
        yield (
            f"{differing} of {total} elements ({100 * differing / total:.3g} %) differ, in {len(gaps)} of "
            f"{len(alike)} tensors, by up to {known[farthest]:.3g} (in {farthest})"
        )
        if wild := sum(int((~np.isfinite(gap)).sum()) for gap in gaps.values()):
            yield f"{wild} of them are infinite or not a number, then or now"
    yield from _values(described, redescribed, "metadata ")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _gaps(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the absolute difference of each element whose bytes differ, NaN and minus zero included."""
    bits = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (old, new)]
    differ = (bits[0] != bits[1]).reshape(old.size, -1).any(axis=1)
    ours, theirs = (array.reshape(-1)[differ].astype(np.float64) for array in (old, new))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(ours - theirs))


def _fields(then: Path, now: Path) -> Iterator[str]:
    yield from _values(files.read_json(then), files.read_json(now))


def _values(then: Any, now: Any, kind: str = "") -> Iterator[str]:
    if differences := fields(then, now):
        yield kind + some(differences)


def fields(then: Any, now: Any) -> list[str]:
    """Return the fields in which two JSON values differ, each as "a.b 1 then, 2 now"."""
    old, new = dict(_leaves(then)), dict(_leaves(now))
    return [
        f"{name or 'value'} {_short(old.get(name, 'absent'))} then, {_short(new.get(name, 'absent'))} now"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, JSON) of every field; an empty collection counts as a value."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{name}.{key}".removeprefix("."))
    else:
        yield name, json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def _rows(then: Path, now: Path) -> Iterator[str]:
    (columns, old), (renamed, new) = _read_csv(then), _read_csv(now)
    if columns != renamed:
        yield from list(_only("columns", columns, renamed)) or ["the columns are the same in another order"]
    if len(old) != len(new):
        yield f"{len(old)} rows then, {len(new)} now"
    if columns != renamed:
        return
    gaps: dict[str, float] = {}
    rows = 0
    for ours, theirs in zip(old, new, strict=False):
        rows += ours != theirs
        # A row that is longer or shorter than the columns belongs to a damaged table; it counts all the same.
        for column, one, other in zip_longest(columns, ours, theirs, fillvalue=""):
            if one != other:
                gaps[column] = max(gaps.get(column, 0.0), _gap(one, other))
    if rows:
        farthest = max(gaps, key=lambda column: gaps[column])
        by = f", by up to {gaps[farthest]:.3g} (in {farthest})" if gaps[farthest] else ""
        yield f"{rows} of {min(len(old), len(new))} rows differ, in {some(list(gaps), 5, ', ')}{by}"


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    with open(path, encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


def _gap(one: str, other: str) -> float:
    """Return how far apart two numbers are; 0 where they are none."""
    try:
        gap = abs(float(one) - float(other))
    except ValueError:
        return 0.0
    return gap if np.isfinite(gap) else 0.0


def _pixels(then: Path, now: Path) -> Iterator[str]:
    old, new = _picture(then), _picture(now)
    if old.shape != new.shape:
        sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (old, new)]
        yield f"{sizes[0]} pixels then, {sizes[1]} now"
        return
    gaps = np.abs(old - new).max(axis=2)
    if gaps.any():
        share = 100 * np.count_nonzero(gaps) / gaps.size
        yield f"{share:.3g} % of the pixels differ, by up to {gaps.max()} of 255"


def _picture(path: Path) -> np.ndarray:
    # Here, because a verification without a picture that differs needs no Pillow.
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGBA")).astype(np.int16)


def _lines(then: Path, now: Path) -> Iterator[str]:
    old, new = (path.read_text(encoding="utf-8").splitlines() for path in (then, now))
    numbers = [i for i, (one, other) in enumerate(zip_longest(old, new), 1) if one != other]
    if len(old) != len(new):
        yield f"{len(old)} lines then, {len(new)} now"
    if numbers:
        yield f"{len(numbers)} of {max(len(old), len(new))} lines differ, the first is line {numbers[0]}"


_COMPARE: dict[str, Callable[[Path, Path], Iterable[str]]] = {
    ".safetensors": _tensors,
    ".json": _fields,
    ".csv": _rows,
    ".png": _pixels,
    ".svg": _lines,
}


def _only(kind: str, old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    old, new = list(old), list(new)
    for when, names in (("then", set(old) - set(new)), ("now", set(new) - set(old))):
        if names:
            yield f"{kind} only {when}: {some(sorted(names), 5, ', ')}"


def some(items: list[str], limit: int = 3, between: str = "; ") -> str:
    """Return the first items in a row, and how many more there are."""
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return between.join([*items[:limit], *more])
