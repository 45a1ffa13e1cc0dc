"""A finished tiny study under git and DVC, with a snapshot in a remote that is a folder: material to spoil."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.workflow.conftest import ROOT, TINY, Project

FIGURE = "results/tiny/figures/compression.svg"
CELL = "results/tiny/cells/digits/digitsnet/A/random/ratio4/seed1"
BIN = Path(sys.executable).parent

# What the commands see and say, in one process: most of their time goes into starting.
_EXAMINE = """
import json, sys
from collections import Counter
from shrinkflow.errors import UserError
from shrinkflow.provenance import planning, settling, snapshots, tracing
plan = planning.plan("config/config.yaml")
found = settling.assess(plan)
trail = tracing.trace(sys.argv[1], {}, None)
try:
    snapshots.take("config/config.yaml")
    refusal = None
except UserError as error:
    refusal = str(error)
print(json.dumps({
    "states": {path: state.value for path, state in found.states.items()},
    "jobs": Counter(job.rule for job in plan.jobs if plan.pending.intersection(job.outputs)),
    "faults": trail.faults,
    "refusal": refusal,
}))
"""


class Versioned(Project):
    """A project whose default study is the tiny one, under git and DVC."""

    def configure(self, study: dict) -> None:
        """Make `study` the default one."""
        self.study = study
        (self.folder / "config/config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def environment(self) -> dict[str, str]:
        """Return the environment of commands: this project's library, whoever else's is installed."""
        path = os.pathsep.join([str(BIN), os.environ["PATH"]])
        names = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "tester")
        names |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "tester@example.org")
        library = str(self.folder / "workflow/scripts")
        return os.environ | names | {"PATH": path, "PYTHONPATH": library, "COLUMNS": "200"}

    def call(self, *command: str, **options) -> subprocess.CompletedProcess:
        """Run a command in the project; nothing is asserted about its success."""
        environment = self.environment()
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=environment, **options
        )

    def does(self, *command: str) -> str:
        """Run a command, expect success, and return what it said."""
        done = self.call(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def shrinkflow(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Run the program `shrinkflow`."""
        return self.call(sys.executable, "-m", "shrinkflow", *arguments, **options)

    def refused(self, *arguments: str) -> str:
        """Run `shrinkflow`, expect a plain refusal, and return it."""
        done = self.shrinkflow(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def snakemake(self, *arguments: str, config: bool = False, **options) -> subprocess.CompletedProcess:
        """Run Snakemake on the default study."""
        return super().snakemake(*arguments, config=False, **options)

    def commit(self, message: str = "change") -> None:
        """Commit everything to git."""
        self.does("git", "add", "-A")
        self.does("git", "commit", "-q", "--allow-empty", "-m", message)

    def examine(self, figure: str) -> dict:
        """Return what assessment, trace and snapshot find.

        The state of every artifact, the number of jobs by rule that Snakemake would run, the faults on the
        trail of a figure, and why no snapshot was taken; None: it was.
        """
        return json.loads(self.does(sys.executable, "-c", _EXAMINE, figure).splitlines()[-1])

    def trail(self, *arguments: str) -> tuple[int, dict]:
        """Return the exit status and the JSON of `shrinkflow trace`."""
        done = self.shrinkflow("trace", "--json", *arguments)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    def quiet(self) -> None:
        """Assert that both tools have nothing to do."""
        assert self.stale() == []
        assert "up to date" in self.does("dvc", "status")
        said = self.does("dvc", "repro")
        assert "Running stage" not in said

    def lock(self) -> bytes:
        """Return the bytes of dvc.lock."""
        return (self.folder / "dvc.lock").read_bytes()


def make(folder: Path, finished: Project) -> Versioned:
    """Put a finished tiny study under git and DVC in `folder`/project, its remote in `folder`/remote."""
    shutil.copytree(finished.folder, folder / "project")
    project = Versioned.existing(folder / "project", TINY)
    (project.folder / "study.yaml").unlink()
    project.configure(TINY)
    shutil.copytree(ROOT / ".dvc", project.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    for name in (".dvcignore", ".gitignore", "CITATION.cff"):
        shutil.copy2(ROOT / name, project.folder / name)
    project.does("git", "init", "-q", "-b", "main")
    project.does("dvc", "remote", "add", "-q", "-d", "store", str(folder / "remote"))
    project.commit("the tiny study")
    project.does(sys.executable, "-m", "shrinkflow", "snapshot")
    project.commit("its snapshot")
    project.does("dvc", "push", "-q")
    return project


def copy(base: Versioned, folder: Path) -> Versioned:
    """Return a copy to spoil, with a remote of its own."""
    shutil.copytree(base.folder.parent, folder, dirs_exist_ok=True)
    project = Versioned.existing(folder / "project", TINY)
    project.does("dvc", "remote", "modify", "-q", "store", "url", str(folder / "remote"))
    project.commit("its own remote")
    return project


def clone(project: Versioned, folder: Path) -> Versioned:
    """Return a git clone: no data, no results, no memory of Snakemake."""
    project.does("git", "clone", "-q", str(project.folder), str(folder))
    found = Versioned.existing(folder, TINY)
    assert not (folder / "results").exists()
    assert not (folder / ".snakemake").exists()
    return found
