"""Files that appear whole or not at all, and tensors in safetensors files with one JSON metadata key."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from shrinkflow.errors import UserError

# safetensors writes several metadata keys in an order that varies from run to run; one is stable.
_METADATA = "shrinkflow"


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed over it on success, removed on failure.

    The temporary keeps the suffix, because savers choose their format by it, and has a fixed name, so
    that what a killed run left behind is overwritten by the next.
    """
    final, part = Path(path), part_of(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        # Some savers give their files mode 0600: others on the machine may read results, as the umask says.
        part.chmod(0o666 & ~_umask())
        part.replace(final)
    except OSError as error:
        # A full disk names no file, a read-only one the temporary.
        if error.filename in (None, part, str(part)):
            error.filename = str(final)
        raise
    finally:
        # A file system that became read-only refuses this too: what it refused before is what should be told.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def part_of(path: str | os.PathLike[str]) -> Path:
    """Return where a file is written before it is whole."""
    return Path(path).with_name(f".part.{Path(path).name}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text with Unix line ends, atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a damaged file is a `UserError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write named arrays and a JSON-able metadata mapping as one safetensors file, atomically."""
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with atomic(path) as part:
        try:
            safetensors.numpy.save_file(arrays, part, metadata={_METADATA: text})
        except safetensors.SafetensorError as error:
            # It wraps the operating system's errors: a full disk is the user's to mend.
            found = re.search(r"\(os error (\d+)\)", str(error))
            if not found:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_tensors` wrote: (arrays by name, metadata)."""
    try:
        with safetensors.safe_open(path, framework="np") as stream:
            metadata = json.loads((stream.metadata() or {}).get(_METADATA, "{}"))
            if not isinstance(metadata, dict):
                raise ValueError("its metadata are no mapping")
            return {name: stream.get_tensor(name) for name in stream.keys()}, metadata
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    # Numbers of a kind that numpy does not know are a TypeError or an AttributeError.
    except (safetensors.SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); delete it and run again"
        ) from None


def digest(path: str | os.PathLike[str], algorithm: str = "md5") -> str:
    """Return the hexadecimal digest of a file's bytes. md5 is what DVC uses: identity, not security."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()
