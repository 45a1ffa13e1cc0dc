"""Real pictures and a published network: re-encoded CIFAR-10, and a ResNet-20 trained elsewhere."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import yaml

from shrinkflow.faults import MIRROR
from tests.workflow.conftest import ROOT, Project

pytestmark = pytest.mark.slow

NEEDED = ("cifar10-images.tar.gz", "weights/resnet20-12fca82f.th")


def test_a_published_network_is_pruned_and_recovers(tmp_path):
    mirror = os.environ.get(MIRROR)
    if not mirror or not all((Path(mirror) / name).is_file() for name in NEEDED):
        pytest.skip(f"{MIRROR} names no folder with {' and '.join(NEEDED)}")
    study = yaml.safe_load((ROOT / "config/studies/cifar10-jpeg.yaml").read_text())
    study |= {
        "study": "tiny",
        "strategies": ["random", "global-magnitude"],
        "ratios": [4],
        "seeds": [1],
    }
    study["datasets"]["cifar10-jpeg"]["limit"] = {"train": 640, "validation": 100, "test": 300}
    study["recipes"]["finetune"]["epochs"] = 1
    project = Project(tmp_path, study)
    project.run()
    with open(tmp_path / "results/tiny/tables/results.csv", newline="") as stream:
        found = {row["strategy"]: row for row in csv.DictReader(stream)}
    assert found["dense"]["params"] == "269722"
    assert found["dense"]["macs"] == "40551040"
    # 81.0 % before any finetuning on all 10,000 test pictures, with the normalisation it was trained with.
    assert float(found["dense"]["pruned_val_top1"]) > 0.7
    assert float(found["dense"]["top1"]) > 0.7
    for strategy in ("random", "global-magnitude"):
        assert float(found[strategy]["compression"]) == pytest.approx(4, rel=1e-3)
        assert float(found[strategy]["top1"]) < float(found["dense"]["top1"])
    assert float(found["global-magnitude"]["top1"]) > float(found["random"]["top1"])
    assert float(found["global-magnitude"]["val_top1"]) > float(found["global-magnitude"]["pruned_val_top1"])
