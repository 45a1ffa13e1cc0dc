# tables -> figures


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
    params:
        program=program("draw.py"),
        code=lambda wildcards: code("draw.py", f"{SCRIPTS}/shrinkflow/figures/{wildcards.figure}.py"),
    shell:
        "python {params.program:q} --figure {wildcards.figure} --results {input.results:q}"
        " --summary {input.summary:q} --svg {output.svg:q} --png {output.png:q} > {log:q} 2>&1"
