"""A user's own model from a file: built, tried before anything runs, rebuilt from checkpoints."""

from __future__ import annotations

import copy
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shrinkflow import checkpoints, estimate, faults, models, own, study, trial
from shrinkflow.errors import UserError
from shrinkflow.provenance import planning
from shrinkflow.seeds import Purpose
from tests.unit.test_study import valid

ROOT = Path(__file__).parents[2]
SHAPE, CLASSES = (1, 8, 8), 10
NAME = "mine/net.py:build"


def documented(language: str) -> str:
    """The code of one language in docs/models.md."""
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    (block,) = (part.split("```")[0] for part in text.split(f"```{language}\n")[1:])
    return block


GOOD = documented("python")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    write(GOOD)


def write(text: str) -> None:
    Path("mine/net.py").write_text(textwrap.dedent(text))


def with_model(**changes: Any) -> dict[str, Any]:
    config = valid() | yaml.safe_load(documented("yaml"))
    return config | changes


def body(lines: str) -> str:
    """A file whose network runs these lines on its pictures."""
    return (
        textwrap.dedent("""
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, channels, classes):
                super().__init__()
                self.first = nn.Conv2d(channels, 4, 3)
                self.head = nn.Linear(4, classes)

            def forward(self, pictures):
                features = self.head(self.first(pictures).mean(dim=(2, 3)))
        """)
        + textwrap.indent(textwrap.dedent(lines), 8 * " ")
        + textwrap.dedent("""
        def build(shape, classes):
            return Net(shape[0], classes)
        """)
    )


def test_the_documented_one_is_short_and_works() -> None:
    assert len([line for line in GOOD.splitlines() if line]) <= 12
    found = study.load(with_model())
    assert found.models == {"mynet": NAME}
    assert found.reference("mynet") == NAME
    assert found.reference("resnet20") == "resnet20"
    assert {cell.model for cell in found.cells()} == {"mynet"}
    assert models.file(NAME) == Path("mine/net.py")
    # Convolutions 9 * (1 * 16 + 16 * 32) for each of 64 pixels, classifier 32 * 10.
    network = models.build(NAME, SHAPE, CLASSES, None)
    assert estimate.measures.count(network, SHAPE).macs == 64 * 9 * 528 + 320
    assert estimate.of(found)["digits", "mynet"].trainings == 2 + 2 * 2 * (3 * 2 + 1)


def test_it_is_built_and_saved_and_built_again(tmp_path: Path) -> None:
    network = models.build(NAME, SHAPE, CLASSES, 1)
    described = checkpoints.metadata(NAME, SHAPE, CLASSES, [0.5], [0.25])
    checkpoints.save(tmp_path / "c.safetensors", network, described)
    again, metadata = checkpoints.load(tmp_path / "c.safetensors")
    assert metadata["model"] == NAME
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    Path("mine/net.py").unlink()
    with pytest.raises(UserError, match=r"there is no file 'mine/net.py'"):
        checkpoints.load(tmp_path / "c.safetensors")


def test_its_initial_weights_are_the_seeds() -> None:
    before = torch.get_rng_state()
    first, again, other = (models.build(NAME, SHAPE, CLASSES, seed) for seed in (1, 1, 2))
    fresh = models.build(NAME, SHAPE, CLASSES, 1, Purpose.REINITIALISATION)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [next(network.parameters()) for network in (first, again, other, fresh)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


@pytest.mark.parametrize(
    "draw",
    [
        "net.first.weight.data.copy_(torch.from_numpy(numpy.random.rand(4, 1, 3, 3)))",
        "net.first.weight.data.add_(random.random())",
        "net.extra = nn.Linear(2, random.randrange(2, 10**9) % 10**6 + 2, bias=False)",
    ],
)
def test_weights_drawn_elsewhere_are_refused(draw: str) -> None:
    text = body("return features").replace(
        "    return Net(shape[0], classes)", f"    net = Net(shape[0], classes)\n    {draw}\n    return net"
    )
    write("import random\nimport numpy\n" + text)
    with pytest.raises(UserError, match=r"'mine/net.py:build' has other initial weights each time"):
        models.build(NAME, SHAPE, CLASSES, 1)


def test_a_file_is_read_anew_each_time() -> None:
    """Bytecode kept by the second and by size would be that of the first."""
    write(body("return features"))
    models.build(NAME, SHAPE, CLASSES, None)
    write(body("return features").replace("channels, 4, 3", "channels, 4, 5"))
    assert next(models.build(NAME, SHAPE, CLASSES, None).parameters()).shape == (4, 1, 5, 5)
    assert not Path("mine/__pycache__").exists()


def test_a_file_may_have_dataclasses() -> None:
    write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Width:\n    channels: int = 4\n" + body("return features")
    )
    trial.run(NAME, SHAPE, CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "'models.mynet': 'mine/net.py' is not valid Python"),
        (
            "def bild(shape, classes): ...",
            "'mine/net.py' has no function 'build'; did you mean 'bild'?",
        ),
        ("def build(shape): ...", r"function 'build' in 'mine/net.py' must take \(shape, classes, \*, ...\)"),
        ("import nosuchpackage\n" + GOOD, r"'mine/net.py' cannot be imported: ModuleNotFoundError.*line 1"),
        ("import sys\nsys.exit(3)\n" + GOOD, r"'mine/net.py' cannot be imported: SystemExit: 3 \(line 2\)"),
        (
            "def build(shape, classes):\n    return 1 / 0",
            r"function 'build' in 'mine/net.py' failed: ZeroDivisionError: .* \(line 2\)",
        ),
        (
            "def build(shape, classes):\n    return lambda pictures: pictures",
            "function 'build' in 'mine/net.py' must return a torch.nn.Module, not function",
        ),
        (body("return features[:, 0]"), r"must map 2 pictures to logits \[2, 10\], not to \[2\]"),
        (body("return {'logits': features}"), r"logits \[2, 10\], not to dict"),
        (
            body("if self.training:\n    return features, features\nreturn features"),
            r"logits \[2, 10\], not to tuple",
        ),
        (
            body("return features if features.sum().item() > 0 else features"),
            r"'pairs\[0\]': the model of function 'build' in 'mine/net.py' failed on pictures of 1 x 8 x 8: "
            r"RuntimeError: .*meta.* \(line 13\)",
        ),
        (
            body("return self.head(features)"),
            r"failed on pictures of 1 x 8 x 8: RuntimeError: .* \(line 13\)",
        ),
        (
            body("return features").replace(
                "self.head = ", "self.scale = torch.ones(3)\n        self.head = "
            ),
            "keeps 'scale' out of its state dict, so checkpoints lack it; register it as a parameter or a",
        ),
        (
            body("return features").replace(
                "self.head = ",
                "self.register_buffer('mean', torch.ones(1), persistent=False)\n        self.head = ",
            ),
            "keeps 'mean' out of its state dict",
        ),
        (
            "from torch import nn\n\ndef build(shape, classes):\n    return nn.Flatten()",
            "the model of function 'build' in 'mine/net.py' has no parameters",
        ),
        (
            "from torch import nn\n\ndef build(shape, classes):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))",
            r"'pairs\[0\]': 'mynet' on 'digits' has no weight that may be pruned: .* stays; choose another",
        ),
    ],
)
def test_what_is_wrong_with_it_is_told_before_anything_runs(text: str, message: str) -> None:
    write(text)
    with pytest.raises(UserError, match=message) as caught:
        study.load(with_model())
    # Once, however many places of the study are about it.
    assert len(re.findall("the study: ", str(caught.value))) == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"resnet20": {}},
            "'models.resnet20': 'resnet20' is a model of the registry; give yours another name",
        ),
        ({"mynet": {"file": "mine/no.py"}}, "'models.mynet': there is no file 'mine/no.py'"),
        ({"mynet": {"file": "../net.py"}}, "'models.mynet': there is no file"),
        ({"mynet": {"function": "b-c"}}, "'models.mynet.function' cannot be 'b-c'"),
        ({"my/net": {}}, "'my/net' in 'models' cannot be a name"),
        ({"mynet": {"name": "x"}}, "unknown key 'name' in 'models.mynet'"),
    ],
)
def test_entries_are_checked(entry: dict[str, Any], message: str) -> None:
    usual = {"file": "mine/net.py", "function": "build"}
    listed = {"mynet": usual} | {name: usual | change for name, change in entry.items()}
    with pytest.raises(UserError, match=message):
        study.load(with_model(models=listed))


def test_a_pair_may_misspell_it() -> None:
    config = with_model()
    config["pairs"][0]["model"] = "mynett"
    with pytest.raises(
        UserError, match=r"'pairs\[0\].model': unknown model 'mynett'; did you mean 'mynet'\?"
    ):
        study.load(config)


def test_a_changed_file_is_counted_anew() -> None:
    assert study.load(with_model(ratios=[1, 12])).cells()
    write(GOOD.replace("32, 3, padding", "2, 3, padding").replace("Linear(32", "Linear(2"))
    with pytest.raises(UserError, match="compression ratio 12 is impossible for 'mynet' on 'digits'"):
        study.load(with_model(ratios=[1, 12]))


@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_its_filters_can_be_removed_and_its_patterns_are_checked(budget: str) -> None:
    whole = {"name": "whole", "score": "filter-l1", "granularity": "filter"}
    config = with_model(budget=budget, ratios=[1, 4])
    config["strategies"] = ["random", "global-magnitude", whole]
    assert study.load(config).cells()
    pattern = {"name": "pattern", "score": "magnitude", "granularity": "2:4"}
    with pytest.raises(
        UserError, match=r"2:4 does not fit '0.weight' of 'mynet' on 'digits', whose 1 inputs"
    ):
        study.load(config | {"strategies": [*config["strategies"], pattern]})


def test_a_score_that_cannot_score_it_is_told_before_anything_runs() -> None:
    config = with_model(strategies=["random", "global-magnitude", "filter-bn-scale"])
    with pytest.raises(UserError, match=r"'filter-bn-scale' needs a batch-norm .* but '0.weight' has none"):
        study.load(config)


def test_a_shared_weight_costs_once_in_parameters_and_each_time_in_macs() -> None:
    """Two convolutions of 4 x 4 channels share their weight; the pictures have 8 x 8 pixels, then 6 x 6."""
    shared = "self.second = nn.Conv2d(4, 4, 3)\n        self.third = nn.Conv2d(4, 4, 3)"
    tied = f"{shared}\n        self.third.weight = self.second.weight\n        self.head = "
    text = body("return features").replace("self.head = ", tied)
    write(text.replace("self.first(pictures)", "self.third(self.second(self.first(pictures)))"))
    trial.run(NAME, SHAPE, CLASSES)
    parameters, macs = (
        faults.Costs.of(NAME, SHAPE, CLASSES, axis, "a version") for axis in ("parameters", "macs")
    )
    assert (parameters.total, parameters.part()) == (40 + 144 + 4 + 4 + 50, 36 + 144)
    assert macs.part() == 36 * 36 + 144 * (16 + 4)
    assert macs.total == macs.part() + 40


def test_a_plan_is_made_anew_when_the_file_changes() -> None:
    Path("study.yaml").write_text(yaml.safe_dump(with_model()))
    before = planning.sources("study.yaml")
    assert planning.sources("study.yaml") == before
    write(GOOD.replace("16", "8"))
    assert planning.sources("study.yaml") != before


def test_signatures_are_read_without_running_the_file() -> None:
    write("raise SystemExit\n" + GOOD)
    assert own.parameters("mine/net.py", "build", models.ARGUMENTS) == {}
    config = copy.deepcopy(with_model())
    with pytest.raises(UserError, match=r"cannot be imported: SystemExit"):
        study.load(config)
