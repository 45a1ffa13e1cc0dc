# tables -> figures, report


rule figures:
    """Every figure, as SVG and PNG"""
    input:
        FIGURES,


rule draw:
    """One figure from the tables"""
    input:
        results=f"{RESULTS}/tables/results.csv",
        summary=f"{RESULTS}/tables/summary.csv",
    output:
        svg=report(f"{DRAWING}.svg", caption="../report/{figure}.rst", category="Figures"),
        png=f"{DRAWING}.png",
        records=[f"{DRAWING}.{form}{SUFFIX}" for form in ("svg", "png")],
    log:
        f"{LOGS}/draw/{{figure}}.log",
    benchmark:
        f"{TIMES}/draw/{{figure}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("draw.py"),
        code=lambda wildcards: code("draw.py", f"{SCRIPTS}/shrinkflow/figures/{wildcards.figure}.py"),
        upstream=upstream_of_figures,
    shell:
        "python {params.program:q} --figure {wildcards.figure} --results {input.results:q}"
        " --summary {input.summary:q} --svg {output.svg:q} --png {output.png:q} > {log:q} 2>&1"


rule report:
    """One page with the tables and figures of the study"""
    input:
        tables=TABLES,
        figures=[path for path in FIGURES if path.endswith(".png")],
    output:
        page=REPORT,
        record=REPORT + SUFFIX,
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{TIMES}/report.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("report.py"),
        code=code("report.py"),
        upstream=upstream_of_report,
        # By a function, because Snakemake takes braces in a text for wildcards.
        study=lambda wildcards: shlex.quote(json.dumps(outline.of(STUDY))),
        content=captions.content(STUDY.figures()),
    shell:
        "python {params.program:q} --study {params.study} --content {params.content}"
        " --tables {input.tables:q} --figures {input.figures:q} --out {output.page:q} > {log:q} 2>&1"
