# pretrained -> scores -> mask


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


rule scores:
    """The scores of every strategy and seed"""
    input:
        sorted({path(SCORED, cell) for cell in CELLS}),


rule score:
    """How much each weight matters to a strategy, for one seed"""
    input:
        dataset=DATASET,
        checkpoint=start_checkpoint,
    output:
        scores=SCORED,
        record=SCORED + SUFFIX,
    wildcard_constraints:
        start=r"pretrained|ratio[0-9.]+",
    params:
        code=score_code,
        computing=COMPUTING,
        options=score_options,
    log:
        f"{LOGS}/score/{CURVE}/seed{{seed}}/from-{{start}}.log",
    benchmark:
        f"{TIMES}/score/{CURVE}/seed{{seed}}/from-{{start}}.tsv"
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    shell:
        "python {SCRIPTS:q}/score.py --dataset {input.dataset:q} --checkpoint {input.checkpoint:q}"
        " {params.options} --seed {wildcards.seed} {params.computing}"
        " --out {output.scores:q} > {log:q} 2>&1"


rule masks:
    """The mask of every cell"""
    input:
        [path(f"{CELL}/mask.safetensors", cell) for cell in CELLS],


rule prune:
    """Which weights a cell keeps: from scores and a ratio to a mask"""
    input:
        scores=lambda wildcards: path(SCORED, cell_of(wildcards)),
        previous=previous_mask,
    output:
        mask=f"{CELL}/mask.safetensors",
        record=f"{CELL}/mask.safetensors{SUFFIX}",
    params:
        code=code("prune.py"),
        scope=lambda wildcards: STUDY.strategy(wildcards.strategy).scope,
        previous=prune_options,
    log:
        f"{LOGS}/prune/{POINT}.log",
    benchmark:
        f"{TIMES}/prune/{POINT}.tsv"
    conda:
        "../../environment.yml"
    priority: 1
    shell:
        "python {SCRIPTS:q}/prune.py --scores {input.scores:q} --scope {params.scope}"
        " --ratio {wildcards.ratio} {params.previous} --out {output.mask:q} > {log:q} 2>&1"
