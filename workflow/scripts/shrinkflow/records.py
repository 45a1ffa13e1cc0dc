"""Records: beside every artifact, a JSON file that says what made it.

A record holds nothing that changes from run to run on one machine: no time, no host, no path of the
machine. So records are byte-stable like the artifacts they describe.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shrinkflow import files, fingerprint
from shrinkflow.errors import UserError

SUFFIX = ".record.json"

# Flags that say where bytes come from or lie meanwhile, not what they are: no part of a record.
PLACES = ("--url", "--path", "--package", "--obtain", "--folder", "--resume")


@dataclass
class Job:
    """A running job; plugins, the device and findings may become known only while it runs."""

    program: Path
    command: list[str]
    inputs: list[dict[str, Any]]
    plugins: list[Path]
    device: str | None = None
    findings: dict[str, Any] = field(default_factory=dict)

    def load(self, module: str) -> Any:
        """Import a module of the library that only some jobs of a program need; their code is more by it.

        An `import` statement would make it part of the code of all of them.
        """
        found = importlib.import_module(module)
        self.plugins.append(Path(str(found.__file__)))
        return found

    @property
    def code(self) -> dict[str, Any]:
        """Return what computes: the program, the files it finds by name, the fingerprint of both."""
        return {
            "program": self.program.name,
            "plugins": sorted(fingerprint.name(path) for path in self.plugins),
            "fingerprint": fingerprint.fingerprint(self.program, *self.plugins),
        }

    @property
    def packages(self) -> list[str]:
        """Return the distributions that the code imports."""
        return list(fingerprint.packages(self.program, *self.plugins))

    @property
    def id(self) -> str:
        """Return the id that the record will have."""
        return identity(self.command, self.inputs, self.code, _versions(self.packages))


def record_path(artifact: str | Path) -> Path:
    """Return where the record of an artifact lies."""
    return Path(f"{artifact}{SUFFIX}")


@contextmanager
def job(
    program: str,
    *,
    inputs: Sequence[str | Path],
    outputs: Sequence[str | Path],
    parameters: Mapping[str, Any],
    plugins: Sequence[Path] = (),
) -> Iterator[Job]:
    """Hash the inputs, run the body, then write a record beside each output.

    `program` is the `__file__` of the program, `plugins` the files found by name at run time (the
    strategy's, the model's); a name that stands in an input adds its file to the yielded job's.
    Raises `UserError` where an input disagrees with its own record.
    """
    running = Job(
        program=Path(program),
        command=command(program, sys.argv[1:]),
        inputs=[describe_input(path) for path in inputs],
        plugins=list(plugins),
    )
    yield running
    described = [describe(path) for path in outputs]
    for path, artifact in zip(outputs, described, strict=True):
        record = {
            "id": running.id,
            "artifact": artifact,
            "outputs": described,
            "inputs": running.inputs,
            "command": running.command,
            "parameters": dict(parameters),
            "code": running.code,
            "environment": environment(running),
            "findings": running.findings,
        }
        files.write_json(record_path(path), record | {"seal": seal(record)})


def identity(
    command: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    code: Mapping[str, Any],
    packages: Mapping[str, str],
) -> str:
    """Return a record's id: 16 hexadecimal digits that stand for all that was asked of a job."""
    return _hash([list(command), list(inputs), dict(code), dict(packages)])


def read(path: str | Path) -> dict[str, Any]:
    """Return a record; one that is damaged, or was edited, is a `UserError` that names it."""
    record = files.read_json(path)
    if not isinstance(record, dict) or record.get("seal") != seal(record):
        raise UserError(f"{path} was changed after it was written; delete it and its artifact, and run again")
    return record


def seal(record: Mapping[str, Any]) -> str:
    """Return the hash of everything else in a record: it tells an edited record, not a forger."""
    return _hash({name: value for name, value in record.items() if name != "seal"})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def command(program: str | Path, arguments: Sequence[str]) -> list[str]:
    """Return a command as records hold it: the program's name, the arguments, `PLACES` left out."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word in PLACES:
            next(words, None)
        else:
            kept.append(word)
    return [Path(program).name, *kept]


def describe(path: str | Path) -> dict[str, Any]:
    """Return {path, md5, size} of a file."""
    return {
        "path": Path(path).as_posix(),
        "md5": files.digest(path),
        "size": Path(path).stat().st_size,
    }


def describe_input(path: str | Path) -> dict[str, Any]:
    """Like `describe`, refusing a file whose bytes are not those its record promises."""
    if not Path(path).is_file():
        raise UserError(f"input {path} does not exist")
    described = describe(path)
    record = record_path(path)
    if record.exists():
        promised = read(record)["artifact"]["md5"]
        if promised != described["md5"]:
            raise UserError(
                f"{path} was changed after it was made (md5 {described['md5']}, its record says "
                f"{promised}); delete it and run again"
            )
    return described


def environment(job: Job) -> dict[str, Any]:
    """Return what a job computes with: versions, platform, device, threads and instructions of torch."""
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "packages": _versions(job.packages),
    }
    if job.device is not None:
        torch = sys.modules["torch"]
        environment |= {
            "device": job.device,
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }
        if job.device != "cpu":
            cudnn = torch.backends.cudnn.version()
            environment |= {"cuda": torch.version.cuda, "cudnn": cudnn, "driver": _driver()}
    return environment


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in packages}


def _driver() -> str:
    """Return the version of NVIDIA's driver, which torch does not tell."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
