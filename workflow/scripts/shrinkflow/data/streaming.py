"""Pictures read from their files when they are wanted, by several threads, a bounded number ahead.

Pillow lets other Python threads run while it decodes and resizes, so threads are enough and nothing has to be
copied between processes. Which thread reads a picture decides nothing about it.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from shrinkflow.data import decoding
from shrinkflow.data.dataset import Files
from shrinkflow.errors import UserError

WORKERS = "SHRINKFLOW_WORKERS"

T = TypeVar("T")
R = TypeVar("R")


def workers(default: int) -> int:
    """Return how many threads read pictures: as the environment says, else `default`.

    No result depends on it. 0 reads them in the thread that wants them.
    """
    text = os.environ.get(WORKERS) or str(default)
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{WORKERS} is '{text}'; give a whole number from 0, or unset it")
    return int(text)


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """Yield function(item) for each item, in their order, computed by threads up to `ahead` items ahead."""
    if not threads:
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read(path: Path) -> bytes:
    """Return the bytes of a picture's file. Raises `UserError` where it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; put it back, or run prepare.py again") from None


def picture(files: Files, index: int, channels: int) -> Image.Image:
    """Return a picture, decoded.

    Raises `UserError` where its file is missing, or has other bytes than when the data set was made of it.
    """
    assert files.folder is not None
    path = files.folder / files.path(index)
    data = read(path)
    if digest(data) != files.digests[index].tobytes():
        raise UserError(
            f"{path} was changed after the data set was made of it; put the picture back, or delete the "
            "processed data set and run again"
        )
    return decoding.decode(str(path), data, channels)


def digest(data: bytes) -> bytes:
    """Return 16 bytes: md5, as for all files here: identity, not security."""
    return hashlib.md5(data, usedforsecurity=False).digest()
