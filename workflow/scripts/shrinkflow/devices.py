"""Which GPU a job computes on: one that no other job has, or that no more jobs share than the study allows.

Snakemake counts GPUs but never says which one a job has (snakemake#281). So a job takes a slot of a GPU by
locking a file (flock) that every job of this user on this machine knows, of whatever study and checkout. The
kernel frees the slot when the process ends, however it ends, and programs that it starts do not inherit it.

Imported by name (`training.start`): which of several equal GPUs computes changes no result, so this file is
no part of a job's code. For the same reason jobs learn from the environment how many may share a GPU.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shrinkflow.errors import UserError

# How many jobs may share a GPU; a folder for the locks, if not the usual one; set where a scheduler started
# the job, and so has chosen a GPU for it.
JOBS_PER_GPU, LEASES, ASSIGNED = "SHRINKFLOW_JOBS_PER_GPU", "SHRINKFLOW_LEASES", "SHRINKFLOW_GPU_ASSIGNED"
VISIBLE = "CUDA_VISIBLE_DEVICES"

# Seconds between two looks at the slots.
_PAUSE = 0.2
# What the kernel shows where there is a GPU of NVIDIA, one of Windows (WSL), one of AMD.
_SIGNS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True)
class _Holder:
    """A job that has a slot: how many jobs, itself included, it shares a GPU with at most; its process."""

    sharing: int
    process: int


@dataclass(frozen=True)
class _Lease:
    """A slot of a GPU, for as long as the file is open."""

    device: str
    descriptor: int


# One lease is enough for a process, and a second one might wait for the first for ever.
_held: _Lease | None = None


def take() -> str | None:
    """Let this process see one GPU only, which it may use, and return its name; wait until there is one.

    Where a scheduler started the job and left it one GPU, that is it. Otherwise it is that with the fewest
    jobs, of those that `CUDA_VISIBLE_DEVICES` leaves. CUDA must not have started. None: no GPU can be listed.

    Raises:
        UserError: the folder of locks is not the user's own, or the environment has no number of jobs.
    """
    global _held
    if _held:
        return _held.device
    # Numbers of GPUs then mean to CUDA what they mean to nvidia-smi, and to schedulers.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    devices = visible()
    if not devices:
        return None
    if os.environ.get(ASSIGNED) and len(devices) == 1:
        return devices[0]
    _held = _wait(leases(), devices, _sharing())
    os.environ[VISIBLE] = _held.device
    return _held.device


def release() -> None:
    """Give up what `take` took."""
    global _held
    if _held:
        os.close(_held.descriptor)
        _held = None


def visible() -> list[str]:
    """Return the names (UUIDs) of the GPUs that `CUDA_VISIBLE_DEVICES` leaves, all where it is not set.

    Names, because studies may run with other restrictions, by which numbers would mean other GPUs. As in
    CUDA, nothing counts that stands behind an entry which is no GPU.
    """
    listed = _listed()
    entries = os.environ.get(VISIBLE)
    if entries is None:
        return listed
    found = []
    for entry in map(str.strip, entries.split(",")):
        # The driver's list does not have the parts that a GPU was cut into.
        parts = [entry] if entry.startswith("MIG-") else []
        if re.fullmatch("[0-9]+", entry):
            parts = listed[int(entry) :][:1]
        elif re.match("GPU-.", entry):
            parts = [name for name in listed if name.startswith(entry)]
        if len(parts) != 1:
            break
        found += parts
    return list(dict.fromkeys(found))


def absent() -> bool:
    """Say, at no cost, whether there is certainly no GPU for this process."""
    if os.environ.get(VISIBLE, "0").strip() in ("", "-1", "NoDevFiles"):
        return True
    return shutil.which("nvidia-smi") is None and not any(map(os.path.exists, _SIGNS))


def leases() -> Path:
    """Return the folder of locks, made where there is none; `UserError` if others could meddle with it.

    It does not lie where TMPDIR points to, which may differ from job to job.
    """
    folder = Path(os.environ.get(LEASES) or f"/tmp/shrinkflow-gpus-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not mine or stat.S_IMODE(found.st_mode) & 0o077:
        raise UserError(
            f"{folder}, where jobs note which GPUs are taken, is no folder that you alone can enter; delete "
            f"it, or name another one by the environment variable {LEASES}"
        )
    return folder


def _listed() -> list[str]:
    """Return the UUIDs of all GPUs, in the order of their numbers, without starting CUDA."""
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in text.splitlines() if line.startswith("GPU-")]


def _sharing() -> int:
    text = os.environ.get(JOBS_PER_GPU, "1")
    if not re.fullmatch("[1-9][0-9]*", text):
        raise UserError(f"the environment variable {JOBS_PER_GPU} must be a number from 1, not '{text}'")
    return int(text)


def _wait(folder: Path, devices: Sequence[str], sharing: int) -> _Lease:
    """Lease a slot, as soon as one of the devices has one free; say so where that takes waiting."""
    told = False
    while True:
        # One job at a time looks and takes, so all see the same slots taken.
        with _locked(folder / "lock"):
            holders = {device: _holders(folder, device) for device in devices}
            free = [device for device in devices if _may_join(holders[device].values(), sharing)]
            if free:
                chosen = min(free, key=lambda device: len(holders[device]))
                return _lease(folder, chosen, holders[chosen], sharing)
        if not told:
            processes = sorted(holder.process for found in holders.values() for holder in found.values())
            print(
                f"waits for a GPU: {len(devices)} may be used, taken by processes "
                f"{', '.join(map(str, processes))}",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(_PAUSE)


def _may_join(holders: Iterable[_Holder], sharing: int) -> bool:
    """Say whether a job may join others, none of which then has more company than it allows."""
    found = list(holders)
    return len(found) < min([sharing, *(holder.sharing for holder in found)])


def _holders(folder: Path, device: str) -> dict[Path, _Holder]:
    """Return the slots of a device that are taken, and who has them."""
    found = {}
    for path in folder.glob(f"{_safe(device)}.*"):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sharing, process = os.read(descriptor, 100).split()
            found[path] = _Holder(int(sharing), int(process))
        finally:
            os.close(descriptor)
    return found


def _lease(folder: Path, device: str, taken: Collection[Path], sharing: int) -> _Lease:
    """Take a slot that is free, and note whose it is."""
    slots = (folder / f"{_safe(device)}.{number}" for number in range(len(taken) + 1))
    path = next(slot for slot in slots if slot not in taken)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{sharing} {os.getpid()}\n".encode())
    return _Lease(device, descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _safe(device: str) -> str:
    """Return a name as that of a file: names of parts of GPUs may have slashes."""
    return re.sub("[^A-Za-z0-9-]", "_", device)
