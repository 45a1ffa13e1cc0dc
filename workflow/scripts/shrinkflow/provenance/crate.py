"""A Workflow Run RO-Crate: artifacts and what led to them, as a folder that others' tools can read.

What it says is `description`'s; here is what goes into it, and that nothing false does: every file is
checked against its record before anything is written. Nothing in a crate comes from a clock or a random
number, so the same artifacts give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from shrinkflow.errors import UserError
from shrinkflow.provenance import description
from shrinkflow.provenance.checking import ABSENT, DAMAGED, Checker, Fault, listing
from shrinkflow.provenance.description import Graph, Job
from shrinkflow.provenance.lineage import Node, lineage, node


@dataclass(frozen=True)
class CrateSummary:
    """What a crate holds: files beside its metadata, jobs described, bytes of these files."""

    files: int
    actions: int
    bytes: int


def write(targets: Sequence[str], out: Path, configfile: str, title: str) -> CrateSummary:
    """Write a crate of artifacts and of all that led to them, as the new folder `out`.

    Artifacts that are not here, of which only the record is, are described and not contained. Raises
    `UserError`, and writes nothing, where `out` is there and not empty, a target or a record is missing,
    or the bytes of a file are not those that the records promise.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; name a folder that is not, or empty it")
    for path in (description.WORKFLOW, description.CITATION, configfile):
        if not Path(path).is_file():
            raise UserError(
                f"{path} is not there, and a crate needs it; check it out, or name the right file"
            )
    asked = list(dict.fromkeys(Path(target).as_posix() for target in targets))
    found = _gather(asked)
    jobs = _jobs(found)
    graph = description.describe(asked, found, jobs, configfile, title)
    part = out.with_name(f".part.{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _crate(graph).write(part)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(int(entity["contentSize"]) for entity in graph.files.values())
    return CrateSummary(len(graph.files), len(jobs), size)


def _gather(targets: Sequence[str]) -> dict[str, Node]:
    """Return the lineage of targets and what the same jobs made besides, all checked, by path."""
    led = lineage(*targets)
    found = dict(led)
    for made in led.values():
        for path in made.outputs:
            if path not in found:
                found[path] = node(path)
    checker = Checker()
    faults = [fault for path in found for fault in _faults(path, found, led, targets, checker)]
    if faults:
        raise UserError(
            "no crate was written, because these are not what their records say; restore them, or run "
            f"snakemake again:\n  {listing(faults)}"
        )
    return dict(sorted(found.items()))


def _faults(
    path: str, found: Mapping[str, Node], led: Mapping[str, Node], targets: Sequence[str], checker: Checker
) -> Iterator[Fault]:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        yield Fault(path, DAMAGED, "lies outside the project, where a crate cannot hold it")
        return
    faults, record = checker.own(path)
    for fault in faults:
        # What is not here can be described by its record, or as an output by another's; a target cannot.
        if fault.kind != ABSENT or path in targets or (record is None and path in led):
            yield fault
    if record is None:
        return
    for entry in (*record["inputs"], *record["outputs"]):
        known = found[entry["path"]].record if entry["path"] in found else None
        if known is not None and known["artifact"]["md5"] != entry["md5"]:
            yield Fault(path, DAMAGED, f"was made of, or with, another {entry['path']} (md5 {entry['md5']})")
        elif known is not None and entry in record["outputs"] and known["id"] != record["id"]:
            yield Fault(path, DAMAGED, f"was made with {entry['path']}, whose record is of another job")


def _jobs(found: Mapping[str, Node]) -> list[Job]:
    """Return the jobs that made artifacts, in the order of the flow."""
    jobs = [Job(record) for record in {n.record["id"]: n.record for n in found.values() if n.record}.values()]
    for job in jobs:
        if not Path(job.program).is_file():
            raise UserError(f"{job.program} is not there, but made {job.made[0]}; check it out again")
    flow = {rule: position for position, rule in enumerate(description.flow())}
    return sorted(jobs, key=lambda job: (flow.get(job.step, len(flow)), job.made))


def _crate(graph: Graph) -> Any:
    """Return the graph as the library's crate, which writes it together with the files."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(description.TERMS)
    crate.metadata.extra_terms |= description.MORE_TERMS
    for name, value in graph.root.items():
        crate.root_dataset[name] = _compact(value)
    for path, entity in graph.files.items():
        properties = {name: _compact(value) for name, value in entity.items() if value != []}
        source = graph.sources[path]
        if path == description.WORKFLOW:
            number = version("snakemake")
            crate.add_workflow(
                source, path, main=True, lang="snakemake", lang_version=number, properties=properties
            )
        else:
            crate.add_file(source, path, properties=properties)
    for identity, entity in sorted(graph.others.items()):
        properties = {name: _compact(value) for name, value in entity.items() if value != []}
        crate.add(ContextEntity(crate, identity, properties=properties))
    return crate


def _compact(value: Any) -> Any:
    """Return a list of one as its value, as RO-Crate recommends."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
