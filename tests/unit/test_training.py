from __future__ import annotations

import fcntl
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from shrinkflow import models, training
from shrinkflow.data.dataset import Dataset
from shrinkflow.errors import UserError
from shrinkflow.optimizers import optimizer
from shrinkflow.prunable import prunable
from shrinkflow.recipe import Recipe
from shrinkflow.seeds import Purpose, torch_generator

CPU = torch.device("cpu")


def dataset(count: int = 60, classes: int = 3) -> Dataset:
    """Pictures that are easy to tell apart: bright in another place for each class, and noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = generator.integers(0, 60, (count, 1, 8, 8))
    for index, label in enumerate(labels):
        images[index, 0, 2 * label : 2 * label + 3] += 150
    order = np.arange(count)
    return Dataset(
        name="stripes",
        images=images.astype(np.uint8),
        labels=labels.astype(np.int64),
        classes=tuple("abc"[:classes]),
        mean=(0.25,),
        std=(0.3,),
        train=order[: count // 2],
        validation=order[count // 2 : 3 * count // 4],
        test=order[3 * count // 4 :],
    )


def split(part: str = "train", data: Dataset | None = None) -> training.Split:
    data = data or dataset()
    return training.Split(data, getattr(data, part), {"mean": data.mean, "std": data.std}, CPU)


def run(recipe: Recipe, seed: int = 1, masks=None, network: nn.Module | None = None, **options):
    training.start(1, "cpu")
    network = network or models.build("digitsnet", (1, 8, 8), 3, seed=5)
    masking = training.Masking(masks)
    found = training.train(network, split(), split("validation"), recipe, seed, "a cell", masking, **options)
    return network, found


def test_inputs_are_normalised_and_channels_last():
    data = split()
    pictures, labels = next(data.in_order())
    expected = (data.images.permute(0, 3, 1, 2).float() / 255 - 0.25) / 0.3
    torch.testing.assert_close(pictures, expected)
    assert pictures.shape == (30, 1, 8, 8)
    assert labels.tolist() == [0, 1, 2] * 10


def test_an_epoch_uses_every_picture_once_in_an_order_of_seed_and_epoch():
    recipe = Recipe("sgd", 0.1, 1, batch_size=7)

    def order(seed: int, epoch: int) -> list[float]:
        batches = split().shuffled(recipe, seed, epoch)
        return [value for pictures, _ in batches for value in pictures.sum(dim=(1, 2, 3)).tolist()]

    everything = next(split().in_order())[0].sum(dim=(1, 2, 3)).tolist()
    # 30 pictures in batches of 7 end in one of 2.
    assert sorted(order(1, 1)) == sorted(everything)
    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


def test_a_last_batch_of_one_picture_is_left_out():
    sizes = [len(y) for _, y in split().shuffled(Recipe("sgd", 0.1, 1, batch_size=29), 1, 1)]
    assert sizes == [29]


def test_crop_and_flip_give_windows_of_the_padded_picture():
    images = torch.arange(1, 1 + 4 * 5 * 5 * 2, dtype=torch.uint8).reshape(4, 5, 5, 2)
    found = training.augment(images, 2, True, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    for before, after in zip(images, found, strict=True):
        padded = np.zeros((9, 9, 2), dtype=np.uint8)
        padded[2:7, 2:7] = before.numpy()
        windows = [padded[y : y + 5, x : x + 5] for y in range(5) for x in range(5)]
        windows += [window[:, ::-1] for window in windows]
        assert any((after.numpy() == window).all() for window in windows)


def test_half_of_the_pictures_are_mirrored_and_no_two_shifts_dominate():
    images = torch.zeros(4000, 5, 5, 1, dtype=torch.uint8)
    images[:, 2, 2:4] = 255
    mirrored = training.augment(images, 0, True, torch.Generator().manual_seed(0))
    assert abs((mirrored[:, 2, 1, 0] == 255).float().mean().item() - 0.5) < 0.03
    centre = torch.zeros(4000, 3, 3, 1, dtype=torch.uint8)
    centre[:, 1, 1] = 255
    shifted = training.augment(centre, 1, False, torch.Generator().manual_seed(0))
    assert (shifted.float().mean(0) / 255 - 1 / 9).abs().max().item() < 0.02


def test_without_augmentation_nothing_is_drawn():
    generator = torch.Generator().manual_seed(3)
    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    assert training.augment(images, 0, False, generator) is images
    assert generator.get_state().equal(torch.Generator().manual_seed(3).get_state())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("sgd", 0.05, 3, batch_size=8, nesterov=True, weight_decay=0.01),
        Recipe("adam", 0.01, 3, batch_size=8, weight_decay=0.01),
    ],
)
def test_a_pruned_weight_is_zero_at_every_forward_pass(recipe):
    network = models.build("digitsnet", (1, 8, 8), 3, seed=5)
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: (torch.rand(weight.shape, generator=generator) < 0.3).to(torch.uint8)
        for name, weight in prunable(network).items()
    }
    passes = []

    def check(module: nn.Module, _inputs: object) -> None:
        named = dict(module.named_parameters())
        passes.append(all(not named[name][mask == 0].any() for name, mask in masks.items()))

    network.register_forward_pre_hook(check)
    _, found = run(recipe, masks=masks, network=network)
    # 3 epochs of 4 steps, and an evaluation before and after each epoch.
    assert passes == [True] * (3 * 4 + 4)
    assert all(not found.state[name][mask == 0].any() for name, mask in masks.items())
    # Kept weights do move.
    before = dict(models.build("digitsnet", (1, 8, 8), 3, seed=5).named_parameters())
    assert all((found.state[n] != before[n])[m == 1].any() for n, m in masks.items())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    recipe = Recipe("adam", 0.01, 2, batch_size=8, crop=1, flip=True)
    states = [run(recipe, seed)[1].state for seed in (1, 1, 2)]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert not all(states[0][name].equal(states[2][name]) for name in states[0])


def test_results_do_not_depend_on_the_global_generator():
    recipe = Recipe("sgd", 0.05, 1, batch_size=8, crop=1)
    first = run(recipe)[1].state
    torch.manual_seed(999)
    torch.rand(17)
    second = run(recipe)[1].state
    assert all(first[name].equal(second[name]) for name in first)


def test_training_learns_and_keeps_the_best_validation_epoch():
    network, found = run(Recipe("adam", 0.01, 6, batch_size=8))
    trained = found.history[1:]
    best = max(trained, key=lambda line: (line.val_top1, -line.val_loss, -line.epoch))
    assert found.best_epoch == best.epoch
    assert best.val_top1 > found.history[0].val_top1
    network.load_state_dict(found.state)
    again = training.evaluate(network, split("validation"))
    assert (again.top1, again.loss) == (best.val_top1, best.val_loss)


def test_early_stopping_ends_after_patience_epochs():
    # No learning rate to speak of and no batch-norm: no epoch is better than the first.
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    _, found = run(Recipe("sgd", 1e-30, 9, patience=2), network=network)
    assert found.best_epoch == 1
    assert len(found.history) - 1 == 1 + 2


def test_divergence_names_the_cell_and_the_remedy():
    with pytest.raises(UserError, match=r"a cell: training diverged in epoch \d.*lower 'lr'"):
        run(Recipe("sgd", 1e30, 3, batch_size=8))


def test_evaluation_leaves_batch_norm_alone():
    network = models.build("digitsnet", (1, 8, 8), 3, seed=5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    training.evaluate(network, split("test"))
    assert all(before[name].equal(value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["adam", "sgd", "momentum", "nesterov"])
def test_optimizers_equal_those_of_torch(kind, decay):
    recipe = Recipe(
        "adam" if kind == "adam" else "sgd",
        0.1,
        1,
        momentum=0.0 if kind == "sgd" else 0.9,
        nesterov=kind == "nesterov",
        weight_decay=decay,
    )
    ours, theirs = (nn.Linear(4, 3), nn.Linear(4, 3))
    theirs.load_state_dict(ours.state_dict())
    step = optimizer(ours.parameters(), recipe)
    if kind == "adam":
        reference = torch.optim.Adam(theirs.parameters(), weight_decay=decay)
    else:
        reference = torch.optim.SGD(
            theirs.parameters(),
            lr=1.0,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=decay,
        )
    generator = torch_generator(1, Purpose.SCORE)
    for lr in (0.1, 0.05, 0.2, 0.01):
        inputs = torch.randn(5, 4, generator=generator)
        ours(inputs).square().mean().backward()
        step(lr)
        reference.param_groups[0]["lr"] = lr
        reference.zero_grad()
        theirs(inputs).square().mean().backward()
        reference.step()
    assert all(p.grad is None for p in ours.parameters())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_history_survives_a_file(tmp_path):
    lines = [training.Epoch(0, 0.0, math.nan, 2.5, 0.125), training.Epoch(1, 0.1, 1.5, 1.25, 0.5)]
    training.write_history(tmp_path / "history.csv", lines)
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,lr,train_loss,val_loss,val_top1\n0,0,,2.500000,0.125000\n1,0.1,1.500000,1.250000,0.500000\n"
    )
    found = training.read_history(tmp_path / "history.csv")
    assert found[1] == lines[1]
    assert math.isnan(found[0].train_loss)


def test_a_missing_gpu_is_a_plain_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="device 'cuda' was asked for, but there is none"):
        training.start(1, "cuda")


def test_a_gpu_that_cuda_cannot_use_is_given_up(tmp_path, monkeypatch):
    """A driver too old, say: it lists a GPU, but CUDA does not start."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU-0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in {"SHRINKFLOW_LEASES": str(tmp_path / "leases"), "CUDA_VISIBLE_DEVICES": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]))
    assert training.start(1, "auto") == CPU
    assert seen == ["GPU-0"]
    with pytest.raises(UserError, match="but there is none; set 'device: auto' or 'cpu'"):
        training.start(1, "cuda")
    # Nobody holds it: the only slot can be had at once.
    with open(tmp_path / "leases/GPU-0.0") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_job_on_the_cpu_takes_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("SHRINKFLOW_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    assert training.start(1, "cpu") == CPU
    assert not (tmp_path / "leases").exists()


def test_no_device_rounds_to_tf32():
    torch.backends.cudnn.allow_tf32 = True
    training.start(1, "cpu")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.are_deterministic_algorithms_enabled()


def described(mean: float = 0.25, std: float = 0.3) -> dict:
    return {"shape": [1, 8, 8], "classes": 3, "normalisation": {"mean": [mean], "std": [std]}}


def fitted(data: Dataset, metadata: dict) -> dict[str, torch.Tensor]:
    training.start(1, "cpu")
    network = models.build("digitsnet", (1, 8, 8), 3, seed=5)
    recipe = Recipe("sgd", 0.05, 2, batch_size=8)
    return training.fit(network, data, metadata, recipe, 1, CPU, "a cell").state


def test_training_does_not_look_at_the_test_part():
    data = dataset()
    spoilt = data.images.copy()
    spoilt[data.test] = 255 - spoilt[data.test]
    one, other = fitted(data, described()), fitted(replace(data, images=spoilt), described())
    assert all(one[name].equal(other[name]) for name in one)
    spoilt[data.validation[0]] = 0
    spoilt[data.train[0]] = 0
    another = fitted(replace(data, images=spoilt), described())
    assert not all(one[name].equal(another[name]) for name in one)


def test_the_normalisation_is_the_checkpoints():
    data = dataset()
    other = replace(data, mean=(0.9,), std=(0.01,))
    one, same = fitted(data, described()), fitted(other, described())
    assert all(one[name].equal(same[name]) for name in one)
    different = fitted(data, described(mean=0.9, std=0.01))
    assert not all(one[name].equal(different[name]) for name in one)


def test_a_checkpoint_for_other_pictures_is_refused():
    described = {"shape": [3, 32, 32], "classes": 10, "normalisation": {"mean": [0], "std": [1]}}
    with pytest.raises(UserError, match=r"the checkpoint is for pictures of \[3, 32, 32\] in 10"):
        training.fit(nn.Linear(1, 1), dataset(), described, Recipe("sgd", 1, 1), 1, CPU, "a cell")


def test_a_training_that_begins_later_takes_the_rates_of_those_epochs():
    recipe = Recipe("sgd", 0.1, 6, schedule="step", milestones=(2, 4), gamma=0.5)
    _, found = run(recipe, begin=3)
    assert [line.epoch for line in found.history] == [3, 4, 5, 6]
    assert [line.lr for line in found.history] == [0, 0.05, 0.025, 0.025]
    assert found.best_epoch > 3


def test_rewinding_to_a_kept_epoch_repeats_the_training():
    # Adam's moments are not kept, as in the papers: with plain SGD the rest of the training is the same.
    recipe = Recipe("sgd", 0.05, 4, momentum=0.0, crop=1)
    _, whole = run(recipe, keep=(0, 2, 4))
    assert sorted(whole.kept) == [0, 2, 4]
    network = models.build("digitsnet", (1, 8, 8), 3, seed=5)
    assert all(whole.kept[0][name].equal(value) for name, value in network.state_dict().items())
    network.load_state_dict(whole.kept[2])
    _, rest = run(recipe, network=network, begin=2, keep=(4,))
    assert all(rest.kept[4][name].equal(value) for name, value in whole.kept[4].items())


def test_patience_does_not_stop_before_an_epoch_that_is_kept():
    recipe = Recipe("sgd", 1e-9, 8, patience=1)
    _, short = run(recipe)
    _, long = run(recipe, keep=(6,))
    assert len(short.history) < 6 < len(long.history)
    assert sorted(long.kept) == [6]


def test_masks_that_are_not_yet_final_are_not_chosen():
    class Late(training.Masking):
        def complete(self, epoch: int) -> bool:
            return epoch == 3

    training.start(1, "cpu")
    network = models.build("digitsnet", (1, 8, 8), 3, seed=5)
    recipe = Recipe("sgd", 1e-9, 4)
    found = training.train(network, split(), split("validation"), recipe, 1, "a cell", Late())
    # The last epoch was better.
    assert found.history[4].val_loss < found.history[3].val_loss
    assert found.best_epoch == 3
