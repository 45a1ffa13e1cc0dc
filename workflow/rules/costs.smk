# finetuned -> measured costs -> their table, figure, report: on request only


rule costs:
    """Measured latency, throughput, memory and bytes of the cells that `costs` of the study names"""
    input:
        COSTS,
        COSTS_FIGURE,
        COSTS_REPORT,


rule cost:
    """What one cell costs, timed in turns with its dense control"""
    input:
        control=control_checkpoint,
        checkpoint=f"{CELL}/checkpoint.safetensors",
        mask=f"{CELL}/mask.safetensors",
    output:
        cost=COST,
        record=COST + SUFFIX,
    log:
        f"{LOGS}/cost/{POINT}.log",
    benchmark:
        f"{TIMES}/cost/{POINT}.tsv"
    # After everything else, because of all cores: nothing of Snakemake's runs beside it.
    priority: -1
    conda:
        "../../environment.yml"
    threads: lambda wildcards: workflow.cores or STUDY.costs.threads
    resources:
        **COMPUTED,
    params:
        program=program("cost.py"),
        code=cost_code,
        upstream=upstream_of_cost,
        options=cost_options,
    shell:
        "python {params.program:q} --control {input.control:q} --checkpoint {input.checkpoint:q}"
        " --mask {input.mask:q} {params.options}"
        " --cell {wildcards.dataset:q} {wildcards.model:q} {wildcards.weights:q}"
        " {wildcards.strategy:q} {wildcards.ratio} {wildcards.seed}"
        " --out {output.cost:q} > {log:q} 2>&1"


rule summarise_costs:
    """The table of measured costs, a row per cell and kernel, and its figure"""
    input:
        costs=[path(COST, cell) for cell in COSTED],
        metrics=[path(f"{CELL}/metrics.json", cell) for cell in COSTED],
    output:
        table=COSTS,
        svg=COSTS_FIGURE[0],
        png=COSTS_FIGURE[1],
        records=[file + SUFFIX for file in (COSTS, *COSTS_FIGURE)],
    log:
        f"{LOGS}/summarise_costs.log",
    benchmark:
        f"{TIMES}/summarise_costs.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("summarise_costs.py"),
        code=code("summarise_costs.py"),
    shell:
        "python {params.program:q} --costs {input.costs:q} --metrics {input.metrics:q}"
        " --out {output.table:q} --svg {output.svg:q} --png {output.png:q} > {log:q} 2>&1"


rule report_costs:
    """The report of the study once more, with the measured costs in it"""
    input:
        tables=TABLES,
        figures=[path for path in FIGURES if path.endswith(".png")],
        costs=COSTS,
        drawn=COSTS_FIGURE[1],
    output:
        page=COSTS_REPORT,
        record=COSTS_REPORT + SUFFIX,
    log:
        f"{LOGS}/report_costs.log",
    benchmark:
        f"{TIMES}/report_costs.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("report.py"),
        code=code("report.py"),
        study=shlex.quote(json.dumps(outline.of(STUDY))),
        content=captions.content(STUDY.figures()),
    shell:
        "python {params.program:q} --study {params.study} --content {params.content}"
        " --tables {input.tables:q} --figures {input.figures:q} --costs {input.costs:q}"
        " --costs-figure {input.drawn:q} --out {output.page:q} > {log:q} 2>&1"
