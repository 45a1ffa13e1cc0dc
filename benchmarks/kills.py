"""Kill a run at random moments, in every way it gets killed, then let it finish and compare all bytes.

A copy of the project runs a study in a scratch folder. At moments drawn by a seed something is killed: all of
it (power, the queue's last word), Snakemake alone, one job (out of memory), or Snakemake or one job is asked
to end (SIGTERM). What ended is run again, as a user would: `snakemake --unlock` where it was killed, then the
same command. In the end every artifact and record is compared with those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "environment.yml", "requirements.txt", "config")
# What is killed, and how.
WAYS = {
    "SIGTERM to Snakemake": signal.SIGTERM,
    "SIGKILL to Snakemake and its jobs": signal.SIGKILL,
    "SIGKILL to Snakemake alone": signal.SIGKILL,
    "SIGKILL to one job": signal.SIGKILL,
    "SIGTERM to one job": signal.SIGTERM,
}
# No job's killed way takes longer to be seen than this, in seconds.
_LONGEST = 300


@dataclass
class Run:
    """A study in a folder, and what was done to it."""

    folder: Path
    command: Sequence[str]
    done: list[str] = field(default_factory=list)
    # Seconds that Snakemake needed to end after a SIGTERM.
    ends: list[float] = field(default_factory=list)
    resumed: int = 0

    def snakemake(self, *more: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own."""
        with open(self.folder / "said.txt", "ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", *self.command, *more],
                cwd=self.folder,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def locked(self) -> bool:
        """Whether a run that was killed left its locks."""
        return any((self.folder / ".snakemake/locks").glob("*"))


def jobs(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the jobs at work: the programs, not the shells they were started by."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if words[:1] and "python" in Path(words[0]).name and any("workflow/scripts" in w for w in words[1:2]):
            found.append(process)
    return found


def disturb(
    run: Run,
    count: int,
    seed: int,
    span: float,
    ways: Sequence[str],
    look: Callable[[], None] = lambda: None,
) -> None:
    """Let a study run and kill `count` times, at most `span` seconds after the last time or the first job.

    `look` is called whenever Snakemake has ended.
    """
    draw = random.Random(seed)
    # Each way as often as the others, in random order.
    order = [ways[index % len(ways)] for index in range(count)]
    draw.shuffle(order)
    process: subprocess.Popen[bytes] | None = None
    while order:
        if process is None or process.poll() is not None:
            _see(run)
            process = _started(run)
        if draw.random() < 0.9:
            _until_a_job(process)
        time.sleep(draw.uniform(0, span))
        if process.poll() is not None:
            continue
        way = order[-1]
        if way.endswith("one job"):
            working = jobs(process)
            if not working:
                continue
            try:
                draw.choice(working).send_signal(WAYS[way])
            except psutil.Error:
                continue
        else:
            (os.killpg if "and its jobs" in way else os.kill)(process.pid, WAYS[way])
            began = time.monotonic()
            process.wait(timeout=_LONGEST)
            if WAYS[way] == signal.SIGTERM:
                run.ends.append(time.monotonic() - began)
            look()
        run.done.append(order.pop())
    if process is not None:
        process.wait(timeout=_LONGEST * 10)
    _see(run)


def finish(run: Run) -> int:
    """Run the study to its end; return Snakemake's exit status."""
    return _started(run).wait()


def _started(run: Run) -> subprocess.Popen[bytes]:
    if run.locked():
        run.snakemake("--unlock").wait(timeout=_LONGEST)
    return run.snakemake()


def _until_a_job(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _LONGEST
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if jobs(process):
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)


def _see(run: Run) -> None:
    """Count the trainings that went on; logs are overwritten."""
    for log in run.folder.glob("results/*/logs/**/*.log"):
        text = log.read_text(errors="replace")
        if "resumed after epoch" in text and "(counted)" not in text:
            run.resumed += 1
            log.write_text(f"{text}(counted)\n")


def project(folder: Path) -> None:
    """Copy the project into a folder."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)


def artifacts(folder: Path) -> dict[str, bytes]:
    """Return every file of data and results by path; logs and timings left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for top in ("data", "results")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file() and not {"logs", "benchmarks"} & set(path.relative_to(folder).parts)
    }


def main() -> None:
    """Run a study undisturbed and disturbed, and tell how the two compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", default="config/config.yaml", help="the study")
    parser.add_argument("--kills", type=int, default=20, help="how often something is killed")
    parser.add_argument("--span", type=float, default=15, help="seconds between two kills at most")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and of what is killed")
    parser.add_argument("--cores", default="2", help="Snakemake's")
    parser.add_argument("--undisturbed", type=Path, help="a folder where the study was run before")
    args = parser.parse_args()
    command = ("--cores", args.cores, "--configfile", args.configfile)
    with tempfile.TemporaryDirectory(prefix="shrinkflow-kills-") as scratch:
        whole = args.undisturbed or Path(scratch, "whole")
        run = Run(Path(scratch, "killed"), command)
        project(run.folder)
        if args.undisturbed is None:
            project(whole)
            if finish(Run(whole, command)):
                sys.exit((whole / "said.txt").read_text()[-3000:])
        disturb(run, args.kills, args.seed, args.span, tuple(WAYS))
        if finish(run):
            sys.exit((run.folder / "said.txt").read_text()[-3000:])
        ours, theirs = artifacts(whole), artifacts(run.folder)
    for way, times in sorted(Counter(run.done).items()):
        print(f"{times:3} x {way}")
    print(f"trainings that went on after an interruption: {run.resumed}")
    print(f"seconds until Snakemake ended after SIGTERM: {', '.join(f'{s:.1f}' for s in run.ends)}")
    other = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    print(f"{len(ours)} files of the undisturbed run; other, missing or more: {len(other)}")
    print(*other[:10], sep="\n")
    sys.exit(bool(other))


if __name__ == "__main__":
    main()
