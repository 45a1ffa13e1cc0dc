# Names of files and lists of cells; no rules. What a study is, and whether it can work, is decided in
# workflow/scripts/shrinkflow/study.py.
import gc
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

# Snakemake takes braces in any path for wildcards.
if set("{}") & set(workflow.basedir):
    sys.exit(f"error: the project's folder is {workflow.basedir}; rename what has braces in its name")

# Importing torch makes a million objects, and looking for garbage among them again and again takes a tenth of a start.
gc.set_threshold(100_000)
SCRIPTS = str(Path(workflow.basedir) / "workflow" / "scripts")
sys.path.insert(0, SCRIPTS)

from shrinkflow import (
    captions,
    devices,
    estimate,
    fingerprint,
    models,
    outline,
    recipe,
    session,
    strategies,
    study,
    way,
)
from shrinkflow.data import SOURCES
from shrinkflow.data.members import folder_digest, listing_digest
from shrinkflow.errors import UserError
from shrinkflow.records import SUFFIX
from shrinkflow.resources import asked, gpus
from shrinkflow.strategies import moves

try:
    STUDY = study.load(config, workflow.configfiles)
except UserError as error:
    sys.exit(f"error: {error}")

CELLS = STUDY.cells()
# With the rounds that lie between the ratios of an iterative schedule.
JOBS = STUDY.jobs()
session.use_this_python()
# No parameters of jobs: which GPU computes changes no result.
os.environ[devices.JOBS_PER_GPU] = str(STUDY.jobs_per_gpu)
if workflow.remote_exec:
    os.environ[devices.ASSIGNED] = "yes"
PROGRESS = session.watch(len(CELLS)) if workflow.is_main_process else None

RESULTS = f"results/{STUDY.name}"
LOGS = f"{RESULTS}/logs"
TIMES = f"{RESULTS}/benchmarks"
RESUME = f"{RESULTS}/resume"
NETWORK = "{dataset}/{model}/{weights}"
CURVE = f"{NETWORK}/{{strategy}}"
POINT = f"{CURVE}/ratio{{ratio}}/seed{{seed}}"

RAW = "data/raw/{folder}/{file}"
DATASET = f"data/processed/{STUDY.name}/{{dataset}}/dataset.safetensors"
PRETRAINED = f"{RESULTS}/pretrained/{NETWORK}"
KEPT = f"{PRETRAINED}/kept.safetensors"
INITIAL = f"{PRETRAINED}/initial-seed{{seed}}.safetensors"
SCORED = f"{RESULTS}/scores/{CURVE}/seed{{seed}}/from-{{start}}/scores.safetensors"
CELL = f"{RESULTS}/cells/{POINT}"
CURVES = f"{RESULTS}/cells/{CURVE}/curve.csv"
LAYERS = f"{RESULTS}/cells/{CURVE}/layers.csv"
TOP1 = f"{RESULTS}/cells/{CURVE}/top1.json"
# Networks of all epochs, where the study wants to know what a choice by the test set would have claimed.
CANDIDATES = {"candidates": f"{CELL}/candidates.safetensors"} if STUDY.best_test_epoch else {}
# The number of threads is the study's, never Snakemake's: results depend on it.
COMPUTING = f"--threads {STUDY.threads} --device {STUDY.device}"
# What jobs ask a cluster for, those that compute with networks also for a GPU: no part of a result.
ASKED = asked(STUDY)
COMPUTED = ASKED | gpus(STUDY)
DRAWING = f"{RESULTS}/figures/{{figure}}"
TABLE = f"{RESULTS}/tables/{{}}.csv"
COMPARED = [TABLE.format(name) for name in ("comparisons", "ranking", "variance")]
TABLES = [*(TABLE.format(name) for name in ("results", "summary", "layers")), *COMPARED]
FIGURES = [f"{RESULTS}/figures/{figure}.{form}" for figure in STUDY.figures() for form in ("svg", "png")]
REPORT = f"{RESULTS}/report.html"
# What varies from run to run lies apart: it is in no table, no snapshot and no stage of DVC.
COST = f"{RESULTS}/costs/{POINT}.json"
COSTED = STUDY.costed()
COSTS, COSTS_REPORT = f"{RESULTS}/costs/costs.csv", f"{RESULTS}/costs/report.html"
COSTS_FIGURE = [f"{RESULTS}/costs/costs.{form}" for form in ("svg", "png")]


def names(values):
    """A wildcard's regular expression: exactly these names, or none at all."""
    return "|".join(re.escape(str(value)) for value in sorted(set(values))) or "(?!)"


@cache
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


def scores_of(cell):
    """The scores that a cell's mask is chosen by."""
    return path(SCORED, STUDY.chooser(cell))


def cell_of(wildcards):
    values = {**wildcards, "ratio": float(wildcards.ratio), "seed": int(wildcards.seed)}
    return study.Cell(**values)


def start(cell):
    """What is scored for a cell, as a wildcard: the pretrained network, a fresh one, or another cell's.

    Scores in rounds depend on the ratio they lead to.
    """
    previous, chosen = STUDY.predecessor(cell), STUDY.strategy(cell.strategy).way
    text = f"ratio{study.ratio_text(previous.ratio)}" if previous else chosen.start
    several = chosen.rounds > 1 and not chosen.while_training
    return f"{text}-to-ratio{study.ratio_text(cell.ratio)}" if several else text


def start_checkpoint(wildcards):
    """The checkpoint that wildcard `start` names."""
    text = wildcards.start.partition("-to-")[0]
    if text == way.PRETRAINED:
        return f"{PRETRAINED}/checkpoint.safetensors"
    if text == way.INITIALISATION:
        return INITIAL
    return f"{CELL}/checkpoint.safetensors".replace("{ratio}", text.removeprefix("ratio"))


def pruned_from(wildcards):
    """The checkpoint a cell is pruned from."""
    cell = cell_of(wildcards)
    previous = STUDY.predecessor(cell)
    if previous:
        return path(f"{CELL}/checkpoint.safetensors", previous)
    fresh = STUDY.strategy(cell.strategy).way.start == way.INITIALISATION
    return path(INITIAL if fresh else f"{PRETRAINED}/checkpoint.safetensors", cell)


def trained_from(wildcards):
    """The checkpoint whose weights, masked, a cell is trained from."""
    strategy = STUDY.strategy(wildcards.strategy)
    if strategy.name in MOVED:
        return f"{CELL}/updated.safetensors"
    if strategy.way.retraining == way.WEIGHTS:
        return KEPT
    return INITIAL if strategy.way.retraining == way.SCRATCH else pruned_from(wildcards)


def keeping(wildcards, output):
    """Where a job puts the networks of all epochs, if it does."""
    return shlex.join(["--candidates", output.candidates] if CANDIDATES else [])


def claiming(wildcards, input):
    """Where the networks of all epochs are, if they are kept."""
    return shlex.join(["--candidates", input.candidates] if CANDIDATES else [])


def previous_mask(wildcards):
    """The mask of the round before, if there is one."""
    previous = STUDY.predecessor(cell_of(wildcards))
    return path(f"{CELL}/mask.safetensors", previous) if previous else []


def histories(wildcards):
    """The histories of a cell's training, and of all rounds before it."""
    cell, found = cell_of(wildcards), []
    while cell:
        found.append(path(f"{CELL}/history.csv", cell))
        cell = STUDY.predecessor(cell)
    return found


def lent_mask(wildcards):
    """The mask whose layer sizes a cell takes over, if it does."""
    lender = STUDY.lender(cell_of(wildcards))
    return path(f"{CELL}/mask.safetensors", lender) if lender else []


def fetches():
    """What to fetch for each raw file of the study, by (folder, file)."""
    found = {
        (name if raw.path else dataset.source, raw.file.name): raw
        for name, dataset in STUDY.datasets.items()
        for raw in dataset.raw
    }
    used = [STUDY.initial(name, pair.model) for pair in STUDY.pairs for name in pair.weights]
    return found | {("weights", entry.raw.file.name): entry.raw for entry in used if entry.raw}


FETCHES = fetches()
# Imported by name: by the jobs that remove filters, and by those that score in rounds.
STRUCTURE = f"{SCRIPTS}/shrinkflow/structure.py"
ROUNDS = f"{SCRIPTS}/shrinkflow/rounds.py"
# Strategies that move the weights which stay.
MOVED = {name for name, strategy in STUDY.strategies.items() if moves(strategy)}


def raw_files(wildcards):
    wanted = STUDY.datasets[wildcards.dataset].raw
    return [RAW.format(folder=key[0], file=key[1]) for key, raw in FETCHES.items() if raw in wanted]


def pictures(wildcards):
    """The content of a folder of pictures, a parameter because no job makes it.

    Of streamed ones names and sizes: their bytes are compared whenever they are read.
    """
    dataset = STUDY.datasets[wildcards.dataset]
    digest = listing_digest if dataset.streamed else folder_digest
    try:
        return f"--content {digest(dataset.folder)}" if dataset.folder else ""
    except UserError as error:
        # Anything but leaving, Snakemake would tell with a traceback.
        sys.exit(f"error: {error}")


def prepare_code(wildcards):
    source = SOURCES.file(STUDY.datasets[wildcards.dataset].source)
    return code("prepare.py", source, *reading(wildcards, f"{SCRIPTS}/shrinkflow/data/listing.py"))


def streaming(wildcards, output):
    """Where a job reads streamed pictures: no parameter, like all that is derived from the output."""
    dataset = STUDY.datasets[wildcards.dataset]
    return shlex.join(["--folder", dataset.folder]) if dataset.streamed else ""


def resuming(pattern):
    """Where a training keeps its resume point: no output, which Snakemake would delete when a job fails."""
    return lambda wildcards, output: shlex.join(
        ["--resume", f"{RESUME}/{pattern.format(**wildcards)}.safetensors"]
    )


def reading(wildcards, module=f"{SCRIPTS}/shrinkflow/streamed.py"):
    """The code by which a job reads pictures, found by name where they are streamed."""
    return [module] if STUDY.datasets[wildcards.dataset].streamed else []


def model_file(wildcards):
    """The file that defines a cell's model."""
    return models.file(STUDY.reference(wildcards.model))


def initial(wildcards):
    """The initial weights of a cell."""
    return STUDY.initial(wildcards.weights, wildcards.model)


def pretrain_code(wildcards):
    return code("pretrain.py", model_file(wildcards), *reading(wildcards))


def measure_code(wildcards):
    return code("measure.py", model_file(wildcards), *reading(wildcards))


def import_options(wildcards):
    weights = initial(wildcards)
    dataset = STUDY.datasets[wildcards.dataset]
    words = ["--model", STUDY.reference(wildcards.model), "--weights", wildcards.weights]
    words += ["--shape", *dataset.shape, "--classes", dataset.classes]
    words += ["--mean", *weights.mean, "--std", *weights.std]
    return shlex.join(map(str, words))


def initialise_options(wildcards):
    weights = initial(wildcards)
    words = ["--model", STUDY.reference(wildcards.model)]
    words += ["--mean", *weights.mean, "--std", *weights.std] if weights.raw else []
    return shlex.join(map(str, words))


def keep_options(wildcards):
    return shlex.join(["--keep", *map(str, initial(wildcards).keep)])


def score_words(strategy):
    words = ["--score", strategy.score]
    words += ["--score-file", strategy.file] if strategy.file else []
    for name, value in sorted(strategy.parameters.items()):
        words += ["--parameter", f"{name}={json.dumps(value)}"]
    return words


def target_words(strategy, ratio):
    words = ["--ratio", ratio, "--budget", STUDY.budget, "--scope", strategy.way.scope]
    words += ["--granularity", strategy.way.granularity]
    return words + (["--exclude", *strategy.way.exclude] if strategy.way.exclude else [])


def score_options(wildcards):
    strategy = STUDY.strategy(wildcards.strategy)
    words = score_words(strategy)
    _, several, ratio = wildcards.start.partition("-to-ratio")
    if several:
        words += [*target_words(strategy, ratio), "--rounds", str(strategy.way.rounds)]
    elif strategy.way.granularity == way.FILTER:
        words += ["--granularity", way.FILTER]
    return shlex.join(words)


def score_code(wildcards, program="score.py"):
    strategy = STUDY.strategy(wildcards.strategy)
    more = [ROUNDS] if "-to-ratio" in wildcards.get("start", "") else []
    more += [STRUCTURE] if strategy.way.schedule == way.SOFT else []
    return code(program, strategies.file(strategy), model_file(wildcards), *more, *reading(wildcards))


def prune_options(wildcards, input):
    strategy = STUDY.strategy(wildcards.strategy)
    words = target_words(strategy, wildcards.ratio)
    for name in ("previous", "like"):
        words += [f"--{name}", input[name]] if input.get(name) else []
    return shlex.join(words)


def sparsify_options(wildcards):
    strategy = STUDY.strategy(wildcards.strategy)
    words = score_words(strategy) + target_words(strategy, wildcards.ratio)
    words += ["--pruning", strategy.way.schedule]
    if strategy.way.schedule == way.GRADUAL:
        words += ["--rounds", str(strategy.way.rounds), "--ramp", str(strategy.way.ramp)]
    return shlex.join(words)


def finetune_options(wildcards):
    """How a pruned network is trained, beyond its recipe."""
    chosen = STUDY.strategy(wildcards.strategy).way
    words = ["--rewind-to", str(chosen.rewind_to)] if chosen.retraining == way.WEIGHTS else []
    words += ["--begin", str(chosen.rewind_to)] if chosen.rewind_to else []
    words += ["--equal-macs"] if chosen.equal == "macs" else []
    words += ["--reduce"] if chosen.granularity == way.FILTER else []
    return shlex.join(words)


def finetune_code(wildcards):
    filters = STUDY.strategy(wildcards.strategy).way.granularity == way.FILTER
    more = [STRUCTURE] if filters else []
    return code("finetune.py", model_file(wildcards), *more, *reading(wildcards))


def training_recipe(wildcards):
    return recipe.to_flags(STUDY.training(cell_of(wildcards)))


def control(wildcards):
    return STUDY.control(STUDY.strategy(wildcards.strategy)).name


def control_checkpoint(wildcards):
    """The checkpoint of a cell's control: the dense network, of the same seed."""
    cell = cell_of(wildcards)
    return path(f"{CELL}/checkpoint.safetensors", replace(cell, strategy=control(wildcards), ratio=1.0))


def cost_options(wildcards):
    granularity = STUDY.strategy(wildcards.strategy).way.granularity
    words = ["--granularity", "none" if wildcards.strategy == control(wildcards) else granularity]
    words += ["--threads", STUDY.costs.threads, "--device", STUDY.device]
    words += ["--batch-size", STUDY.costs.batch_size, "--rounds", STUDY.costs.rounds]
    return shlex.join(map(str, words))


def cost_code(wildcards):
    filters = STUDY.strategy(wildcards.strategy).way.granularity == way.FILTER
    return code("cost.py", model_file(wildcards), *([STRUCTURE] if filters else []))


def of_way(test):
    """The strategies, controls among them, whose way passes a test: a wildcard's regular expression."""
    found = {cell.strategy: STUDY.strategy(cell.strategy) for cell in JOBS}
    return names(name for name, strategy in found.items() if test(strategy.way))


def refuse_without_gpu():
    """End a run here, before its first job, if its jobs have to have a GPU and this machine has none."""
    here = workflow.local_exec and not workflow.touch
    if STUDY.device == "cuda" and here and devices.absent():
        if any("computing" in job.rule.params.keys() for job in workflow.dag.needrun_jobs()):
            sys.exit("error: 'device' is cuda, but this machine has no GPU; set it to auto or cpu")


def curves():
    """The cells of each curve: of one data set, model, weights and strategy."""
    found = {}
    for cell in CELLS:
        found.setdefault(CURVE.format(**vars(cell)), []).append(cell)
    return found


CELLS_OF = curves()


def curve_metrics(wildcards):
    return [path(f"{CELL}/metrics.json", cell) for cell in CELLS_OF[CURVE.format(**wildcards)]]
