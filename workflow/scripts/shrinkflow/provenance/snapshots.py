"""Snapshots of a study: what DVC may lock, and bringing it back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkflow import records
from shrinkflow.errors import UserError
from shrinkflow.provenance import checking, lineage, planning, settling, stages, versions
from shrinkflow.provenance.checking import Checker, Fault
from shrinkflow.provenance.planning import Plan
from shrinkflow.provenance.settling import State

# What makes results: a snapshot of uncommitted changes to it could never be traced to a commit.
_CODE = ("Snakefile", "workflow", "config", "profiles", "requirements.txt", "environment.yml")


@dataclass(frozen=True)
class Taken:
    """What a snapshot holds: numbers of artifacts and of stages, files moved aside, and the lock."""

    artifacts: int
    stages: int
    aside: tuple[tuple[str, str], ...]
    lock: Path


@dataclass(frozen=True)
class Restored:
    """What was brought back: artifacts that are here and good, and those the study would make anew."""

    good: int
    stale: tuple[Fault, ...]


def take(configfile: str, *, allow_dirty: bool = False) -> Taken:
    """Check every artifact of a study against its record and the study, then commit them to DVC.

    Raises `UserError` with the list of what disagrees; DVC's lock then is what it was.
    """
    plan = planning.plan(configfile)
    assessment = settling.assess(plan)
    refuse(plan, assessment)
    dvcfile = stages.dvcfile(plan)
    if not allow_dirty:
        _refuse_dirty()
    listed = stages.stages(plan)
    aside = settling.set_aside(plan, folders(listed))
    stages.write(plan)
    lock = versions.lockfile(dvcfile)
    before = lock.read_bytes() if lock.is_file() else None
    try:
        versions.commit(dvcfile)
        # Whatever happened between the check and the commit, the lock holds the bytes that were checked.
        _refuse_other_bytes(plan, assessment, _locked(plan))
    except BaseException:
        versions.put_back(lock, before)
        raise
    settling.agree(plan, assessment)
    return Taken(sum(len(job.outputs) for job in plan.jobs), len(listed), tuple(aside), lock)


def restore(configfile: str, targets: Sequence[str], say: Callable[[str], None]) -> Restored:
    """Bring a study's files from DVC, or one target's and the records of all that led to it; check them.

    Raises `UserError` where a file cannot be brought, or is not what its record or dvc.lock says.
    """
    plan = planning.recall(configfile)
    dvcfile = stages.dvcfile(plan)
    if not versions.lockfile(dvcfile).is_file():
        raise UserError(f"there is no {versions.lockfile(dvcfile)}: no snapshot of this study was taken here")
    if targets:
        locked = _locked(plan)
        brought = [path for target in targets for path in _bring(target, locked, say)]
    else:
        versions.pull(dvcfile)
        locked = _locked(plan)
        # Not the files of other studies, except the raw ones that this one shares.
        own = versions.read(dvcfile).files
        shared = [path for path in plan.makers if path in locked.files and path not in own]
        brought = [*own, *shared]
    faults = _disagreements(brought, locked)
    if faults:
        damaged = versions.damaged_in_cache(locked.files[fault.path] for fault in faults)
        remedy = (
            f"\nDVC's cache is damaged: delete {', '.join(damaged)}, and restore again" if damaged else ""
        )
        raise UserError(
            f"what was brought is not what its record or the lock says:\n  {checking.listing(faults)}{remedy}"
        )
    plan = planning.plan(configfile)
    assessment = settling.assess(plan)
    settling.agree(plan, assessment)
    good = sum(state == State.GOOD for state in assessment.states.values())
    # Files that were not asked for are absent, and nothing is wrong with that.
    stale = tuple(fault for fault in assessment.faults if fault.kind == checking.STALE)
    return Restored(good, stale)


def make_stage(configfile: str, name: str, cores: str) -> list[tuple[str, str]]:
    """Let Snakemake make one stage of a study; return the files moved aside, as (from, to).

    Raises `UserError`, so that DVC writes no lock, unless every artifact then is what the study asks for.
    """
    plan = planning.recall(configfile)
    stages.check(plan)
    stage = stages.named(plan, name)
    settling.make(plan, stage.jobs, cores)
    aside = settling.set_aside(plan, folders([stage]))
    part = plan.upto(stage.jobs)
    refuse(part, settling.assess(part))
    return aside


def refuse(plan: Plan, assessment: settling.Assessment) -> None:
    """Raise `UserError` unless every artifact of the plan is there and what the study asks for."""
    bad = [path for path, state in assessment.states.items() if state != State.GOOD]
    if not bad:
        return
    option = "" if plan.configfile == planning.DEFAULT else f" --configfile {plan.configfile}"
    named = {fault.path for fault in assessment.faults}
    # First what is wrong itself; of what stems from it, or was made by the same job, the number is enough.
    more = len(set(bad) - named)
    raise UserError(
        f"{len(bad)} of {len(assessment.states)} artifacts are not what {plan.configfile} asks for; "
        f"nothing was committed:\n  {checking.listing(assessment.faults)}\n"
        + (f"  and {more} more, made with or of these\n" if more else "")
        + f"Run 'snakemake --cores all{option}' to make what is missing or stale; "
        "delete what was changed first"
    )


def folders(listed: Sequence[stages.Stage]) -> list[str]:
    """Return the folders that stages own."""
    return [out for stage in listed for out in stage.outs if not out.startswith("data/raw/")]


def _locked(plan: Plan) -> versions.Locked:
    """Return what the locks of a study and of all others say: raw files may be another study's."""
    others = [Path("dvc.yaml"), *sorted(Path("config/dvc").glob("*/dvc.yaml"))]
    own = stages.dvcfile(plan)
    return versions.read(*(file for file in others if file != own), own)


def _bring(target: str, locked: versions.Locked, say: Callable[[str], None]) -> list[str]:
    """Bring a target's files, and of all that led to it the records and what is small: tables and metrics."""
    wanted = _files_of(target, locked)
    brought: list[str] = []
    seen: set[str] = set()
    own = set(wanted)
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        record = str(records.record_path(path))
        names = [record] if record in locked.files else []
        if path in own or path.endswith((".csv", ".json")):
            names.append(path)
        for name in names:
            if name not in locked.files:
                raise UserError(f"{name} is in no snapshot; see 'dvc.lock' for what is")
            if not Path(name).is_file() or checking.Checker().digest(name) != locked.files[name]:
                say(name)
                versions.fetch(name, locked.files[name])
            brought.append(name)
        if record in names:
            found = lineage.node(path)
            # All that a job made is brought, or the records of it all: Snakemake knows whole jobs only.
            if path in own:
                own.update(found.outputs)
            wanted.extend((*found.inputs, *found.outputs))
    return brought


def _files_of(target: str, locked: versions.Locked) -> list[str]:
    """Return the artifacts that a target stands for: a file, or all files of a folder (a cell)."""
    name = Path(target).as_posix().rstrip("/")
    below = [
        path
        for path in locked.files
        if (path == name or path.startswith(f"{name}/")) and not path.endswith(records.SUFFIX)
    ]
    if not below:
        unread = [folder for folder in locked.unknown if name.startswith(folder) or folder.startswith(name)]
        if unread:
            raise UserError(
                f"the list of files of {unread[0]} is neither in DVC's cache nor in a remote that can be "
                "reached; run 'dvc push' where it was made, and 'dvc remote list' here"
            )
        raise UserError(f"no snapshot holds {target}; it must be a file or folder of one, such as a cell's")
    return below


def _disagreements(paths: Sequence[str], locked: versions.Locked) -> list[Fault]:
    checker = Checker()
    found = []
    for path in paths:
        if not Path(path).is_file():
            found.append(Fault(path, checking.ABSENT, "was not brought"))
        elif checker.digest(path) != locked.files[path]:
            reason = f"has md5 {checker.digest(path)}, dvc.lock says {locked.files[path]}"
            found.append(Fault(path, checking.DAMAGED, reason))
        elif not path.endswith(records.SUFFIX):
            found += [fault for fault in checker.own(path)[0] if fault.kind == checking.DAMAGED]
    return found


def _refuse_other_bytes(plan: Plan, assessment: settling.Assessment, locked: versions.Locked) -> None:
    """Raise `UserError` unless the lock holds exactly the artifacts and records that were checked."""
    wanted = [path for output in plan.makers for path in (output, str(records.record_path(output)))]
    faults = [
        Fault(path, checking.DAMAGED, "changed while the snapshot was taken")
        for path in wanted
        if path in locked.files and locked.files[path] != assessment.digests[path]
    ]
    faults += [
        Fault(path, checking.ABSENT, "did not reach the lock") for path in wanted if path not in locked.files
    ]
    if faults:
        raise UserError(f"the snapshot was given up, the lock is as it was:\n  {checking.listing(faults)}")


def _refuse_dirty() -> None:
    changed = dirty()
    if changed:
        shown = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise UserError(
            f"there are changes that git does not hold ({shown}): commit them first, so that the snapshot "
            "can be traced to a commit, or say --allow-dirty"
        )


def dirty() -> list[str]:
    """Return the files of code and configuration that differ from git's last commit; none without git."""
    command = ["git", "status", "--porcelain", "--untracked-files=all", "--", *_CODE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = [line[3:] for line in done.stdout.splitlines()]
    return [path for path in paths if not path.startswith("config/dvc/")]
