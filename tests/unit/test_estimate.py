"""Costs of small studies, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shrinkflow import estimate, study
from shrinkflow.errors import UserError
from shrinkflow.estimate import JOB_SECONDS, Cost

# digitsnet on 1 x 8 x 8: 32*9*16 + 64*32*9*4 + 128*64*9*4 + 10*128 as the layers of its table
MACS = 374_528


def tiny(**changes) -> study.Study:
    config = {
        "study": "tiny",
        "datasets": {"digits": {"limit": {"train": 200, "validation": 50, "test": 100}}},
        "pairs": [{"dataset": "digits", "model": "digitsnet"}],
        "weights": {"A": {"recipe": "long", "seed": 1}},
        "strategies": ["random", "global-magnitude"],
        "ratios": [1, 4, 8],
        "seeds": [1, 2],
        "recipes": {
            "long": {"optimizer": "adam", "lr": 0.004, "epochs": 6},
            "short": {"optimizer": "adam", "lr": 0.004, "epochs": 2},
        },
        "finetune": "short",
    }
    return study.load(config | changes)


def only(found: study.Study) -> Cost:
    (cost,) = estimate.of(found).values()
    return cost


PRETRAINING = 6 * (3 * 200 + 50)
# Two epochs, validation before the first, and one test.
CELL = 2 * (3 * 200 + 50) + 50 + 100


def test_a_study_without_scoring_pictures():
    cost = only(tiny())
    # dense, and two strategies at two ratios, by two seeds
    assert cost.cells == 10
    assert cost.trainings == 11
    # one pretraining; three a cell; three strategies scored for two seeds; three curves
    assert cost.jobs == 1 + 30 + 6 + 3
    assert cost.macs == MACS * (PRETRAINING + 10 * CELL)
    assert cost.seconds(1e9) == pytest.approx(cost.macs / 1e9 + JOB_SECONDS * 40)


def test_pictures_that_are_scored():
    strategies = ["random", "global-magnitude", {"name": "g", "score": "gradient-magnitude"}]
    cost = only(tiny(strategies=strategies))
    # one batch of 64, once per seed and not per ratio
    assert cost.macs == MACS * (PRETRAINING + 14 * CELL + 2 * 3 * 64)
    strategies[-1] = {"name": "o", "score": "obd-fisher", "parameters": {"examples": 30}}
    assert only(tiny(strategies=strategies)).macs == MACS * (PRETRAINING + 14 * CELL + 2 * 3 * 30)


def test_weights_that_are_moved_need_the_pictures_once_more_for_every_cell():
    scored = {"name": "w", "score": "woodfisher", "parameters": {"gradients": 20, "batch_size": 2}}
    cost = only(tiny(strategies=["random", "global-magnitude", scored]))
    without = only(tiny(strategies=["random", "global-magnitude", {"name": "w", "score": "magnitude"}]))
    assert cost.macs - without.macs == MACS * (2 + 4) * 3 * 40
    assert cost.jobs - without.jobs == 4


def test_every_epoch_tested():
    cost = only(tiny(best_test_epoch=True))
    assert cost.macs == MACS * (PRETRAINING + 10 * (CELL + 2 * 100))


def test_cells_that_lie_on_the_way_are_trained_too():
    strategies = ["random", "global-magnitude", "iterative-magnitude"]
    cost = only(tiny(strategies=strategies, ratios=[1, 8]))
    # 2 and 4 lie before 8: trained, and no cells of the study
    assert cost.cells == 8
    assert cost.trainings == 1 + 8 + 4


def test_crossed_masks_are_trained_and_not_scored_again():
    plain, crossed = only(tiny()), only(tiny(cross_masks=["random"]))
    assert crossed.cells == plain.cells + 4
    # three a cell, and two curves
    assert crossed.jobs == plain.jobs + 12 + 2


def test_parts_of_a_registered_data_set_are_known():
    found = tiny(datasets={"digits": {}})
    # 1797: 359 to test, 144 of the rest to validate, as splits.py draws them
    assert found.datasets["digits"].parts == (1294, 144, 359)
    assert only(tiny(datasets={"digits": {"limit": {"test": 7}}})).cells == 10


def test_a_folder_that_nobody_has_counted(tmp_path):
    (tmp_path / "pictures").mkdir()
    entry = {
        "source": "imagefolder",
        "folder": str(tmp_path / "pictures"),
        "shape": [3, 32, 32],
        "classes": 2,
    }
    found = tiny(datasets={"mine": entry}, pairs=[{"dataset": "mine", "model": "resnet20"}])
    with pytest.raises(UserError, match=r"how many pictures 'mine' has; run 'snakemake datasets'"):
        estimate.of(found)
    assert estimate.announcement(found).startswith("estimate: nobody knows yet how many pictures 'mine'")


def test_the_survey_without_its_pictures(tmp_path):
    """ImageNet's sizes are known; the study is refused until a folder is named."""
    config = yaml.safe_load((Path(__file__).parents[2] / "config/studies/paper.yaml").read_text())
    config["datasets"]["imagenet"]["folder"] = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"'datasets.imagenet.folder': there is no folder"):
        study.load(config)
    config["datasets"]["imagenet"]["folder"] = str(tmp_path)
    costs = estimate.of(study.load(config))
    # Three seeds of the control, and of five strategies at the ratios above 1; both weights of ResNet-56.
    assert {pair: cost.cells for pair, cost in costs.items()} == {
        ("cifar10", "resnet56"): 2 * 3 * (1 + 5 * 5),
        ("cifar10", "cifar-vgg"): 3 * (1 + 5 * 5),
        ("imagenet", "resnet18"): 3 * (1 + 5 * 4),
    }
    # Of all MACs, 63 trainings of 20 epochs over nine tenths of ImageNet are nearly all.
    trained = 63 * 20 * (3 * 0.9 + 0.1) * 1_281_167 * 1_814e6
    assert costs["imagenet", "resnet18"].macs == pytest.approx(trained, rel=0.01)


def test_a_damaged_data_set_is_not_what_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data/processed/tiny/digits/dataset.safetensors"
    file.parent.mkdir(parents=True)
    file.write_text("none")
    assert estimate.sizes(tiny(), "digits") == {"train": 200, "validation": 50, "test": 100}


def test_a_table_for_people():
    found = tiny()
    first, line, note = estimate.lines(estimate.of(found), "tiny")
    assert first == "study 'tiny', estimated:"
    assert "digits, digitsnet" in line
    assert "10 cells" in line
    assert "on one GPU" in line
    assert "assumed" in note
    assert "10 cells, 11 trainings" in estimate.announcement(found)
