# pretrained -> scores -> mask


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
    log:
        f"{LOGS}/score/{CURVE}/seed{{seed}}/from-{{start}}.log",
    benchmark:
        f"{TIMES}/score/{CURVE}/seed{{seed}}/from-{{start}}.tsv"
    wildcard_constraints:
        start=r"pretrained|ratio[0-9.]+",
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    params:
        program=program("score.py"),
        code=score_code,
        computing=COMPUTING,
        options=score_options,
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --checkpoint {input.checkpoint:q}"
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
    log:
        f"{LOGS}/prune/{POINT}.log",
    benchmark:
        f"{TIMES}/prune/{POINT}.tsv"
    priority: 1
    conda:
        "../../environment.yml"
    params:
        program=program("prune.py"),
        code=code("prune.py"),
        scope=lambda wildcards: STUDY.strategy(wildcards.strategy).scope,
        previous=prune_options,
    shell:
        "python {params.program:q} --scores {input.scores:q} --scope {params.scope}"
        " --ratio {wildcards.ratio} {params.previous} --out {output.mask:q} > {log:q} 2>&1"
