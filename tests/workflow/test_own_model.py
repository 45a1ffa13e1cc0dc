"""A model of the user's own, and one of torchvision, through the whole workflow."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.workflow.conftest import ROOT, TINY, Project

pytestmark = pytest.mark.slow

CELL = "results/own/cells/digits/mynet/A/global-magnitude/ratio4/seed1"


def documented(language: str) -> str:
    """The code of one language in docs/models.md."""
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    (block,) = (part.split("```")[0] for part in text.split(f"```{language}\n")[1:])
    return block


def shrinkflow(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    library = {"PYTHONPATH": str(project.folder / "workflow/scripts")}
    command = [sys.executable, "-m", "shrinkflow", *arguments, "--configfile", "study.yaml"]
    return subprocess.run(
        command, cwd=project.folder, env=os.environ | library, capture_output=True, text=True
    )


def test_a_model_of_ones_own_is_added_as_the_documentation_says(tmp_path: Path) -> None:
    study = copy.deepcopy(TINY) | yaml.safe_load(documented("yaml"))
    study |= {"study": "own", "weights": {"A": TINY["weights"]["B"]}}
    study["strategies"] = ["random", "global-magnitude", "scratch-magnitude"]
    project = Project(tmp_path, study)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/net.py").write_text(documented("python"))
    project.run()
    # All who built the network say which file that was; cells can be made again from their records.
    done = shrinkflow(project, "verify", "--all", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mynet/A/checkpoint.safetensors: identical" in done.stdout
    assert "mynet/A/initial-seed1.safetensors: identical" in done.stdout
    traced = shrinkflow(project, "trace", f"{CELL}/metrics.json", "--full", "--no-remote")
    assert "mine/net.py" in traced.stdout, traced.stdout + traced.stderr
    stages = shrinkflow(project, "stages")
    assert stages.returncode == 0, stages.stderr
    listed = yaml.safe_load((tmp_path / "config/dvc/own/dvc.yaml").read_text())["stages"]
    pretrained = next(stage for name, stage in listed.items() if name.startswith("pretrained-"))
    assert "mine/net.py" in pretrained["deps"]
    assert "models.mynet" in pretrained["params"][0]["study.yaml"]
    # A comment makes nothing stale, another network all that knows it, and nothing else.
    file = tmp_path / "mine/net.py"
    file.write_text(file.read_text() + "# A comment.\n")
    assert project.stale() == []
    file.write_text(file.read_text().replace("nn.ReLU(), *head", "nn.Tanh(), *head"))
    counts = project.counts()
    assert counts["prepare"] == 0
    assert {rule: counts[rule] for rule in ("pretrain", "initialise", "score", "finetune", "measure")} == {
        "pretrain": 1,
        "initialise": 1,
        # Of two controls and three strategies.
        "score": 5,
        "finetune": 5,
        "measure": 5,
    }
    # A network that fails is told before anything runs.
    file.write_text(file.read_text().replace("second = nn.Conv2d(16", "second = nn.Conv2d(17"))
    failed = project.snakemake("--cores", "2")
    assert failed.returncode != 0
    assert "the model of function 'build' in 'mine/net.py' failed on pictures of 1 x 8 x 8" in failed.stderr
    assert "Traceback" not in failed.stderr


def photographs(folder: Path, classes: int, each: int) -> None:
    """Write class folders of small random pictures."""
    random = np.random.default_rng(0)
    for index in range(classes):
        (folder / f"n{index:04}").mkdir(parents=True)
        for picture in range(each):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"n{index:04}/{picture}.png")


def test_a_network_of_torchvision_is_trained_pruned_and_measured(tmp_path: Path) -> None:
    photographs(tmp_path / "pictures", classes=2, each=12)
    study = TINY | {
        "study": "vision",
        "datasets": {
            "noise": {"source": "imagefolder", "folder": "pictures", "shape": [3, 32, 32], "classes": 2}
        },
        "pairs": [{"dataset": "noise", "model": "mobilenet-v3-small", "weights": ["B"]}],
        "strategies": ["random", "global-magnitude"],
        "recipes": {"short": {"optimizer": "sgd", "lr": 0.01, "epochs": 1}},
        "weights": {"B": {"recipe": "short", "seed": 2}},
    }
    project = Project(tmp_path / "project", study)
    (tmp_path / "pictures").rename(project.folder / "pictures")
    project.run()
    summary = (project.folder / "results/vision/tables/results.csv").read_text()
    assert summary.count("mobilenet-v3-small") == 3
    assert project.stale() == []


def test_published_weights_are_fetched_and_told_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = TINY | {
        "study": "published",
        "datasets": {
            "noise": {"source": "imagefolder", "folder": "pictures", "shape": [3, 32, 32], "classes": 1000}
        },
        "pairs": [
            {"dataset": "noise", "model": name, "weights": ["torchvision"]}
            for name in ("resnet18", "mobilenet-v3-small")
        ],
        "strategies": ["random", "global-magnitude"],
        "ratios": [1, 2],
    }
    del study["weights"]
    project = Project(tmp_path / "project", study)
    photographs(project.folder / "pictures", classes=2, each=3)
    counts = project.counts()
    assert {rule: counts[rule] for rule in ("fetch", "import_weights", "pretrain", "finetune")} == {
        "fetch": 2,
        "import_weights": 2,
        "pretrain": 0,
        "finetune": 6,
    }
    stages = shrinkflow(project, "stages")
    assert stages.returncode == 0, stages.stderr
    file = "resnet18-f37072fd.pth"
    (tmp_path / file).write_bytes(b"other weights")
    monkeypatch.setenv("SHRINKFLOW_MIRROR", str(tmp_path))
    failed = project.snakemake("--cores", "1", "--retries", "0", f"data/raw/weights/{file}")
    assert failed.returncode != 0
    assert "expected one that begins with f37072fd; it is damaged or another file" in failed.stderr
    assert not (project.folder / "data/raw/weights" / file).exists()
