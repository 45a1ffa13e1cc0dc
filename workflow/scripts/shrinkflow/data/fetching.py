"""Getting one published file from wherever it can be had, its hash checked."""

from __future__ import annotations

import hashlib
import http.client
import importlib.resources
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from shrinkflow import files
from shrinkflow.errors import UserError

MIRROR = "SHRINKFLOW_MIRROR"

_SCHEMES = ("https://", "http://", "ftp://", "file://")
_MIRROR_FOLDERS = (".", "weights")
_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


class _UnavailableError(Exception):
    """This place does not have the file; the message says why, for the list of all reasons."""


def fetch(
    name: str,
    checksum: str,
    out: Path,
    *,
    package: str | None = None,
    path: Path | None = None,
    urls: Sequence[str] = (),
    obtain: str | None = None,
) -> None:
    """Write the file called `name` to `out` from the first place that has it.

    The places, in order: the folder that the environment variable SHRINKFLOW_MIRROR names (or
    `weights/` in it), a file brought by an installed package ("package/path/in/it"), a local file,
    the URLs. `obtain` tells the user how to get the file where none of them has it.
    Raises `UserError` where none has it, or where the first that has it has other bytes: those are
    not passed over, since the user should know of them. Then nothing is left behind.
    """
    algorithm, _ = parse_checksum(checksum)
    if not name or name != Path(name).name:
        raise UserError(f"the name of a raw file is '{name}'; give a plain file name, no folder")
    reasons = []
    for where, chunks in _places(name, package, path, urls):
        hasher = hashlib.new(algorithm)
        try:
            with files.atomic(out) as part:
                with open(part, "wb") as stream:
                    for chunk in chunks:
                        hasher.update(chunk)
                        stream.write(chunk)
                _compare(f"{name} from {where}", checksum, hasher.hexdigest())
        except _UnavailableError as reason:
            reasons.append(str(reason))
        else:
            return
    place = f"{f'at {path} or ' if path else ''}in a folder, and name that folder in {MIRROR}"
    raise UserError(
        f"could not get {name} ({'; '.join(reasons)}); {obtain or 'get it by other means'} and put it {place}"
    )


def verify(path: Path, checksum: str) -> None:
    """Raise `UserError` unless the file's hash is `checksum`."""
    algorithm, _ = parse_checksum(checksum)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    _compare(str(path), checksum, files.digest(path, algorithm))


def parse_checksum(text: str) -> tuple[str, str]:
    """Return (algorithm, hexadecimal digits) of a checksum.

    "md5:<32 digits>", "sha256:<64 digits>", or "sha256-prefix:<8 digits or more>": the hash begins with
    these. A prefix is what torch.hub checks (the end of a file's name); it tells damage, not a forger.
    """
    pattern = r"(md5):([0-9a-f]{32})|(sha256):([0-9a-f]{64})|(sha256)-prefix:([0-9a-f]{8,64})"
    match = re.fullmatch(pattern, text.lower())
    if match is None:
        raise UserError(
            f"checksum '{text}' is neither md5: with 32 nor sha256: with 64 hexadecimal digits, nor "
            "sha256-prefix: with 8 or more"
        )
    algorithm, digits = (group for group in match.groups() if group)
    return algorithm, digits


def _compare(what: str, checksum: str, found: str) -> None:
    algorithm, expected = parse_checksum(checksum)
    # Only a prefix is shorter than the hash.
    if not found.startswith(expected):
        wanted = expected if len(expected) == len(found) else f"one that begins with {expected}"
        raise UserError(
            f"{what} has {algorithm} {found}, expected {wanted}; it is damaged or another file: "
            "replace it, or correct the checksum if the file is the one you mean"
        )


def _places(
    name: str, package: str | None, path: Path | None, urls: Sequence[str]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield (name of the place, bytes of the file there); reading may raise `_UnavailableError`."""
    yield from _mirror(name)
    if package is not None:
        yield f"package file {package}", _from_package(package)
    if path is not None:
        yield str(path), _from_file(path)
    for url in urls:
        yield url, _download(url)


def _mirror(name: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    root = os.environ.get(MIRROR)
    if not root:
        yield MIRROR, _unavailable(f"{MIRROR} is not set")
        return
    if not Path(root).is_dir():
        raise UserError(f"{MIRROR} names {root}, which is no folder; correct it or unset it")
    candidates = (Path(root, folder, name) for folder in _MIRROR_FOLDERS)
    for found in filter(Path.is_file, candidates):
        yield str(found), _from_file(found)
    yield root, _unavailable(f"{root} ({MIRROR}) does not have it")


def _unavailable(reason: str) -> Iterator[bytes]:
    raise _UnavailableError(reason)
    yield b""


def _from_file(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise _UnavailableError(f"{path} is not a file")
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _from_package(file: str) -> Iterator[bytes]:
    package, _, inside = file.partition("/")
    try:
        resource = importlib.resources.files(package).joinpath(inside)
    except ModuleNotFoundError:
        raise _UnavailableError(f"the package {package} is not installed") from None
    if not resource.is_file():
        raise _UnavailableError(f"the package {package} brings no file {inside}")
    with resource.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _download(url: str) -> Iterator[bytes]:
    if not url.startswith(_SCHEMES):
        raise UserError(f"url '{url}' begins with none of {', '.join(_SCHEMES)}")
    request = urllib.request.Request(url, headers={"User-Agent": "shrinkflow"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            promised = int(response.headers.get("Content-Length") or -1)
            received = 0
            while chunk := response.read(_CHUNK):
                received += len(chunk)
                yield chunk
        if received < promised:
            raise _UnavailableError(f"{url} broke off after {received} of {promised} bytes")
    except urllib.error.HTTPError as error:
        raise _UnavailableError(f"{url} answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _UnavailableError(f"{url} could not be reached ({error.reason})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _UnavailableError(f"{url} failed ({error or type(error).__name__})") from None
