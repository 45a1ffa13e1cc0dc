"""Which artifacts are what the study asks for, and making Snakemake see it the same way.

Records are the truth here, Snakemake's memory a copy of it: a fresh clone has no memory, and a checkout
of another revision has the wrong one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from shrinkflow import records
from shrinkflow.errors import UserError
from shrinkflow.provenance import checking, planning
from shrinkflow.provenance.checking import Checker, Fault
from shrinkflow.provenance.planning import Job, Plan


class State(Enum):
    """How the outputs of a job stand to the study.

    GOOD: there, and what is asked for. KEPT: not there, but the records are, and vouch for them. ABSENT:
    not there. STALE: of other settings, code, packages or inputs, or made of what is stale. DAMAGED: changed
    after they were made. WAITING: whole, but made of something that cannot be judged.
    """

    GOOD = "good"
    KEPT = "kept"
    ABSENT = "absent"
    STALE = "stale"
    DAMAGED = "damaged"
    WAITING = "waiting"


@dataclass(frozen=True)
class Assessment:
    """The state of every artifact of a plan, what is wrong, and the md5 of every file read for it."""

    states: dict[str, State]
    faults: tuple[Fault, ...]
    digests: dict[str, str]

    def of(self, job: Job) -> State:
        """Return the state of a job's outputs."""
        return self.states[job.outputs[0]]

    def outputs(self, jobs: Iterable[Job], *states: State) -> list[str]:
        """Return the outputs of the jobs that are in one of the states."""
        return [output for job in jobs if self.of(job) in states for output in job.outputs]


def assess(plan: Plan) -> Assessment:
    """Hold every artifact of a plan against its record, and every record against the plan."""
    checker = Checker()
    states: dict[str, State] = {}
    faults: list[Fault] = []
    for job in plan.jobs:
        found = checker.job(job)
        faults += found
        kinds = {fault.kind for fault in found}
        made_of = {states[path] for path in job.inputs if path in states}
        if checking.DAMAGED in kinds:
            state = State.DAMAGED
        elif checking.STALE in kinds or State.STALE in made_of:
            state = State.STALE
        elif made_of & {State.ABSENT, State.DAMAGED, State.WAITING}:
            state = State.ABSENT if checking.ABSENT in kinds else State.WAITING
        elif checking.ABSENT in kinds:
            state = State.KEPT if checker.vouched(job) else State.ABSENT
        else:
            state = State.GOOD
        states |= dict.fromkeys(job.outputs, state)
    return Assessment(states, tuple(faults), checker.digests)


def agree(plan: Plan, assessment: Assessment) -> None:
    """Tell Snakemake of the good artifacts that it would make again or has no memory of."""
    wanted = [
        job
        for job in plan.jobs
        if assessment.states.get(job.outputs[0]) == State.GOOD and plan.pending.intersection(job.outputs)
    ]
    outputs = [output for job in wanted for output in job.outputs]
    # One time for all: whatever the order in which they were brought, none is newer than another.
    now = time.time()
    for path in outputs:
        os.utime(path, (now, now))
        os.utime(records.record_path(path), (now, now))
    if outputs:
        planning.bless(plan.configfile, outputs)


def make(plan: Plan, jobs: Collection[Job], cores: str) -> None:
    """Let Snakemake make what is absent or stale of some jobs, until all are good.

    Raises `UserError` where something was changed after it was made, where what the jobs read is not there or
    stale, and where Snakemake fails.
    """
    part = plan.upto(jobs)
    before: list[str] = []
    while True:
        assessment = assess(part)
        damaged = assessment.outputs(jobs, State.DAMAGED)
        if damaged:
            reasons = [fault for fault in assessment.faults if fault.path in damaged]
            raise UserError(f"{checking.listing(reasons)}\nDelete what was changed, and it is made again")
        wanted = assessment.outputs(jobs, State.ABSENT, State.KEPT, State.STALE)
        if not wanted:
            return
        if wanted == before:
            reasons = [fault for fault in assessment.faults if fault.path in wanted]
            raise UserError(f"what was made is not what the study asks for:\n  {checking.listing(reasons)}")
        before = wanted
        _need_inputs(jobs, assessment)
        if State.GOOD in assessment.states.values():
            # What is good must not be made again for want of Snakemake's memory.
            agree(planning.plan(plan.configfile), assessment)
        for path in assessment.outputs(jobs, State.STALE):
            Path(path).unlink(missing_ok=True)
            records.record_path(path).unlink(missing_ok=True)
        _snakemake(plan.configfile, wanted, cores)


def set_aside(plan: Plan, folders: Iterable[str]) -> list[tuple[str, str]]:
    """Move files that no job of the study makes out of folders that DVC will hold; return (from, to).

    They are of earlier studies (a ratio since left out): kept, but no record of the study speaks for them.
    """
    moved = []
    for folder in folders:
        if Path(folder).is_dir():
            for path in checking.unknown(folder, plan.makers):
                top = Path("results", plan.study)
                inner = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path(path)
                target = top / "aside" / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
                moved.append((path, target.as_posix()))
    return moved


def _need_inputs(jobs: Collection[Job], assessment: Assessment) -> None:
    own = {output for job in jobs for output in job.outputs}
    needed = {
        path
        for job in jobs
        if assessment.of(job) != State.GOOD
        for path in job.inputs
        if path not in own and assessment.states.get(path, State.GOOD) != State.GOOD
    }
    if needed:
        reasons = [fault for fault in assessment.faults if fault.path in needed]
        raise UserError(
            "what this stage reads is not what the study asks for; reproduce or restore it first:\n  "
            + checking.listing(reasons or [Fault(path, "", "is made of something else") for path in needed])
        )


def _snakemake(configfile: str, targets: list[str], cores: str) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--configfile", configfile]
    done = subprocess.run([*command, "--", *targets])
    if done.returncode:
        raise UserError("Snakemake did not finish; what it says stands above")
