# raw archive -> data set


rule datasets:
    """Every data set of the study, processed"""
    input:
        expand(DATASET, dataset=sorted({pair.dataset for pair in STUDY.pairs})),


rule fetch:
    """One raw file, as published, checked by its hash"""
    output:
        file=RAW,
        record=RAW + SUFFIX,
    log:
        f"{LOGS}/fetch/{{folder}}/{{file}}.log",
    benchmark:
        f"{TIMES}/fetch/{{folder}}/{{file}}.tsv"
    wildcard_constraints:
        folder=names(folder for folder, _ in FETCHES),
        file=names(file for _, file in FETCHES),
    retries: 3
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("fetch.py"),
        code=code("fetch.py"),
        checksum=lambda wildcards: FETCHES[wildcards.folder, wildcards.file].file.checksum,
        # Where a file comes from is no part of what it is; Snakemake leaves out of its memory what is
        # derived from the output.
        places=lambda wildcards, output: FETCHES[wildcards.folder, wildcards.file].flags(),
    shell:
        "python {params.program:q} {params.places} --out {output.file:q} > {log:q} 2>&1"


rule prepare:
    """One data set: raw files to pictures, labels and splits in one file"""
    input:
        raw=raw_files,
    output:
        dataset=DATASET,
        record=DATASET + SUFFIX,
    log:
        f"{LOGS}/prepare/{{dataset}}.log",
    benchmark:
        f"{TIMES}/prepare/{{dataset}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **ASKED,
    params:
        program=program("prepare.py"),
        code=prepare_code,
        upstream=upstream_of_dataset,
        options=lambda wildcards: STUDY.datasets[wildcards.dataset].flags,
        pictures=pictures,
        origin=lambda wildcards, input: (
            f"--raw {shlex.join(input.raw)}"
            if input.raw
            else shlex.join(["--folder", STUDY.datasets[wildcards.dataset].folder])
        ),
    shell:
        "python {params.program:q} {params.options} {params.origin} {params.pictures}"
        " --out {output.dataset:q} > {log:q} 2>&1"
