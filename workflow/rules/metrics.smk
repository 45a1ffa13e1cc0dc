# finetuned -> metrics -> tables


rule metrics:
    """The measures of every cell"""
    input:
        [path(f"{CELL}/metrics.json", cell) for cell in CELLS],


rule measure:
    """One cell's size, theoretical cost, and accuracy on the test set"""
    input:
        **CANDIDATES,
        dataset=DATASET,
        checkpoint=f"{CELL}/checkpoint.safetensors",
        mask=f"{CELL}/mask.safetensors",
        history=histories,
    output:
        metrics=f"{CELL}/metrics.json",
        record=f"{CELL}/metrics.json{SUFFIX}",
    log:
        f"{LOGS}/measure/{POINT}.log",
    benchmark:
        f"{TIMES}/measure/{POINT}.tsv"
    priority: 3
    conda:
        "../../environment.yml"
    threads: STUDY.threads
    resources:
        **COMPUTED,
    params:
        program=program("measure.py"),
        code=measure_code,
        upstream=upstream("metrics"),
        computing=COMPUTING,
        folder=streaming,
        control=control,
        candidates=claiming,
    shell:
        "python {params.program:q} --dataset {input.dataset:q} --checkpoint {input.checkpoint:q}"
        " --mask {input.mask:q} --history {input.history:q} {params.candidates} {params.computing} {params.folder}"
        " --cell {wildcards.dataset:q} {wildcards.model:q} {wildcards.weights:q}"
        " {wildcards.strategy:q} {wildcards.ratio} {wildcards.seed} --control {params.control:q}"
        " --out {output.metrics:q} > {log:q} 2>&1"


rule tables:
    """The tables of the study"""
    input:
        TABLES,


rule collect:
    """The trade-off curve of one strategy: its cells, one row each; and its means, for `dvc metrics`"""
    input:
        metrics=curve_metrics,
    output:
        curve=CURVES,
        layers=LAYERS,
        top1=TOP1,
        records=[CURVES + SUFFIX, LAYERS + SUFFIX, TOP1 + SUFFIX],
    log:
        f"{LOGS}/collect/{CURVE}.log",
    benchmark:
        f"{TIMES}/collect/{CURVE}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("collect.py"),
        code=code("collect.py"),
        upstream=upstream("curve"),
    shell:
        "python {params.program:q} --metrics {input.metrics:q} --out {output.curve:q}"
        " --layers {output.layers:q} --top1 {output.top1:q} > {log:q} 2>&1"


rule summarise:
    """The tables: a row per cell; a row per strategy and ratio; a row per cell and weight tensor"""
    input:
        curves=sorted({path(CURVES, cell) for cell in CELLS}),
        layers=sorted({path(LAYERS, cell) for cell in CELLS}),
    output:
        results=TABLE.format("results"),
        summary=TABLE.format("summary"),
        layers=TABLE.format("layers"),
        records=[TABLE.format(name) + SUFFIX for name in ("results", "summary", "layers")],
    log:
        f"{LOGS}/summarise.log",
    benchmark:
        f"{TIMES}/summarise.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("summarise.py"),
        code=code("summarise.py"),
        upstream=upstream_of_tables,
    shell:
        "python {params.program:q} --curves {input.curves:q} --layers {input.layers:q}"
        " --results {output.results:q} --summary {output.summary:q} --layers-out {output.layers:q}"
        " > {log:q} 2>&1"


rule compare:
    """What the table of cells says: paired tests, areas and ranks, components of the variance"""
    input:
        results=TABLE.format("results"),
    output:
        comparisons=COMPARED[0],
        ranking=COMPARED[1],
        variance=COMPARED[2],
        records=[path + SUFFIX for path in COMPARED],
    log:
        f"{LOGS}/compare.log",
    benchmark:
        f"{TIMES}/compare.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("compare.py"),
        code=code("compare.py"),
        upstream=upstream_of_figures,
    shell:
        "python {params.program:q} --results {input.results:q} --comparisons {output.comparisons:q}"
        " --ranking {output.ranking:q} --variance {output.variance:q} > {log:q} 2>&1"
