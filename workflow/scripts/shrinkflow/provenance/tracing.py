"""The trail of a figure, table, artifact or point: every step back to the raw archive, checked at each."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shrinkflow import files, records
from shrinkflow.errors import UserError
from shrinkflow.provenance import checking, lineage, planning, snapshots, stages, versions
from shrinkflow.provenance.checking import Checker
from shrinkflow.provenance.lineage import Node

# Verdicts that are no disagreement.
NOT_HERE, NO_LOCK, NO_REMOTE, SKIPPED = "not here", "no snapshot", "no remote", "not asked"
# What a trail tells of a record.
_MADE = ("id", "command", "parameters", "code", "environment", "findings")
# Characters of a setting that are shown: the outline of a study is longer.
_LONG = 200
# Cells of a trail that are shown one by one without being asked for.
_FEW = 6
# What a row of the table of results says of a cell, and its metrics.json must say too.
_MEASURES = ("compression", "speedup", "top1", "top5", "loss", "val_top1")


@dataclass(frozen=True)
class Step:
    """An artifact on the trail. Each verdict is "agrees", or says in words what is so instead."""

    path: str
    md5: str | None
    bytes: str
    record: str
    study: str
    lock: str
    remote: str
    inputs: tuple[str, ...]
    made: Mapping[str, Any]

    @property
    def faults(self) -> list[str]:
        """Return what disagrees; that bytes are not here, or no snapshot was taken, is no disagreement."""
        harmless = ("agrees", NOT_HERE, NO_LOCK, NO_REMOTE, SKIPPED)
        verdicts = (self.bytes, self.record, self.study, self.lock, self.remote)
        return [f"{self.path}: {verdict}" for verdict in verdicts if verdict not in harmless]


@dataclass(frozen=True)
class Row:
    """A row of the table of results: the cell, its numbers, and the metrics they were read from."""

    cell: Mapping[str, str]
    measures: Mapping[str, float | None]
    metrics: str | None
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Trail:
    """A target's trail; `faults` is everything that disagrees, empty where all agrees."""

    target: str
    study: str | None
    configfile: str | None
    steps: Mapping[str, Step]
    rows: tuple[Row, ...]
    git: Mapping[str, Any]
    params: tuple[str, ...]
    notes: tuple[str, ...]
    rebuild: tuple[str, ...]
    faults: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the whole trail as JSON."""
        return asdict(self)


def trace(target: str, where: Mapping[str, str], configfile: str | None, *, remote: bool = True) -> Trail:
    """Follow a target back to the raw archives, and check every step.

    `target` is the path of an artifact, or a figure's file wherever it lies (known by the id it carries);
    `where` selects rows of its table of results. Raises `UserError` where there is nothing to follow.
    """
    found, notes, odd = _locate(target)
    nodes = lineage.lineage(found)
    if nodes[found].record is None:
        raise UserError(f"{found} cannot be traced: {nodes[found].fault or 'it has no record'}")
    study = next((name for name in map(lineage.study_of, nodes) if name), None)
    configfile = configfile or (planning.configuration(study) if study else None)
    plan = planning.recall(configfile) if configfile else None
    rows: tuple[Row, ...] = ()
    if where:
        rows = tuple(_rows(found, where, nodes))
        nodes = _only(nodes, found, rows)
    files_ = [Path("dvc.yaml"), *sorted(Path("config/dvc").glob("*/dvc.yaml"))]
    own = stages.dvcfile(plan) if plan else Path("dvc.yaml")
    locked = versions.read(*(file for file in files_ if file != own), own)
    steps = _steps(nodes, plan, locked, own, remote)
    git = _git(own)
    params = tuple(_params(plan, locked)) if plan else ()
    faults = [
        *odd,
        *(fault for step in steps.values() for fault in step.faults),
        *(fault for row in rows for fault in row.faults),
        *params,
    ]
    return Trail(
        target=found,
        study=study,
        configfile=configfile,
        steps=steps,
        rows=rows,
        git=git,
        params=params,
        notes=tuple(notes),
        rebuild=tuple(_rebuild(found, rows, configfile, git, bool(locked.entries))),
        faults=tuple(faults),
    )


def identifier(path: str | Path) -> str | None:
    """Return the record id that the file of a figure or report carries; None where it carries none."""
    data = Path(path).read_bytes()
    if data.startswith(b"\x89PNG"):
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                return getattr(image, "text", {}).get("Identifier")
        except (OSError, UnidentifiedImageError):
            return None
    match = re.search(rb'(<dc:identifier>|<meta name="dcterms.identifier" content=")([0-9a-f]{16})["<]', data)
    return match[2].decode() if match else None


def _locate(target: str) -> tuple[str, list[str], list[str]]:
    """Return (path of the artifact meant, what to say about it, what is odd about it)."""
    path = Path(target)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    name = path.as_posix()
    if name.endswith(records.SUFFIX):
        name = name.removesuffix(records.SUFFIX)
    if records.record_path(name).is_file():
        return name, [], []
    if not path.is_file():
        raise UserError(
            f"{target} is not here and has no record; 'shrinkflow restore {target}' brings it from a snapshot"
        )
    found = identifier(path)
    if found is None:
        raise UserError(f"{target} has no record beside it, and carries no id as figures of shrinkflow do")
    known = [artifact for artifact in lineage.by_id(found) if Path(artifact).suffix == path.suffix]
    if not known:
        raise UserError(
            f"{target} carries the id {found}, which no figure here has; it was drawn from other results: "
            "look through earlier ones with 'git log dvc.lock', check one out, and restore it"
        )
    promised = records.read(records.record_path(known[0]))["artifact"]["md5"]
    note = f"{target} carries the id {found}: it is {known[0]}"
    if files.digest(path) == promised:
        return known[0], [f"{note}, byte for byte"], []
    return known[0], [note], [f"{target}: was changed after it was drawn, it is not {known[0]} any more"]


def _rows(figure: str, where: Mapping[str, str], nodes: Mapping[str, Node]) -> Iterator[Row]:
    table, selected = lineage.rows(figure, where)
    for row in selected:
        metrics = lineage.metrics_of(row, nodes)
        values = {name: float(row[name]) if row[name] else None for name in _MEASURES}
        faults = []
        if metrics is None:
            faults.append(f"{table}: the row {_cell(row)} stems from no metrics on the trail")
        elif Path(metrics).is_file():
            measured = files.read_json(metrics)["metrics"]
            faults += [
                f"{table}: {name} of {_cell(row)} is {value}, {metrics} says {measured[name]}"
                for name, value in values.items()
                if not _equal(value, measured[name])
            ]
        yield Row({name: row[name] for name in lineage.CELL}, values, metrics, tuple(faults))


def _equal(shown: float | None, measured: float | None) -> bool:
    if shown is None or measured is None:
        return shown is measured
    # Tables have six decimals.
    return math.isclose(shown, measured, rel_tol=0, abs_tol=0.51e-6) or shown == measured


def _cell(row: Mapping[str, str]) -> str:
    names = " ".join(row[name] for name in lineage.CELL[:4])
    return f"{names} ratio {row['ratio']} seed {row['seed']}"


def _only(nodes: Mapping[str, Node], target: str, rows: Sequence[Row]) -> dict[str, Node]:
    """Return the target and what led to the selected rows: of other cells, nothing."""
    metrics = {row.metrics for row in rows}
    found: dict[str, Node] = {}
    queue = [target]
    for path in queue:
        if path in found:
            continue
        node = nodes[path]
        found[path] = node
        for made_of in node.inputs:
            if Path(made_of).name == "metrics.json" and made_of not in metrics:
                continue
            curve = Path(made_of).name in ("curve.csv", "layers.csv")
            if curve and not metrics.intersection(nodes[made_of].inputs):
                continue
            queue.append(made_of)
    return found


def _steps(
    nodes: Mapping[str, Node], plan: planning.Plan | None, locked: versions.Locked, own: Path, remote: bool
) -> dict[str, Step]:
    checker = Checker()
    held = _held(nodes, remote)
    taken = versions.lockfile(own).is_file()
    found = {}
    for path, node in nodes.items():
        record = node.record
        md5 = record["artifact"]["md5"] if record else None
        faults, _ = checker.own(path)
        bytes_ = next(
            (fault.reason for fault in faults if fault.kind == checking.DAMAGED and record), "agrees"
        )
        if not Path(path).is_file():
            bytes_ = NOT_HERE
        found[path] = Step(
            path=path,
            md5=md5,
            bytes=bytes_,
            record="agrees" if record else (node.fault or "has no record"),
            study=_study(path, node, plan, checker),
            lock=_lock(path, md5, locked, taken),
            remote=SKIPPED if not remote else NO_REMOTE if held is None else _in_remote(md5, held),
            inputs=tuple(name for name in node.inputs if name in nodes),
            made={name: record[name] for name in _MADE} if record else {},
        )
    return found


def _study(path: str, node: Node, plan: planning.Plan | None, checker: Checker) -> str:
    if plan is None or node.record is None:
        return "agrees"
    job = plan.makers.get(path)
    if job is None:
        return f"{plan.configfile} asks for no such artifact"
    reasons = [fault.reason for fault in checker.artifact(path, job) if fault.kind == checking.STALE]
    return "; ".join(reasons) or "agrees"


def _lock(path: str, md5: str | None, locked: versions.Locked, taken: bool) -> str:
    if not taken:
        return NO_LOCK
    if path in locked.files:
        return "agrees" if locked.files[path] == md5 else f"dvc.lock says md5 {locked.files[path]}"
    if any(path.startswith(f"{folder}/") for folder in locked.unknown):
        return "the list of files that dvc.lock names is neither in the cache nor in the remote"
    return "is not in dvc.lock; take a snapshot"


def _held(nodes: Mapping[str, Node], remote: bool) -> dict[str, str] | None:
    md5s = [node.record["artifact"]["md5"] for node in nodes.values() if node.record]
    return versions.in_remote(md5s) if remote else None


def _in_remote(md5: str | None, held: Mapping[str, str]) -> str:
    return held.get(md5, "agrees") if md5 else "agrees"


def _params(plan: planning.Plan, locked: versions.Locked) -> Iterator[str]:
    """Yield the keys of the study whose values changed since the snapshot."""
    import yaml

    document = yaml.safe_load(Path(plan.configfile).read_text(encoding="utf-8"))
    seen = set()
    for entry in locked.entries.values():
        for key, value in entry.params.get(plan.configfile, {}).items():
            now: Any = document
            for part in key.split("."):
                now = now.get(part) if isinstance(now, dict) else None
            if now != value and key not in seen:
                seen.add(key)
                yield f"{plan.configfile}: '{key}' was {value} when dvc.lock was written, and is {now}"


def _git(dvcfile: Path) -> dict[str, Any]:
    """Return the commit, the uncommitted code, and the commit that holds dvc.lock as it is."""
    lock = versions.lockfile(dvcfile)
    head = _run("git", "rev-parse", "HEAD")
    if head is None:
        return {"commit": None, "dirty": [], "lock": None}
    changed = bool(_run("git", "status", "--porcelain", "--", str(lock)))
    return {
        "commit": head,
        "dirty": snapshots.dirty(),
        "lock": None
        if changed or not lock.is_file()
        else _run("git", "log", "-1", "--format=%H", "--", str(lock)),
    }


def _run(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _rebuild(
    target: str, rows: Sequence[Row], configfile: str | None, git: Mapping[str, Any], locked: bool
) -> Iterator[str]:
    wanted = " ".join(row.metrics for row in rows if row.metrics) if 0 < len(rows) <= 3 else target
    if git["lock"] and git["lock"] != git["commit"]:
        yield f"git checkout {git['lock'][:12]}"
    if locked:
        yield f"shrinkflow restore {wanted}"
    option = "" if configfile in (None, planning.DEFAULT) else f" --configfile {configfile}"
    yield f"snakemake --cores all{option} {wanted}"


def lines(trail: Trail, *, full: bool) -> Iterator[str]:
    """Yield the trail for people: the tree, then environments, git, and what disagrees."""
    yield from trail.notes
    yield from _tree(trail, trail.target, "", "", {}, full)
    yield ""
    yield from _environments(trail.steps.values())
    yield from _git_lines(trail)
    yield "rebuild:"
    yield from (f"  {command}" for command in trail.rebuild)
    yield ""
    count = len(trail.steps)
    if trail.faults:
        yield f"{len(trail.faults)} disagree, of {count} artifacts:"
        yield from (f"  {fault}" for fault in trail.faults)
    else:
        yield f"all agree: {count} artifacts; {_compared(trail)}"


def _tree(trail: Trail, path: str, first: str, rest: str, shown: dict[str, str], full: bool) -> Iterator[str]:
    step = trail.steps[path]
    line = f"{first}{path}  {(step.md5 or '-')[:12]}  {'!!' if step.faults else 'ok'}"
    twin = shown.get(step.made.get("id", path))
    shown.setdefault(step.made.get("id", path), path)
    if twin:
        yield line + ("  (as above)" if twin == path else f"  (made with {Path(twin).name}, above)")
    else:
        yield line
    children = [] if twin else list(step.inputs)
    hidden = [] if full else _hidden(trail, children)
    children = [child for child in children if child not in hidden]
    bar = rest + ("│    " if children or hidden else "     ")
    for fault in step.faults:
        yield f"{bar}!! {fault.removeprefix(f'{path}: ')}"
    if not twin:
        yield from (f"{bar}{text}" for text in _said(step))
    if path.endswith("tables/results.csv"):
        yield from (f"{bar}row: {_row(row)}" for row in trail.rows)
    if hidden:
        end = "├─ " if children else "└─ "
        cells = "1 cell" if len(hidden) == 1 else f"{len(hidden)} cells"
        yield f"{rest}{end}{cells}, all of whose artifacts agree (--full shows them)"
    for index, child in enumerate(children):
        branch, further = ("└─ ", "   ") if index == len(children) - 1 else ("├─ ", "│  ")
        yield from _tree(trail, child, rest + branch, rest + further, shown, full)


def _hidden(trail: Trail, children: Sequence[str]) -> list[str]:
    """Return the cells that need not be shown: of a long trail, those of which all agrees."""
    cells = [path for path in trail.steps if path.endswith("/metrics.json")]
    if len(cells) <= _FEW:
        return []
    # The first is an example of the way back to the raw archive.
    cells = cells[1:]
    return [
        child
        for child in children
        if child in cells and not any(trail.steps[path].faults for path in _below(trail, child))
    ]


def _below(trail: Trail, path: str) -> set[str]:
    found: set[str] = set()
    queue = [path]
    for name in queue:
        if name not in found:
            found.add(name)
            queue.extend(trail.steps[name].inputs)
    return found


def _said(step: Step) -> Iterator[str]:
    """Yield how an artifact was made, in a line."""
    if not step.made:
        return
    program, *words = step.made["command"]
    # Paths are the branches of the tree; what is left are the settings.
    settings = _settings(words)
    if step.bytes == NOT_HERE:
        yield "not here; the record speaks for it"
    yield f"{program} {settings}".rstrip() + f"  (code {step.made['code']['fingerprint']})"
    for name, value in step.made["findings"].items():
        if value:
            yield f"found: {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _settings(words: Sequence[str]) -> str:
    shown: list[str] = []
    group: list[str] = []
    for word in [*words, "--"]:
        if word.startswith("--"):
            # The user's own files of code are settings too.
            if group and not any("/" in value and ".py" not in value for value in group[1:]):
                shown += [value if len(value) <= _LONG else f"{value[:_LONG]}..." for value in group]
            group = [word]
        else:
            group.append(word)
    return " ".join(shown)


def _row(row: Row) -> str:
    numbers = {
        "top-1": ("top1", 100.0, "%", 2),
        "compression": ("compression", 1.0, "x", 3),
        "speedup": ("speedup", 1.0, "x", 3),
    }
    found = []
    for label, (name, factor, unit, digits) in numbers.items():
        value = row.measures[name]
        found.append(f"{label} " + ("none" if value is None else f"{value * factor:.{digits}f} {unit}"))
    return f"{_cell(row.cell)}: {', '.join(found)}"


def _environments(steps: Iterable[Step]) -> Iterator[str]:
    """Yield each environment once, with the number of artifacts made in it."""
    merged: dict[str, set[str]] = {}
    count = 0
    for step in steps:
        if step.made:
            count += 1
            environment = step.made["environment"]
            facts = {name: value for name, value in environment.items() if name != "packages"}
            for name, value in [*facts.items(), *environment["packages"].items()]:
                merged.setdefault(name, set()).add(str(value))
    words = [f"{name} {' and '.join(sorted(values))}" for name, values in merged.items()]
    yield f"environment of {count} artifacts: {', '.join(words)}"


def _git_lines(trail: Trail) -> Iterator[str]:
    git = trail.git
    if git["commit"] is None:
        yield "git: this is no git checkout; fingerprints alone say which code it was"
        return
    dirty = git["dirty"]
    state = f"with changes to {', '.join(dirty[:5])}{', ...' if len(dirty) > 5 else ''}" if dirty else "clean"
    yield f"git: commit {git['commit'][:12]}, code and configuration {state}"
    if git["lock"]:
        yield f"dvc.lock: as in commit {git['lock'][:12]}"


def _compared(trail: Trail) -> str:
    steps = list(trail.steps.values())
    words = ["bytes, record and study"]
    if all(step.lock == "agrees" for step in steps):
        words.append("dvc.lock")
    else:
        words.append("no snapshot was taken")
    words.append(
        {True: "remote", False: "remote not asked"}[steps[0].remote != SKIPPED]
        if steps[0].remote != NO_REMOTE
        else "no remote is set"
    )
    absent = sum(step.bytes == NOT_HERE for step in steps)
    return ", ".join(words) + (f"; the bytes of {absent} are not here" if absent else "")
