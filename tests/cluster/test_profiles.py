"""The profiles that no batch system stands behind here: what can be seen without one."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

import pytest
import yaml

from tests.workflow.conftest import ROOT, Project

PROFILES = ROOT / "profiles"
CLUSTERS = sorted(
    path.parent.name for path in PROFILES.glob("*/config.yaml") if path.parent.name != "default"
)

# Commands of PBS that run a script at once, and know how it ended.
QSUB = """#!/usr/bin/env bash
printf '%s ' "$@" >> "$QUEUE/submitted"; echo >> "$QUEUE/submitted"
id=$(wc -l < "$QUEUE/submitted").fake
(bash "${@: -1}" > "$QUEUE/$id.log" 2>&1; echo $? > "$QUEUE/$id") > /dev/null 2>&1 &
echo "$id"
"""
QSTAT = """#!/usr/bin/env bash
id=${@: -1}
echo "Job Id: $id"
if [ -f "$QUEUE/$id" ]; then
    printf '    job_state = F\\n    Exit_status = %s\\n' "$(cat "$QUEUE/$id")"
else
    echo "    job_state = R"
fi
"""


def read(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def test_profiles_are_there():
    assert CLUSTERS == ["generic", "kubernetes", "lsf", "slurm"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_profile_says_what_the_default_one_says(name):
    """It is read instead of the default one, and staleness must not depend on where a study runs."""
    assert read("default").items() <= read(name).items()


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_job_after_scoring_is_in_a_group(name):
    rules = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    jobs = {
        rule[1]
        for rule in re.finditer(r"^rule (\w+):.*?(?=^rule |\Z)", rules, re.M | re.S)
        if "shell:" in rule[0]
    }
    groups = dict(entry.split("=") for entry in read(name)["groups"])
    before = {"fetch", "prepare", "pretrain", "import_weights", "initialise", "score"}
    # Costs are timed alone.
    alone = {"cost", "summarise_costs", "report_costs"}
    assert groups.keys() == jobs - before - alone
    # A group for each ratio: scores lie between the cells of an iterative schedule, and no group may surround them.
    assert set(groups.values()) == {"cell-{ratio}", "tables"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERS)
def test_snakemake_takes_a_profile(name, tmp_path):
    executor = read(name)["executor"].replace("-", "_")
    if not find_spec(f"snakemake_executor_plugin_{executor}"):
        pytest.skip(f"there is no plugin for {executor}; docs/clusters.md says what to install")
    project = Project(tmp_path)
    # A dry run would ask the storage what is there.
    elsewhere = ("--default-storage-provider", "none") if name == "kubernetes" else ()
    done = project.run("--workflow-profile", name, "--dry-run", *elsewhere)
    text = done.stdout + done.stderr
    # The jobs of a group are listed together, one step further in.
    assert re.search(r"^ +rule collect:", text, re.MULTILINE)
    resources = re.search(r"^rule pretrain:.*?resources: ([^\n]*)", text, re.M | re.S)[1]
    assert "runtime=" in resources and "mem_mb=" in resources


@pytest.mark.slow
def test_the_generic_profile_submits_and_asks(tmp_path):
    """Its two scripts, with commands that stand in for those of PBS."""
    if not find_spec("snakemake_executor_plugin_cluster_generic"):
        pytest.skip("there is no plugin for cluster_generic")
    commands, queue = tmp_path / "bin", tmp_path / "queue"
    queue.mkdir()
    commands.mkdir()
    for name, text in (("qsub", QSUB), ("qstat", QSTAT)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    project = Project(tmp_path / "project")
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("QUEUE", str(queue))
        arguments = ("--workflow-profile", "generic", "--seconds-between-status-checks", "1")
        project.run("datasets", *arguments, "--set-resources", "prepare:gpu=2")
        assert (project.folder / "data/processed/tiny/digits/dataset.safetensors").is_file()
        fetch, prepare = (queue / "submitted").read_text().splitlines()
        assert re.search(r"-l select=1:ncpus=1:mem=1500mb -l walltime=4:0:00 ", fetch)
        assert re.search(r"-l select=1:ncpus=1:mem=150\dmb:ngpus=2 -l walltime=1:0:00 ", prepare)
        # A job that fails is told as failed, not waited for: these are no pictures.
        (project.folder / "data/processed/tiny/digits/dataset.safetensors").write_text("none")
        done = project.snakemake("pretrained", *arguments, "--retries", "0")
        assert done.returncode != 0
        assert "Error in rule pretrain" in done.stdout + done.stderr
