# pretrained -> scores -> mask


rule scores:
    """The scores of every strategy and seed"""
    input:
        sorted({scores_of(cell) for cell in JOBS if not STUDY.strategy(cell.strategy).way.while_training}),


rule score:
    """How much each weight, or filter, matters to a strategy, for one seed"""
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
        start=r"(pretrained|initialisation|ratio[0-9.]+)(-to-ratio[0-9.]+)?",
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        **COMPUTED,
    params:
        program=program("score.py"),
        code=score_code,
        upstream=upstream("scores"),
        computing=COMPUTING,
        folder=streaming,
        options=score_options,
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --checkpoint {input.checkpoint:q}"
        " {params.options} --seed {wildcards.seed} {params.computing} {params.folder}"
        " --out {output.scores:q} > {log:q} 2>&1"


rule masks:
    """The mask of every cell"""
    input:
        [path(f"{CELL}/mask.safetensors", cell) for cell in CELLS],


rule prune:
    """Which weights a cell keeps: from scores and a ratio to a mask"""
    input:
        scores=lambda wildcards: scores_of(cell_of(wildcards)),
        previous=previous_mask,
        like=lent_mask,
    output:
        mask=f"{CELL}/mask.safetensors",
        record=f"{CELL}/mask.safetensors{SUFFIX}",
    log:
        f"{LOGS}/prune/{POINT}.log",
    benchmark:
        f"{TIMES}/prune/{POINT}.tsv"
    wildcard_constraints:
        strategy=of_way(lambda way: not way.while_training and way.granularity != "filter"),
    priority: 1
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("prune.py"),
        code=code("prune.py"),
        upstream=upstream("mask"),
        options=prune_options,
    shell:
        "python {params.program:q} --scores {input.scores:q} {params.options}"
        " --out {output.mask:q} > {log:q} 2>&1"


rule prune_filters:
    """Which filters a cell keeps: from scores of whole filters and a ratio to a mask"""
    input:
        scores=lambda wildcards: scores_of(cell_of(wildcards)),
        checkpoint=pruned_from,
        previous=previous_mask,
    output:
        mask=f"{CELL}/mask.safetensors",
        record=f"{CELL}/mask.safetensors{SUFFIX}",
    log:
        f"{LOGS}/prune_filters/{POINT}.log",
    benchmark:
        f"{TIMES}/prune_filters/{POINT}.tsv"
    wildcard_constraints:
        strategy=of_way(lambda way: not way.while_training and way.granularity == "filter"),
    priority: 1
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("prune_filters.py"),
        code=lambda wildcards: code("prune_filters.py", model_file(wildcards)),
        upstream=upstream("mask"),
        options=prune_options,
    shell:
        "python {params.program:q} --scores {input.scores:q} --checkpoint {input.checkpoint:q}"
        " {params.options} --out {output.mask:q} > {log:q} 2>&1"


rule update:
    """The weights that stay, moved by the strategy's own rule to make up for those that go"""
    input:
        dataset=DATASET,
        checkpoint=pruned_from,
        mask=f"{CELL}/mask.safetensors",
    output:
        updated=f"{CELL}/updated.safetensors",
        record=f"{CELL}/updated.safetensors{SUFFIX}",
    log:
        f"{LOGS}/update/{POINT}.log",
    benchmark:
        f"{TIMES}/update/{POINT}.tsv"
    wildcard_constraints:
        strategy=names(MOVED),
    priority: 1
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        **COMPUTED,
    params:
        program=program("update.py"),
        code=lambda wildcards: score_code(wildcards, "update.py"),
        upstream=upstream("training"),
        computing=COMPUTING,
        folder=streaming,
        options=lambda wildcards: shlex.join(score_words(STUDY.strategy(wildcards.strategy))),
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --checkpoint {input.checkpoint:q}"
        " --mask {input.mask:q} {params.options} --seed {wildcards.seed} {params.computing} {params.folder}"
        " --out {output.updated:q} > {log:q} 2>&1"
