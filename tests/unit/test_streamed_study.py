"""Studies of streamed data sets: what is passed on, and what is refused before anything runs."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path

import pytest

from shrinkflow import study
from shrinkflow.errors import UserError

MINE = {"source": "imagefolder", "stream": True, "shape": [3, 32, 32], "classes": 3}
CONFIG = {
    "study": "streamed",
    "datasets": {"mine": MINE},
    "pairs": [{"dataset": "mine", "model": "resnet20"}],
    "weights": {"A": {"recipe": "long", "seed": 1}},
    "recipes": {
        "long": {"optimizer": "adam", "lr": 0.01, "epochs": 2, "resized_crop": True},
        "short": {"optimizer": "adam", "lr": 0.01, "epochs": 1},
    },
    "finetune": "short",
    "strategies": ["random", "global-magnitude"],
    "ratios": [2],
    "seeds": [1],
}


def config(folder: Path | None, dataset: str = "mine", drop: str = "", **entry: object) -> dict:
    found = copy.deepcopy(CONFIG)
    given = (MINE if dataset == "mine" else {}) | ({"folder": str(folder)} if folder else {}) | entry
    given.pop(drop, None)
    found["datasets"] = {dataset: given}
    found["pairs"][0]["dataset"] = dataset
    return found


def refused(given: dict) -> str:
    with pytest.raises(UserError) as caught:
        study.load(given)
    return str(caught.value)


def test_the_shorter_side_is_passed_on(tmp_path: Path) -> None:
    for entry, resize in (({}, "37"), ({"resize": 40}, "40")):
        found = study.load(config(tmp_path, **entry)).datasets["mine"]
        assert found.streamed
        assert found.raw == ()
        words = shlex.split(found.flags)
        assert words[words.index("--resize") + 1] == resize


def test_without_stream_pictures_are_in_memory(tmp_path: Path) -> None:
    given = config(tmp_path, stream=False)
    given["recipes"]["long"] = given["recipes"]["short"]
    found = study.load(given).datasets["mine"]
    assert not found.streamed
    assert "--resize" not in found.flags


@pytest.mark.parametrize(
    ("name", "parts"),
    [("imagenet", (1_153_050, 128_117, 50_000)), ("places365", (1_623_114, 180_346, 36_500))],
)
def test_registered_sources_are_streamed_from_a_folder(
    name: str, parts: tuple[int, int, int], tmp_path: Path
) -> None:
    found = study.load(config(tmp_path, name)).datasets[name]
    assert found.streamed
    assert found.shape == (3, 224, 224)
    assert found.parts == parts
    assert "--resize 256" in found.flags
    said = refused(config(None, name))
    assert f"'datasets.{name}' needs 'folder'" in said
    said = refused(config(tmp_path, name, stream=True))
    assert f"'datasets.{name}.stream': the pictures of '{name}' are always streamed; remove it" in said
    said = refused(config(None, name, archive="x.zip", sha256="0" * 64))
    assert f"'datasets.{name}.archive' does not go with the source '{name}'; remove it" in said
    assert f"'datasets.{name}.folder': there is no folder" in refused(config(tmp_path / "no", name))


def test_tiny_imagenet_is_fetched_or_read_from_a_folder(tmp_path: Path) -> None:
    given = config(None, "tiny-imagenet")
    given["recipes"]["long"] = given["recipes"]["short"]
    (raw,) = study.load(given).datasets["tiny-imagenet"].raw
    assert raw.file.name == "tiny-imagenet-200.zip"
    given["datasets"]["tiny-imagenet"]["folder"] = str(tmp_path)
    found = study.load(given).datasets["tiny-imagenet"]
    assert (found.raw, found.folder, found.streamed) == ((), str(tmp_path), False)
    given["datasets"]["tiny-imagenet"]["stream"] = True
    assert "'datasets.tiny-imagenet.stream' does not go with the source 'tiny-imagenet'" in refused(given)


@pytest.mark.parametrize(
    ("entry", "drop", "said"),
    [
        (
            {"resize": 31},
            "",
            "'datasets.mine.resize': 31 is less than the side of the part that is cut out, 32",
        ),
        ({"resize": 40}, "stream", "'datasets.mine.resize' goes with 'stream: true' only; remove it"),
        ({"shape": [2, 32, 32]}, "", "'datasets.mine.shape' has 2 channels; pictures have 1 (grey) or 3"),
        ({"archive": "x.zip"}, "folder", "'datasets.mine.stream': pictures are streamed from a 'folder'"),
        ({}, "folder", "'datasets.mine' needs either 'folder' or 'archive'"),
        ({}, "shape", "the key 'shape' is missing in 'datasets.mine'"),
    ],
)
def test_what_does_not_go_together(entry: dict, drop: str, said: str, tmp_path: Path) -> None:
    assert said in refused(config(tmp_path, drop=drop, **entry))


@pytest.mark.parametrize("key", ["long", "short", "third"])
def test_augmentation_of_the_other_kind_is_refused_wherever_a_recipe_is_used(
    key: str, tmp_path: Path
) -> None:
    """In weights, finetuning, and a strategy of its own recipe; not in a recipe that nothing uses."""
    given = config(tmp_path)
    given["recipes"]["third"] = dict(given["recipes"]["short"])
    given["recipes"][key]["crop"] = 4
    if key == "third":
        study.load(given)
        given["strategies"].append({"name": "mine", "score": "magnitude", "recipe": "third"})
    said = f"'recipes.{key}.crop' pads pictures of one size, but those of 'mine' are streamed; remove it"
    assert said in refused(given)

    given = config(None, "cifar10")
    given["recipes"]["long"].pop("resized_crop")
    study.load(given)
    given["recipes"]["third"] = dict(given["recipes"]["short"])
    given["recipes"][key]["resized_crop"] = True
    if key == "third":
        study.load(given)
        given["pairs"][0]["finetune"] = "third"
    said = f"'recipes.{key}.resized_crop' is for streamed pictures, but those of 'cifar10' are in memory"
    assert said in refused(given)
