# data set -> pretrained: trained here, or read from a file


rule pretrained:
    """All initial weights, trained or read"""
    input:
        sorted({path(f"{PRETRAINED}/checkpoint.safetensors", cell) for cell in CELLS}),


rule pretrain:
    """Initial weights, trained by a recipe and a seed"""
    input:
        dataset=DATASET,
    output:
        checkpoint=f"{PRETRAINED}/checkpoint.safetensors",
        history=f"{PRETRAINED}/history.csv",
        kept=KEPT,
        records=[
            f"{PRETRAINED}/checkpoint.safetensors{SUFFIX}",
            f"{PRETRAINED}/history.csv{SUFFIX}",
            KEPT + SUFFIX,
        ],
    log:
        f"{LOGS}/pretrain/{NETWORK}.log",
    benchmark:
        f"{TIMES}/pretrain/{NETWORK}.tsv"
    wildcard_constraints:
        weights=names(name for name, entry in STUDY.weights.items() if entry.recipe),
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        **COMPUTED,
    params:
        program=program("pretrain.py"),
        code=pretrain_code,
        upstream=upstream_of_weights,
        computing=COMPUTING,
        folder=streaming,
        model=lambda wildcards: STUDY.reference(wildcards.model),
        recipe=lambda wildcards: recipe.to_flags(STUDY.recipes[STUDY.weights[wildcards.weights].recipe]),
        seed=lambda wildcards: STUDY.weights[wildcards.weights].seed,
        keep=keep_options,
        resume=resuming(NETWORK),
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --model {params.model:q}"
        " --seed {params.seed} {params.keep} {params.recipe} {params.computing} {params.folder}"
        " --checkpoint {output.checkpoint:q} --history {output.history:q} --kept {output.kept:q}"
        " --label {wildcards.dataset:q}/{wildcards.model:q}/{wildcards.weights:q} {params.resume} > {log:q} 2>&1"


rule import_weights:
    """Initial weights, read from a file made elsewhere"""
    input:
        file=lambda wildcards: RAW.format(folder="weights", file=initial(wildcards).raw.file.name),
    output:
        checkpoint=f"{PRETRAINED}/checkpoint.safetensors",
        record=f"{PRETRAINED}/checkpoint.safetensors{SUFFIX}",
    log:
        f"{LOGS}/import_weights/{NETWORK}.log",
    benchmark:
        f"{TIMES}/import_weights/{NETWORK}.tsv"
    wildcard_constraints:
        weights=names(name for name, entry in STUDY.weights.items() if not entry.recipe),
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("import_weights.py"),
        code=lambda wildcards: code("import_weights.py", model_file(wildcards)),
        upstream=upstream_of_import,
        options=import_options,
    shell:
        "python {params.program:q} --file {input.file:q} {params.options}"
        " --out {output.checkpoint:q} > {log:q} 2>&1"


rule initialise:
    """A fresh network, drawn by a cell's seed"""
    input:
        dataset=DATASET,
    output:
        checkpoint=INITIAL,
        record=INITIAL + SUFFIX,
    log:
        f"{LOGS}/initialise/{NETWORK}/seed{{seed}}.log",
    benchmark:
        f"{TIMES}/initialise/{NETWORK}/seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("initialise.py"),
        code=lambda wildcards: code("initialise.py", model_file(wildcards)),
        upstream=upstream_of_weights,
        options=initialise_options,
    shell:
        "python {params.program:q} --dataset {input.dataset:q} {params.options}"
        " --seed {wildcards.seed} --out {output.checkpoint:q} > {log:q} 2>&1"
