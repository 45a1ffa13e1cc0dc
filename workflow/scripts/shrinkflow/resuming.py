"""Resume points: where a training that was interrupted goes on.

A point is one safetensors file, written after an epoch, apart from the outputs: network, optimizer, masks,
history, and the best epoch so far. Generators are no part of it, since every draw comes from (seed, purpose,
epoch): order, augmentation, the pictures of scores, and torch's own generator, which is seeded anew in each
epoch, for dropout. A point that cannot be written, is damaged, or belongs to something else costs time, never
a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shrinkflow import files, records
from shrinkflow.errors import UserError

# What writing points may cost, as a part of the time spent on training: only very short epochs cost more.
SHARE = 0.02


@dataclass
class Point:
    """Where the state of a training is kept, after each epoch that is long enough to be worth it.

    `identity` stands for all that decides the training's bytes: a point of another one is never used.
    """

    path: Path
    identity: str
    label: str
    share: float = SHARE
    _cost: float = 0.0
    _written: float = field(default_factory=time.monotonic)
    _warned: bool = False

    def save(self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Write a point, unless the last one is so recent that writing another would take too much time.

        A point that cannot be written is told once, and the training goes on.
        """
        began = time.monotonic()
        if self.share * (began - self._written) < self._cost:
            return
        metadata = {"identity": self.identity, "state": state, "digest": _digest(tensors, state)}
        try:
            files.write_tensors(self.path, tensors, metadata)
        except OSError as error:
            self._warn(error)
        self._written = time.monotonic()
        self._cost = self._written - began

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return (tensors, state); nothing where there is no point, or one that is damaged or foreign."""
        if not self.path.is_file():
            return None
        try:
            tensors, metadata = files.read_tensors(self.path)
            if metadata.get("identity") != self.identity:
                self._ignore("is of another recipe, code, input or machine")
            elif metadata["digest"] != _digest(tensors, metadata["state"]):
                self._ignore("is damaged")
            else:
                return tensors, metadata["state"]
        except (UserError, KeyError, TypeError, ValueError):
            self._ignore("is damaged")
        except OSError as error:
            self._ignore(f"cannot be read ({error.strerror})")
        return None

    def _ignore(self, reason: str) -> None:
        print(f"{self.label}: the resume point {self.path} {reason}; training starts anew", file=sys.stderr)
        remove(self.path)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(
                f"warning: {self.label}: the resume point {self.path} cannot be written ({error.strerror}); "
                "training goes on, and an interruption would cost what was trained since the last one",
                file=sys.stderr,
            )
        self._warned = True


def point(path: str | Path | None, job: records.Job, label: str) -> Point | None:
    """Return the point of a job whose device and code are known by now; none where it keeps none.

    The identity is that of its record, with the environment, on which the last bits depend.
    """
    if path is None:
        return None
    text = json.dumps([job.id, records.environment(job)], sort_keys=True)
    return Point(Path(path), hashlib.sha256(text.encode()).hexdigest(), label)


def remove(path: str | Path | None) -> None:
    """Remove a point, and what a killed job may have left half written of it."""
    if path is not None:
        # In a folder that became read-only it stays, and does no harm.
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
            files.part_of(path).unlink(missing_ok=True)


def _digest(tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> str:
    """Return a hash of all that a point holds."""
    found = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {array.dtype} {tensors[name].shape} ".encode())
        found.update(array.data)
    return found.hexdigest()
