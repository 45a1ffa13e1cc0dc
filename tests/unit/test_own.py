from __future__ import annotations

from pathlib import Path

import pytest

from shrinkflow import models, own, scoring, strategies
from shrinkflow.errors import UserError
from tests.unit.test_training import split

GOOD = """
from shrinkflow.prunable import prunable

def square(model, data, generator, *, power: float = 2.0):
    return {name: weight.detach().abs() ** power for name, weight in prunable(model).items()}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "mine.py") -> None:
    Path(name).write_text(text)


def score(**parameters):
    chosen = scoring.scorer("square", parameters, "mine.py")
    return scoring.score(chosen, models.build("digitsnet", (1, 8, 8), 3, seed=1), split(), 1)


def test_a_function_in_a_file_scores():
    write(GOOD)
    model = models.build("digitsnet", (1, 8, 8), 3, seed=1)
    expected = model.features[0].weight.detach().abs() ** 3
    assert (score(power=3.0)["features.0.weight"] == expected.numpy()).all()


def test_parameters_are_read_without_running_the_file():
    write("raise SystemExit\n" + GOOD)
    assert own.parameters("mine.py", "square") == {"power": 2.0}
    entry = {"name": "mine", "file": "mine.py", "function": "square", "parameters": {"power": 3}}
    assert strategies.resolve(entry).parameters == {"power": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"'mine.py' is not valid Python"),
        (
            "def squre(model, data, generator): ...",
            r"'mine.py' has no function 'square'; did you mean 'squre'",
        ),
        (
            "def square(model, data): ...",
            r"function 'square' in 'mine.py' must take \(model, data, generator, \*",
        ),
        (
            "def square(model, data, generator, *, k): ...",
            r"parameter 'k' of function 'square' .* as default",
        ),
        ("def square(model, data, generator, **k): ...", r"must take \(model, data, generator"),
        ("import nosuchpackage\n" + GOOD, r"'mine.py' cannot be imported: ModuleNotFoundError: .*line 1"),
        (
            GOOD.replace("    return {", "    1 / 0\n    return {"),
            r"function 'square' in 'mine.py' failed: ZeroDivisionError: .* \(line 5\)",
        ),
        (
            GOOD.replace("** power", "* float('nan')"),
            r"function 'square' in 'mine.py' returned a value for 'features.0.weight' that is not finite",
        ),
        (
            GOOD.replace("weight.detach().abs()", "weight.detach()[0]"),
            r"function 'square' in 'mine.py' returned shape \(1, 3, 3\) for",
        ),
        (
            GOOD.replace("weight.detach().abs() ** power", "0"),
            r"function 'square' in 'mine.py' returned int for 'features.0.weight'",
        ),
        (
            GOOD.replace("return {name", "return [name")
            .replace("items()}", "items()]")
            .replace(": weight.detach().abs() ** power", ""),
            r"must return a mapping of names to tensors, not list",
        ),
    ],
)
def test_what_goes_wrong_in_it_names_file_and_function(text, message):
    write(text)
    with pytest.raises(UserError, match=message):
        score()


def test_a_file_has_to_be_there_and_in_the_project(tmp_path):
    with pytest.raises(UserError, match=r"there is no file 'mine.py'"):
        score()
    (tmp_path / "project").mkdir()
    write(GOOD)
    import os

    os.chdir("project")
    with pytest.raises(UserError, match=r"'../mine.py' lies outside the project; copy it"):
        own.parameters("../mine.py", "square")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "magnitude"}, "give either 'score', or 'file' and 'function'"),
        ({"function": ...}, "the key 'function' is missing"),
        (
            {"parameters": {"powr": 1.0}},
            "function 'square' in 'mine.py' has no parameter 'powr'; did you mean 'power'",
        ),
        (
            {"parameters": {"power": "x"}},
            "parameter 'power' of function 'square' in 'mine.py' must be of type float",
        ),
        ({"file": ..., "score": "magnitude"}, "'function' goes with 'file' only"),
    ],
)
def test_entries_of_a_study_are_checked(change, message):
    write(GOOD)
    entry = {"name": "mine", "file": "mine.py", "function": "square", "parameters": {}} | change
    with pytest.raises(UserError, match=message):
        strategies.resolve({key: value for key, value in entry.items() if value is not ...})
