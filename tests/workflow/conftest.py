"""Real studies, run by Snakemake in copies of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from filelock import FileLock

if TYPE_CHECKING:
    from tests.workflow.versioned import Versioned

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "environment.yml", "requirements.txt", "config")

TINY = {
    "study": "tiny",
    "datasets": {"digits": {"limit": {"train": 200, "validation": 60, "test": 100}}},
    "pairs": [{"dataset": "digits", "model": "digitsnet"}],
    "weights": {"A": {"recipe": "long", "seed": 1}, "B": {"recipe": "short", "seed": 2}},
    "strategies": ["random", "global-magnitude", "global-gradient-magnitude"],
    "ratios": [1, 4],
    "seeds": [1],
    "recipes": {
        "long": {"optimizer": "adam", "lr": 0.004, "epochs": 6, "crop": 1},
        "short": {"optimizer": "sgd", "lr": 0.05, "epochs": 2, "schedule": "cosine"},
    },
    "finetune": "short",
}


@dataclass(frozen=True)
class Job:
    """A job that a dry run wants to run: its rule, and its wildcards as text."""

    rule: str
    wildcards: str


class Project:
    """A copy of the project in a folder of its own, with one study."""

    def __init__(self, folder: Path, study: dict | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / part)
        self.configure(study or TINY)

    @classmethod
    def existing(cls, folder: Path, study: dict) -> Project:
        """Return the project that lies in a folder already."""
        project = object.__new__(cls)
        project.folder, project.study = folder, study
        return project

    def configure(self, study: dict) -> None:
        """Make `study` the one that `snakemake` runs."""
        self.study = study
        (self.folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def snakemake(self, *arguments: str, config: bool = True, **options) -> subprocess.CompletedProcess:
        """Run Snakemake on the study; nothing is asserted about its success."""
        command = [sys.executable, "-m", "snakemake", *arguments]
        if config:
            command += ["--configfile", "study.yaml"]
        environment = os.environ | {"COLUMNS": "200"}
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=environment, **options
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Snakemake and expect success."""
        done = self.snakemake(*(arguments or ("--cores", "2")))
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done

    def stale(self, *arguments: str) -> list[Job]:
        """Return the jobs that a dry run wants to run."""
        done = self.run("--dry-run", "--cores", "2", *arguments)
        text = done.stdout + done.stderr
        if "Nothing to be done" in text:
            return []
        found = []
        for block in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]:
            rule = block.split(":", 1)[0]
            wildcards = re.search(r"^ +wildcards: (.*)$", block, re.MULTILINE)
            found.append(Job(rule, wildcards[1] if wildcards else ""))
        assert found, text
        return found

    def counts(self, *arguments: str) -> Counter[str]:
        """Return how many jobs of each rule a dry run wants to run; targets left out."""
        return Counter(job.rule for job in self.stale(*arguments) if job.rule != "all")

    def artifacts(self) -> dict[str, bytes]:
        """Return every artifact and record by path; logs and timings left out."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for top in ("data", "results")
            for path in sorted((self.folder / top).rglob("*"))
            if path.is_file() and not {"logs", "benchmarks"} & set(path.parts)
        }


def run_once(name: str, study: dict, factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """Return a project whose study was run with two cores, by whichever worker wants it first."""
    base = factory.getbasetemp()
    root = base if worker_id == "master" else base.parent
    with FileLock(root / f"{name}.lock"):
        if (root / f"{name}.log").exists():
            return Project.existing(root / name, study)
        project = Project(root / name, study)
        (root / f"{name}.log").write_text(project.run().stderr)
    return project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """The tiny study, run once with two cores, shared by all workers. Tests must leave it as it is."""
    return run_once("finished", TINY, tmp_path_factory, worker_id)


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, file times and Snakemake's memory included, to spoil."""
    shutil.copytree(finished.folder, tmp_path / "copy", dirs_exist_ok=True)
    return Project.existing(tmp_path / "copy", finished.study)


@pytest.fixture(scope="session")
def snapshot(finished: Project, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Versioned:
    """The tiny study under git and DVC, with a snapshot and a remote. Tests must leave it as it is."""
    from tests.workflow import versioned

    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent
    with FileLock(root / "snapshot.lock"):
        if (root / "snapshot.done").exists():
            return versioned.Versioned.existing(root / "snapshot/project", TINY)
        project = versioned.make(root / "snapshot", finished)
        (root / "snapshot.done").touch()
    return project


@pytest.fixture
def spoilt(snapshot: Versioned, tmp_path: Path) -> Versioned:
    """A copy of the project with its snapshot, and a remote of its own, to spoil."""
    from tests.workflow import versioned

    return versioned.copy(snapshot, tmp_path)
