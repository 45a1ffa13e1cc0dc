"""A real Slurm of one node, for the tests that want one."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("slurm.sh")
# Set in continuous integration: there, a cluster that cannot be had is a failure and no reason to skip.
REQUIRED = os.environ.get("SHRINKFLOW_CLUSTER") == "require"


@dataclass(frozen=True)
class Submission:
    """What `sbatch` was called with, but for the command that the job runs."""

    arguments: tuple[str, ...]

    def option(self, name: str) -> str:
        """Return the value of an option, given as `-t VALUE`, `--mem VALUE` or `--gpus=VALUE`; else ""."""
        for word, following in zip(self.arguments, (*self.arguments[1:], ""), strict=True):
            if word == name:
                return following
            if word.startswith(f"{name}="):
                return word.removeprefix(f"{name}=")
        return ""

    @property
    def jobs(self) -> str:
        """What is submitted: a rule, or a group and its rules."""
        return self.option("--comment").removeprefix("rule_").partition("_wildcards_")[0]


@dataclass(frozen=True)
class Cluster:
    """A cluster whose commands lie in `folder/bin`."""

    folder: Path

    def environment(self, submissions: Path) -> dict[str, str]:
        """Return the environment of a Snakemake that submits here, and has it written down."""
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return os.environ | {"PATH": path, "SUBMISSIONS": str(submissions), "COLUMNS": "200"}

    def ask(self, command: str, *arguments: str) -> str:
        """Return what one of Slurm's commands says."""
        done = subprocess.run(
            [self.folder / "bin" / command, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout


def submitted(file: Path) -> list[Submission]:
    """Return what was submitted, in order."""
    lines = file.read_text().splitlines() if file.exists() else []
    words = (shlex.split(line) for line in lines)
    return [Submission(tuple(word for word in line if not word.startswith("--wrap="))) for line in words]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of one node, which says of itself that it has four CPUs and a GPU; it ends with the tests of the module."""
    folder = tmp_path_factory.mktemp("slurm")
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True)
    if installed.returncode:
        reason = f"no Slurm: {(installed.stderr or installed.stdout).strip()[-300:]}"
        (pytest.fail if REQUIRED else pytest.skip)(reason)
    try:
        # Its daemons would hold a pipe open for ever.
        with open(folder / "start.log", "w+") as log:
            started = subprocess.run([SCRIPT, "start", folder], stdout=log, stderr=log, timeout=300)
            log.seek(0)
            assert started.returncode == 0, log.read()
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "stop", folder], timeout=60, check=False)
