"""What the process of Snakemake itself needs: the right Python for jobs, progress for people."""

from __future__ import annotations

import csv
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent


class CellProgress(logging.Handler):
    """Follows Snakemake's log events; prints a line whenever a cell has been measured.

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
        elif event == LogEvent.JOB_FINISHED and self._names.get(fields["job_id"]) == self._rules[1]:
            self._finished += 1
            print(self._line(time.monotonic()), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        left = self._planned - self._finished
        text = f"cells: {self._cells - left} of {self._cells} done"
        if left and self._began is not None:
            text += f", about {duration(left * (now - self._began) / self._finished)} left"
        return text


def use_this_python() -> None:
    """Let `python` in the commands of jobs be the Python that runs Snakemake; conda puts its own first."""
    folder = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


def watch(cells: int) -> None:
    """Print progress for the rest of this process."""
    from snakemake.logging import logger

    logger.addHandler(CellProgress(cells))


def closing(results: Path) -> list[str]:
    """Return what to say at the end of a run: where tables and figures lie, and which layers vanished."""
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
    return [f"tables:  {table.parent}", f"figures: {results / 'figures'}", *warnings]


def duration(seconds: float) -> str:
    """Return a time for people, of two units at most: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
