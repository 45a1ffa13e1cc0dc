"""The stages of DVC: slices of a study's plan, and the dvc.yaml that lists them.

DVC's templating cannot name the strategies of a study that are mappings, nor leave a data set out that
two pairs share, so dvc.yaml is written from the plan, and a stage refuses to run when it is not current.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shrinkflow import captions, files, fingerprint, records, strategies
from shrinkflow.data import streamed
from shrinkflow.errors import UserError, nearest
from shrinkflow.provenance import planning
from shrinkflow.provenance.planning import Job, Plan

HEAD = """\
# Written by `shrinkflow stages`, from {configfile}; do not edit.
# One stage per slice of the flow: raw file, data set, weights, cells of a strategy, tables, figures, report.
# Each lets Snakemake make its slice and checks the record of every artifact before DVC may lock it.
"""

# Read by every job, whatever its program.
_RULES = (
    *("Snakefile", "workflow/rules/common.smk", "workflow/rules/upstream.smk"),
    *("workflow/schemas/study.schema.yaml", "requirements.txt"),
)
_STAGE = {
    "fetch": "raw",
    "prepare": "data",
    "pretrain": "pretrained",
    "import_weights": "pretrained",
    "initialise": "pretrained",
    "score": "cells",
    "prune": "cells",
    "prune_filters": "cells",
    "update": "cells",
    "sparsify": "cells",
    "finetune": "cells",
    "measure": "cells",
    "collect": "cells",
    "summarise": "tables",
    "compare": "tables",
    "draw": "figures",
    "report": "report",
}
_RULE_FILES = {
    "raw": ("data",),
    "data": ("data",),
    "pretrained": ("pretrain",),
    "cells": ("prune", "finetune", "metrics"),
    "tables": ("metrics",),
    "figures": ("figures",),
    "report": ("figures",),
}


@dataclass(frozen=True)
class Stage:
    """A stage: its jobs, the files and folders it owns, what it reads, and the keys of the study it obeys."""

    name: str
    jobs: tuple[Job, ...]
    outs: tuple[str, ...]
    deps: tuple[str, ...]
    params: tuple[str, ...]

    @property
    def artifacts(self) -> list[str]:
        """Return every artifact of the stage."""
        return [output for job in self.jobs for output in job.outputs]


def stages(plan: Plan) -> list[Stage]:
    """Return the stages of a study, in the order of the flow."""
    groups: dict[str, list[Job]] = {}
    for job in plan.jobs:
        groups.setdefault(_name(job), []).append(job)
    document = yaml.safe_load(Path(plan.configfile).read_text(encoding="utf-8"))
    found = [_stage(name, jobs, document) for name, jobs in groups.items()]
    order = list(_RULE_FILES)
    return sorted(found, key=lambda stage: order.index(_STAGE[stage.jobs[0].rule]))


def named(plan: Plan, name: str) -> Stage:
    """Return one stage of a study."""
    found = {stage.name: stage for stage in stages(plan)}
    if name not in found:
        raise UserError(f"the study '{plan.study}' has no stage '{name}'{nearest(name, found)}")
    return found[name]


def dvcfile(plan: Plan) -> Path:
    """Return where the stages of a study are listed: the default study's at the top."""
    if plan.configfile == planning.DEFAULT:
        return Path("dvc.yaml")
    return Path("config/dvc") / plan.study / "dvc.yaml"


def text(plan: Plan) -> str:
    """Return the dvc.yaml of a study."""
    file = dvcfile(plan)
    top = os.path.relpath(".", file.parent)
    elsewhere = _owned_elsewhere(file)
    option = "" if plan.configfile == planning.DEFAULT else f" --configfile {plan.configfile}"
    entries: dict[str, Any] = {
        # No output: it runs, and refuses, when the study has other stages than this file.
        "study": {"cmd": f"shrinkflow stages --check{option}", "deps": [plan.configfile]}
    }
    listed = stages(plan)
    for stage in listed:
        if set(stage.outs) & elsewhere:
            continue
        entry: dict[str, Any] = {"cmd": f"shrinkflow stage {stage.name}{option}", "deps": list(stage.deps)}
        if stage.params:
            entry["params"] = [{plan.configfile: list(stage.params)}]
        # Kept between runs: Snakemake decides what is made again.
        entry["outs"] = [{out: {"persist": True}} for out in stage.outs]
        entries[stage.name] = entry
    if top != ".":
        entries = {name: {"wdir": top, **entry} for name, entry in entries.items()}
    document = {"stages": entries, **_shown(listed, "" if top == "." else f"{top}/")}
    head = HEAD.format(configfile=plan.configfile)
    return head + yaml.safe_dump(document, sort_keys=False, width=1000)


def write(plan: Plan) -> bool:
    """Write the dvc.yaml of a study; return whether it changed."""
    file, wanted = dvcfile(plan), text(plan)
    if file.is_file() and file.read_text(encoding="utf-8") == wanted:
        return False
    files.write_text(file, wanted)
    return True


def check(plan: Plan) -> None:
    """Raise `UserError` where the dvc.yaml of a study is not the one its plan gives."""
    file = dvcfile(plan)
    if not file.is_file() or file.read_text(encoding="utf-8") != text(plan):
        option = "" if plan.configfile == planning.DEFAULT else f" --configfile {plan.configfile}"
        raise UserError(
            f"{file} does not list the stages of {plan.configfile} as it is now; run "
            f"'shrinkflow stages{option}', then dvc again"
        )


def _name(job: Job) -> str:
    kind = _STAGE[job.rule]
    values = job.wildcards
    parts = {
        "raw": ["folder", "file"],
        "data": ["dataset"],
        "pretrained": ["dataset", "model", "weights"],
        "cells": ["dataset", "model", "strategy"],
    }
    # DVC allows neither dots nor plus signs in a stage's name.
    return re.sub("[.+]", "_", "-".join([kind, *(values[part] for part in parts.get(kind, []))]))


def _stage(name: str, jobs: list[Job], document: Mapping[str, Any]) -> Stage:
    kind = _STAGE[jobs[0].rule]
    own = {output for job in jobs for output in job.outputs}
    inputs = {path for job in jobs for path in job.inputs} - own
    code: set[str] = set()
    for job in jobs:
        scripts = Path("workflow/scripts")
        reached = fingerprint.closure(scripts / job.command[0], *(scripts / path for path in job.plugins))
        code |= {path.relative_to(Path.cwd()).as_posix() for path in reached}
    rules = {*_RULES, *(f"workflow/rules/{file}.smk" for file in _RULE_FILES[kind])}
    if kind == "report":
        figures = [Path(path).stem for path in inputs if path.endswith(".png")]
        code |= {path.relative_to(Path.cwd()).as_posix() for path in captions.used(figures)}
    dataset = jobs[0].wildcards.get("dataset", "")
    own_data = document.get("datasets", {}).get(dataset, {})
    # DVC would read all pictures of a folder to hash them, which of streamed ones would take hours.
    kept = kind == "data" and "folder" in own_data and not streamed(dataset, own_data)
    folders = {own_data["folder"]} if kept else set()
    return Stage(
        name=name,
        jobs=tuple(jobs),
        outs=tuple(_outs(kind, own)),
        deps=(*sorted(inputs | folders), *sorted(rules | code)),
        params=tuple(_params(kind, jobs, document)),
    )


def _outs(kind: str, artifacts: Iterable[str]) -> list[str]:
    """Folders, but for raw files, whose folders other studies share, and the report, beside all folders."""
    if kind in ("raw", "report"):
        return sorted({text for path in artifacts for text in (path, f"{path}{records.SUFFIX}")})
    # results/<study>/cells/<dataset>/<model>/<weights>/<strategy>, and so for scores.
    depth = 7 if kind == "cells" else None
    return sorted(
        {"/".join(Path(path).parts[:depth] if depth else Path(path).parts[:-1]) for path in artifacts}
    )


def _params(kind: str, jobs: list[Job], document: Mapping[str, Any]) -> list[str]:
    """Return the keys of the study's file that a stage obeys, those alone that stand in it."""
    values = jobs[0].wildcards
    keys: list[str] = []
    if kind in ("raw", "data"):
        named = values.get("dataset") or values.get("folder")
        keys = [f"datasets.{named}"] if kind == "data" or named != "weights" else ["weights"]
    elif kind == "pretrained":
        # Those that torchvision publishes are not in the study's file.
        weights = document.get("weights", {}).get(values["weights"], {})
        keys = [f"weights.{values['weights']}", f"models.{values['model']}", "threads", "device"]
        keys += [f"recipes.{weights['recipe']}"] if "recipe" in weights else []
    elif kind == "cells":
        wanted = ("dataset", "model")
        pair = next(p for p in document["pairs"] if all(p[key] == values[key] for key in wanted))
        keys = ["pairs", "weights", f"models.{values['model']}", "ratios", "budget", "conformance", "seeds"]
        keys += ["finetune"]
        keys += ["threads", "device"]
        if values["strategy"] in {"dense", *filter(_is_usual, document["strategies"])}:
            keys.append(f"recipes.{pair.get('finetune', document['finetune'])}")
        else:
            # A strategy of the study's own is a mapping in this list; others have other recipes.
            keys += ["recipes", "strategies"]
    elif kind == "report":
        keys = ["description", "pairs", "weights", "strategies", "recipes", "ratios", "budget"]
        keys += ["conformance", "seeds", "finetune"]
    return [key for key in keys if _stands(key, document)]


def _is_usual(entry: Any) -> bool:
    """Whether a strategy of the study is one of the registry, finetuned by the recipe for that."""
    return isinstance(entry, str) and strategies.resolve(entry).way.finetuned


def _stands(key: str, document: Any) -> bool:
    for part in key.split("."):
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def _shown(listed: list[Stage], prefix: str) -> dict[str, Any]:
    """Return what `dvc metrics` and `dvc plots` show."""
    curves: dict[str, list[str]] = {}
    metrics: list[str] = []
    for stage in listed:
        for job in stage.jobs:
            if job.rule == "collect":
                pair = f"{job.wildcards['dataset']} {job.wildcards['model']}"
                curves.setdefault(pair, []).append(job.outputs[0])
                metrics += [prefix + path for path in job.outputs if path.endswith(".json")]
    plots: list[dict[str, Any]] = [
        {
            f"accuracy of {pair}": {
                "x": "compression",
                "y": {prefix + path: "top1" for path in paths},
                "template": "scatter",
                "title": f"top-1 after finetuning: {pair}",
                "x_label": "compression ratio",
                "y_label": "top-1",
            }
        }
        for pair, paths in curves.items()
    ]
    pictures = [path for stage in listed for path in stage.artifacts if path.endswith(".png")]
    return {"metrics": metrics, "plots": [*plots, *({prefix + path: None} for path in pictures)]}


def _owned_elsewhere(file: Path) -> set[str]:
    """Return what the stages of other studies make: a raw file has one stage, in whatever study."""
    found: set[str] = set()
    for other in [Path("dvc.yaml"), *sorted(Path("config/dvc").glob("*/dvc.yaml"))]:
        if other != file and other.is_file():
            document = yaml.safe_load(other.read_text(encoding="utf-8"))
            for stage in document["stages"].values():
                found.update(name for out in stage.get("outs", []) for name in out)
    return found
