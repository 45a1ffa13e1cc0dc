# raw archive -> data set


def fetches():
    """What to fetch for each raw file of the study, by (folder, file)."""
    found = {
        (name if raw.path else dataset.source, raw.file.name): raw
        for name, dataset in STUDY.datasets.items()
        for raw in dataset.raw
    }
    weights = [entry.raw for entry in STUDY.weights.values() if entry.raw]
    return found | {("weights", raw.file.name): raw for raw in weights}


FETCHES = fetches()


def raw_files(wildcards):
    wanted = STUDY.datasets[wildcards.dataset].raw
    return [RAW.format(folder=key[0], file=key[1]) for key, raw in FETCHES.items() if raw in wanted]


def pictures(wildcards):
    """A folder of pictures, which no rule makes: its content is a parameter."""
    folder = STUDY.datasets[wildcards.dataset].folder
    return folder_digest(folder) if folder else ""


rule datasets:
    """Every data set of the study, processed"""
    input:
        expand(DATASET, dataset=sorted({pair.dataset for pair in STUDY.pairs})),


rule fetch:
    """One raw file, as published, checked by its hash"""
    output:
        file=RAW,
        record=RAW + SUFFIX,
    wildcard_constraints:
        folder=names(folder for folder, _ in FETCHES),
        file=names(file for _, file in FETCHES),
    params:
        code=code("fetch.py"),
        checksum=lambda wildcards: FETCHES[wildcards.folder, wildcards.file].file.checksum,
        # Where a file comes from is no part of what it is; Snakemake leaves out of its memory what is
        # derived from the output.
        places=lambda wildcards, output: FETCHES[wildcards.folder, wildcards.file].flags(),
    log:
        f"{LOGS}/fetch/{{folder}}/{{file}}.log",
    benchmark:
        f"{TIMES}/fetch/{{folder}}/{{file}}.tsv"
    conda:
        "../../environment.yml"
    retries: 3
    shell:
        "python {SCRIPTS:q}/fetch.py {params.places} --out {output.file:q} > {log:q} 2>&1"


rule prepare:
    """One data set: raw files to pictures, labels and splits in one file"""
    input:
        raw=raw_files,
    output:
        dataset=DATASET,
        record=DATASET + SUFFIX,
    params:
        code=lambda wildcards: code(
            "prepare.py", SOURCES.file(STUDY.datasets[wildcards.dataset].source)
        ),
        options=lambda wildcards: STUDY.datasets[wildcards.dataset].flags,
        pictures=pictures,
        origin=lambda wildcards, input: (
            f"--raw {shlex.join(input.raw)}"
            if input.raw
            else shlex.join(["--folder", STUDY.datasets[wildcards.dataset].folder])
        ),
    log:
        f"{LOGS}/prepare/{{dataset}}.log",
    benchmark:
        f"{TIMES}/prepare/{{dataset}}.tsv"
    conda:
        "../../environment.yml"
    shell:
        "python {SCRIPTS:q}/prepare.py {params.options} {params.origin}"
        " --out {output.dataset:q} > {log:q} 2>&1"
