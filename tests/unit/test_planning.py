"""A plan is recalled only while everything it was made of is the same, pictures in folders included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from shrinkflow.errors import UserError
from shrinkflow.provenance import planning
from shrinkflow.provenance.planning import Job, Plan


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {
        "Snakefile": "",
        "requirements.txt": "numpy==1\n",
        "workflow/rules/data.smk": "rule a:\n",
        "workflow/scripts/shrinkflow/x.py": "1\n",
        "pictures/cat/1.png": "a cat",
        "config/config.yaml": yaml.safe_dump(
            {"study": "s", "datasets": {"cats": {"source": "imagefolder", "folder": "pictures"}}}
        ),
        "config/studies/other.yaml": yaml.safe_dump({"study": "other"}),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("Snakefile", "requirements.txt", "workflow/rules/data.smk", "workflow/scripts/shrinkflow/x.py"),
        *("pictures/cat/1.png", "config/config.yaml"),
    ],
)
def test_any_changed_byte_of_its_sources_makes_a_plan_unknown(project, name):
    before = planning.sources(planning.DEFAULT)
    path = project / name
    os.utime(path, (1, 1))
    assert planning.sources(planning.DEFAULT) == before
    path.write_text(path.read_text() + "# more\n")
    assert planning.sources(planning.DEFAULT) != before


def test_another_picture_makes_a_plan_unknown_and_another_study_does_not(project):
    before = planning.sources(planning.DEFAULT)
    (project / "config/studies/other.yaml").write_text("study: another\n")
    assert planning.sources(planning.DEFAULT) == before
    (project / "pictures/cat/2.png").write_text("a second cat")
    assert planning.sources(planning.DEFAULT) != before


@pytest.mark.parametrize("text", ["datasets: [", "[]", "datasets: []", "datasets: {a: 1}", ""])
def test_a_study_that_cannot_be_read_is_left_to_the_plan_to_refuse(project, text):
    (project / "config/config.yaml").write_text(text)
    assert len(planning.sources(planning.DEFAULT)) == 64


def test_a_study_is_found_by_its_name(project):
    assert planning.configuration("s") == "config/config.yaml"
    assert planning.configuration("other") == "config/studies/other.yaml"
    with pytest.raises(UserError, match="no file in config/ is of the study 'none'"):
        planning.configuration("none")


def job(inputs: tuple[str, ...], *outputs: str) -> Job:
    return Job("rule", {}, ("x.py",), "0", (), {}, inputs, outputs)


def test_the_part_of_a_plan_up_to_some_jobs(project):
    a, b, c, d = job((), "a"), job((), "b", "b2"), job(("a", "b2"), "c"), job(("b",), "d")
    plan = Plan("config.yaml", "s", (a, b, c, d), frozenset(["c"]))
    assert plan.upto([c]).jobs == (a, b, c)
    assert plan.upto([d]).jobs == (b, d)
    assert plan.upto([a]).jobs == (a,)
    assert plan.upto([c]).pending == {"c"}
    assert plan.makers["b2"] is b
