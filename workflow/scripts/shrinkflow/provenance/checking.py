"""Whether artifacts are what they should be: their bytes, their records, and what the study asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shrinkflow import files, records
from shrinkflow.errors import UserError
from shrinkflow.provenance.planning import Job

ABSENT, DAMAGED, STALE = "absent", "damaged", "stale"


@dataclass(frozen=True, order=True)
class Fault:
    """Something that is not as it should be.

    `kind`: `absent`, not there; `damaged`, the bytes, the record or both were changed after the job;
    `stale`, whole, but of another study, code, environment or input than now asked for.
    """

    path: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Checker:
    """Checks artifacts; remembers the md5 of what it has read, so that shared inputs are read once."""

    digests: dict[str, str] = field(default_factory=dict)

    def digest(self, path: str) -> str:
        """Return the md5 of a file's bytes."""
        if path not in self.digests:
            self.digests[path] = files.digest(path)
        return self.digests[path]

    def job(self, job: Job) -> list[Fault]:
        """Return what is wrong with the outputs of a job; no fault: they are what the study asks for."""
        return [fault for output in job.outputs for fault in self.artifact(output, job)]

    def artifact(self, path: str, job: Job | None) -> list[Fault]:
        """Return what is wrong with an artifact; `job` is what the study asks for, None for "unknown"."""
        own, record = self.own(path)
        if record is None or job is None or any(fault.kind == DAMAGED for fault in own):
            return own
        reasons = [*differences(record, job), *self._inputs(record)]
        return [*own, *(Fault(path, STALE, reason) for reason in reasons)]

    def vouched(self, job: Job) -> bool:
        """Whether every output of a job has a record that says it is what the study asks for."""
        return all(
            records.record_path(output).is_file()
            and all(fault.kind == ABSENT for fault in self.artifact(output, job))
            for output in job.outputs
        )

    def own(self, path: str) -> tuple[list[Fault], dict[str, Any] | None]:
        """Return what is wrong between an artifact and its record, and the record where it can be read."""
        lies = records.record_path(path)
        if not Path(path).is_file() and not lies.is_file():
            return [Fault(path, ABSENT, "is not there")], None
        if not lies.is_file():
            return [Fault(path, DAMAGED, "has no record")], None
        try:
            # Hashed first: were it changed after that, the hash would not be the one that DVC finds.
            self.digest(lies.as_posix())
            record = records.read(lies)
        except UserError as error:
            return [Fault(path, DAMAGED, str(error))], None
        if not Path(path).is_file():
            return [Fault(path, ABSENT, "is not there, only its record is")], record
        found, promised = self.digest(path), record["artifact"]["md5"]
        if found != promised:
            reason = f"was changed after it was made (md5 {found}, its record says {promised})"
            return [Fault(path, DAMAGED, reason)], record
        if record["artifact"]["path"] != path:
            return [Fault(path, DAMAGED, f"carries the record of {record['artifact']['path']}")], record
        return [], record

    def _inputs(self, record: Mapping[str, Any]) -> Iterable[str]:
        for made_of in record["inputs"]:
            path = made_of["path"]
            if not Path(path).is_file():
                # Not here (a part of the study was restored); its own record still says what it was.
                now = records.record_path(path)
                if now.is_file() and records.read(now)["artifact"]["md5"] != made_of["md5"]:
                    yield f"was made of another {path} (md5 {made_of['md5']})"
            elif self.digest(path) != made_of["md5"]:
                yield f"was made of another {path} (md5 {made_of['md5']}, now {self.digest(path)})"


def differences(record: Mapping[str, Any], job: Job) -> list[str]:
    """Return how a record differs from what the study asks for: parameters, code, packages, inputs."""
    found = [*_flags(record["command"], job.command)]
    then = record["code"]["fingerprint"]
    if then != job.fingerprint:
        found.append(f"was made by other code (fingerprint {then}, now {job.fingerprint})")
    made_with = record["environment"]["packages"]
    for name, pin in job.packages.items():
        # A build says more than a version: 2.13.0+cpu.
        version = made_with.get(name, "nothing").split("+")[0]
        if version != pin:
            found.append(f"was made with {name} {version}, requirements.txt says {pin}")
    # A code's other imports show in its fingerprint.
    if {entry["path"] for entry in record["inputs"]} != set(job.inputs) and not found:
        found.append(f"was made of other files than {', '.join(job.inputs)}")
    return found


def _flags(made: Iterable[str], asked: Iterable[str]) -> Iterable[str]:
    """Yield the settings that differ, each as flag, value now asked for, value it was made with."""
    then, now = _settings(made), _settings(asked)
    for flag in sorted(then.keys() | now.keys()):
        if then.get(flag) != now.get(flag):
            yield f"was made with {_setting(flag, then)}, the study says {_setting(flag, now)}"


def _settings(command: Iterable[str]) -> dict[str, list[list[str]]]:
    """Split a command at its flags: the program stands under "", repeated flags keep every value."""
    found: dict[str, list[list[str]]] = {"": [[]]}
    flag = ""
    for word in command:
        if word.startswith("--"):
            flag = word
            found.setdefault(flag, []).append([])
        else:
            found[flag][-1].append(word)
    return found


def _setting(flag: str, settings: Mapping[str, list[list[str]]]) -> str:
    if flag not in settings:
        return f"no {flag}"
    values = " ".join(" ".join(value) for value in settings[flag])
    shown = values if len(values) < 200 else f"{values[:200]}..."
    return f"{flag} {shown}".strip()


def unknown(folder: str, plan_outputs: Iterable[str]) -> list[str]:
    """Return the files below `folder` that no job of the study makes, relative to the project."""
    known = set(plan_outputs)
    known |= {str(records.record_path(path)) for path in known}
    return sorted(
        path.as_posix() for path in Path(folder).rglob("*") if path.is_file() and path.as_posix() not in known
    )


def listing(faults: Iterable[Fault], limit: int = 20) -> str:
    """Return faults as lines for people, at most `limit` of them."""
    lines = [str(fault) for fault in sorted(faults)]
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n  ".join([*lines[:limit], *more])
