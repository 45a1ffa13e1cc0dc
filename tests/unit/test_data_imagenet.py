"""ImageNet, Places365 and Tiny ImageNet: their layouts, and what is half there told in one sentence."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare
from shrinkflow import files
from shrinkflow.data import SOURCES, dataset, imagenet, places365, tiny_imagenet
from shrinkflow.errors import UserError
from shrinkflow.importing import import_torchvision
from tests.unit import pictures
from tests.unit.pictures import CLASSES, encoded


def say(function: object, *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ImageNet


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """ImageNet, were it as small as this."""
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    monkeypatch.setattr(imagenet, "PICTURES", {"train": 9, "val": 6})
    return pictures.imagenet(tmp_path / "imagenet", 3, 2)


def test_imagenet(small: Path) -> None:
    (small / "test").mkdir()
    (small / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(b"without a label")
    (small / "meta.bin").write_bytes(b"of torchvision")
    found = imagenet.find(small)
    assert found.classes == CLASSES
    assert [str(path) for path in found.paths[:2]] == [
        f"train/{CLASSES[0]}/{CLASSES[0]}_0.JPEG",
        f"train/{CLASSES[0]}/{CLASSES[0]}_1.JPEG",
    ]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 1, 1, 2, 2]
    assert found.test is not None
    assert found.test.tolist() == [9, 10, 11, 12, 13, 14]


def test_imagenet_is_what_torchvisions_imagefolder_finds(small: Path) -> None:
    reader = import_torchvision().datasets.ImageFolder
    found = imagenet.find(small)
    theirs = [(path, label) for part in ("train", "val") for path, label in reader(str(small / part)).samples]
    assert [
        (str(small / path), label) for path, label in zip(found.paths, found.labels, strict=True)
    ] == theirs


def test_of_imagenet_a_part_is_missing(small: Path, tmp_path: Path) -> None:
    shutil.rmtree(small / "val")
    assert "imagenet has no folder 'val'; ImageNet is read from train/<wnid>/" in say(imagenet.find, small)
    assert "nowhere has no folder 'train'" in say(imagenet.find, tmp_path / "nowhere")


def test_val_of_imagenet_as_it_was_published(small: Path) -> None:
    for path in list((small / "val").rglob("*.JPEG")):
        path.rename(small / "val" / path.name)
    for name in CLASSES:
        (small / "val" / name).rmdir()
    said = say(imagenet.find, small)
    assert "val holds pictures but no class folders, as it was published: sort them into val/<wnid>/" in said


def test_half_of_imagenet(small: Path) -> None:
    path = small / "train" / CLASSES[1] / f"{CLASSES[1]}_2.JPEG"
    path.rename(small / "aside")
    assert "train has 8 pictures, ImageNet has 9: it is not complete" in say(imagenet.find, small)
    shutil.rmtree(small / "train" / CLASSES[1])
    assert "train has 2 class folders, ImageNet has 3: it is not complete" in say(imagenet.find, small)


def test_the_real_imagenet_has_a_thousand_classes(tmp_path: Path) -> None:
    folder = pictures.imagenet(tmp_path / "imagenet", 3, 2)
    assert "train has 3 class folders, ImageNet has 1000" in say(SOURCES["imagenet"].find, folder)


def test_prepare_streams_imagenet(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the number of classes, which the real one fixes."""
    words = ["prepare.py", "--name", "imagenet", "--source", "imagenet", "--folder", str(small)]
    words += ["--out", str(tmp_path / "x.safetensors")]
    monkeypatch.setattr("sys.argv", words)
    assert "'imagenet' is too large for memory; give --resize to stream it" in say(prepare.main)
    monkeypatch.setattr("sys.argv", [*words, "--resize", "200"])
    assert "--resize 200 is less than the side of a picture, 224" in say(prepare.main)
    monkeypatch.setattr("sys.argv", [*words, "--resize", "256"])
    assert "classes of imagenet is stated as 1000, but it has 3" in say(prepare.main)


def test_prepare_streams_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = pictures.imagenet(tmp_path / "pictures"), tmp_path / "x.safetensors"
    words = ["prepare.py", "--name", "mine", "--source", "imagefolder", "--folder", str(folder)]
    words += ["--shape", "3", "32", "32", "--classes", "3", "--resize", "36", "--validation", "0.25"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(out)])
    prepare.main()
    found = dataset.read(out)
    assert found.files is not None
    assert (found.files.resize, len(found.labels)) == (36, 48)
    record = files.read_json(f"{out}.record.json")
    assert record["parameters"]["resize"] == 36
    assert record["code"]["plugins"] == ["shrinkflow/data/imagefolder.py", "shrinkflow/data/listing.py"]
    assert str(tmp_path / "pictures") not in str(record)
    monkeypatch.setattr("sys.argv", [*words, "--out", str(out), "--content", "0" * 32])
    assert "changed while the study was running" in say(prepare.main)


# Places365


def write_places(root: Path, monkeypatch: pytest.MonkeyPatch, lists: Mapping[str, str], small: bool) -> Path:
    """Write lists, and the pictures they name; torchvision takes them for the published ones."""
    root.mkdir(exist_ok=True)
    kind = import_torchvision().datasets.Places365
    md5 = {name: hashlib.md5(text.encode()).hexdigest() for name, text in lists.items()}
    for name, text in lists.items():
        (root / name).write_text(text)
    monkeypatch.setattr(kind, "_CATEGORIES_META", (kind._CATEGORIES_META[0], md5[kind._CATEGORIES_META[0]]))
    published = {part: (name, md5.get(name, "")) for part, (name, _) in kind._FILE_LIST_META.items()}
    monkeypatch.setattr(kind, "_FILE_LIST_META", published)
    size = "256" if small else "large"
    for name, folder in (
        ("places365_train_standard.txt", f"data_{size}_standard"),
        ("places365_val.txt", f"val_{size}"),
    ):
        for number, line in enumerate(lists[name].splitlines()):
            path = root / folder / line.split()[0].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number, (40, 30)))
    return root


LISTS = {
    "categories_places365.txt": "/a/airfield 0\n/a/alley 1\n/z/zen_garden 2\n",
    "places365_train_standard.txt": "".join(
        f"/{name}/0000000{i}.jpg {label}\n"
        for label, name in enumerate(("a/airfield", "a/alley", "z/zen_garden"))
        for i in range(4)
    ),
    "places365_val.txt": "Places365_val_00000001.jpg 2\nPlaces365_val_00000002.jpg 0\nPlaces365_val_00000003.jpg 1\n",
}


@pytest.mark.parametrize("small", [True, False])
def test_places365(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_places(tmp_path / "places", monkeypatch, LISTS, small)
    found = places365.find(folder)
    assert found.classes == ("/a/airfield", "/a/alley", "/z/zen_garden")
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [2, 0, 1]
    assert found.test is not None
    assert found.test.tolist() == [12, 13, 14]
    size = "256" if small else "large"
    assert found.paths[0] == f"data_{size}_standard/a/airfield/00000000.jpg"
    assert found.paths[12] == f"val_{size}/Places365_val_00000001.jpg"
    assert all((folder / path).is_file() for path in found.paths)


def test_of_places365_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_places(tmp_path / "places", monkeypatch, LISTS, small=True)
    (folder / "data_256_standard/a/alley/00000002.jpg").unlink()
    (folder / "val_256/Places365_val_00000003.jpg").unlink()
    said = say(places365.find, folder)
    assert "lacks 2 of 15 pictures, data_256_standard/a/alley/00000002.jpg among them" in said
    shutil.rmtree(folder / "val_256")
    assert re.search(r"there is no folder .*/val_256; Places365 is read", say(places365.find, folder))


def test_lists_of_places365_that_are_not_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_places(tmp_path / "places", monkeypatch, LISTS, small=True)
    for name in LISTS:
        text = (folder / name).read_text()
        (folder / name).write_text(text + "\n")
        said = say(places365.find, folder)
        assert f"{name} does not exist or is corrupted); unpack filelist_places365-standard.tar there" in said
        (folder / name).write_text(text)
    assert "categories_places365.txt does not exist" in say(places365.find, tmp_path)


def test_a_label_of_places365_that_no_class_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = LISTS | {"places365_val.txt": "Places365_val_00000001.jpg 3\n"}
    folder = write_places(tmp_path / "places", monkeypatch, lists, small=True)
    said = say(places365.find, folder)
    assert "val_256/Places365_val_00000001.jpg has the label 3, but there are 3 classes" in said


# Tiny ImageNet


WNIDS = ("n02", "n01", "n03")


def tiny(root: Path, around: str = "tiny-imagenet-200/") -> dict[str, bytes]:
    """Three classes of two pictures, one of them grey, and three to test with, in no order."""
    found = {
        f"{around}train/{wnid}/images/{wnid}_{i}.JPEG": encoded(10 * n + i, (64, 64), n, "L" if i else "RGB")
        for n, wnid in enumerate(WNIDS)
        for i in range(2)
    }
    found |= {f"{around}val/images/val_{i}.JPEG": encoded(90 + i, (64, 64), i) for i in range(3)}
    boxes = "0\t0\t62\t62"
    labels = "".join(f"val_{i}.JPEG\t{wnid}\t{boxes}\n" for i, wnid in enumerate(("n03", "n02", "n01")))
    found |= {
        f"{around}wnids.txt": "\n".join(WNIDS).encode(),
        f"{around}words.txt": b"n01\tfish\nn04\tfowl\n",
        f"{around}val/val_annotations.txt": labels.encode(),
        f"{around}train/n01/n01_boxes.txt": b"n01_0.JPEG\t0\t0\t62\t62\n",
        f"{around}test/images/test_0.JPEG": encoded(99, (64, 64)),
    }
    return found


def write(root: Path, found: Mapping[str, bytes]) -> Path:
    for name, data in found.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture(autouse=True)
def three_classes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "tiny" in request.node.name:
        monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
        monkeypatch.setattr(tiny_imagenet, "PICTURES", (6, 3))


SHAPE = (3, 64, 64)


@pytest.mark.parametrize("around", ["tiny-imagenet-200/", ""])
@pytest.mark.parametrize("packed", [True, False])
def test_tiny_imagenet(packed: bool, around: str, tmp_path: Path) -> None:
    given = tiny(tmp_path, around)
    if packed:
        path = tmp_path / "tiny-imagenet-200.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in reversed(given.items()):
                archive.writestr(name, data)
    else:
        path = write(tmp_path / "folder", given)
    found = tiny_imagenet.load([path], SHAPE)
    assert found.classes == ("n01", "n02", "n03")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 1, 0]
    assert found.test is not None
    assert found.test.tolist() == [6, 7, 8]
    for index, name in enumerate(
        sorted(name for name in given if "JPEG" in name and "/test" not in f"/{name}")
    ):
        picture = Image.open(write(tmp_path / "one", {"x": given[name]}) / "x").convert("RGB")
        np.testing.assert_array_equal(found.images[index], np.moveaxis(np.asarray(picture), 2, 0))


def test_what_is_missing_in_tiny_imagenet(tmp_path: Path) -> None:
    def told(spoil: Mapping[str, bytes | None]) -> str:
        given = {name: data for name, data in (tiny(tmp_path, "") | spoil).items() if data is not None}
        shutil.rmtree(tmp_path / "folder", ignore_errors=True)
        return say(tiny_imagenet.load, [write(tmp_path / "folder", given)], SHAPE)

    label = b"val_0.JPEG\tn04\t0\t0\t62\t62\n"
    assert "has no wnids.txt; Tiny ImageNet is read as tiny-imagenet-200.zip" in told({"wnids.txt": None})
    assert "wnids.txt names 2 classes, Tiny ImageNet has 3" in told({"wnids.txt": b"n01\nn02\n"})
    assert "has no val/val_annotations.txt" in told({"val/val_annotations.txt": None})
    assert "has no val/images/val_1.JPEG" in told({"val/images/val_1.JPEG": None})
    said = told({"train/n02/images/n02_1.JPEG": None})
    assert "has 5 training and 3 validation pictures, Tiny ImageNet 6 and 3" in said
    gone = {f"train/n02/images/n02_{i}.JPEG": None for i in range(2)}
    assert "1 of 3 classes have no pictures in train, 'n02' among them" in told(gone)
    said = told({"val/val_annotations.txt": label})
    assert "line 1 of val/val_annotations.txt names the unknown class 'n04'" in said
    said = told({"val/val_annotations.txt": b"val_0.JPEG"})
    assert "line 1 of val/val_annotations.txt names the unknown class ''" in said
    said = told({"train/n04/images/n04_0.JPEG": encoded(0, (64, 64))})
    assert "the class of train/n04/images/n04_0.JPEG does not stand in wnids.txt" in said
    said = told({"val/images/val_0.JPEG": encoded(0, (64, 63))})
    assert "val/images/val_0.JPEG is 64 x 63 pixels, expected 64 x 64" in said
    said = told({"val/images/val_0.JPEG": encoded(0, (64, 64))[:-300]})
    assert "val/images/val_0.JPEG is no readable picture" in said


def test_the_archive_of_tiny_imagenet_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "n01")
    words = ["prepare.py", "--name", "tiny", "--source", "tiny-imagenet", "--raw", str(path)]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "x")])
    assert "expected 90528d7ca1a48142e341f4ef8d21d0de; it is damaged or another file" in say(prepare.main)


def test_prepare_reads_an_unpacked_tiny_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the number of classes, which the real one fixes."""
    folder = write(tmp_path / "folder", tiny(tmp_path))
    words = ["prepare.py", "--name", "tiny", "--source", "tiny-imagenet", "--folder", str(folder)]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "x")])
    assert "classes of tiny is stated as 200, but it has 3: n01, n02, n03" in say(prepare.main)
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "x"), "--resize", "70"])
    assert "the pictures of 'tiny-imagenet' cannot be streamed; leave out --resize" in say(prepare.main)


def test_streaming_wants_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    words = ["prepare.py", "--name", "x", "--source", "imagefolder", "--raw", str(tmp_path / "x.tar")]
    words += ["--shape", "3", "32", "32", "--classes", "2", "--resize", "40", "--out", str(tmp_path / "x")]
    monkeypatch.setattr("sys.argv", words)
    assert "pictures are streamed from a folder; unpack them and give --folder" in say(prepare.main)


@pytest.mark.parametrize("name", ["imagenet", "places365"])
def test_sources_that_are_always_streamed(name: str) -> None:
    source = SOURCES[name]
    assert source.load is None
    assert source.shape == (3, 224, 224)
    assert source.own == ("folder",)
    # Those of torchvision's published weights.
    weights = import_torchvision().models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert source.normalisation == (tuple(weights.mean), tuple(weights.std))
    assert dataset.usual_resize(source.shape) == weights.resize_size[0]
    assert source.shape[1] == weights.crop_size[0]
