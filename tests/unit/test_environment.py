"""One list of versions, said in three places: pyproject.toml, requirements.txt, environment.yml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(
    re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
)
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_every_range_is_pinned_within_it():
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    wanted += [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    for text in wanted:
        requirement = Requirement(text)
        name = requirement.name.lower()
        assert name in PINS, name
        assert requirement.specifier.contains(PINS[name]), text


def test_conda_gets_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *packages, pip, others = environment["dependencies"]
    assert pip == "pip"
    found = dict(entry.split(" =", 1) for entry in packages if ">=" not in entry)
    found |= dict(entry.split("==") for entry in others["pip"])
    names = [Requirement(text).name.lower() for text in PROJECT["project"]["dependencies"]]
    assert found == {CONDA.get(name, name): PINS[name] for name in names}
    assert f"python {PROJECT['project']['requires-python']}" in environment["dependencies"]


def test_pins_install_on_machines_with_and_without_a_gpu():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", " "))]
    assert all("==" in line for line in pins)
    # The CUDA build of torch pins these itself; the CPU build needs none of them.
    assert not [line for line in pins if re.match(r"nvidia-|cuda-|triton", line)]
    assert not [line for line in pins if "+" in line.split(";")[0]]
    assert not [line for line in lines if line.lstrip().startswith("--")]


def test_every_rule_runs_in_the_one_environment():
    text = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.split(r"^rule ", text, flags=re.MULTILINE)[1:]
    jobs = [rule for rule in rules if "shell:" in rule]
    assert len(jobs) == 20
    for rule in jobs:
        assert '"../../environment.yml"' in rule
        assert "log:" in rule
        assert "benchmark:" in rule
        assert "resources:" in rule
        assert "code=" in rule
