"""Tables, figures and report of the cells that are there, when others of a study are not.

They are made by the study's own jobs: those that come after a cell's measures are run again with what is
there, and write below `results/<study>/partial/` what they would write below `results/<study>/`.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path

from shrinkflow import files, fingerprint, session
from shrinkflow.errors import UserError
from shrinkflow.provenance import planning, settling
from shrinkflow.provenance.planning import Job, Plan
from shrinkflow.provenance.settling import Assessment, State

CELL = ("dataset", "model", "weights", "strategy", "ratio", "seed")
_NO_REASON = "not computed yet"


@dataclass(frozen=True)
class Part:
    """What was made: the folder, numbers of cells, why each missing one is, what could not be made."""

    folder: Path
    there: int
    cells: int
    missing: Mapping[str, str]
    failed: Mapping[str, str]


def make(configfile: str) -> Part:
    """Make tables, figures and report of a study's cells that are what the study asks for.

    A cell whose control is missing counts as missing: there is nothing to compare it with. Raises `UserError`
    where no cell is there, or the tables cannot be made.
    """
    plan = planning.recall(configfile)
    cells = {job.outputs[0]: job for job in plan.jobs if job.rule == "measure"}
    missing = absent(plan, settling.assess(plan.upto(cells.values())))
    if len(missing) == len(cells):
        reason, count = Counter(missing.values()).most_common(1)[0]
        raise UserError(
            f"none of the {len(cells)} cells of '{plan.study}' is there, so there is nothing to tabulate; "
            f"of {count} the reason is: {reason}"
        )
    folder = Path("results", plan.study, "partial")
    shutil.rmtree(folder, ignore_errors=True)
    table = folder / "missing.csv"
    files.write_text(table, listing({path: cells[path] for path in missing}, missing))
    failed = _run(plan, [path for path in cells if path not in missing], folder, table)
    if not (folder / "tables/results.csv").is_file():
        raise UserError(f"the tables cannot be made: {next(iter(failed.values()), 'no job makes them')}")
    return Part(folder, len(cells) - len(missing), len(cells), missing, failed)


def absent(plan: Plan, assessment: Assessment) -> dict[str, str]:
    """Return {metrics of a cell that is not there, or not what the study asks for: why}."""
    faults = {fault.path: fault.reason for fault in reversed(assessment.faults)}
    reasons: dict[tuple[str, ...], str] = {}
    found = {}
    cells = {}
    for job in plan.jobs:
        if job.outputs[0] not in assessment.states:
            continue
        if assessment.of(job) != State.GOOD:
            # What comes first failed first: what stems from it may have failed before, for other reasons.
            before = (plan.makers[path].outputs for path in job.inputs if path in plan.makers)
            reasons[job.outputs] = next(filter(None, (reasons.get(outputs) for outputs in before)), "")
            if not reasons[job.outputs]:
                reasons[job.outputs] = _why(job, assessment, faults)
        if job.rule == "measure":
            cells[_key(job)] = job.outputs[0]
            if assessment.of(job) != State.GOOD:
                found[job.outputs[0]] = reasons[job.outputs] or _NO_REASON
    for job in plan.jobs:
        if job.rule == "measure" and job.outputs[0] not in found:
            control = job.command[job.command.index("--control") + 1]
            place = cells.get(_key(job, strategy=control, ratio="1"))
            if place is None or place in found:
                found[job.outputs[0]] = f"its control '{control}' of seed {job.wildcards['seed']} is missing"
    return found


def listing(cells: Mapping[str, Job], missing: Mapping[str, str]) -> str:
    """Return the missing cells as CSV: which, and why."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*CELL, "reason"])
    writer.writerows([*_key(job), missing[path]] for path, job in cells.items())
    return stream.getvalue()


def lines(part: Part) -> list[str]:
    """Return what to say of it to people: at most a few reasons, each with the number of its cells."""
    said = [f"{part.there} of {part.cells} cells are there; tables, figures and report of these:"]
    said += [f"  {part.folder / name}" for name in ("tables", "figures", "report.html")]
    if part.missing:
        said.append(f"missing (all in {part.folder / 'missing.csv'}):")
        counts = Counter(part.missing.values()).most_common()
        said += [f"  {count} {'cell' if count == 1 else 'cells'}: {reason}" for reason, count in counts[:10]]
        said += [f"  and {len(counts) - 10} more reasons"] if len(counts) > 10 else []
    said += [f"not made: {path}: {reason}" for path, reason in part.failed.items()]
    return said


def _why(job: Job, assessment: Assessment, faults: Mapping[str, str]) -> str:
    """Return why a job's outputs are not good, though its inputs may be; empty where nothing says so."""
    if assessment.of(job) in (State.DAMAGED, State.STALE):
        path = next((path for path in job.outputs if path in faults), None)
        return f"{path} {faults[path]}" if path else ""
    said = session.last_error(Path(job.log))
    return f"{job.rule}: {said}" if said else ""


def _key(job: Job, **other: str) -> tuple[str, ...]:
    return tuple({**job.wildcards, **other}[name] for name in CELL)


def _run(plan: Plan, metrics: Sequence[str], folder: Path, missing: Path) -> dict[str, str]:
    """Run the jobs that come after the measures, of some cells; return {what was not made: why}."""
    top = folder.parent.as_posix()
    # Where each input of these jobs lies: measures where they are, the rest below the folder.
    places = {path: path for path in metrics}
    after = {job.outputs[0] for job in plan.jobs if job.rule == "measure"}
    jobs = []
    for job in plan.jobs:
        if after.intersection(job.inputs):
            after.update(job.outputs)
            jobs.append(job)
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _, group in groupby(jobs, key=lambda job: job.rule):
            ready = [job for job in group if any(path in places for path in job.inputs)]
            moved = {path: f"{folder}{path.removeprefix(top)}" for job in ready for path in job.outputs}
            known = places | moved
            ends = list(pool.map(_again, ready, repeat(known), repeat(after), repeat(missing)))
            for job, why in zip(ready, ends, strict=True):
                places |= {path: moved[path] for path in job.outputs if not why}
                failed |= {moved[path]: why for path in job.outputs[:1] if why}
    return failed


def _again(job: Job, places: Mapping[str, str], after: set[str], missing: Path) -> str:
    """Run a job's program with what is there; return why it failed, empty where it did not."""
    program, *words = job.command
    known = [places.get(word, word) for word in words if word in places or word not in after]
    if job.rule == "report":
        # The captions of figures that could not be drawn are left out.
        place = known.index("--content")
        known = [*known[:place], *known[place + 2 :], "--missing", missing.as_posix()]
    done = subprocess.run(
        [sys.executable, str(fingerprint.LIBRARY.parent / program), *known],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or [f"{program} ended with status {done.returncode}"]
    return said[-1].removeprefix("error: ")
