# Names of files and lists of cells; no rules. What a study is, and whether it can work, is decided in
# workflow/scripts/shrinkflow/study.py.
import json
import re
import shlex
import sys
from pathlib import Path

SCRIPTS = str(Path(workflow.basedir) / "workflow" / "scripts")
sys.path.insert(0, SCRIPTS)

from shrinkflow import fingerprint, recipe, session, study
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
session.use_this_python()
if workflow.is_main_process:
    session.watch(len(CELLS))

RESULTS = f"results/{STUDY.name}"
LOGS = f"{RESULTS}/logs"
TIMES = f"{RESULTS}/benchmarks"
NETWORK = "{dataset}/{model}/{weights}"
CURVE = f"{NETWORK}/{{strategy}}"
POINT = f"{CURVE}/ratio{{ratio}}/seed{{seed}}"

RAW = "data/raw/{folder}/{file}"
DATASET = f"data/processed/{STUDY.name}/{{dataset}}/dataset.safetensors"
PRETRAINED = f"{RESULTS}/pretrained/{NETWORK}"
SCORED = f"{RESULTS}/scores/{CURVE}/seed{{seed}}/from-{{start}}/scores.safetensors"
CELL = f"{RESULTS}/cells/{POINT}"
CURVES = f"{RESULTS}/cells/{CURVE}/curve.csv"
TOP1 = f"{RESULTS}/cells/{CURVE}/top1.json"
# The number of threads is the study's, never Snakemake's: results depend on it.
COMPUTING = f"--threads {STUDY.threads} --device {STUDY.device}"
DRAWING = f"{RESULTS}/figures/{{figure}}"
TABLES = [f"{RESULTS}/tables/{table}.csv" for table in ("results", "summary")]
FIGURES = [f"{RESULTS}/figures/{figure}.{form}" for figure in STUDY.figures() for form in ("svg", "png")]


def names(values):
    """A wildcard's regular expression: exactly these names, or none at all."""
    return "|".join(re.escape(str(value)) for value in sorted(set(values))) or "(?!)"


def code(program, *plugins):
    """What a job computes with: fingerprint of its code, the files found by name, pins of its packages."""
    files = (f"{SCRIPTS}/{program}", *plugins)
    found = {
        "fingerprint": fingerprint.fingerprint(*files),
        "plugins": sorted(map(fingerprint.name, plugins)),
        "packages": fingerprint.packages(*files),
    }
    return json.dumps(found)


def program(name):
    """Where a program lies: no parameter of a job, and not remembered, being derived from its output."""
    return lambda wildcards, output: f"{SCRIPTS}/{name}"


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


def fetches():
    """What to fetch for each raw file of the study, by (folder, file)."""
    found = {
        (name if raw.path else dataset.source, raw.file.name): raw
        for name, dataset in STUDY.datasets.items()
        for raw in dataset.raw
    }
    weights = [entry.raw for entry in STUDY.weights.values() if entry.raw]
    return found | {("weights", raw.file.name): raw for raw in weights}


FETCHES = fetches()


def raw_files(wildcards):
    wanted = STUDY.datasets[wildcards.dataset].raw
    return [RAW.format(folder=key[0], file=key[1]) for key, raw in FETCHES.items() if raw in wanted]


def pictures(wildcards):
    """The content of a folder of pictures, a parameter because no job makes it."""
    folder = STUDY.datasets[wildcards.dataset].folder
    return f"--content {folder_digest(folder)}" if folder else ""


def import_options(wildcards):
    weights = STUDY.weights[wildcards.weights]
    dataset = STUDY.datasets[wildcards.dataset]
    words = ["--model", wildcards.model, "--weights", wildcards.weights]
    words += ["--shape", *dataset.shape, "--classes", dataset.classes]
    words += ["--mean", *weights.mean, "--std", *weights.std]
    return shlex.join(map(str, words))


def score_options(wildcards):
    strategy = STUDY.strategy(wildcards.strategy)
    words = ["--score", strategy.score]
    for name, value in sorted(strategy.parameters.items()):
        words += ["--parameter", f"{name}={json.dumps(value)}"]
    return shlex.join(words)


def score_code(wildcards):
    score = STUDY.strategy(wildcards.strategy).score
    return code("score.py", SCORES.file(score), MODELS.file(wildcards.model))


def prune_options(wildcards, input):
    return shlex.join(["--previous", input.previous]) if input.previous else ""


def curves():
    """The cells of each curve: of one data set, model, weights and strategy."""
    found = {}
    for cell in CELLS:
        found.setdefault(CURVE.format(**vars(cell)), []).append(cell)
    return found


CELLS_OF = curves()


def curve_metrics(wildcards):
    return [path(f"{CELL}/metrics.json", cell) for cell in CELLS_OF[CURVE.format(**wildcards)]]
