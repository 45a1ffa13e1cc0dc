# mask -> finetuned, or both in one


rule finetuned:
    """The finetuned network of every cell"""
    input:
        [path(f"{CELL}/checkpoint.safetensors", cell) for cell in CELLS],


rule finetune:
    """A pruned network, trained on with its mask fixed"""
    input:
        dataset=DATASET,
        initial=trained_from,
        mask=f"{CELL}/mask.safetensors",
    output:
        **CANDIDATES,
        checkpoint=f"{CELL}/checkpoint.safetensors",
        history=f"{CELL}/history.csv",
        records=[
            f"{CELL}/checkpoint.safetensors{SUFFIX}",
            f"{CELL}/history.csv{SUFFIX}",
            *(f"{file}{SUFFIX}" for file in CANDIDATES.values()),
        ],
    log:
        f"{LOGS}/finetune/{POINT}.log",
    benchmark:
        f"{TIMES}/finetune/{POINT}.tsv"
    wildcard_constraints:
        strategy=of_way(lambda way: not way.while_training),
    # Later stages go first, so that cells are finished one by one and progress can be told.
    priority: 2
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        **COMPUTED,
    params:
        program=program("finetune.py"),
        code=finetune_code,
        upstream=upstream("training"),
        computing=COMPUTING,
        folder=streaming,
        recipe=training_recipe,
        options=finetune_options,
        candidates=keeping,
        resume=resuming(POINT),
        label=lambda wildcards: shlex.quote(POINT.format(**wildcards)),
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --initial {input.initial:q}"
        " --mask {input.mask:q} --seed {wildcards.seed} {params.options} {params.recipe} {params.computing} {params.folder}"
        " {params.candidates} --checkpoint {output.checkpoint:q} --history {output.history:q}"
        " --label {params.label} {params.resume} > {log:q} 2>&1"


rule sparsify:
    """A network that is pruned while it is finetuned"""
    input:
        dataset=DATASET,
        initial=pruned_from,
    output:
        **CANDIDATES,
        mask=f"{CELL}/mask.safetensors",
        checkpoint=f"{CELL}/checkpoint.safetensors",
        history=f"{CELL}/history.csv",
        records=[
            f"{CELL}/mask.safetensors{SUFFIX}",
            f"{CELL}/checkpoint.safetensors{SUFFIX}",
            f"{CELL}/history.csv{SUFFIX}",
            *(f"{file}{SUFFIX}" for file in CANDIDATES.values()),
        ],
    log:
        f"{LOGS}/sparsify/{POINT}.log",
    benchmark:
        f"{TIMES}/sparsify/{POINT}.tsv"
    wildcard_constraints:
        strategy=of_way(lambda way: way.while_training),
    priority: 2
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        **COMPUTED,
    params:
        program=program("sparsify.py"),
        code=lambda wildcards: score_code(wildcards, "sparsify.py"),
        upstream=upstream("training"),
        computing=COMPUTING,
        folder=streaming,
        recipe=training_recipe,
        options=sparsify_options,
        candidates=keeping,
        resume=resuming(POINT),
        label=lambda wildcards: shlex.quote(POINT.format(**wildcards)),
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --initial {input.initial:q}"
        " --seed {wildcards.seed} {params.options} {params.recipe} {params.computing} {params.folder}"
        " {params.candidates} --mask {output.mask:q} --checkpoint {output.checkpoint:q} --history {output.history:q}"
        " --label {params.label} {params.resume} > {log:q} 2>&1"
