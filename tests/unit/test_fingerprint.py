from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shrinkflow import fingerprint as module
from shrinkflow.fingerprint import fingerprint, packages

SCRIPTS = module.LIBRARY.parent


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A small library: program.py -> used -> deep; found.py is found by name; apart.py is not used."""
    root = tmp_path / "shrinkflow"
    (root / "kinds").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "kinds" / "__init__.py").write_text("KINDS = {}\n")
    (root / "kinds" / "found.py").write_text("from shrinkflow import deep\nX = 1\n")
    (root / "used.py").write_text('"""Doc."""\nfrom shrinkflow.deep import f\n\ndef g(x):\n    return f(x)\n')
    (root / "deep.py").write_text(
        "import numpy as np\n\n\ndef f(x):\n    '''Doc.'''\n    return x + 1  # why\n"
    )
    (root / "apart.py").write_text("import pandas\n")
    (tmp_path / "program.py").write_text("from shrinkflow import used\nfrom shrinkflow.kinds import KINDS\n")
    (tmp_path / "requirements.txt").write_text("numpy==2.1.0\npandas==2.0.0\nscikit-learn==1.5.0\n")
    monkeypatch.setattr(module, "LIBRARY", root)
    monkeypatch.setattr(module, "PINS", tmp_path / "requirements.txt")
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for function in (module._parse, module._closure, module._pins):
        function.cache_clear()


def changed(root: Path, file: str, old: str, new: str) -> bool:
    before = fingerprint(root / "program.py")
    path = root / "shrinkflow" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    forget()
    return fingerprint(root / "program.py") != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("deep.py", "# why", "# because"),
        ("deep.py", "Doc.", "Another docstring."),
        ("deep.py", "    '''Doc.'''\n", ""),
        ("deep.py", "x + 1", "(x\n        +   1)"),
        ("deep.py", "\n\n\ndef", "\ndef"),
        ("used.py", '"""Doc."""\n', ""),
        ("apart.py", "pandas", "numpy"),
        ("kinds/found.py", "X = 1", "X = 2"),
    ],
)
def test_what_cannot_change_a_result_does_not_change_the_fingerprint(library, file, old, new):
    assert not changed(library, file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("deep.py", "x + 1", "x + 2"),
        ("deep.py", "x + 1", "x + 1.0"),
        ("deep.py", "x + 1", "x + True"),
        ("deep.py", "return x + 1", "x + 1"),
        ("used.py", "return f(x)", "return f(f(x))"),
        ("kinds/__init__.py", "{}", "{'a': 1}"),
        ("__init__.py", "", "import os\n"),
    ],
)
def test_what_can_change_a_result_changes_the_fingerprint(library, file, old, new):
    assert changed(library, file, old, new)


def test_code_found_by_name_counts_where_it_is_passed(library):
    plugin = library / "shrinkflow" / "kinds" / "found.py"
    before = fingerprint(library / "program.py", plugin)
    assert before != fingerprint(library / "program.py")
    plugin.write_text(plugin.read_text().replace("X = 1", "X = 2"))
    forget()
    assert fingerprint(library / "program.py", plugin) != before


def test_the_place_of_the_project_does_not_count(library, tmp_path, monkeypatch):
    before = fingerprint(library / "program.py")
    copy = tmp_path / "elsewhere"
    shutil.copytree(library / "shrinkflow", copy / "shrinkflow")
    shutil.copy(library / "program.py", copy)
    monkeypatch.setattr(module, "LIBRARY", copy / "shrinkflow")
    forget()
    assert fingerprint(copy / "program.py") == before


def test_packages_are_those_reached_with_their_pins(library):
    assert packages(library / "program.py") == {"numpy": "2.1.0"}
    (library / "shrinkflow" / "used.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
        "def f():\n    import sklearn.datasets\n"
    )
    forget()
    assert packages(library / "program.py") == {"scikit-learn": "1.5.0"}


def test_relative_imports_are_refused_because_they_are_not_followed(library):
    (library / "shrinkflow" / "used.py").write_text("from . import deep\n")
    forget()
    with pytest.raises(ValueError, match=r"used.py:1: relative import"):
        fingerprint(library / "program.py")


def test_pruning_needs_no_torch_and_training_does():
    assert set(packages(SCRIPTS / "prune.py")) == {"numpy", "safetensors"}
    assert {"torch", "numpy", "safetensors"} <= set(packages(SCRIPTS / "finetune.py"))
    assert "seaborn" not in packages(SCRIPTS / "finetune.py")


def test_every_program_and_plugin_has_a_fingerprint_of_its_own():
    programs = sorted(SCRIPTS.glob("*.py"))
    assert len({fingerprint(program) for program in programs}) == len(programs) >= 11


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_fingerprints_agree_between_versions_of_python(version):
    python = shutil.which(f"python{version}")
    script = "from shrinkflow.fingerprint import fingerprint as f; print(f('{}'))"
    command = ["-c", script.format(SCRIPTS / "finetune.py")]
    ours = subprocess.run(
        [sys.executable, *command], cwd=SCRIPTS, capture_output=True, text=True, check=True
    ).stdout
    if python is None:
        pytest.skip(f"no python{version} here")
    other = subprocess.run([python, *command], cwd=SCRIPTS, capture_output=True, text=True)
    if other.returncode:
        pytest.skip(f"python{version} does not run here")
    assert other.stdout == ours
