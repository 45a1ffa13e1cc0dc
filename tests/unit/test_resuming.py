from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shrinkflow import files, models, resuming, training
from shrinkflow.prunable import prunable
from shrinkflow.recipe import Recipe
from shrinkflow.resuming import Point
from tests.unit.test_sparsifying import gradual, soft
from tests.unit.test_training import split

MOMENTUM = Recipe("sgd", 0.05, 4, batch_size=8, nesterov=True, weight_decay=0.01, flip=True, crop=1)
KINDS = {
    "sgd": Recipe("sgd", 0.05, 3, batch_size=8, momentum=0.0),
    "momentum": replace(MOMENTUM, nesterov=False, schedule="step", milestones=(2,)),
    "nesterov": replace(MOMENTUM, schedule="cosine", warmup=1),
    "adam": Recipe("adam", 0.01, 4, batch_size=8, weight_decay=0.01, schedule="cosine"),
    # Stops after epoch 3, two after the best.
    "patience": Recipe("sgd", 1e-30, 9, patience=2),
    "dropout": Recipe("adam", 0.01, 3, batch_size=8),
    "masked": MOMENTUM,
    "reduced": MOMENTUM,
    # The last batch is a single picture, and left out.
    "gradual": replace(MOMENTUM, batch_size=29),
    "soft": MOMENTUM,
    "kept": MOMENTUM,
    "begun": MOMENTUM,
}


class KilledError(Exception):
    """A run was killed."""


class Stopping(Point):
    """A point after which, in some epoch, the run is killed."""

    last = 0

    def save(self, tensors, state):
        super().save(tensors, state)
        if state["epoch"] == self.last:
            raise KilledError


def point(folder: Path, last: int = 0, identity: str = "mine") -> Stopping:
    found = Stopping(folder / "resume" / "point.safetensors", identity, "a cell", share=math.inf)
    found.last = last
    return found


def train(kind: str, at: Point | None) -> training.Trained:
    training.start(1, "cpu")
    name = "cifar-vgg-x0.25" if kind == "dropout" else "digitsnet"
    network: nn.Module = models.build(name, (1, 8, 8), 3, seed=5)
    if kind == "patience":
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        nn.init.constant_(network[1].weight, 0.01)
        nn.init.zeros_(network[1].bias)
    generator = torch.Generator().manual_seed(1)
    masking, options = training.Masking(), {}
    if kind == "masked":
        masks = {
            n: (torch.rand(w.shape, generator=generator) < 0.3).byte() for n, w in prunable(network).items()
        }
        masking = training.Masking(masks)
    elif kind == "reduced":
        structure = pytest.importorskip("shrinkflow.structure")
        scores = {n: np.arange(len(w), dtype=np.float32) for n, w in prunable(network).items()}
        masks = structure.choose(network, (1, 8, 8), scores, 0.5, "parameters", "layer")
        network = structure.reduce(network, (1, 8, 8), masks).model
    elif kind == "gradual":
        masking = gradual(network)
    elif kind == "soft":
        masking = soft(models.build(name, (1, 8, 8), 3, seed=5))
    elif kind == "kept":
        options = {"keep": (0, 2, 4), "candidates": True}
    elif kind == "begun":
        options = {"begin": 1}
    recipe = KINDS[kind]
    return training.train(
        network, split(), split("validation"), recipe, 1, "a cell", masking, point=at, **options
    )


def same(one: training.Trained, other: training.Trained) -> bool:
    def text(trained: training.Trained) -> object:
        states = {"state": trained.state, "masks": trained.masks, **trained.kept}
        states |= {f"candidate {epoch}": state for epoch, state in trained.candidates.items()}
        found = {
            (group, name): (value.dtype, value.shape, value.numpy().tobytes())
            for group, state in states.items()
            for name, value in state.items()
        }
        return found, [*states], trained.best_epoch, repr(trained.history)

    return text(one) == text(other)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_after_any_epoch_a_training_ends_in_the_same_bytes(tmp_path, capsys, kind):
    whole = train(kind, None)
    assert same(whole, train(kind, point(tmp_path / "never")))
    epochs = [line.epoch for line in whole.history[1:]]
    for epoch in epochs:
        with pytest.raises(KilledError):
            train(kind, point(tmp_path / str(epoch), epoch))
        capsys.readouterr()
        assert same(whole, train(kind, point(tmp_path / str(epoch))))
        said = capsys.readouterr().err
        assert f"a cell: resumed after epoch {epoch} of {KINDS[kind].epochs}" in said
        # Nothing that was done is done again.
        assert said.count("a cell: epoch ") == epochs[-1] - epoch
    # And interrupted in every epoch of one training.
    for epoch in epochs:
        with pytest.raises(KilledError):
            train(kind, point(tmp_path / "all", epoch))
    assert same(whole, train(kind, point(tmp_path / "all")))


def test_an_epoch_cut_short_is_trained_again(tmp_path, monkeypatch):
    whole = train("adam", None)
    steps = 0

    def after_step(self: training.Masking, progress: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 10:
            raise KeyboardInterrupt
        self._apply()

    monkeypatch.setattr(training.Masking, "after_step", after_step)
    with pytest.raises(KeyboardInterrupt):
        train("adam", point(tmp_path))
    # Two epochs of 4 steps were whole.
    assert files.read_tensors(point(tmp_path).path)[1]["state"]["epoch"] == 2
    assert same(whole, train("adam", point(tmp_path)))
    assert [path.name for path in point(tmp_path).path.parent.iterdir()] == ["point.safetensors"]


def interrupted(folder: Path, kind: str = "sgd") -> Path:
    with pytest.raises(KilledError):
        train(kind, point(folder, 2))
    return point(folder).path


def test_a_point_of_another_training_is_not_used(tmp_path, capsys):
    path = interrupted(tmp_path)
    capsys.readouterr()
    assert same(train("sgd", None), train("sgd", point(tmp_path, identity="another")))
    said = capsys.readouterr().err
    assert f"a cell: the resume point {path} is of another recipe, code, input or machine; training" in said
    assert "resumed" not in said


def _cut(data: bytearray) -> bytearray:
    return data[: len(data) // 2]


def _flip(data: bytearray) -> bytearray:
    data[-1000] ^= 1
    return data


def _edit(data: bytearray) -> bytearray:
    # Of the same length, so that the file is well formed.
    return data.replace(b'epoch\\": 2', b'epoch\\": 1', 1)


@pytest.mark.parametrize(
    "damage", [_cut, _flip, _edit, lambda data: bytearray(), lambda data: bytearray(b"x" * 100)]
)
def test_a_damaged_point_is_told_and_not_used(tmp_path, capsys, damage):
    path = interrupted(tmp_path)
    before = path.read_bytes()
    path.write_bytes(damage(bytearray(before)))
    assert path.read_bytes() != before
    capsys.readouterr()
    assert point(tmp_path).load() is None
    assert capsys.readouterr().err == (f"a cell: the resume point {path} is damaged; training starts anew\n")
    assert not path.exists()
    assert same(train("sgd", None), train("sgd", point(tmp_path)))


def test_a_point_that_cannot_be_written_is_told_once_and_training_goes_on(tmp_path, capsys, monkeypatch):
    whole = train("adam", None)
    capsys.readouterr()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_tensors", full)
    assert same(whole, train("adam", point(tmp_path)))
    said = [line for line in capsys.readouterr().err.splitlines() if "resume point" in line]
    assert len(said) == 1
    assert "cannot be written (No space left on device); training goes on" in said[0]


def test_points_of_very_short_epochs_are_left_out(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(resuming.time, "monotonic", lambda: now)
    saved = []

    def write(path: Path, tensors: object, metadata: dict) -> None:
        nonlocal now
        saved.append(metadata["state"]["epoch"])
        now += 1.0

    monkeypatch.setattr(files, "write_tensors", write)
    at = Point(tmp_path / "point.safetensors", "mine", "a cell", share=0.1, _written=now)
    for epoch in range(1, 11):
        now += 4.0
        at.save({}, {"epoch": epoch})
    # One second for a point: at least ten of training between two.
    assert saved == [1, 4, 7, 10]
    at = Point(tmp_path / "point.safetensors", "mine", "a cell", share=0.1, _written=now)
    for epoch in range(11, 15):
        now += 20.0
        at.save({}, {"epoch": epoch})
    assert saved[4:] == [11, 12, 13, 14]


def test_removing_leaves_nothing_of_a_point(tmp_path):
    path = interrupted(tmp_path)
    files.part_of(path).write_bytes(b"half")
    resuming.remove(path)
    assert list(path.parent.iterdir()) == []
    resuming.remove(path)
    resuming.remove(None)
