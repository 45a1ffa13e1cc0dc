"""Records: beside every artifact, a JSON file that says what made it.

A record holds nothing that changes from run to run on one machine: no time, no host, no path of the
machine. So records are byte-stable like the artifacts they describe.
"""

from __future__ import annotations

import platform
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


@dataclass
class Job:
    """A running job, for what is known only once it runs: plugins, the device, findings."""

    plugins: list[Path]
    device: str | None = None
    findings: dict[str, Any] = field(default_factory=dict)


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
    described = [describe_input(path) for path in inputs]
    running = Job(list(plugins))
    yield running
    code = {
        "program": Path(program).name,
        "fingerprint": fingerprint.fingerprint(program, *running.plugins),
    }
    environment = _environment(running.device, fingerprint.packages(program, *running.plugins))
    outputs_described = [describe(path) for path in outputs]
    for path, described_output in zip(outputs, outputs_described, strict=True):
        record = {
            "artifact": described_output,
            "outputs": outputs_described,
            "inputs": described,
            "parameters": dict(parameters),
            "code": code,
            "environment": environment,
            "findings": running.findings,
        }
        files.write_json(record_path(path), record)


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
        promised = files.read_json(record)["artifact"]["md5"]
        if promised != described["md5"]:
            raise UserError(
                f"{path} was changed after it was made (md5 {described['md5']}, its record says "
                f"{promised}); delete it and run again"
            )
    return described


def _environment(device: str | None, pins: Mapping[str, str]) -> dict[str, Any]:
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "packages": {name: version(name) for name in pins},
    }
    if device is not None:
        torch = sys.modules["torch"]
        environment |= {
            "device": device,
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }
    return environment
