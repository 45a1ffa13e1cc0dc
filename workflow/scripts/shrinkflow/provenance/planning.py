"""What a study asks for: every job, as Snakemake plans it from the rules.

The rules are the one statement of what depends on what and of each job's command, so the plan is
taken from Snakemake and not computed a second time. This is the only module that reaches below
Snakemake's command line, and the only one that knows its memory (`.snakemake/metadata`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shrinkflow import documents, files, records
from shrinkflow.data import streamed
from shrinkflow.data.members import folder_digest, listing_digest
from shrinkflow.errors import UserError

DEFAULT = "config/config.yaml"
CACHE = Path(".snakemake/shrinkflow")
# What a plan is made of, besides the study's file; artifacts are no part of it.
_SOURCES = (
    "Snakefile",
    "workflow/rules/*.smk",
    "workflow/schemas/*",
    "workflow/scripts/**/*.py",
    "workflow/report/*",
    "requirements.txt",
)


@dataclass(frozen=True)
class Job:
    """A job as planned.

    `fingerprint` is of its code, `plugins` the files of code found by name, `packages` the pins of what
    the code imports; `outputs` are artifacts, without their records; `log` is where it says what it does.
    """

    rule: str
    wildcards: Mapping[str, str]
    command: tuple[str, ...]
    fingerprint: str
    plugins: tuple[str, ...]
    packages: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    log: str = ""


@dataclass(frozen=True)
class Plan:
    """The jobs of a study, each after those whose outputs it reads.

    `pending` are the outputs that Snakemake would make, or has no memory of: without it, it goes by times.
    """

    configfile: str
    study: str
    jobs: tuple[Job, ...]
    pending: frozenset[str] = frozenset()

    @cached_property
    def makers(self) -> dict[str, Job]:
        """Return the job that makes each artifact."""
        return {output: job for job in self.jobs for output in job.outputs}

    def upto(self, jobs: Iterable[Job]) -> Plan:
        """Return the part of the plan that some jobs need: themselves and all before them."""
        wanted = {job.outputs for job in jobs}
        for job in reversed(self.jobs):
            if job.outputs in wanted:
                wanted.update(self.makers[path].outputs for path in job.inputs if path in self.makers)
        return replace(self, jobs=tuple(job for job in self.jobs if job.outputs in wanted))


def plan(configfile: str) -> Plan:
    """Return the plan of a study.

    Raises `UserError` where the study cannot work, in the words of the Snakefile.
    """
    with _workflow(configfile) as workflow:
        found = _read(configfile, workflow)
    files.write_json(_cached(configfile), {"sources": sources(configfile), **_to_json(found)})
    return found


def recall(configfile: str) -> Plan:
    """Return the whole plan as made before, if everything it is made of is byte by byte the same; else plan.

    What is pending is not recalled: it depends on the artifacts.
    """
    path = _cached(configfile)
    with contextlib.suppress(OSError, UserError, KeyError, TypeError):
        document = files.read_json(path)
        if document["sources"] == sources(configfile):
            return _from_json(document)
    return plan(configfile)


def bless(configfile: str, outputs: Sequence[str]) -> None:
    """Tell Snakemake that artifacts are what their rules would make now.

    To be called for artifacts only whose records have been checked against the plan.
    """
    wanted = set(outputs)
    with _workflow(configfile) as workflow:
        for job in workflow.dag.jobs:
            if wanted & set(map(str, job.output)):
                workflow.async_run(workflow.persistence.finished(job))


def configuration(study: str) -> str:
    """Return the file of a study in config/, by the study's name."""
    for path in [
        Path(DEFAULT),
        *sorted(Path("config/studies").glob("*.yaml")),
        *sorted(Path().glob("*.yaml")),
    ]:
        with contextlib.suppress(OSError, UserError):
            document = documents.read(path)
            if isinstance(document, dict) and document.get("study") == study:
                return path.as_posix()
    raise UserError(f"no file in config/ is of the study '{study}'; name it with --configfile")


def sources(configfile: str) -> str:
    """Return a hash of all a plan is made of: the study, its pictures and own code, rules, code and pins."""
    paths = sorted({path for pattern in _SOURCES for path in Path().glob(pattern)} | {Path(configfile)})
    listing = [f"{path.as_posix()} {files.digest(path)}" for path in paths if path.is_file()]
    document = None
    with contextlib.suppress(OSError, UserError):
        document = documents.read(Path(configfile))
    # Whatever it is, if it is no study: that is told where the study is read.
    document = document if isinstance(document, dict) else {}
    models, listed = document.get("models"), document.get("strategies")
    named = [
        *(listed if isinstance(listed, list) else ()),
        *(models.values() if isinstance(models, dict) else ()),
    ]
    for entry in named:
        own = entry.get("file") if isinstance(entry, dict) else None
        if isinstance(own, str) and os.path.isfile(own):
            listing.append(f"{own} {files.digest(own)}")
    datasets = document.get("datasets")
    for name, entry in datasets.items() if isinstance(datasets, dict) else ():
        folder = entry.get("folder") if isinstance(entry, dict) else None
        if isinstance(folder, str) and os.path.isdir(folder):
            # A source that there is not is refused where the study is read.
            with contextlib.suppress(UserError):
                digest = listing_digest if streamed(name, entry) else folder_digest
                listing.append(f"{folder} {digest(folder)}")
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


@contextlib.contextmanager
def _workflow(configfile: str) -> Iterator[Any]:
    """Build Snakemake's graph of jobs, silently, running none."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import MissingInputException, MissingRuleException, WorkflowError
    from snakemake.settings import types as settings

    if not Path(configfile).is_file():
        raise UserError(f"there is no study {configfile}")
    with documents.named(configfile):
        documents.refuse_odd_keys(Path(configfile))  # before Snakemake reads the file, which may run it
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
            SnakemakeApi(
                settings.OutputSettings(quiet={settings.Quietness.ALL}, enable_file_logging=False)
            ) as api,
        ):
            made = api.workflow(
                resource_settings=settings.ResourceSettings(cores=1),
                config_settings=settings.ConfigSettings(configfiles=[Path(configfile)]),
                snakefile=Path("Snakefile"),
            )
            made.dag(
                settings.DAGSettings(
                    # As in profiles/default, so that both see the same as stale.
                    max_checksum_file_size=10**12,
                    rerun_triggers=frozenset(
                        [
                            settings.RerunTrigger.MTIME,
                            settings.RerunTrigger.PARAMS,
                            settings.RerunTrigger.INPUT,
                            settings.RerunTrigger.CODE,
                        ]
                    ),
                )
            )
            workflow = made._workflow
            workflow.execution_settings = settings.ExecutionSettings()
            workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
            workflow._build_dag()
            if workflow.persistence.locked:
                raise UserError(
                    "Snakemake is at work in this folder; wait for it, or, if it was killed, run "
                    "'snakemake --unlock'"
                )
            yield workflow
    except (MissingRuleException, MissingInputException) as error:
        raise UserError(" ".join(str(error).split())) from None
    except (SystemExit, WorkflowError) as error:
        text = str(error.code if isinstance(error, SystemExit) else error).removeprefix("error: ")
        raise UserError(text if text not in ("1", "") else said.getvalue().strip()) from None


def _read(configfile: str, workflow: Any) -> Plan:
    jobs = []
    pending: set[str] = set()
    for level in workflow.dag.toposorted():
        # Rules without a command only gather files.
        for job in sorted((job for job in level if job.shellcmd), key=lambda job: list(job.output)):
            outputs = [str(path) for path in job.output if not str(path).endswith(records.SUFFIX)]
            code = json.loads(job.params.code)
            words = shlex.split(job.shellcmd)
            jobs.append(
                Job(
                    rule=job.rule.name,
                    wildcards=dict(job.wildcards.items()),
                    command=tuple(records.command(words[1], words[2 : words.index(">")])),
                    fingerprint=code["fingerprint"],
                    plugins=tuple(code["plugins"]),
                    packages=code["packages"],
                    inputs=tuple(map(str, job.input)),
                    outputs=tuple(outputs),
                    log=str(job.log[0]),
                )
            )
            if workflow.dag.needrun(job) or not workflow.persistence.has_metadata(job):
                pending.update(outputs)
    return Plan(configfile, workflow.globals["STUDY"].name, tuple(jobs), frozenset(pending))


def _cached(configfile: str) -> Path:
    return CACHE / f"plan-{hashlib.sha256(configfile.encode()).hexdigest()[:16]}.json"


def _to_json(found: Plan) -> dict[str, Any]:
    return {"configfile": found.configfile, "study": found.study, "jobs": [asdict(job) for job in found.jobs]}


def _from_json(document: Mapping[str, Any]) -> Plan:
    lists = ("command", "plugins", "inputs", "outputs")
    jobs = [Job(**job | {name: tuple(job[name]) for name in lists}) for job in document["jobs"]]
    return Plan(document["configfile"], document["study"], tuple(jobs))
