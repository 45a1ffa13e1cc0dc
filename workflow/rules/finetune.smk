# mask -> finetuned


rule finetuned:
    """The finetuned network of every cell"""
    input:
        [path(f"{CELL}/checkpoint.safetensors", cell) for cell in CELLS],


rule finetune:
    """A pruned network, trained on with its mask fixed"""
    input:
        dataset=DATASET,
        initial=initial_checkpoint,
        mask=f"{CELL}/mask.safetensors",
    output:
        checkpoint=f"{CELL}/checkpoint.safetensors",
        history=f"{CELL}/history.csv",
        records=[
            f"{CELL}/checkpoint.safetensors{SUFFIX}",
            f"{CELL}/history.csv{SUFFIX}",
        ],
    log:
        f"{LOGS}/finetune/{POINT}.log",
    benchmark:
        f"{TIMES}/finetune/{POINT}.tsv"
    # Later stages go first, so that cells are finished one by one and progress can be told.
    priority: 2
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    params:
        program=program("finetune.py"),
        code=lambda wildcards: code("finetune.py", MODELS.file(wildcards.model)),
        computing=COMPUTING,
        recipe=lambda wildcards: recipe.to_flags(
            STUDY.recipes[STUDY.pair(wildcards.dataset, wildcards.model).finetune]
        ),
        label=lambda wildcards: shlex.quote(POINT.format(**wildcards)),
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --initial {input.initial:q}"
        " --mask {input.mask:q} --seed {wildcards.seed} {params.recipe} {params.computing}"
        " --checkpoint {output.checkpoint:q} --history {output.history:q}"
        " --label {params.label} > {log:q} 2>&1"
