"""What an RO-Crate says of a study: its workflow, jobs, files, code, environments and licences.

It follows Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance/0.5), which builds on RO-Crate
1.1: the Snakefile is the workflow, a program a step of it, a program with its code and environment a tool,
a job an action that links files and values to what it made of them. Times and people are in no record, so
no action has an end or an agent.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from shrinkflow import files, fingerprint, records
from shrinkflow.errors import UserError
from shrinkflow.provenance.lineage import Node

WORKFLOW = "Snakefile"
CITATION = "CITATION.cff"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
# RO-Crate 1.1 lacks this one; the profile says to add it like this.
MORE_TERMS = {"buildInstructions": "https://codemeta.github.io/terms/buildInstructions"}

_SCRIPTS = "workflow/scripts"
_CODE = ("workflow/rules/*.smk", "workflow/schemas/*.yaml", "workflow/report/*.rst", f"{_SCRIPTS}/**/*.py")
_README = "README.md"
_ENGINE_CONFIGURATION = "profiles/default/config.yaml"
# {file: (page of its format, name of its format)}
_ENVIRONMENTS = {
    "environment.yml": (
        "https://docs.conda.io/projects/conda/en/latest/user-guide/tasks/manage-environments.html",
        "Conda environment file",
    ),
    "requirements.txt": (
        "https://pip.pypa.io/en/stable/reference/requirements-file-format/",
        "Requirements file of pip",
    ),
}
_ABOUT = (_README, "LICENSE", CITATION, "pyproject.toml", _ENGINE_CONFIGURATION, *_ENVIRONMENTS)

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_SAFETENSORS = "https://github.com/huggingface/safetensors"
_COMPLETED = "http://schema.org/CompletedActionStatus"
_LICENCES, _NO_LICENCE = "#licences", "#no-licence-stated"

_BYTES = "application/octet-stream"
_ENCODINGS = {
    "": "text/plain",  # Snakefile, LICENSE
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".py": "text/x-python",
    ".rst": "text/x-rst",
    ".smk": "text/plain",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}

Entity = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A job as its records tell it, and how a crate calls it and what ran."""

    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Return the id of its action."""
        return f"#{self.record['id']}"

    @property
    def program(self) -> str:
        """Return where its program lies."""
        return f"{_SCRIPTS}/{self.record['code']['program']}"

    @property
    def step(self) -> str:
        """Return the name of its step, which is its rule's: rules are called like their programs."""
        return Path(self.program).stem

    @property
    def tool(self) -> str:
        """Return the id of what ran: the program as of its code, plugins and environment."""
        return f"{self.program}#{_hash([self.record['code'], self.record['environment']])}"

    @property
    def inputs(self) -> list[str]:
        """Return the files it read."""
        return [entry["path"] for entry in self.record["inputs"]]

    @property
    def made(self) -> list[str]:
        """Return the files it made."""
        return [entry["path"] for entry in self.record["outputs"]]

    def slot(self, path: str) -> str:
        """Return the flag that names a file, or the closest folder that it is in, in the command."""
        named: dict[Path, str] = {}
        flag = ""
        for word in self.record["command"][1:]:
            if word.startswith("--"):
                flag = word.removeprefix("--")
            elif flag:
                named[Path(word)] = flag
        places = [Path(path), *Path(path).parents][:-1]
        return next((named[place] for place in places if place in named), "files")


@dataclass
class Graph:
    """The entities of a crate by id, the files apart; `sources` says where files lie in the project."""

    root: Entity = field(default_factory=dict)
    files: dict[str, Entity] = field(default_factory=dict)
    others: dict[str, Entity] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def contain(self, path: str, source: str, **properties: Entity | str) -> None:
        """Add a file, by its path in the crate."""
        self.sources[path] = source
        self.files[path] = {
            "@type": "File",
            "name": path,
            "contentSize": str(Path(source).stat().st_size),
            "encodingFormat": self.encoding(path),
            "md5": files.digest(source),
            "sha256": files.digest(source, "sha256"),
            **properties,
        }

    def encoding(self, path: str) -> list[Any]:
        """Return the media type of a file and, where that says little, the page of its format."""
        if Path(path).suffix == ".safetensors":
            return [_BYTES, self.add(_SAFETENSORS, "WebSite", name="safetensors")]
        return [_ENCODINGS.get(Path(path).suffix, _BYTES)]

    def add(self, identity: str, kind: str, **properties: Any) -> Entity:
        """Add an entity that is no file, and return a reference to it; the first of an id stays."""
        self.others.setdefault(identity, {"@type": kind, **properties})
        return {"@id": identity}

    def refer(self, path: str) -> Entity:
        """Return a reference to a file, in the crate or not."""
        return {"@id": quote(path) if path in self.files else f"#absent/{quote(path)}"}

    def file(self, path: str) -> Entity:
        """Return the entity of a file, in the crate or not."""
        return self.files[path] if path in self.files else self.others[self.refer(path)["@id"]]


def describe(
    targets: Sequence[str], found: Mapping[str, Node], jobs: Sequence[Job], configfile: str, title: str
) -> Graph:
    """Return what a crate says of artifacts; `found` are they and what led to them, `jobs` made these.

    Raises `UserError` where the study or CITATION.cff cannot be read.
    """
    graph = Graph()
    cited = _mapping(CITATION, ("title", "version", "license", "authors", "abstract"))
    study = _mapping(configfile)
    licence = _add_licences(graph, cited)
    for path, source in _project(configfile).items():
        # A study from elsewhere is its author's.
        graph.contain(path, source, **({"license": licence} if source == path else {}))
    _add_artifacts(graph, found, jobs)
    tools = list({job.tool: _add_tool(graph, job, cited) for job in jobs}.values())
    actions = [_add_action(graph, job) for job in jobs]
    _add_workflow(graph, jobs, tools, cited)
    runs = _add_run(graph, targets, jobs, configfile, title)
    if _README in graph.files:
        graph.files[_README]["about"] = {"@id": "./"}
    graph.root = {
        "name": title,
        "description": (
            f"{study.get('description') or ''} Holds {', '.join(targets)} and all that led there, from the "
            f"raw files on: {len(jobs)} jobs with inputs, outputs, parameters, code and environment."
        ).strip(),
        "datePublished": _date(targets),
        "license": {"@id": _LICENCES},
        "conformsTo": [
            graph.add(url, "CreativeWork", name=name, version=url.rsplit("/", 1)[1])
            for url, name in _PROFILES.items()
        ],
        "mentions": [*runs, *actions],
    }
    return graph


def flow() -> list[str]:
    """Return the names of the rules, in the order in which the Snakefile includes them."""
    included = re.findall(r'^include: "(.+)"', Path(WORKFLOW).read_text(encoding="utf-8"), re.MULTILINE)
    rules = "\n".join(Path(path).read_text(encoding="utf-8") for path in included)
    return re.findall(r"^rule (\w+):", rules, re.MULTILINE)


def _mapping(path: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    try:
        read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} holds no keys and values; write it as YAML")
    for key in keys:
        if key not in read:
            raise UserError(f"{path} lacks '{key}'; add it")
    return read


def _project(configfile: str) -> dict[str, str]:
    """Return the project's files that a crate holds, code, study and what tells of them: {there: here}."""
    code = sorted(path.as_posix() for pattern in _CODE for path in Path().glob(pattern))
    about = [path for path in _ABOUT if Path(path).is_file()]
    return {path: path for path in (WORKFLOW, *about, *code)} | {_place(configfile): configfile}


def _place(configfile: str) -> str:
    """Return where a crate holds the study's file: where it is or, if outside the project, by its name."""
    path = Path(configfile)
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def _add_licences(graph: Graph, cited: Mapping[str, Any]) -> Entity:
    """Add what is known of licences; return a reference to the code's."""
    graph.add(
        _LICENCES,
        "CreativeWork",
        name="No single licence",
        description=(
            f"The project's code and documents are under {cited['license']}, as LICENSE says. For data sets, "
            "and for the results computed from them, the project states no licence; this crate grants none."
        ),
    )
    graph.add(
        _NO_LICENCE,
        "CreativeWork",
        name="No licence stated",
        description="The project states no licence for this data; ask those who published it.",
    )
    url = f"https://spdx.org/licenses/{cited['license']}"
    return graph.add(url, "CreativeWork", name=cited["license"], url=url)


def _add_artifacts(graph: Graph, found: Mapping[str, Node], jobs: Sequence[Job]) -> None:
    told = {entry["path"]: entry for job in jobs for entry in (*job.record["inputs"], *job.record["outputs"])}
    for path, made in found.items():
        if Path(path).is_file():
            graph.contain(path, path)
            if path.startswith("data/"):
                graph.files[path]["license"] = {"@id": _NO_LICENCE}
        else:
            # By its # no part of the crate, as RO-Crate has it for files that are only spoken of.
            graph.add(
                graph.refer(path)["@id"],
                "File",
                name=path,
                description="Not in this crate: where it was written, the file itself was not there.",
                contentSize=str(told[path]["size"]),
                encodingFormat=graph.encoding(path),
                md5=told[path]["md5"],
            )
        if made.record:
            record = records.record_path(path).as_posix()
            action = {"@id": f"#{made.record['id']}"}
            graph.contain(record, record, description=f"The record of {path}: what made it.", about=action)
    for job in jobs:
        for plugin in job.record["code"]["plugins"]:
            # A data set's module says who published it.
            if plugin.startswith("shrinkflow/data/") and Path(_SCRIPTS, plugin).is_file():
                for path in (*job.inputs, *job.made):
                    graph.file(path).setdefault("description", _docstring(f"{_SCRIPTS}/{plugin}"))


def _add_tool(graph: Graph, job: Job, cited: Mapping[str, Any]) -> Entity:
    """Add what ran: a program, as the code and in the environment that it ran with."""
    code, environment = job.record["code"], job.record["environment"]
    reference = graph.refer(job.program)
    graph.files[job.program] |= {
        "@type": ["File", "SoftwareSourceCode"],
        "description": _docstring(job.program),
        "version": cited["version"],
        "url": reference,
    }
    settings = {name: value for name, value in environment.items() if name != "packages"}
    return graph.add(
        job.tool,
        "SoftwareApplication",
        name=code["program"] + (f" with {', '.join(code['plugins'])}" if code["plugins"] else ""),
        description=f"{_docstring(job.program).splitlines()[0]} {_present(code)}",
        softwareVersion=code["fingerprint"],
        url=reference,
        mainEntity=reference,
        input=[],
        output=[],
        softwareRequirements=_add_packages(graph, environment),
        additionalProperty=[
            _add_value(graph, f"environment/{name}", name, value) for name, value in sorted(settings.items())
        ],
    )


def _add_packages(graph: Graph, environment: Mapping[str, Any]) -> list[Entity]:
    """Add Python and packages, in the versions that ran."""
    python = f"https://docs.python.org/release/{quote(environment['python'])}/"
    found = [
        graph.add(
            python, "SoftwareApplication", name="Python", softwareVersion=environment["python"], url=python
        )
    ]
    for name, number in sorted(environment["packages"].items()):
        # A build has no page of its own: 2.13.0+cpu.
        public, _, build = number.partition("+")
        page = f"https://pypi.org/project/{name}/{public}/"
        found.append(
            graph.add(
                f"{page}#{quote(build)}" if build else page,
                "SoftwareApplication",
                name=name,
                softwareVersion=number,
                url=page,
            )
        )
    return found


def _present(code: Mapping[str, Any]) -> str:
    """Say whether the code in the project is still what ran."""
    paths = [f"{_SCRIPTS}/{name}" for name in (code["program"], *code["plugins"])]
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        return f"Of what ran, this is not in the crate: {', '.join(Path(path).name for path in missing)}."
    now = fingerprint.fingerprint(*paths)
    if now != code["fingerprint"]:
        return f"The code in this crate is another (fingerprint {now}) than what ran ({code['fingerprint']})."
    return f"The code in this crate is what ran (fingerprint {now})."


def _add_action(graph: Graph, job: Job) -> Entity:
    objects = [_fill(graph, job, "input", path) for path in job.inputs]
    for name, value in _flat(job.record["parameters"]):
        slot = _add_slot(graph, job, "parameter", name, _type(value))
        objects.append(_add_value(graph, f"{job.step}/{name}", name, value, exampleOfWork=slot))
    results = [_fill(graph, job, "output", path) for path in job.made]
    for name, value in _flat(job.record["findings"]):
        results.append(_add_value(graph, f"{job.step}/finding/{name}", name, value))
    return graph.add(
        job.id,
        "CreateAction",
        name=f"{job.step}: {job.made[0]}",
        description=shlex.join(["python", job.program, *job.record["command"][1:]]),
        instrument={"@id": job.tool},
        object=objects,
        result=results,
        actionStatus=_COMPLETED,
    )


def _fill(graph: Graph, job: Job, role: str, path: str) -> Entity:
    """Return a reference to a file of a job, having noted which of the program's slots it fills."""
    slot = _add_slot(graph, job, role, job.slot(path), "File")
    slots = graph.file(path).setdefault("exampleOfWork", [])
    if slot not in slots:
        slots.append(slot)
    return graph.refer(path)


def _add_slot(graph: Graph, job: Job, role: str, name: str, kind: str) -> Entity:
    """Add a slot that a program has for files or values, and note it at the tool."""
    identity = f"{job.program}#{role}/{quote(name)}"
    slot = graph.add(identity, "FormalParameter", name=name, additionalType=kind)
    if graph.others[identity]["additionalType"] != kind:
        # A number in one job and null in another.
        graph.others[identity]["additionalType"] = "Text"
    slots = graph.others[job.tool]["output" if role == "output" else "input"]
    if slot not in slots:
        slots.append(slot)
    return slot


def _add_value(graph: Graph, where: str, name: str, value: Any, **properties: Any) -> Entity:
    """Add a value; equal ones of a name are one entity."""
    text = json.dumps(value, sort_keys=True)
    plain = value if isinstance(value, bool | int | float | str) else text
    identity = f"#{quote(where)}/{_hash(value)[:8]}"
    return graph.add(identity, "PropertyValue", name=name, value=plain, **properties)


def _type(value: Any) -> str:
    return {bool: "Boolean", int: "Integer", float: "Float"}.get(type(value), "Text")


def _add_workflow(
    graph: Graph, jobs: Sequence[Job], tools: Sequence[Entity], cited: Mapping[str, Any]
) -> None:
    # In a study with rounds, steps repeat: positions are those of the first round.
    steps = [
        graph.add(
            f"{WORKFLOW}#{step}",
            "HowToStep",
            name=step,
            description=_docstring(mine[0].program),
            position=str(position),
            workExample=[{"@id": tool} for tool in dict.fromkeys(job.tool for job in mine)],
        )
        for position, (step, mine) in enumerate(_by_step(jobs).items(), 1)
    ]
    environments = [path for path in _ENVIRONMENTS if path in graph.files]
    for path in environments:
        page, name = _ENVIRONMENTS[path]
        graph.files[path]["conformsTo"] = graph.add(page, "CreativeWork", name=name)
    required = [graph.refer(path) for path in environments]
    configured, asked = (
        graph.add(f"{WORKFLOW}#{name}", "FormalParameter", name=name, additionalType="File")
        for name in ("configfile", "targets")
    )
    graph.files[WORKFLOW] |= {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        "name": cited["title"],
        "description": " ".join(cited["abstract"].split()),
        "version": cited["version"],
        "author": [_add_author(graph, author) for author in cited["authors"]],
        "citation": [
            graph.refer(CITATION),
            *(_add_reference(graph, work) for work in cited.get("references", [])),
        ],
        "conformsTo": graph.add(_BIOSCHEMAS, "CreativeWork", name="Bioschemas ComputationalWorkflow profile"),
        "url": graph.refer(_README if _README in graph.files else WORKFLOW),
        "hasPart": list(tools),
        "step": steps,
        "input": configured,
        "output": asked,
        # The profile's term for files that an environment is made from, and the one that others know.
        "buildInstructions": required,
        "softwareRequirements": required,
    }


def _add_author(graph: Graph, author: Mapping[str, str]) -> Entity:
    kind = "Organization" if "name" in author else "Person"
    return graph.add(author.get("orcid") or f"#{quote(_name(author))}", kind, name=_name(author))


def _add_reference(graph: Graph, work: Mapping[str, Any]) -> Entity:
    return graph.add(
        work.get("url") or f"#{quote(work['title'])}",
        "ScholarlyArticle",
        name=work["title"],
        author=[_name(author) for author in work["authors"]],
        datePublished=str(work.get("year", "")),
    )


def _name(author: Mapping[str, str]) -> str:
    return author.get("name") or f"{author.get('given-names', '')} {author.get('family-names', '')}".strip()


def _add_run(
    graph: Graph, targets: Sequence[str], jobs: Sequence[Job], configfile: str, title: str
) -> list[Entity]:
    """Add the run of the workflow and that of its engine; return references to their actions."""
    study = _place(configfile)
    graph.files[study]["exampleOfWork"] = {"@id": f"{WORKFLOW}#configfile"}
    for path in targets:
        graph.files[path]["exampleOfWork"].append({"@id": f"{WORKFLOW}#targets"})
    identity = _hash([job.id for job in jobs])
    run = graph.add(
        f"#run-{identity}",
        "CreateAction",
        name=title,
        description=(
            "All jobs that led to the results, run by one call of Snakemake or by several. To run them: "
            + shlex.join(["snakemake", "--cores", "all", *targets, "--configfile", study])
        ),
        instrument={"@id": WORKFLOW},
        object=graph.refer(study),
        result=[graph.refer(path) for path in targets],
        actionStatus=_COMPLETED,
    )
    controls = [
        graph.add(
            f"#control-{step}-{identity}",
            "ControlAction",
            name=f"Snakemake runs {step}",
            instrument={"@id": f"{WORKFLOW}#{step}"},
            object=[{"@id": job.id} for job in mine],
            actionStatus=_COMPLETED,
        )
        for step, mine in _by_step(jobs).items()
    ]
    number = version("snakemake")
    engine = graph.add(
        f"https://pypi.org/project/snakemake/{number}/",
        "SoftwareApplication",
        name="Snakemake",
        description="The version is that of where this crate was written; records do not hold it.",
        softwareVersion=number,
        url="https://snakemake.readthedocs.io/",
    )
    organize = graph.add(
        f"#engine-{identity}",
        "OrganizeAction",
        name=f"Snakemake runs {WORKFLOW}",
        instrument=engine,
        object=controls,
        result=run,
        actionStatus=_COMPLETED,
    )
    # The profile's text has this among the objects of the OrganizeAction, its validator only ControlActions.
    if _ENGINE_CONFIGURATION in graph.files:
        graph.files[_ENGINE_CONFIGURATION]["about"] = organize
    return [run, organize, *controls]


def _by_step(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.step, []).append(job)
    return found


def _date(targets: Sequence[str]) -> str:
    """Return the date of git's last commit or, where there is no git, of the newest target."""
    asked = ["git", "log", "-1", "--format=%cI"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        newest = max(int(Path(path).stat().st_mtime) for path in targets)
        return datetime.fromtimestamp(newest, UTC).isoformat()


def _docstring(path: str) -> str:
    return ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8"))) or Path(path).name


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values; those of a mapping inside are called outer.inner."""
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
