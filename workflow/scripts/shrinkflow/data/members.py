"""The files in a folder or archive, read in place: nothing is extracted to the disk.

An archive may come from anyone. Members that could reach outside it (absolute paths, `..`, links,
devices) are refused, and so is one that unpacks to more than `LARGEST_TOTAL` bytes.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from shrinkflow import files
from shrinkflow.errors import UserError

LARGEST_TOTAL = 16 << 30
LARGEST_FILE = 64 << 20

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")

# What operating systems leave in folders and archives, besides names that begin with a dot.
_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Members:
    """What a folder or archive holds, hidden files and clutter left out; paths are relative.

    files: a function that returns the file's bytes, by path, in the order in which reading is fast.
    folders: the paths of all folders, empty ones too.
    """

    files: dict[str, Callable[[], bytes]]
    folders: set[str]


def opened(path: Path) -> AbstractContextManager[Members]:
    """Return a context in which the contents of a folder, .tar, .tar.gz, .tgz or .zip can be read.

    Raises `UserError`, on entering or on reading, for what does not exist, is damaged, incomplete,
    or refused (see above).
    """
    if path.is_dir():
        found, folders = _walk(path)
        return nullcontext(Members({name: partial(_read, file) for name, file in found.items()}, folders))
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(f"{path} is no folder and its name ends in none of {', '.join(SUFFIXES)}")
    return _zip(path) if path.name.lower().endswith(".zip") else _tar(path)


def folder_digest(path: str | os.PathLike[str]) -> str:
    """Return a hash of the names and contents of all files in a folder, times and clutter left out.

    md5, as for single files: identity, not security. Files are read in pieces, not whole.
    """
    if not Path(path).is_dir():
        raise UserError(f"{path} is not a folder")
    found, folders = _walk(Path(path))
    # A name cannot hold a zero byte, so no two folders give the same listing.
    listing = [f"{name}\0{files.digest(found[name])}\0" for name in sorted(found)]
    listing += [f"{name}\0folder\0" for name in sorted(folders)]
    return hashlib.md5(os.fsencode("".join(listing))).hexdigest()


def listing(path: str | os.PathLike[str]) -> tuple[dict[str, int], set[str]]:
    """Return {path: size in bytes} of the files in a folder, and its folders, without opening a file.

    Paths are relative and sorted, clutter is left out. Links to folders are followed: a large data set
    often lies on several disks.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not a folder")
    sizes: dict[str, int] = {}
    folders: set[str] = set()
    queue = [""]
    for folder in queue:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if not _visible(entry.name):
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    if entry.is_symlink() and root.joinpath(folder).resolve().is_relative_to(
                        Path(entry.path).resolve()
                    ):
                        raise UserError(f"{entry.path} is a link to a folder around it; remove it")
                    folders.add(name)
                    queue.append(name)
                elif entry.is_file():
                    sizes[name] = entry.stat().st_size
                else:
                    raise UserError(f"{entry.path} is no regular file (or a dangling link); remove it")
    return dict(sorted(sizes.items())), folders


def listing_digest(path: str | os.PathLike[str]) -> str:
    """Return a hash of the names and sizes of all files in a folder.

    For folders too large to be read whenever a workflow starts: what a file holds is told by its own hash,
    which is compared when it is read.
    """
    sizes, folders = listing(path)
    lines = [f"{name}\0{size}\0" for name, size in sizes.items()]
    lines += [f"{name}\0folder\0" for name in sorted(folders)]
    return hashlib.md5(os.fsencode("".join(lines))).hexdigest()


def _walk(root: Path) -> tuple[dict[str, Path], set[str]]:
    """Return the files, sorted, and the folders below `root`, by relative path."""
    found: dict[str, Path] = {}
    folders: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(filter(_visible, subfolders))
        for name in subfolders:
            path = Path(folder, name)
            if path.is_symlink():
                raise UserError(f"{path} is a link to a folder; put the folder itself there")
            folders.add(path.relative_to(root).as_posix())
        for name in filter(_visible, names):
            path = Path(folder, name)
            if not path.is_file():
                raise UserError(f"{path} is no regular file (or a dangling link); remove it")
            found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items())), folders


def _raise(error: OSError) -> None:
    raise error


def _read(path: Path) -> bytes:
    _check_size(str(path), path.stat().st_size)
    return path.read_bytes()


@contextmanager
def _zip(path: Path) -> Iterator[Members]:
    members = Members({}, set())
    total = 0
    with open(path, "rb") as stream:
        with _damage(path):
            archive = zipfile.ZipFile(stream)
        for info in archive.infolist():
            total += info.file_size
            if total > LARGEST_TOTAL:
                raise _too_large(path)
            # The upper half holds Unix's file mode, or nothing.
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(path, info.filename, "is a link or a device")
            if info.flag_bits & 1:
                raise UserError(f"{path}: {info.filename} is encrypted; pack it without a password")
            read = partial(_read_zip, path, archive, info)
            _add(members, path, info.filename, None if info.is_dir() else read)
        yield members


def _read_zip(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_size(f"{path}: {info.filename}", info.file_size)
    with _damage(path):
        return archive.read(info)


@contextmanager
def _tar(path: Path) -> Iterator[Members]:
    members = Members({}, set())
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        bounded = _Bounded(path, gzip.GzipFile(fileobj=stream) if packed else stream)
        with _damage(path):
            archive = tarfile.TarFile(fileobj=cast(IO[bytes], bounded))
            for member in archive:
                # A sparse file unpacks to any size from nothing.
                if not (member.isdir() or member.isreg()) or member.issparse():
                    raise _refused(path, member.name, "is a link, a device or a sparse file")
                if member.size < 0:
                    raise ValueError("a negative size")
                read = partial(_read_tar, path, archive, member)
                _add(members, path, member.name, None if member.isdir() else read)
            # tarfile takes a damaged header, or none, for the end of the archive.
            bounded.seek(archive.offset)
            if bounded.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise EOFError("its end is missing")
            # gzip's checksum stands at the very end.
            while bounded.read(_CHUNK):
                pass
        yield members


def _read_tar(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    _check_size(f"{path}: {member.name}", member.size)
    with _damage(path):
        stream = archive.extractfile(member)
        assert stream is not None
        return stream.read()


class _Bounded:
    """A stream that refuses to be read past `LARGEST_TOTAL`, also where tarfile reads by itself."""

    def __init__(self, path: Path, stream: BinaryIO | gzip.GzipFile) -> None:
        self._path = path
        self._stream = stream
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size < 0:  # which Python would take for "everything"
            raise ValueError("a negative size")
        if self.tell() + size > LARGEST_TOTAL:
            raise _too_large(self._path)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > LARGEST_TOTAL:
            raise _too_large(self._path)
        return self._stream.seek(position)


def _add(members: Members, path: Path, name: str, read: Callable[[], bytes] | None) -> None:
    """File one member of an archive under its tidied name; `read` is None for a folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise _refused(path, name, "points outside the archive")
    if not all(map(_visible, parts)):
        return
    members.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    tidy = "/".join(parts)
    if read is None:
        members.folders.update([tidy] if tidy else [])
    elif tidy in members.files:
        raise UserError(f"{path} holds {tidy} twice; pack it again")
    else:
        members.files[tidy] = read


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in _CLUTTER


def _check_size(what: str, size: int) -> None:
    if size > LARGEST_FILE:
        raise UserError(
            f"{what} has {size:,} bytes, more than a picture may have ({LARGEST_FILE:,}); remove it"
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what Python's readers raise for a bad archive (nearly anything) into one error."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # A disk that fails is not the archive's fault; a seek to a senseless place is.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is damaged or incomplete ({reason}); fetch it again") from None


def _refused(path: Path, name: str, reason: str) -> UserError:
    return UserError(f"{path}: member {name} {reason}; such archives are refused, pack plain files")


def _too_large(path: Path) -> UserError:
    return UserError(
        f"{path} unpacks to more than {LARGEST_TOTAL >> 30} GiB; pictures are held in memory, "
        "so use fewer or smaller ones"
    )
