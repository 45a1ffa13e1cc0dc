from __future__ import annotations

import logging
import os
import shutil
import sys

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from shrinkflow import session


def tell(handler: logging.Handler, event: LogEvent, **fields) -> None:
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, None, None, None)
    vars(record).update(event=event, **fields)
    handler.emit(record)


def test_cells_done_and_time_left(capsys, monkeypatch):
    clock = iter([100.0, 130.0, 190.0])
    monkeypatch.setattr(session.time, "monotonic", lambda: next(clock))
    handler = session.CellProgress(cells=10)
    # Seven of the ten cells are finished already.
    tell(handler, LogEvent.RUN_INFO, stats={"measure": 3, "finetune": 3, "total": 6})
    tell(handler, LogEvent.JOB_INFO, jobid=1, rule_name="finetune")
    tell(handler, LogEvent.JOB_INFO, jobid=2, rule_name="measure")
    tell(handler, LogEvent.JOB_FINISHED, job_id=1)
    assert capsys.readouterr().err == ""
    tell(handler, LogEvent.JOB_FINISHED, job_id=2)
    assert capsys.readouterr().err == "cells: 8 of 10 done, about 1 min 0 s left\n"
    tell(handler, LogEvent.JOB_INFO, jobid=3, rule_name="measure")
    tell(handler, LogEvent.JOB_FINISHED, job_id=3)
    assert capsys.readouterr().err == "cells: 9 of 10 done, about 45 s left\n"


def test_other_log_records_pass_by():
    handler = session.CellProgress(cells=1)
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "text", None, None))


def test_the_end_of_a_run_tells_where_things_lie_and_which_layers_vanished(tmp_path):
    assert session.closing(tmp_path) == []
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "results.csv").write_text(
        "strategy,ratio,collapsed_layers\nrandom,2,0\nrandom,32,1\nrandom,32,0\nrandom,32,2\n"
    )
    (tmp_path / "report.html").touch()
    assert session.closing(tmp_path) == [
        f"tables:  {tmp_path}/tables",
        f"figures: {tmp_path}/figures",
        f"report:  {tmp_path}/report.html",
        "warning: random at ratio 32 pruned whole layers away in 2 of 3 cells; see collapsed_layers in "
        "the table",
    ]


def test_a_run_that_failed_tells_what_is_done_what_failed_and_what_to_do(tmp_path):
    handler = session.CellProgress(cells=4)
    tell(handler, LogEvent.RUN_INFO, stats={"measure": 2, "finetune": 2, "total": 4})
    (tmp_path / "a.log").write_text("epoch 1\nerror: the loss is no longer finite\n")
    (tmp_path / "b.log").write_text("half a line")
    for number, (rule, log) in enumerate([("finetune", "a.log"), ("prune", "b.log"), ("fetch", "c.log")]):
        tell(handler, LogEvent.JOB_ERROR, jobid=number, rule_name=rule, log=[str(tmp_path / log)])
    # A second attempt succeeded.
    tell(handler, LogEvent.JOB_FINISHED, job_id=2)
    # Four files are there, two of which this run set out to make anew.
    cells = [tmp_path / str(i) for i in range(4)]
    for cell in cells:
        cell.touch()
    lines = session.failing(handler, map(str, cells), ["config/other.yaml"], keep_going=False)
    assert lines == [
        "2 of 4 cells are done. What failed:",
        f"  finetune: the loss is no longer finite ({tmp_path / 'a.log'})",
        f"  prune: see {tmp_path / 'b.log'}",
        "What is done is kept: mend the cause, then run the same command again.",
        "With --keep-going, cells that do not depend on what failed are computed meanwhile.",
        "Tables, figures and a report of the cells that are there: "
        "shrinkflow partial --configfile config/other.yaml",
    ]


def test_of_many_failures_a_few_are_told_and_of_no_cells_no_tables_are_promised(tmp_path):
    handler = session.CellProgress(cells=1)
    for number in range(8):
        tell(handler, LogEvent.JOB_ERROR, jobid=number, rule_name="score", log=[])
    lines = session.failing(handler, [str(tmp_path / "none")], [], keep_going=True)
    assert lines == [
        "0 of 1 cells are done. What failed:",
        *["  score: see above"] * 5,
        "  and 3 more jobs, named above",
        "What is done is kept: mend the cause, then run the same command again.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("error: first\nepoch 2\nerror: last\nmore\n", "last"),
        ("no error: here\n", ""),
        ("Traceback (most recent call last):\n  x\nKeyError: 'a'\n", "KeyError: 'a'"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_last_error_of_a_log(tmp_path, text, said):
    if text is not None:
        (tmp_path / "log").write_text(text)
    assert session.last_error(tmp_path / "log") == said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    assert session.duration(seconds) == text


def test_jobs_run_by_the_python_that_runs_snakemake(monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    session.use_this_python()
    assert os.path.dirname(shutil.which("python")) == os.path.dirname(sys.executable)
