"""Jobs done again from their recorded inputs, in a scratch folder, and what they make compared byte by byte.

A job that gives the same bytes again shows that its record tells the truth. Where the bytes differ, the
environment may have changed since, which the records tell; if it has not, the artifact is not what its
record says, or the job is not reproducible.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

import yaml

from shrinkflow import files, records
from shrinkflow.data.members import folder_digest, listing_digest
from shrinkflow.errors import UserError
from shrinkflow.provenance import lineage
from shrinkflow.provenance.distance import distance, fields, some
from shrinkflow.provenance.lineage import Node

SCRIPTS = Path("workflow/scripts")

# What a record says of its environment, in the words of people.
_NAMES = {
    "python": "Python",
    "cpu": "instructions",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "driver": "the GPU's driver",
}

# The code by which a job reads pictures from their folder.
_STREAMED = "shrinkflow/streamed.py"

# Snakemake sets these for every job, to the job's number of threads.
_THREADS = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


@dataclass(frozen=True)
class Job:
    """A job to do again: the artifacts it made, in order. One without a readable record stands alone."""

    outputs: tuple[Node, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of doing an artifact's job again.

    `identical`: the bytes are those of the artifact and of its record. `distance`: how far apart they are.
    `environment`: what differs between the recorded environment and the present one. `failure`: why
    there is nothing to be said about reproducibility: the job failed, an input is not what was recorded,
    or the artifact is not the one its record describes.
    """

    artifact: str
    identical: bool
    distance: str | None = None
    environment: tuple[str, ...] = ()
    failure: str | None = None

    @property
    def explained(self) -> bool:
        """Whether the bytes differ and the environment does as well."""
        return not self.identical and self.failure is None and bool(self.environment)

    def __str__(self) -> str:
        return f"{self.artifact}: {'; '.join(self._said())}"

    def _said(self) -> Iterator[str]:
        if self.failure is not None:
            yield self.failure
        if self.identical:
            yield "identical"
        if self.distance is not None:
            yield f"differs: {self.distance}"
        if self.explained:
            yield (
                f"the environment differs ({', '.join(self.environment)}): statistically the same is all "
                "one may expect"
            )
        elif not self.identical and self.failure is None:
            yield (
                "nothing in the recorded environment differs: this is a defect, or the artifact was not "
                "made as its record says"
            )


class Processes:
    """The processes at work, so that they can be ended from outside."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._working: set[subprocess.Popen[str]] = set()
        self._over = False

    def run(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; return its exit status and all that it said."""
        with self._lock:
            if self._over:
                raise CancelledError
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._working.add(process)
        said, _ = process.communicate()
        with self._lock:
            self._working.remove(process)
        return process.returncode, said

    def end(self) -> None:
        """Kill what runs, and let nothing start any more. What they leave half done is scratch."""
        with self._lock:
            self._over = True
            for process in self._working:
                process.kill()


def cells(study: str) -> list[str]:
    """Return the folders of a study's cells that are here."""
    return sorted(path.as_posix() for path in Path("results", study, "cells").glob("*/*/*/*/ratio*/seed*"))


def sample(cells: Iterable[str], n: int, seed: int) -> list[str]:
    """Return `n` cells drawn by `seed`, sorted; all, if there are no more.

    Each cell's place in the draw depends on the seed and its own name alone: neither the order of the cells
    counts, nor does a new cell change how the others compare.
    """
    if n < 1:
        raise UserError(f"a sample of {n} cells verifies nothing; give 1 or more")
    drawn = sorted(set(cells), key=lambda cell: hashlib.sha256(f"{seed} {cell}".encode()).digest())
    return sorted(drawn[:n])


def jobs_of(cells: Iterable[str]) -> list[Job]:
    """Return the jobs that made what lies in the folders of cells, and the scores these were pruned by.

    Raises `UserError` where a folder is not there, or is not a cell's.
    """
    paths = [path for cell in cells for path in _artifacts(cell)]
    return _jobs(paths, lambda path: PurePath(path).parts[2:3] == ("scores",))


def everything(study: str) -> list[Job]:
    """Return all jobs of a study that have records; raw files are fetched, not computed, and left out.

    Raises `UserError` where there are none.
    """
    folders = [Path("data/processed", study), Path("results", study)]
    found = [path for folder in folders for path in folder.rglob(f"*{records.SUFFIX}")]
    if not found:
        raise UserError(f"there is nothing of the study '{study}' to verify; run it, or restore its results")
    # Tables of a part of the study are no part of it, and measured times are never the same again.
    others = [Path("results", study, name) for name in ("partial", "costs")]
    found = [path for path in found if not any(map(path.is_relative_to, others))]
    paths = [path.as_posix().removesuffix(records.SUFFIX) for path in found]
    return _jobs(paths, lambda path: lineage.study_of(path) == study)


def _artifacts(cell: str) -> Iterator[str]:
    folder = Path(cell)
    if lineage.cell_of(folder.as_posix()) is None or not folder.is_dir():
        raise UserError(f"{cell} is not the folder of a cell that is here; 'results/' holds them")
    for path in sorted(folder.iterdir()):
        # What begins with a dot is a file half written, by a job that was killed.
        if not path.name.startswith("."):
            yield path.as_posix().removesuffix(records.SUFFIX)


def _jobs(paths: Iterable[str], made_of: Callable[[str], bool]) -> list[Job]:
    """Return the jobs that made artifacts, all their outputs, and those of their inputs that are asked for.

    So an artifact whose record is lost is told, if another record mentions it, and not passed over.
    """
    found: dict[str, Node] = {}
    queue = list(paths)
    for path in queue:
        if path not in found:
            found[path] = lineage.node(path)
            queue.extend(found[path].outputs)
            queue.extend(filter(made_of, found[path].inputs))
    by_job: defaultdict[str, list[Node]] = defaultdict(list)
    for path, node in sorted(found.items()):
        by_job[node.record["id"] if node.record else path].append(node)
    return [Job(tuple(nodes)) for nodes in by_job.values()]


def pictures(configfile: str) -> dict[str, str]:
    """Return the folders of pictures that a study names, by data set: where they lie, no record says."""
    document = yaml.safe_load(Path(configfile).read_text(encoding="utf-8"))
    datasets = {name: entry or {} for name, entry in document.get("datasets", {}).items()}
    return {name: entry["folder"] for name, entry in datasets.items() if "folder" in entry}


def verify(
    jobs: Sequence[Job],
    processes: int,
    report: Callable[[Outcome], None],
    pictures: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Do jobs again, some at once, and return what came of each artifact; no scratch is left.

    `report` is given each outcome as soon as it and all before it are known, in the order of the jobs.
    `pictures` are the folders of data sets made of pictures in folders (see `pictures`).
    """
    outcomes: list[Outcome] = []
    running = Processes()
    with (
        tempfile.TemporaryDirectory(prefix="shrinkflow-verify-") as scratch,
        ThreadPoolExecutor(max_workers=processes) as pool,
    ):
        try:
            for made in [pool.submit(rerun, job, Path(scratch), running, pictures) for job in jobs]:
                for outcome in made.result():
                    report(outcome)
                    outcomes.append(outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return how many artifacts are identical, differ with and without explanation, or tell nothing."""
    identical = sum(outcome.identical for outcome in outcomes)
    explained = sum(outcome.explained for outcome in outcomes)
    failed = sum(outcome.failure is not None for outcome in outcomes)
    unexplained = len(outcomes) - identical - explained - failed
    parts = [f"{identical} of {len(outcomes)} artifacts are identical"]
    if explained:
        parts.append(f"different, as the environment is: {explained}")
    if unexplained:
        parts.append(f"different without explanation: {unexplained}")
    if failed:
        parts.append(f"not compared: {failed}")
    return "; ".join(parts)


def rerun(
    job: Job,
    scratch: Path,
    processes: Processes | None = None,
    pictures: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Do a job again in a folder of its own below `scratch`, and compare what it makes.

    To be called in the project's folder. Nothing is written outside `scratch`.
    """
    folders = pictures or {}
    failure = _refusal(job, folders)
    if failure is None:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            record = _record(job)
            name = _of_pictures(record) or _streams(record)
            source = folders.get(name) if name else None
            failure = _repeat(record, Path(folder), processes or Processes(), source)
            if failure is None:
                return [_compare(node, Path(folder, node.path)) for node in job.outputs]
    return [Outcome(node.path, identical=False, failure=failure) for node in job.outputs]


def _record(job: Job) -> Mapping[str, Any]:
    """Return the record of a job's first output, which says of the job what those of all say."""
    record = job.outputs[0].record
    assert record is not None
    return record


def _of_pictures(record: Mapping[str, Any]) -> str | None:
    """Return the name of a data set made of a folder of pictures, which is no artifact, if this is one."""
    parameters = record["parameters"]
    return str(parameters["name"]) if parameters.get("folder") is not None else None


def _streams(record: Mapping[str, Any]) -> str | None:
    """Return the name of the data set whose pictures a job reads from their folder, if it does."""
    if _STREAMED not in record["code"]["plugins"]:
        return None
    paths = [PurePath(entry["path"]) for entry in record["inputs"]]
    return next((path.parent.name for path in paths if path.name == "dataset.safetensors"), None)


def _refusal(job: Job, pictures: Mapping[str, str]) -> str | None:
    """Return why a job cannot, or must not, be done again."""
    for node in job.outputs:
        if node.record is None:
            return node.fault or "has no record"
        if node.record["artifact"]["path"] != node.path:
            return f"carries the record of {node.record['artifact']['path']}"
    record = _record(job)
    program = record["command"][0]
    if program != Path(program).name or not (SCRIPTS / program).is_file():
        return f"its record names the program '{program}', which is not in {SCRIPTS}"
    # A record may come from elsewhere: what it says must not write, or link, outside the scratch folder.
    paths = [word.split("=", 1)[-1] for word in record["command"]]
    paths += [entry["path"] for entry in record["inputs"]]
    paths += [path.as_posix() for path in _own(record)]
    for path in paths:
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
            return f"its record names {path}; only what lies in the project can be made again elsewhere"
    name = _of_pictures(record) or _streams(record)
    folder = pictures.get(name) if name else None
    if name and (folder is None or not Path(folder).is_dir()):
        return f"its folder of pictures {f'{folder} is not here' if folder else 'is not known'}"
    if folder and _of_pictures(record):
        digest = listing_digest if "resize" in record["parameters"] else folder_digest
        then, now = record["parameters"]["folder"], digest(folder)
        if then != now:
            return f"the pictures in {folder} are not those it was made of (md5 {then} then, {now} now)"
    for entry in record["inputs"]:
        if not Path(entry["path"]).is_file():
            return f"its input {entry['path']} is not here"
        then, now = entry["md5"], files.digest(entry["path"])
        if then != now:
            return f"its input {entry['path']} is not what it was made of (md5 {then} then, {now} now)"
    return None


def _repeat(
    record: Mapping[str, Any], folder: Path, processes: Processes, pictures: str | None
) -> str | None:
    """Do a job again in a folder, of `pictures` if it is made of any; return why it failed, if it did."""
    inputs = {Path(entry["path"]) for entry in record["inputs"]}
    program, *words = record["command"]
    for path in inputs | {records.record_path(path) for path in inputs} | _own(record):
        if path.is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(path.absolute())
    if pictures is not None:
        words += ["--folder", os.path.abspath(pictures)]
    threads = str(record["environment"].get("threads", 1))
    status, said = processes.run(
        [sys.executable, str((SCRIPTS / program).absolute()), *words],
        folder,
        os.environ | dict.fromkeys(_THREADS, threads),
    )
    if status == 0:
        return None
    if status < 0:
        return f"its job was killed ({signal.Signals(-status).name})"
    lines = said.strip().splitlines() or [f"{program} ended with status {status} and said nothing"]
    return f"its job failed: {lines[-1].removeprefix('error: ')}"


def _own(record: Mapping[str, Any]) -> set[Path]:
    """Return the user's own files of code that a job ran; records name them as seen from the programs."""
    found = {Path(os.path.normpath(SCRIPTS / name)) for name in record["code"]["plugins"]}
    return {path for path in found if not path.is_relative_to(SCRIPTS)}


def _compare(node: Node, made: Path) -> Outcome:
    """Compare an artifact and its record with those made anew."""
    then, here = node.record, Path(node.path)
    assert then is not None
    if not records.record_path(made).is_file():
        return Outcome(node.path, identical=False, failure="its command, done again, does not make it")
    now = records.read(records.record_path(made))
    environment = tuple(differences(then, now))
    promised, anew = then["artifact"]["md5"], now["artifact"]["md5"]
    found = files.digest(here) if here.is_file() else promised
    far = distance(here, made) if here.is_file() and found != anew else None
    if found != promised:
        failure = f"has md5 {found}, its record says {promised}, and made again it has {anew}"
        return Outcome(node.path, False, far, environment, failure)
    if promised != anew:
        far = far or f"md5 {promised} then, {anew} now; the file itself is not here"
        return Outcome(node.path, False, far, environment)
    said = [] if environment else list(_untrue(then, now))
    if said:
        return Outcome(node.path, False, f"only in its record: {some(said)}")
    return Outcome(node.path, True, environment=environment)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the environments and the code of two records of one job differ."""
    old, new = _environment(then), _environment(now)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield f"{name} {old.get(name, 'absent')} then, {new.get(name, 'absent')} now"
    codes = then["code"]["fingerprint"], now["code"]["fingerprint"]
    if codes[0] != codes[1]:
        yield f"other code (fingerprint {codes[0]} then, {codes[1]} now)"


def _environment(record: Mapping[str, Any]) -> dict[str, Any]:
    environment = dict(record["environment"])
    packages = environment.pop("packages")
    return {**packages, **{_NAMES.get(name, name): value for name, value in environment.items()}}


def _untrue(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a record says that is not so; the environments must be the same."""
    identity = records.identity(
        then["command"], then["inputs"], then["code"], then["environment"]["packages"]
    )
    if then["id"] != identity:
        yield f"id {then['id']} then, {identity} now"
    for part in ("parameters", "findings", "code"):
        yield from (f"{part}.{field}" for field in fields(then[part], now[part]))
