# Names of files and lists of cells; no rules. What a study is, and whether it can work, is decided in
# workflow/scripts/shrinkflow/study.py.
import json
import os
import re
import shlex
import sys
from pathlib import Path

SCRIPTS = str(Path(workflow.basedir) / "workflow" / "scripts")
sys.path.insert(0, SCRIPTS)
# Jobs outside conda use the Python that runs Snakemake.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

from shrinkflow import fingerprint, progress, recipe, study
from shrinkflow.data import SOURCES
from shrinkflow.data.members import folder_digest
from shrinkflow.errors import UserError
from shrinkflow.models import MODELS
from shrinkflow.records import SUFFIX
from shrinkflow.strategies import SCORES

try:
    STUDY = study.load(config, workflow.configfiles)
except UserError as error:
    sys.exit(f"error: {error}")

CELLS = STUDY.cells()
if workflow.is_main_process:
    progress.watch(len(CELLS))

RESULTS = f"results/{STUDY.name}"
LOGS = f"{RESULTS}/logs"
TIMES = f"{RESULTS}/benchmarks"
NETWORK = "{dataset}/{model}/{weights}"
CURVE = f"{NETWORK}/{{strategy}}"
POINT = f"{CURVE}/ratio{{ratio}}/seed{{seed}}"

RAW = "data/raw/{folder}/{file}"
DATASET = f"data/processed/{STUDY.name}/{{dataset}}.safetensors"
PRETRAINED = f"{RESULTS}/pretrained/{NETWORK}"
SCORED = f"{RESULTS}/scores/{CURVE}/seed{{seed}}/from-{{start}}/scores.safetensors"
CELL = f"{RESULTS}/cells/{POINT}"
CURVES = f"{RESULTS}/curves/{CURVE}.csv"
# The number of threads is the study's, never Snakemake's: results depend on it.
COMPUTING = f"--threads {STUDY.threads} --device {STUDY.device}"
TABLES = [f"{RESULTS}/tables/{table}.csv" for table in ("results", "summary")]
FIGURES = [
    f"{RESULTS}/figures/{figure}.{form}" for figure in STUDY.figures() for form in ("svg", "png")
]


def names(values):
    """A wildcard's regular expression: exactly these names, or none at all."""
    return "|".join(re.escape(str(value)) for value in sorted(set(values))) or "(?!)"


wildcard_constraints:
    dataset=names(pair.dataset for pair in STUDY.pairs),
    model=names(pair.model for pair in STUDY.pairs),
    weights=names(weights for pair in STUDY.pairs for weights in pair.weights),
    strategy=names(cell.strategy for cell in CELLS),
    ratio=names(study.ratio_text(cell.ratio) for cell in CELLS),
    seed=names(STUDY.seeds),
    figure=names(STUDY.figures()),


def code(program, *plugins):
    """What a job computes with: fingerprint of its code, pinned versions of its packages."""
    files = (f"{SCRIPTS}/{program}", *plugins)
    return f"{fingerprint.fingerprint(*files)} {json.dumps(fingerprint.packages(*files))}"


def path(pattern, cell, **more):
    """The file of a cell."""
    ratio = study.ratio_text(cell.ratio)
    fields = {**vars(cell), "ratio": ratio, "start": start(cell), **more}
    return pattern.format(**fields)


def cell_of(wildcards):
    values = {**wildcards, "ratio": float(wildcards.ratio), "seed": int(wildcards.seed)}
    return study.Cell(**values)


def start(cell):
    """What a cell is pruned from, as a wildcard: the pretrained weights, or another cell's ratio."""
    previous = STUDY.predecessor(cell)
    return f"ratio{study.ratio_text(previous.ratio)}" if previous else "pretrained"


def start_checkpoint(wildcards):
    """The checkpoint that wildcard `start` names."""
    if wildcards.start == "pretrained":
        return f"{PRETRAINED}/checkpoint.safetensors"
    ratio = wildcards.start.removeprefix("ratio")
    return f"{CELL}/checkpoint.safetensors".replace("{ratio}", ratio)


def initial_checkpoint(wildcards):
    """The checkpoint a cell is pruned from."""
    previous = STUDY.predecessor(cell_of(wildcards))
    if previous:
        return path(f"{CELL}/checkpoint.safetensors", previous)
    return f"{PRETRAINED}/checkpoint.safetensors"


def previous_mask(wildcards):
    """The mask of the round before, if there is one."""
    previous = STUDY.predecessor(cell_of(wildcards))
    return path(f"{CELL}/mask.safetensors", previous) if previous else []


def collapses():
    """A line of warning per strategy and ratio at which whole layers were pruned away."""
    lost = {}
    for cell in CELLS:
        found = json.loads(Path(path(f"{CELL}/metrics.json", cell)).read_text())
        if found["metrics"]["collapsed_layers"]:
            lost.setdefault((cell.strategy, cell.ratio), []).append(cell)
    return [
        f"warning: {strategy} at ratio {study.ratio_text(ratio)} pruned whole layers away in "
        f"{len(cells)} cell(s); see collapsed_layers in the tables"
        for (strategy, ratio), cells in lost.items()
    ]
