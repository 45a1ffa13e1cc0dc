"""RO-Crates of a miniature study, whose records are made as those of real ones are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from rocrate.rocrate import ROCrate
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationResult, ValidationSettings
from rocrate_validator.utils.http import HttpRequester

from shrinkflow import files, fingerprint, records
from shrinkflow.errors import UserError
from shrinkflow.provenance import crate

ROOT = Path(__file__).parents[2]

RAW, DATASET = "data/raw/spots/spots.csv", "data/processed/mini/spots/dataset.safetensors"
NETWORK, HISTORY = "results/mini/pretrained/spots/dot/A/checkpoint.safetensors", "results/mini/history.csv"
METRICS = "results/mini/metrics ratio=4.json"
TABLE, TOP1 = "results/mini/tables/results.csv", "results/mini/top1/dot.json"
SVG, PNG = "results/mini/figures/compression.svg", "results/mini/figures/compression.png"
ARTIFACTS = [RAW, DATASET, NETWORK, HISTORY, METRICS, TABLE, TOP1, SVG, PNG]
PROGRAMS = ["fetch", "prepare", "pretrain", "measure", "summarise", "draw"]
NEWEST = 1_700_000_000  # 2023-11-14 22:13:20 UTC

# What the crate's terms stand for. The two contexts are published on the web, where no test goes; this is
# what they say of the terms that a crate may use, and no other term is known to the validator here.
SCHEMA_ORG = """
    about actionStatus additionalProperty additionalType author citation contentSize datePublished description
    encodingFormat exampleOfWork hasPart identifier instrument license mainEntity mentions name object position
    programmingLanguage result softwareRequirements softwareVersion step url value version workExample
    ComputerLanguage ControlAction CreateAction CreativeWork Dataset HowTo HowToStep Organization OrganizeAction
    PropertyValue ScholarlyArticle SoftwareApplication SoftwareSourceCode WebSite
"""
CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": {
        **{term: f"http://schema.org/{term}" for term in SCHEMA_ORG.split()},
        "File": "http://schema.org/MediaObject",
        "conformsTo": "http://purl.org/dc/terms/conformsTo",
        "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
        "FormalParameter": "https://bioschemas.org/FormalParameter",
        "input": "https://bioschemas.org/ComputationalWorkflow#input",
        "output": "https://bioschemas.org/ComputationalWorkflow#output",
    },
    "https://w3id.org/ro/terms/workflow-run/context": {
        "md5": "https://w3id.org/ro/terms/workflow-run#md5",
        "sha256": "https://w3id.org/ro/terms/workflow-run#sha256",
    },
}
# Recommended, but not known: records hold no time and no person, and the project has no address.
UNKNOWN = {
    "The Action SHOULD have an endTime in ISO 8601 format",
    "The Action SHOULD have an agent that is a Person or Organization",
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the `author` of the RO-Crate",
    "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`",
    "The organization SHOULD have a URL.",
    # The profile: it may be the path of a file in the crate.
    "The SoftwareApplication id SHOULD be an absolute URI",
}


class Answer:
    """What a web server would answer."""

    status_code = 200
    headers = {"Content-Type": "application/ld+json"}  # noqa: RUF012

    def __init__(self, url: str) -> None:
        self._context = CONTEXTS[url]

    def json(self) -> Any:
        return {"@context": self._context}


def work(
    program: str,
    arguments: str,
    inputs: list[str],
    outputs: dict[str, str],
    parameters: dict[str, Any],
    plugins: list[Path] | None = None,
    findings: dict[str, Any] | None = None,
) -> None:
    """Be a job of the study."""
    path = f"workflow/scripts/{program}.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *arguments.split("|")])
        with records.job(
            path, inputs=inputs, outputs=list(outputs), parameters=parameters, plugins=plugins or []
        ) as job:
            job.findings |= findings or {}
            for output, text in outputs.items():
                files.write_text(output, text)


def fetch(text: str = "1,0\n") -> None:
    parameters = {"checksum": "md5:0", "name": "spots.csv", "urls": []}
    work("fetch", f"--url|https://example.org/spots.csv|--out|{RAW}", [], {RAW: text}, parameters)


def prepare() -> None:
    parameters = {"shape": [1, 8, 8], "test": 0.2, "folder": None, "limits": {}}
    plugin = fingerprint.LIBRARY / "data/spots.py"
    work("prepare", f"--raw|{RAW}|--out|{DATASET}", [RAW], {DATASET: "spots"}, parameters, [plugin])


def later_jobs() -> None:
    work(
        "pretrain",
        f"--dataset|{DATASET}|--seed|1|--checkpoint|{NETWORK}|--history|{HISTORY}",
        [DATASET],
        {NETWORK: "weights", HISTORY: "epoch\n"},
        {"seed": 1},
    )
    work(
        "measure",
        f"--dataset|{DATASET}|--checkpoint|{NETWORK}|--out|{METRICS}",
        [DATASET, NETWORK],
        {METRICS: "{}"},
        {"cell": {"model": "dot", "seed": "1"}, "exact": True},
        findings={"collapsed": ["fc"]},
    )
    work(
        "summarise",
        f"--metrics|{METRICS}|--results|{TABLE}|--top1|results/mini/top1",
        [METRICS],
        {TABLE: "top1\n", TOP1: "{}"},
        {},
    )
    drawing = f"--figure|compression|--results|{TABLE}|--svg|{SVG}|--png|{PNG}"
    work("draw", drawing, [TABLE], {SVG: "<svg/>", PNG: "png"}, {"figure": "compression"})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a small project whose study is finished: raw, data set, checkpoint, metrics, table, figure."""
    top = tmp_path / "project"
    library = top / "workflow/scripts/shrinkflow"
    monkeypatch.setattr(fingerprint, "LIBRARY", library)
    # Wherever temporary folders lie, this project is in no checkout.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    texts = {
        "Snakefile": 'include: "workflow/rules/all.smk"\n',
        "workflow/rules/all.smk": "".join(f"rule {name}:\n" for name in PROGRAMS),
        "workflow/scripts/shrinkflow/data/spots.py": '"""Spots, drawn by hand for this test."""\n',
        "config/config.yaml": "study: mini\ndescription: Is a spot a spot?\n",
        "profiles/default/config.yaml": "cores: 1\n",
    }
    for program in PROGRAMS:
        texts[f"workflow/scripts/{program}.py"] = f'"""Do {program}.\n\nIn detail."""\nimport numpy\n'
    for path, text in texts.items():
        files.write_text(top / path, text)
    for name in (
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "pyproject.toml",
        "requirements.txt",
        "environment.yml",
    ):
        shutil.copy(ROOT / name, top)
    monkeypatch.chdir(top)
    fetch()
    prepare()
    later_jobs()
    for path in (SVG, TABLE):
        os.utime(path, (NEWEST, NEWEST))
    return top


def write(out: Path, *targets: str) -> crate.CrateSummary:
    return crate.write(targets or (SVG,), out, "config/config.yaml", "A miniature")


def entities(out: Path) -> dict[str, dict[str, Any]]:
    graph = json.loads((out / "ro-crate-metadata.json").read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def many(value: Any) -> list[Any]:
    """Return the values of a property, references as ids."""
    values = value if isinstance(value, list) else [value]
    return [entry["@id"] if isinstance(entry, dict) else entry for entry in values]


def action(found: dict[str, dict[str, Any]], path: str) -> dict[str, Any]:
    return found[f"#{records.read(records.record_path(path))['id']}"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def validate(out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ValidationResult:
    """Ask the public validator for all that the profile requires or recommends."""
    monkeypatch.setattr(HttpRequester, "get", lambda self, url, **_: Answer(url), raising=False)
    settings = ValidationSettings(
        rocrate_uri=out,
        profile_identifier="provenance-run-crate-0.5",
        requirement_severity=Severity.RECOMMENDED,
        offline=True,
        cache_path=cache,
    )
    return services.validate(settings)


def complaints(result: ValidationResult, severity: Severity) -> set[str]:
    return {issue.message for issue in result.get_issues() if issue.severity == severity}


@pytest.mark.parametrize("absent", [[], [DATASET, NETWORK, PNG]], ids=["all here", "some not here"])
def test_the_public_validator_accepts_it(absent, project, tmp_path, monkeypatch):
    for path in absent:
        Path(path).unlink()
    out = tmp_path / "crate"
    write(out)
    result = validate(out, tmp_path / "cache", monkeypatch)
    assert complaints(result, Severity.REQUIRED) == set()
    assert complaints(result, Severity.RECOMMENDED) == UNKNOWN


def test_the_public_validator_is_asked_for_real(project, tmp_path, monkeypatch):
    out = tmp_path / "crate"
    write(out)
    (out / SVG).unlink()
    metadata = out / "ro-crate-metadata.json"
    metadata.write_text(metadata.read_text().replace('"ControlAction"', '"CreativeWork"'))
    found = complaints(validate(out, tmp_path / "cache", monkeypatch), Severity.REQUIRED)
    assert any(SVG in message for message in found)
    assert any("ControlAction instances" in message for message in found)


def test_every_file_is_there_and_as_described(project, tmp_path):
    out = tmp_path / "crate"
    summary = write(out)
    held = contents(out)
    del held["ro-crate-metadata.json"]
    found = entities(out)
    described = {identity for identity, entity in found.items() if "File" in many(entity["@type"])}
    assert described == {path.replace(" ", "%20").replace("=", "%3D") for path in held}
    assert described == set(many(found["./"]["hasPart"]))
    for path, content in held.items():
        entity = found[path.replace(" ", "%20").replace("=", "%3D")]
        assert entity["name"] == path or path == "Snakefile"
        assert entity["contentSize"] == str(len(content))
        assert entity["md5"] == hashlib.md5(content).hexdigest()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert content == Path(path).read_bytes()
    assert {*ARTIFACTS, *(f"{path}.record.json" for path in ARTIFACTS)} <= held.keys()
    assert {
        "LICENSE",
        "config/config.yaml",
        "workflow/scripts/draw.py",
        "workflow/rules/all.smk",
    } <= held.keys()
    assert found[NETWORK]["encodingFormat"][0] == "application/octet-stream"
    assert found[SVG]["encodingFormat"] == "image/svg+xml"
    assert summary == crate.CrateSummary(len(held), len(PROGRAMS), sum(map(len, held.values())))


def test_every_reference_leads_somewhere(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    found = entities(out)
    references = {
        entry["@id"]
        for entity in found.values()
        for value in entity.values()
        for entry in (value if isinstance(value, list) else [value])
        if isinstance(entry, dict)
    }
    # The specification itself, and two links of the description of Snakemake's language.
    assert {reference for reference in references - found.keys() if "snakemake" not in reference} == {
        "https://w3id.org/ro/crate/1.1",
        "https://doi.org/10.1093/bioinformatics/bts480",
    }


def test_actions_link_files_to_what_they_were_made_of(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    found = entities(out)
    files_of = {
        path: [entry for entry in many(action(found, path).get("object", [])) if not entry.startswith("#")]
        for path in ARTIFACTS
    }
    assert files_of == {
        RAW: [],
        DATASET: [RAW],
        NETWORK: [DATASET],
        HISTORY: [DATASET],
        METRICS: [DATASET, NETWORK],
        TABLE: ["results/mini/metrics%20ratio%3D4.json"],
        TOP1: ["results/mini/metrics%20ratio%3D4.json"],
        SVG: [TABLE],
        PNG: [TABLE],
    }
    assert many(action(found, SVG)["result"]) == [SVG, PNG]
    assert action(found, NETWORK) is action(found, HISTORY)
    assert found[f"{NETWORK}.record.json"]["about"] == {"@id": action(found, NETWORK)["@id"]}
    assert action(found, TABLE)["description"] == (
        f"python workflow/scripts/summarise.py --metrics '{METRICS}' --results {TABLE} --top1 results/mini/top1"
    )
    # Where the bytes came from is in no record.
    assert "example.org" not in (out / "ro-crate-metadata.json").read_text()


def test_values_and_files_fill_the_slots_of_programs(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    found = entities(out)

    def values(path: str, role: str) -> dict[str, Any]:
        mine = [found[entry] for entry in many(action(found, path)[role]) if entry.startswith("#")]
        return {value["name"]: value["value"] for value in mine}

    assert values(NETWORK, "object") == {"seed": 1}
    assert values(METRICS, "object") == {"cell.model": "dot", "cell.seed": "1", "exact": True}
    assert values(METRICS, "result") == {"collapsed": '["fc"]'}
    assert values(DATASET, "object") == {"shape": "[1, 8, 8]", "test": 0.2, "folder": "null", "limits": "{}"}
    slots = "workflow/scripts/measure.py#"
    assert many(found[NETWORK]["exampleOfWork"]) == [
        "workflow/scripts/pretrain.py#output/checkpoint",
        f"{slots}input/checkpoint",
    ]
    tool = found[action(found, METRICS)["instrument"]["@id"]]
    assert many(tool["input"]) == [
        f"{slots}{name}"
        for name in ("input/dataset", "input/checkpoint", *(f"parameter/cell.{x}" for x in ("model", "seed")))
    ] + [f"{slots}parameter/exact"]
    assert found[f"{slots}parameter/exact"]["additionalType"] == "Boolean"
    assert found["workflow/scripts/pretrain.py#parameter/seed"]["additionalType"] == "Integer"
    # The folder that the command names.
    assert many(found[TOP1]["exampleOfWork"]) == ["workflow/scripts/summarise.py#output/top1"]


def test_the_workflow_its_steps_and_its_engine(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    found = entities(out)
    workflow = found["Snakefile"]
    assert found["./"]["mainEntity"] == {"@id": "Snakefile"}
    assert workflow["@type"] == ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
    assert found[workflow["programmingLanguage"]["@id"]]["name"] == "Snakemake"
    steps = [found[step] for step in many(workflow["step"])]
    assert [(step["name"], step["position"]) for step in steps] == [
        (name, str(position)) for position, name in enumerate(PROGRAMS, 1)
    ]
    assert steps[0]["description"] == "Do fetch.\n\nIn detail."
    tools = [tool for step in steps for tool in many(step["workExample"])]
    assert many(workflow["hasPart"]) == tools
    assert [found[tool]["mainEntity"]["@id"] for tool in tools] == [
        f"workflow/scripts/{name}.py" for name in PROGRAMS
    ]
    [engine] = [entity for entity in found.values() if entity["@type"] == "OrganizeAction"]
    assert found[engine["instrument"]["@id"]]["softwareVersion"] == version("snakemake")
    controls = [found[control] for control in many(engine["object"])]
    jobs = [action(found, path)["@id"] for path in (RAW, DATASET, NETWORK, METRICS, TABLE, SVG)]
    assert [many(control["object"]) for control in controls] == [[job] for job in jobs]
    run = found[engine["result"]["@id"]]
    assert (run["name"], run["instrument"], run["result"]) == (
        "A miniature",
        {"@id": "Snakefile"},
        {"@id": SVG},
    )
    assert run["object"] == {"@id": "config/config.yaml"}
    assert {run["@id"], engine["@id"], *jobs} <= set(many(found["./"]["mentions"]))
    assert found["./"]["description"].startswith("Is a spot a spot? Holds ")
    assert many(workflow["buildInstructions"]) == ["environment.yml", "requirements.txt"]
    assert many(workflow["softwareRequirements"]) == ["environment.yml", "requirements.txt"]


def test_tools_tell_code_and_environment(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    found = entities(out)
    record = records.read(records.record_path(DATASET))
    tool = found[action(found, DATASET)["instrument"]["@id"]]
    assert tool["name"] == "prepare.py with shrinkflow/data/spots.py"
    assert tool["softwareVersion"] == record["code"]["fingerprint"]
    assert f"is what ran (fingerprint {record['code']['fingerprint']})" in tool["description"]
    needs = {found[one]["name"]: found[one]["softwareVersion"] for one in many(tool["softwareRequirements"])}
    assert needs == {"Python": record["environment"]["python"], "numpy": version("numpy")}
    settings = {found[one]["name"]: found[one]["value"] for one in many(tool["additionalProperty"])}
    assert settings == {name: record["environment"][name] for name in ("platform", "python")}


def test_code_that_is_no_longer_what_ran_is_told(project, tmp_path):
    files.write_text("workflow/scripts/draw.py", '"""Draw."""\nimport scipy\n')
    fingerprint._parse.cache_clear()
    fingerprint._closure.cache_clear()
    out = tmp_path / "crate"
    write(out)
    found = entities(out)
    tool = found[action(found, SVG)["instrument"]["@id"]]
    assert re.search(r"is another \(fingerprint \w{16}\) than what ran", tool["description"])
    assert "is what ran" in found[action(found, TABLE)["instrument"]["@id"]]["description"]


def test_licences_and_citation(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    found = entities(out)
    assert found["workflow/scripts/draw.py"]["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    for path in (RAW, DATASET):
        assert found[found[path]["license"]["@id"]]["name"] == "No licence stated"
        assert found[path]["description"] == "Spots, drawn by hand for this test."
    assert "license" not in found[SVG]
    assert "states no licence" in found[found["./"]["license"]["@id"]]["description"]
    paper = found[many(found["Snakefile"]["citation"])[1]]
    assert many(found["Snakefile"]["citation"])[0] == "CITATION.cff"
    assert (paper["name"], paper["datePublished"]) == ("What is the State of Neural Network Pruning?", "2020")
    assert found[found["Snakefile"]["author"]["@id"]]["name"] == "The shrinkflow authors"


def test_the_library_reads_what_it_wrote(project, tmp_path):
    out = tmp_path / "crate"
    write(out)
    read = ROCrate(out)
    assert (read.name, read.mainEntity.id) == ("A miniature", "Snakefile")
    assert read.get(SVG)["exampleOfWork"][0]["name"] == "svg"


def test_two_crates_have_the_same_bytes(project, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    second.mkdir()
    write(first)
    write(second)
    assert contents(first) == contents(second)


def test_the_date_is_git_s_or_the_newest_target_s(project, tmp_path, monkeypatch):
    write(tmp_path / "one", SVG, RAW)
    os.utime(RAW, (NEWEST + 3600, NEWEST + 3600))
    write(tmp_path / "two", SVG, RAW)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2024-05-06T07:08:09+02:00")
    subprocess.run(["git", "init", "--quiet"], check=True)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "--message=x"], check=True)
    write(tmp_path / "three", SVG, RAW)
    dates = [entities(tmp_path / name)["./"]["datePublished"] for name in ("one", "two", "three")]
    assert dates[1:] == ["2023-11-14T23:13:20+00:00", "2024-05-06T07:08:09+02:00"]
    assert dates[0] > dates[1]  # RAW was made just now


def test_artifacts_that_are_not_here_are_described(project, tmp_path):
    promised = records.read(records.record_path(NETWORK))["artifact"]
    Path(NETWORK).unlink()
    # Of another output of a job that led here, not even the record may be here.
    for path in (PNG, f"{PNG}.record.json"):
        Path(path).unlink()
    out = tmp_path / "crate"
    summary = write(out)
    found = entities(out)
    assert not (out / NETWORK).exists()
    assert (out / f"{NETWORK}.record.json").is_file()
    absent = found[f"#absent/{NETWORK}"]
    assert absent["@type"] == "File"
    assert absent["@id"] not in many(found["./"]["hasPart"])
    assert (absent["md5"], absent["contentSize"]) == (promised["md5"], str(promised["size"]))
    assert f"#absent/{NETWORK}" in many(action(found, METRICS)["object"])
    assert many(action(found, NETWORK)["result"]) == [f"#absent/{NETWORK}", HISTORY]
    assert many(action(found, SVG)["result"]) == [SVG, f"#absent/{PNG}"]
    assert summary.actions == len(PROGRAMS)


def spoil_bytes() -> str:
    Path(METRICS).write_text("[]")
    return r"metrics ratio=4.json: was changed after it was made \(md5 d751713988987e9331980363e24189ce"


def spoil_record() -> str:
    record = Path(f"{DATASET}.record.json")
    record.write_text(record.read_text().replace("0.2", "0.3"))
    return r"dataset.safetensors.record.json was changed after it was written"


def spoil_other_output() -> str:
    Path(PNG).write_text("gnp")
    return r"compression.png: was changed"


def lose_record() -> str:
    Path(f"{TABLE}.record.json").unlink()
    return r"results.csv: has no record"


def lose_file_and_record() -> str:
    for path in (NETWORK, f"{NETWORK}.record.json"):
        Path(path).unlink()
    return r"checkpoint.safetensors: is not there"


def lose_target() -> str:
    Path(SVG).unlink()
    return r"compression.svg: is not there, only its record is"


def make_input_anew() -> str:
    fetch("0,1\n")
    return r"dataset.safetensors: was made of, or with, another data/raw/spots/spots.csv \(md5 \w{32}\)"


def make_output_elsewhere() -> str:
    kept = {path: Path(path).read_bytes() for path in (PNG, f"{PNG}.record.json")}
    work("draw", f"--svg|{SVG}|--png|{PNG}", [TABLE], {SVG: "<svg/>", PNG: "png"}, {})
    for path, content in kept.items():
        Path(path).write_bytes(content)
    return r"compression.svg: was made with .*compression.png, whose record is of another job"


def read_from_outside() -> str:
    elsewhere = Path("../spots.csv").resolve()
    elsewhere.write_text("1,0\n")
    work("draw", f"--results|{elsewhere}|--svg|{SVG}", [str(elsewhere)], {SVG: "<svg/>"}, {})
    return r"spots.csv: lies outside the project"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_bytes,
        spoil_record,
        spoil_other_output,
        lose_record,
        lose_file_and_record,
        lose_target,
        make_input_anew,
        make_output_elsewhere,
        read_from_outside,
    ],
)
def test_what_is_not_as_recorded_is_refused(spoil, project, tmp_path):
    message = spoil()
    with pytest.raises(UserError, match=message):
        write(tmp_path / "crate")
    assert {path.name for path in tmp_path.iterdir()} <= {"project", "spots.csv"}


def test_a_folder_that_is_there_is_left_alone(project, tmp_path):
    out = tmp_path / "crate"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"crate is there already; name a folder that is not"):
        write(out)
    assert contents(out) == {"mine.txt": b"mine"}
    (out / "mine.txt").unlink()
    write(out)
    assert "ro-crate-metadata.json" in contents(out)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("CITATION.cff", None, r"CITATION.cff is not there"),
        ("CITATION.cff", "title: x\nversion: 1\n", r"CITATION.cff lacks 'license'; add it"),
        ("CITATION.cff", "title: [", r"CITATION.cff is no valid YAML"),
        ("config/config.yaml", None, r"config/config.yaml is not there"),
        ("config/config.yaml", "study", r"config/config.yaml holds no keys"),
        (
            "workflow/scripts/draw.py",
            None,
            r"draw.py is not there, but made results/mini/figures/compression.svg",
        ),
    ],
)
def test_a_project_that_lacks_something_is_told(path, text, message, project, tmp_path):
    Path(path).unlink()
    if text is not None:
        Path(path).write_text(text)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "crate")


def test_a_write_that_breaks_off_leaves_nothing(project, tmp_path, monkeypatch):
    whole = ROCrate.write

    def broken(self: ROCrate, base: Path) -> None:
        whole(self, base)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ROCrate, "write", broken)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "crate")
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_a_study_outside_the_project_is_held_by_its_name(project, tmp_path):
    study = tmp_path / "mine.yaml"
    study.write_text("study: mini\n")
    crate.write([SVG], tmp_path / "crate", str(study), "A miniature")
    assert (tmp_path / "crate/mine.yaml").read_text() == "study: mini\n"
    assert str(tmp_path) not in (tmp_path / "crate/ro-crate-metadata.json").read_text()
    assert "license" not in entities(tmp_path / "crate")["mine.yaml"]


@pytest.fixture(scope="module")
def cited() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "CITATION.cff").read_text()))


def test_the_citation_file_is_of_this_version(cited):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["title"], cited["version"]) == (project["name"], project["version"])
    assert cited["license"] == project["license"] == "MIT"
    assert [author["name"] for author in cited["authors"]] == [
        author["name"] for author in project["authors"]
    ]


def test_the_citation_file_has_what_its_format_requires(cited):
    # https://github.com/citation-file-format/citation-file-format, schema-guide.md of version 1.2.0
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert {"authors", "cff-version", "message", "title"} <= cited.keys()
    known = {"abstract", "authors", "cff-version", "keywords", "license", "message", "references", "title"}
    assert cited.keys() <= known | {"type", "version"}
    [survey] = cited["references"]
    assert {"authors", "title", "type"} <= survey.keys()
    assert (survey["title"], survey["year"]) == ("What is the State of Neural Network Pruning?", 2020)
    assert all(author.keys() == {"given-names", "family-names"} for author in survey["authors"])
