"""What DVC holds: the hash of each file in dvc.lock, in the cache, in the remote; committing and pulling.

The only module that reaches into DVC. Its errors become sentences for people.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shrinkflow import files
from shrinkflow.errors import UserError


@dataclass(frozen=True)
class Entry:
    """A stage of dvc.lock: the values of the study's keys it was made with, and its outputs' hashes."""

    stage: str
    params: Mapping[str, Mapping[str, Any]]
    outs: Mapping[str, str]


@dataclass(frozen=True)
class Locked:
    """What dvc.lock says: its stages, and the md5 of every file in their outputs.

    `unknown` are the folders whose list of files is neither in the cache nor in the remote.
    """

    entries: Mapping[str, Entry]
    files: Mapping[str, str]
    unknown: tuple[str, ...] = ()


def lockfile(dvcfile: Path) -> Path:
    """Return where the lock of a dvc.yaml lies."""
    return dvcfile.with_name("dvc.lock")


def read(*dvcfiles: Path) -> Locked:
    """Return what the locks beside the given dvc.yaml files say; nothing where there is none yet.

    Raises `UserError` where a lock cannot be read.
    """
    entries: dict[str, Entry] = {}
    for dvcfile in dvcfiles:
        entries.update(_entries(lockfile(dvcfile)))
    found: dict[str, str] = {}
    unknown: list[str] = []
    folders: list[tuple[str, str]] = []
    for entry in entries.values():
        for path, md5 in entry.outs.items():
            if md5.endswith(".dir"):
                folders.append((path, md5))
            else:
                found[path] = md5
    if folders:
        with _repo() as repo:
            for path, md5 in folders:
                listing = _listing(repo, md5)
                if listing is None:
                    unknown.append(path)
                else:
                    found.update({f"{path}/{name}": value for name, value in listing.items()})
    return Locked(entries, found, tuple(sorted(unknown)))


def _entries(lock: Path) -> Iterator[tuple[str, Entry]]:
    import yaml

    if not lock.is_file():
        return
    try:
        document = yaml.safe_load(lock.read_text(encoding="utf-8")) or {}
        for name, stage in (document.get("stages") or {}).items():
            outs = {out["path"]: out["md5"] for out in stage.get("outs", [])}
            yield f"{lock.parent.as_posix()}:{name}", Entry(name, stage.get("params", {}), outs)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(
            f"{lock} is damaged; get it back by 'git checkout {lock}', or delete it and take a new snapshot"
        ) from None


def in_remote(md5s: Iterable[str]) -> dict[str, str] | None:
    """Return for each hash "agrees", or what is wrong with it in the default remote; None: no remote.

    In a remote that is a folder, the bytes themselves are read; elsewhere the name has to do, which is the
    hash of the bytes. Raises `UserError` where the remote cannot be reached.
    """
    wanted = sorted(set(md5s))
    with _repo() as repo:
        name = repo.config["core"].get("remote")
        if not name:
            return None
        odb = repo.cloud.get_remote_odb()
        found = dict.fromkeys(wanted, "is not in the remote; run 'dvc push'")
        if odb.fs.protocol == "local":
            if not Path(odb.path).parents[1].is_dir():
                raise UserError(
                    f"the remote '{name}' cannot be reached: no folder {Path(odb.path).parents[1]}"
                )
            # Not by DVC, which deletes a damaged object when asked whether it is there.
            for md5 in wanted:
                place = Path(odb.oid_to_path(md5))
                if place.is_file():
                    whole = files.digest(place) == md5
                    found[md5] = "agrees" if whole else f"is damaged in the remote ({place})"
            return found
        try:
            return found | dict.fromkeys(odb.oids_exist(wanted), "agrees")
        except OSError as error:
            raise UserError(f"the remote '{name}' cannot be reached: {error}") from None


def damaged_in_cache(md5s: Iterable[str]) -> list[str]:
    """Return the files in the cache that have other bytes than their name says."""
    with _repo() as repo:
        places = {md5: Path(repo.cache.local.oid_to_path(md5)) for md5 in set(md5s)}
        damaged = [md5 for md5, place in places.items() if place.is_file() and files.digest(place) != md5]
        return sorted(os.path.relpath(places[md5]) for md5 in damaged)


def commit(dvcfile: Path) -> None:
    """Put the outputs of a dvc.yaml's stages into the cache and their hashes into its lock.

    The lock stays as it was where anything goes wrong.
    """
    lock = lockfile(dvcfile)
    before = lock.read_bytes() if lock.is_file() else None
    try:
        with _repo() as repo:
            # Not relinked: the files in the folder stay as they are, times included.
            repo.commit(dvcfile.as_posix(), force=True, relink=False)
    except BaseException:
        with contextlib.suppress(OSError):
            put_back(lock, before)
        raise


def put_back(lock: Path, before: bytes | None) -> None:
    """Make a lock what it was; None: there was none."""
    if before is None:
        lock.unlink(missing_ok=True)
    elif not lock.is_file() or lock.read_bytes() != before:
        with files.atomic(lock) as part:
            part.write_bytes(before)


def pull(dvcfile: Path) -> None:
    """Bring the files of a dvc.yaml's stages, and of those they depend on, from the cache or the remote."""
    with _repo() as repo:
        repo.pull([dvcfile.as_posix()], with_deps=True)


def fetch(path: str, md5: str) -> None:
    """Bring one file, whatever else its folder holds: whole, with the hash it should have, or not at all."""
    with _repo() as repo:
        place = Path(repo.cache.local.oid_to_path(md5))
        if not place.is_file():
            if not repo.config["core"].get("remote"):
                raise UserError(f"{path} is not in DVC's cache, and there is no remote to bring it from")
            odb = repo.cloud.get_remote_odb()
            try:
                with files.atomic(place) as part:
                    odb.fs.get_file(odb.oid_to_path(md5), str(part))
            except FileNotFoundError:
                raise UserError(
                    f"{path} is neither in DVC's cache nor in the remote; run 'dvc push' where it was made"
                ) from None
        if files.digest(place) != md5:
            raise UserError(
                f"the copy of {path} in DVC's cache is damaged; delete {os.path.relpath(place)} and run again"
            )
        with files.atomic(path) as part:
            part.write_bytes(place.read_bytes())


def _listing(repo: Any, md5: str) -> dict[str, str] | None:
    """Return {relative path: md5} of a folder's hash, from the cache, else from the remote."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    odbs = [repo.cache.local]
    if repo.config["core"].get("remote"):
        odbs.append(repo.cloud.get_remote_odb())
    for odb in odbs:
        with contextlib.suppress(FileNotFoundError, ObjectFormatError, OSError):
            tree = Tree.load(odb, HashInfo("md5", md5))
            return {"/".join(key): entry.value for key, _, entry in tree}
    return None


@contextlib.contextmanager
def _repo() -> Iterator[Any]:
    """Open the repository of DVC; what it complains about becomes a `UserError`."""
    from dvc.config import ConfigError, NoRemoteError
    from dvc.exceptions import CheckoutError, DvcException, FileTransferError, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    logging.getLogger("dvc_data").setLevel(logging.CRITICAL)
    logging.getLogger("dvc_objects").setLevel(logging.CRITICAL)
    try:
        with Repo(".") as repo:
            yield repo
    except NotDvcRepoError:
        raise UserError("DVC is not set up in this folder; run 'dvc init' (or 'dvc init --no-scm')") from None
    except LockError:
        raise UserError("DVC is at work in this folder; wait for it, then run again") from None
    except NoRemoteError:
        raise UserError(
            "there is no remote to bring files from; name one with 'dvc remote add -d NAME URL'"
        ) from None
    except FileTransferError as error:
        raise UserError(
            f"{error.amount} files could not be brought from the remote, or are missing there; see "
            "'dvc data status --not-in-remote', and run 'dvc push' where they were made"
        ) from None
    except CheckoutError as error:
        raise UserError(
            "the files of these places are neither in DVC's cache nor in the remote: "
            f"{', '.join(map(str, error.target_infos))}; run 'dvc push' where they were made"
        ) from None
    except sqlite3.Error as error:
        raise UserError(f"DVC cannot write what it remembers ({error}); is the disk full?") from None
    except (ConfigError, DvcException) as error:
        raise UserError(f"DVC: {' '.join(str(error).split())}") from None
