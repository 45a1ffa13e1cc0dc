"""Streamed pictures: the same batches whoever reads them, damage told by name, memory that stays flat."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shrinkflow import records, training
from shrinkflow.data import building, dataset, imagefolder, listing, members, splits, streaming, views
from shrinkflow.data.dataset import Dataset, Files
from shrinkflow.errors import UserError
from shrinkflow.recipe import Recipe
from shrinkflow.seeds import Purpose, torch_generator
from shrinkflow.streamed import Streamed
from tests.unit.pictures import CLASSES, encoded, imagenet

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
PLAN = splits.Plan(validation=0.25)
RECIPE = Recipe("sgd", 0.1, 1, batch_size=8, flip=True, resized_crop=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return imagenet(tmp_path / "pictures")


def build(folder: Path, resize: int = 37, plan: splits.Plan = PLAN) -> Dataset:
    return listing.build("wnids", folder, imagefolder.find(folder), SHAPE, 3, resize, plan)


def split(data: Dataset, part: str = "train") -> training.Split:
    normalisation = {"mean": data.mean, "std": data.std}
    return training.split(data, getattr(data, part), normalisation, CPU)


def joined(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = zip(*batches, strict=True)
    return torch.cat(pictures), torch.cat(labels)


def equal(*pairs: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return all(torch.equal(*both) for pair in pairs[1:] for both in zip(pairs[0], pair, strict=True))


# What is listed


def test_a_listing_has_the_layout_and_the_hashes(folder: Path) -> None:
    data = build(folder)
    assert data.files is not None
    assert data.classes == CLASSES
    assert data.shape == SHAPE
    assert data.images.shape == (0, 3, 32, 32)
    assert [len(getattr(data, part)) for part in splits.PARTS] == [27, 9, 12]
    for index in range(48):
        path = folder / data.files.path(index)
        assert path.parent.name == CLASSES[data.labels[index]]
        assert (path.parent.parent.name == "val") == (index in data.test)
        assert streaming.digest(path.read_bytes()) == data.files.digests[index].tobytes()


def test_pictures_in_no_part_are_neither_listed_nor_read(folder: Path) -> None:
    limits = {"train": 6, "validation": 3, "test": 3}
    data = build(folder, plan=replace(PLAN, limits=limits))
    assert data.files is not None
    kept = {data.files.path(index) for index in range(len(data.labels))}
    assert len(kept) == 12
    left_out = next(path for path in imagefolder.find(folder).paths if path not in kept)
    (folder / left_out).write_bytes(b"no picture")
    assert build(folder, plan=replace(PLAN, limits=limits)).files is not None


def test_bytes_of_a_listing_tell_neither_the_folder_nor_the_threads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for number, workers in enumerate(("0", "1", "5")):
        monkeypatch.setenv(streaming.WORKERS, workers)
        moved = folder.rename(tmp_path / f"elsewhere {number}")
        folder = moved
        dataset.write(tmp_path / "x.safetensors", build(moved))
        written.append((tmp_path / "x.safetensors").read_bytes())
    assert len(set(written)) == 1
    found = dataset.read(tmp_path / "x.safetensors", moved)
    assert equal(joined(split(found).in_order()), joined(split(build(moved)).in_order()))


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=9))
def test_paths_come_back_as_they_were(paths: list[str]) -> None:
    files = Files.of(paths, np.zeros((len(paths), 16), dtype=np.uint8), 9)
    assert [files.path(index) for index in range(len(paths))] == paths


def test_normalisation_is_that_of_what_evaluation_sees(folder: Path) -> None:
    """Fewer than the sample: all training pictures, counted by hand."""
    data = build(folder)
    assert data.files is not None
    seen = []
    for index in data.train:
        picture = Image.open(folder / data.files.path(index)).convert("RGB")
        seen.append(views.pixels(views.centre(picture, 37, 32, 32)))
    pixels = np.stack(seen) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_normalisation_of_a_sample_depends_on_the_seed_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SAMPLE", 5)
    assert build(folder).mean == build(folder).mean
    whole = building.normalisation
    sizes = []
    monkeypatch.setattr(building, "normalisation", lambda images: sizes.append(images.shape) or whole(images))
    build(folder)
    assert sizes == [(5, 3, 32, 32)]


@pytest.mark.parametrize("seed", range(3))
def test_draws_are_what_they_were_before_they_were_fast(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 7, 500)
    pool = np.sort(np.random.default_rng(seed + 1).permutation(500)[:300])
    shares = [3, 0, 5, 1, 2, 9, 4]
    found = splits._draw(pool, labels, shares, np.random.default_rng(seed))
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(pool[labels[pool] == label])[:n] for label, n in enumerate(shares)]
    np.testing.assert_array_equal(found, np.sort(np.concatenate(drawn)))


# What a network sees


def test_pictures_of_the_right_size_give_what_they_give_in_memory(tmp_path: Path) -> None:
    """Evaluation, order and drawn batches are those of the split in memory, to the bit."""
    folder = imagenet(tmp_path / "pictures", sizes=(32, 33))
    pictures = imagefolder.load([folder], SHAPE)
    held = building.build("wnids", pictures, SHAPE, 3, PLAN)
    data = build(folder, resize=32)
    assert (data.mean, data.std) == (held.mean, held.std)
    for part in splits.PARTS:
        ours, theirs = split(data, part), split(held, part)
        assert isinstance(ours, Streamed) != isinstance(theirs, Streamed)
        assert equal(joined(ours.in_order()), joined(theirs.in_order()))
        plain = Recipe("sgd", 0.1, 1, batch_size=5)
        assert equal(joined(ours.shuffled(plain, 3, 2)), joined(theirs.shuffled(plain, 3, 2)))
        draws = [s.drawn(torch_generator(1, Purpose.SCORE_BATCH), 2, 3) for s in (ours, theirs)]
        assert equal(*map(joined, draws))


def test_batches_do_not_depend_on_who_reads_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = build(folder)
    epochs, evaluations, scores = [], [], []
    for workers in ("0", "1", "2", "7"):
        monkeypatch.setenv(streaming.WORKERS, workers)
        epochs.append(joined(split(data).shuffled(RECIPE, 1, 1)))
        evaluations.append(joined(split(data).in_order()))
        draw = torch_generator(1, Purpose.SCORE_BATCH)
        scores.append(joined(split(data).drawn(draw, 2, 4, crop=4, flip=True)))
    assert equal(*epochs)
    assert equal(*evaluations)
    assert equal(*scores)


def test_augmentation_depends_on_seed_and_epoch_not_on_the_batch(folder: Path) -> None:
    data = build(folder)
    one = joined(split(data).shuffled(RECIPE, 1, 1))
    assert equal(one, joined(split(data).shuffled(replace(RECIPE, batch_size=9), 1, 1)))
    for other in ((1, 2), (2, 1)):
        assert not equal(one, joined(split(data).shuffled(RECIPE, *other)))
    # The same order, each picture seen otherwise.
    pictures, labels = joined(split(data).shuffled(replace(RECIPE, resized_crop=False, flip=False), 1, 1))
    assert torch.equal(labels, one[1])
    assert not torch.equal(pictures, one[0])


def test_half_of_the_pictures_are_mirrored(folder: Path) -> None:
    data = build(folder)
    plain, mirrored = replace(RECIPE, resized_crop=False, flip=False), replace(RECIPE, resized_crop=False)
    count, total = 0, 0
    for epoch in range(8):
        earlier = count
        before = joined(split(data).shuffled(plain, 1, epoch))[0]
        for one, other in zip(before, joined(split(data).shuffled(mirrored, 1, epoch))[0], strict=True):
            same, flipped = torch.equal(one, other), torch.equal(one.flip(2), other)
            assert same != flipped
            count, total = count + flipped, total + 1
        assert 0 < count - earlier < 27, "some, not all pictures of an epoch"
    # 216 draws: within four standard deviations of a half.
    assert abs(count - total / 2) < 4 * (total / 4) ** 0.5


def test_a_last_batch_of_one_picture_is_left_out(folder: Path) -> None:
    sizes = [len(y) for _, y in split(build(folder)).shuffled(replace(RECIPE, batch_size=13), 1, 1)]
    assert sizes == [13, 13]


def test_grey_shape(folder: Path) -> None:
    data = listing.build("wnids", folder, imagefolder.find(folder), (1, 32, 32), 3, 37, PLAN)
    assert next(split(data).in_order())[0].shape == (27, 1, 32, 32)


def test_a_network_trains_on_them(folder: Path) -> None:
    from shrinkflow import models

    training.start(1, "cpu")
    data = build(folder)
    recipe = replace(RECIPE, optimizer="adam", lr=0.01, epochs=2)
    network = models.build("resnet20-x0.25", SHAPE, 3, seed=1)
    found = training.train(network, split(data), split(data, "validation"), recipe, 1, "a cell")
    assert len(found.history) == 3


# Damage, and things left out


def tell(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        build(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_truncated_picture_is_told_when_the_data_set_is_made(folder: Path) -> None:
    path = folder / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    assert f"{path} is no readable picture" in tell(folder)
    path.write_bytes(b"")
    assert f"{path} is no readable picture" in tell(folder)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(("mode", "form"), [("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "PNG")])
def test_what_is_cut_off_anywhere_is_told(part: float, mode: str, form: str, folder: Path) -> None:
    data = encoded(1, (200, 150), 0, mode, form)
    (folder / "val" / CLASSES[0] / "odd.JPEG").write_bytes(data[: int(part * len(data))])
    assert f"{CLASSES[0]}/odd.JPEG is no readable picture" in tell(folder)


def test_an_empty_class_folder_is_told(folder: Path) -> None:
    for path in (folder / "train" / CLASSES[2]).iterdir():
        path.unlink()
    assert f"the class folder train/{CLASSES[2]} is empty" in tell(folder)


def test_a_class_with_one_picture_is_told(folder: Path) -> None:
    for path in sorted((folder / "train" / CLASSES[2]).iterdir())[1:]:
        path.unlink()
    said = tell(folder)
    assert f"class '{CLASSES[2]}' has too few pictures (1) to hold out validation: 0.25" in said


def test_another_number_of_classes_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match=f"classes of x is stated as 4, but it has 3: {CLASSES[0]}, "):
        listing.build("x", folder, imagefolder.find(folder), SHAPE, 4, 37, PLAN)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_byte_that_changed_later_is_told(
    workers: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(streaming.WORKERS, workers)
    data = build(folder)
    assert data.files is not None
    path = folder / data.files.path(int(data.test[5]))
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)
    assert len(joined(split(data, "train").in_order())[1]) == 27
    with pytest.raises(UserError, match=f"{path} was changed after the data set was made of it"):
        joined(split(data, "test").in_order())
    path.unlink()
    with pytest.raises(UserError, match=f"{path} is missing"):
        joined(split(data, "test").in_order())


def test_a_folder_that_nobody_named_or_that_is_gone(folder: Path, tmp_path: Path) -> None:
    dataset.write(tmp_path / "x.safetensors", build(folder))
    data = dataset.read(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="the pictures of 'wnids' are in a folder; name it with --folder"):
        split(data)
    data = dataset.read(tmp_path / "x.safetensors", tmp_path / "gone")
    with pytest.raises(UserError, match=r"there is no folder .*gone, in which the pictures of 'wnids' were"):
        split(data)


def test_augmentations_of_the_other_kind_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="'crop' pads pictures of one size"):
        split(build(folder)).shuffled(replace(RECIPE, crop=4), 1, 1)
    held = Dataset("x", np.zeros((2, *SHAPE), dtype=np.uint8), *(np.arange(2),), ("a", "b"), (0.0,) * 3,
                   (1.0,) * 3, *(np.arange(2),) * 3)  # fmt: skip
    with pytest.raises(UserError, match="'resized_crop' is for streamed pictures"):
        next(split(held).shuffled(RECIPE, 1, 1))


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "²"])
def test_a_senseless_number_of_workers(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(streaming.WORKERS, text)
    with pytest.raises(UserError, match=f"SHRINKFLOW_WORKERS is '{text}'; give a whole number"):
        streaming.workers(1)


def test_the_code_of_a_job_that_streams_says_so(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    dataset.write(path, build(folder))
    job = records.Job(Path(records.__file__), [], [], [])
    data = training.read(path, folder, job)
    assert data.files is not None
    assert job.code["plugins"] == ["shrinkflow/streamed.py"]


# Reading ahead


def test_in_order_is_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item < 3 else 0)
        return item * item

    for threads in (0, 1, 4):
        found = list(streaming.in_order(slow_at_first, range(20), threads, 6))
        assert found == [item * item for item in range(20)]


def test_no_more_is_read_than_may_lie_ahead() -> None:
    begun: list[int] = []

    def note(item: int) -> int:
        begun.append(item)
        return item

    reading = streaming.in_order(note, range(1000), 3, 5)
    for item in range(10):
        assert next(reading) == item
    time.sleep(0.05)
    # Ten taken, five ahead of them; one was handed out when the tenth was asked for.
    assert len(begun) <= 10 + 5 + 1
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


def test_an_error_stands_where_its_picture_stood() -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise UserError("three")
        return item

    for threads in (0, 4):
        reading = streaming.in_order(fail, range(10), threads, 6)
        assert [next(reading) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match=r"^three$"):
            next(reading)


# The listing that a workflow compares whenever it starts


def test_the_digest_of_a_listing(folder: Path, tmp_path: Path) -> None:
    before = members.listing_digest(folder)
    path = folder / "train" / CLASSES[0] / f"{CLASSES[0]}_1.JPEG"
    data = path.read_bytes()
    os.utime(path, (1, 1))
    (folder / ".DS_Store").write_bytes(b"x")
    assert members.listing_digest(folder) == before
    path.write_bytes(data[:-1])
    assert members.listing_digest(folder) != before
    path.write_bytes(bytes(reversed(data)))
    assert members.listing_digest(folder) == before, "sizes, not bytes: those are compared when they are read"
    path.rename(path.with_name("x.JPEG"))
    assert members.listing_digest(folder) != before
    path.with_name("x.JPEG").rename(path)
    (folder / "train" / "n0").mkdir()
    assert members.listing_digest(folder) != before
    with pytest.raises(UserError, match="nowhere is not a folder"):
        members.listing_digest(tmp_path / "nowhere")


def test_links_to_folders_are_followed_unless_they_lead_around(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(folder / "train")
    (linked / "val").symlink_to(folder / "val")
    assert members.listing(linked) == members.listing(folder)
    (folder / "train" / CLASSES[0] / "around").symlink_to(folder)
    with pytest.raises(UserError, match="around is a link to a folder around it; remove it"):
        members.listing(folder)
    (folder / "train" / CLASSES[0] / "around").unlink()
    (folder / "train" / CLASSES[0] / "nothing").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing is no regular file"):
        members.listing(folder)


# Memory

_EPOCH = """
import re, sys
from pathlib import Path
import numpy as np, torch
from shrinkflow import training
from shrinkflow.data import dataset
from shrinkflow.recipe import Recipe
training.start(1, "cpu")
data = dataset.read(sys.argv[1], sys.argv[2])
split = training.split(data, data.train, {"mean": data.mean, "std": data.std}, torch.device("cpu"))
recipe = Recipe("sgd", 0.1, 1, batch_size=64, flip=True, resized_crop=True)
count = sum(len(labels) for _, labels in split.shuffled(recipe, 1, 1))
assert count == len(data.train)
# getrusage would tell the larger of this process and the one that started it.
print(*re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
def test_memory_is_flat(tmp_path: Path) -> None:
    """Peak memory of an epoch over 20,000 pictures is that over 1,000, but for their names and hashes."""
    peaks = {}
    for count in (1_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        first = folder / "0.png"
        first.write_bytes(encoded(1, (32, 32), form="PNG"))
        for number in range(1, count):
            os.link(first, folder / f"{number}.png")
        paths = [f"{number}.png" for number in range(count)]
        digests = np.tile(np.frombuffer(streaming.digest(first.read_bytes()), dtype=np.uint8), (count, 1))
        labels, none = np.zeros(count, dtype=np.int64), np.arange(0)
        data = Dataset("x", np.empty((0, *SHAPE), dtype=np.uint8), labels, ("a", "b"), (0.5,) * 3, (0.5,) * 3,
                       np.arange(count), none, none, Files.of(paths, digests, 37))  # fmt: skip
        dataset.write(tmp_path / f"{count}.safetensors", data)
        words = [sys.executable, "-c", _EPOCH, f"{tmp_path / str(count)}.safetensors", str(folder)]
        environment = os.environ | {"PYTHONPATH": str(Path(training.__file__).parents[1])}
        peaks[count] = int(subprocess.check_output(words, text=True, env=environment)) / 1024
    # In memory, 19,000 more pictures would take 56 MiB.
    assert peaks[20_000] - peaks[1_000] < 15, peaks
