# finetuned -> metrics -> tables


def curve_metrics(wildcards):
    """The metrics of every cell of a curve."""
    return [
        path(f"{CELL}/metrics.json", cell)
        for cell in CELLS
        if CURVE.format(**vars(cell)) == CURVE.format(**wildcards)
    ]


rule metrics:
    """The measures of every cell"""
    input:
        [path(f"{CELL}/metrics.json", cell) for cell in CELLS],


rule measure:
    """One cell's size, theoretical cost, and accuracy on the test set"""
    input:
        dataset=DATASET,
        checkpoint=f"{CELL}/checkpoint.safetensors",
        mask=f"{CELL}/mask.safetensors",
        history=f"{CELL}/history.csv",
    output:
        metrics=f"{CELL}/metrics.json",
        record=f"{CELL}/metrics.json{SUFFIX}",
    params:
        code=lambda wildcards: code("measure.py", MODELS.file(wildcards.model)),
        computing=COMPUTING,
    log:
        f"{LOGS}/measure/{POINT}.log",
    benchmark:
        f"{TIMES}/measure/{POINT}.tsv"
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    priority: 3
    shell:
        "python {SCRIPTS:q}/measure.py --dataset {input.dataset:q} --checkpoint {input.checkpoint:q}"
        " --mask {input.mask:q} --history {input.history:q} {params.computing}"
        " --cell {wildcards.dataset:q} {wildcards.model:q} {wildcards.weights:q}"
        " {wildcards.strategy:q} {wildcards.ratio} {wildcards.seed}"
        " --out {output.metrics:q} > {log:q} 2>&1"


rule tables:
    """results.csv and summary.csv"""
    input:
        TABLES,


rule collect:
    """The trade-off curve of one strategy: its cells, one row each"""
    input:
        metrics=curve_metrics,
    output:
        curve=CURVES,
        record=CURVES + SUFFIX,
    params:
        code=code("collect.py"),
    log:
        f"{LOGS}/collect/{CURVE}.log",
    benchmark:
        f"{TIMES}/collect/{CURVE}.tsv"
    conda:
        "../../environment.yml"
    shell:
        "python {SCRIPTS:q}/collect.py --metrics {input.metrics:q} --out {output.curve:q}"
        " > {log:q} 2>&1"


rule tabulate:
    """The tables: a row per cell, and a row per strategy and ratio"""
    input:
        curves=sorted({path(CURVES, cell) for cell in CELLS}),
    output:
        results=f"{RESULTS}/tables/results.csv",
        summary=f"{RESULTS}/tables/summary.csv",
        records=[f"{table}{SUFFIX}" for table in TABLES],
    params:
        code=code("tabulate.py"),
    log:
        f"{LOGS}/tabulate.log",
    benchmark:
        f"{TIMES}/tabulate.tsv"
    conda:
        "../../environment.yml"
    shell:
        "python {SCRIPTS:q}/tabulate.py --curves {input.curves:q} --results {output.results:q}"
        " --summary {output.summary:q} > {log:q} 2>&1"
