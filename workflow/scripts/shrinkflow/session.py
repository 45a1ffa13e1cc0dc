"""What the process of Snakemake itself needs: the right Python for jobs, progress for people."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from snakemake_interface_logger_plugins.common import LogEvent

_SHELLS = {"sh", "bash", "dash"}

# Failed jobs that are named at the end of a run.
_SHOWN = 5


class CellProgress(logging.Handler):
    """Follows Snakemake's log events; prints a line whenever a cell has been measured, remembers what failed.

    `cells` is the number of cells of the study; those without a job in this run count as done. The time
    left is estimated from the cells finished since the first finetuning of this run began.
    """

    def __init__(self, cells: int, last_rule: str = "measure", first_rule: str = "finetune") -> None:
        super().__init__()
        self._cells = cells
        self._rules = (first_rule, last_rule)
        self._names: dict[int, str] = {}
        self._planned = 0
        self._finished = 0
        self._began: float | None = None
        # The rule and the log of each job that failed; a retry may yet succeed.
        self.failed: dict[int, tuple[str, Path | None]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take one log record; records that are no event of Snakemake's pass by."""
        fields: dict[str, Any] = vars(record)
        event = fields.get("event")
        if event == LogEvent.RUN_INFO:
            self._planned = fields["stats"].get(self._rules[1], 0)
        elif event == LogEvent.JOB_INFO:
            self._names[fields["jobid"]] = fields["rule_name"]
            if self._began is None and fields["rule_name"] == self._rules[0]:
                self._began = time.monotonic()
        elif event == LogEvent.JOB_ERROR:
            logs = [Path(log) for log in fields["log"]]
            self.failed[fields["jobid"]] = (fields["rule_name"], logs[0] if logs else None)
        elif event == LogEvent.JOB_FINISHED:
            self.failed.pop(fields["job_id"], None)
            if self._names.get(fields["job_id"]) == self._rules[1]:
                self._finished += 1
                print(self._line(time.monotonic()), file=sys.stderr, flush=True)

    @property
    def left(self) -> int:
        """Return how many cells this run set out to measure and has not."""
        return self._planned - self._finished

    def _line(self, now: float) -> str:
        text = f"cells: {self._cells - self.left} of {self._cells} done"
        if self.left and self._began is not None:
            text += f", about {duration(self.left * (now - self._began) / self._finished)} left"
        return text


def use_this_python() -> None:
    """Let `python` in the commands of jobs be the Python that runs Snakemake; conda puts its own first."""
    folder = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


def watch(cells: int) -> CellProgress:
    """Print progress for the rest of this process; return what remembers it."""
    from snakemake.logging import logger

    progress = CellProgress(cells)
    logger.addHandler(progress)
    return progress


def end_jobs_too() -> None:
    """Let a SIGTERM that ends Snakemake end its jobs as well: it would wait for them, which may take days.

    To be called when Snakemake has set its own handler, which sees to it that no further job starts.
    """
    snakemake = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        if callable(snakemake):
            snakemake(number, frame)
        for process in psutil.Process().children(recursive=True):
            # Shells end when their programs have, so that Snakemake sees how these ended.
            with contextlib.suppress(psutil.Error):
                if process.name() not in _SHELLS:
                    process.terminate()

    signal.signal(signal.SIGTERM, end)


def tidy(folder: Path) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        with contextlib.suppress(OSError):
            path.rmdir()


def closing(results: Path) -> list[str]:
    """Return what to say at the end of a run: where its results lie, and which layers vanished."""
    table = results / "tables" / "results.csv"
    if not table.is_file():
        return []
    with open(table, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    groups = Counter((row["strategy"], row["ratio"]) for row in rows)
    lost = Counter((row["strategy"], row["ratio"]) for row in rows if row["collapsed_layers"] != "0")
    warnings = [
        f"warning: {strategy} at ratio {ratio} pruned whole layers away in {count} of "
        f"{groups[strategy, ratio]} cells; see collapsed_layers in the table"
        for (strategy, ratio), count in lost.items()
    ]
    page = results / "report.html"
    reports = [f"report:  {page}"] if page.is_file() else []
    return [f"tables:  {table.parent}", f"figures: {results / 'figures'}", *reports, *warnings]


def failing(
    progress: CellProgress, cells: Iterable[str], configfiles: Iterable[str], *, keep_going: bool
) -> list[str]:
    """Return what to say when a run failed: what is done, what failed, and what to do about it.

    `cells` are the metrics of all cells, `configfiles` those that were named on the command line;
    `keep_going` is whether the run went on after the first failure.
    """
    found = [Path(path).is_file() for path in cells]
    done = min(sum(found), len(found) - progress.left)
    lines = [f"{done} of {len(found)} cells are done. What failed:"]
    failed = list(progress.failed.values())
    for rule, log in failed[:_SHOWN]:
        reason = last_error(log) if log else ""
        lines.append(f"  {rule}: {reason} ({log})" if reason else f"  {rule}: see {log or 'above'}")
    if not failed:
        lines.append("  no job of its own; see above")
    if len(failed) > _SHOWN:
        lines.append(f"  and {len(failed) - _SHOWN} more jobs, named above")
    lines.append("What is done is kept: mend the cause, then run the same command again.")
    if not keep_going:
        lines.append("With --keep-going, cells that do not depend on what failed are computed meanwhile.")
    options = "".join(f" --configfile {os.path.relpath(path)}" for path in configfiles)
    if done:
        lines.append(f"Tables, figures and a report of the cells that are there: shrinkflow partial{options}")
    return lines


def last_error(log: Path) -> str:
    """Return why a job failed, as the end of its log says it: an `error:`, or the end of a traceback.

    Empty where there is no log, or nothing of that kind in it: a job that was killed says nothing.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if said:
        return said[-1]
    return lines[-1].strip() if any(line.startswith("Traceback (") for line in lines) else ""


def duration(seconds: float) -> str:
    """Return a time for people, of two units at most: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
