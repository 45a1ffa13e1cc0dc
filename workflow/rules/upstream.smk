# What a job's inputs are made by, as a parameter of the job; no rules. Snakemake does not ask for a missing input
# while the outputs made of it are there: when a job has failed or was killed after the study changed, and its old
# outputs are gone, the results of the old study beyond them would be taken for current.
import hashlib

from snakemake.iocontainers import Wildcards

# The jobs of a cell, in order; and what makes the curve of all.
STEPS = ("scores", "mask", "training", "metrics", "curve")


def upstream(step):
    """The settings and code of all jobs that lead to a step of a cell, as a function for Snakemake."""

    def settings(wildcards):
        return made_by(step, wildcards.dataset, wildcards.model, wildcards.weights, wildcards.strategy)

    return settings


@cache
def made_by(step, dataset, model, weights, strategy):
    """See `upstream`. All ratios and seeds of a strategy have the same settings."""
    values = {"dataset": dataset, "model": model, "weights": weights, "strategy": strategy}
    chosen, end = STUDY.strategy(strategy).way, STEPS.index(step)
    if chosen.schedule == way.ITERATIVE:
        # What the cell of one round is trained by decides what that of the next is scored by.
        end = max(end, STEPS.index("metrics"))
    found = cell_settings(values)
    steps = [found[name] for name in STEPS[:end] if name in found]
    lent = made_by("training", dataset, model, weights, chosen.like) if chosen.like else ""
    return digest(network_settings(Wildcards(fromdict=values), chosen), steps, lent)


def cell_settings(values):
    """The settings and code of each job of a cell, by the step it is."""
    strategy = STUDY.strategy(values["strategy"])
    chosen, start = strategy.way, "-to-ratio" if strategy.way.rounds > 1 else ""
    wildcards = Wildcards(fromdict={**values, "ratio": "1", "seed": "0"})
    scored = score_code(Wildcards(fromdict={**values, "start": start}))
    scores = [score_words(strategy), chosen.rounds, scored, COMPUTING]
    training = [finetune_options(wildcards), training_recipe(wildcards), finetune_code(wildcards), COMPUTING]
    metrics = [control(wildcards), measure_code(wildcards), COMPUTING]
    if chosen.while_training:
        training = [sparsify_options(wildcards), training, score_code(wildcards, "sparsify.py")]
        return {"training": training, "metrics": metrics}
    filters = chosen.granularity == way.FILTER
    pruned = code("prune_filters.py", model_file(wildcards)) if filters else code("prune.py")
    moved = score_code(wildcards, "update.py") if strategy.name in MOVED else ""
    return {
        "scores": scores,
        "mask": [target_words(strategy, "1"), pruned],
        "training": [training, moved],
        "metrics": metrics,
    }


def network_settings(wildcards, chosen):
    """What makes the networks that a way starts from: the data set, trained weights, fresh ones."""
    found = [dataset_settings(wildcards)]
    if chosen.start != way.INITIALISATION:
        found.append(weights_settings(wildcards))
    if way.INITIALISATION in (chosen.start, chosen.retraining) or chosen.retraining == way.SCRATCH:
        found.append([initialise_options(wildcards), code("initialise.py", model_file(wildcards))])
    return found


def weights_settings(wildcards):
    entry = initial(wildcards)
    if entry.raw:
        return [
            entry.raw.file.checksum,
            import_options(wildcards),
            code("import_weights.py", model_file(wildcards)),
        ]
    trained = [recipe.to_flags(STUDY.recipes[entry.recipe]), entry.seed, keep_options(wildcards)]
    return [trained, STUDY.reference(wildcards.model), pretrain_code(wildcards), COMPUTING]


def dataset_settings(wildcards):
    dataset = STUDY.datasets[wildcards.dataset]
    return [raw_checksums(wildcards), dataset.flags, pictures(wildcards), prepare_code(wildcards)]


def raw_checksums(wildcards):
    return [raw.file.checksum for raw in STUDY.datasets[wildcards.dataset].raw]


def upstream_of_dataset(wildcards):
    return digest(raw_checksums(wildcards))


def upstream_of_weights(wildcards):
    return digest(dataset_settings(wildcards))


def upstream_of_import(wildcards):
    return digest(initial(wildcards).raw.file.checksum)


def upstream_of_cost(wildcards):
    """Those of a cell's network, and of its control's."""
    network = (wildcards.dataset, wildcards.model, wildcards.weights)
    return digest([made_by("metrics", *network, name) for name in (wildcards.strategy, control(wildcards))])


def upstream_of_tables(wildcards):
    return digest(curves_settings())


def upstream_of_figures(wildcards):
    return digest(curves_settings(), code("summarise.py"))


def upstream_of_report(wildcards):
    drawn = code("draw.py", *(f"{SCRIPTS}/shrinkflow/figures/{figure}.py" for figure in STUDY.figures()))
    return digest(curves_settings(), code("summarise.py"), code("compare.py"), drawn)


@cache
def curves_settings():
    found = sorted({(cell.dataset, cell.model, cell.weights, cell.strategy) for cell in CELLS})
    return [code("collect.py"), [made_by("curve", *curve) for curve in found]]


def digest(*settings):
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
