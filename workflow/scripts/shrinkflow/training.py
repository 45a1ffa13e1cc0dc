"""The training engine, one for pretraining and finetuning.

A split lies in memory as one uint8 tensor, pictures of a batch are gathered, cropped and mirrored by a
single indexing, normalised in two passes, and never touched one by one. Masks are applied in place
once per optimizer step. Every draw comes from (seed, purpose, epoch), so an epoch depends on nothing
that went before but the state of model and optimizer.
"""

from __future__ import annotations

import csv
import importlib
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from shrinkflow import checkpoints, files, measures, records
from shrinkflow.data import dataset as datasets
from shrinkflow.data.dataset import Dataset
from shrinkflow.errors import UserError
from shrinkflow.optimizers import Step, optimizer
from shrinkflow.recipe import Recipe, learning_rate
from shrinkflow.resuming import Point
from shrinkflow.seeds import Purpose, torch_generator, torch_seed

# Pictures per step of an evaluation. A constant: sums of floats depend on how they are grouped.
_EVALUATION_BATCH = 500

# Imported by name, by jobs whose pictures are streamed.
_STREAMED = "shrinkflow.streamed"

# Imported by name, because it changes no result.
_DEVICES = "shrinkflow.devices"


def start(threads: int, device: str) -> torch.device:
    """Pin threads and determinism, and return the device that `device` (auto, cpu, cuda) names."""
    # cuBLAS reads this when CUDA starts; without it deterministic algorithms are refused there.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # The same as torch.use_deterministic_algorithms, which first imports torch's compiler (2 s).
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory costs a tenth of a step; nothing here reads memory it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # Rounded to TF32's ten bits, as cuDNN does unless told otherwise, a GPU's convolutions would agree with
    # those of other devices in three digits only.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(device if device == "cpu" else _gpu(device))


def _gpu(asked: str) -> str:
    """Return "cuda", where there is a GPU that this job may use, else "cpu" if `asked` is "auto".

    With "auto" too a job waits for a GPU that is taken: its result must not depend on what else runs.
    """
    if torch.backends.cuda.is_built():
        devices = importlib.import_module(_DEVICES)
        # Once CUDA has started (`is_available` starts it), it is too late to choose among GPUs.
        name = None if torch.cuda.is_initialized() else devices.take()
        if torch.cuda.is_available():
            where = name or "which one is not known: nvidia-smi lists none, so jobs may share it unawares"
            print(f"computes on {torch.cuda.get_device_name()} ({where})", file=sys.stderr, flush=True)
            return "cuda"
        devices.release()
    if asked == "cuda":
        why = "" if torch.backends.cuda.is_built() else " for this torch, which was built without CUDA"
        raise UserError(f"device 'cuda' was asked for, but there is none{why}; set 'device: auto' or 'cpu'")
    return "cpu"


def device_name(device: torch.device) -> str:
    """Return what a record should call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class Split:
    """The pictures of one split on the device: uint8 [n, h, w, c], and int64 labels [n].

    `normalisation` is that of the network's checkpoint: {"mean", "std"} per channel, on the scale 0..1.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: np.ndarray,
        normalisation: Mapping[str, Sequence[float]],
        device: torch.device,
    ) -> None:
        self.device = device
        self.labels = torch.from_numpy(dataset.labels[indices]).to(device)
        self._place(dataset, indices)
        channels = (1, -1, 1, 1)
        self._mean = torch.tensor(normalisation["mean"], device=device).view(channels) * 255
        self._std = torch.tensor(normalisation["std"], device=device).view(channels) * 255

    def _place(self, dataset: Dataset, indices: np.ndarray) -> None:
        images = torch.from_numpy(dataset.images[indices])
        self.images = images.permute(0, 2, 3, 1).contiguous().to(self.device)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 [b, h, w, c] into normalised float32 [b, c, h, w], channels last in memory."""
        return images.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)

    def in_order(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all pictures and labels, in order: for evaluation."""
        for begin in range(0, len(self), _EVALUATION_BATCH):
            part = slice(begin, begin + _EVALUATION_BATCH)
            yield self.inputs(self.images[part]), self.labels[part]

    def shuffled(self, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield one epoch of augmented batches; order and augmentation depend on (seed, epoch) alone.

        A last batch of a single picture is left out: batch-norm cannot use it.
        """
        if recipe.resized_crop:
            raise UserError("'resized_crop' is for streamed pictures; these are in memory, set 'crop'")
        order = torch.randperm(len(self), generator=torch_generator(seed, Purpose.ORDER, epoch))
        augmentation = torch_generator(seed, Purpose.AUGMENTATION, epoch)
        for chosen in order.to(self.images.device).split(recipe.batch_size):
            if len(chosen) > 1:
                images = augment(self.images[chosen], recipe.crop, recipe.flip, augmentation)
                yield self.inputs(images), self.labels[chosen]

    def drawn(
        self, generator: torch.Generator, batches: int, batch_size: int, crop: int = 0, flip: bool = False
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `batches` batches drawn without replacement, not augmented unless asked for: for scores."""
        order = torch.randperm(len(self), generator=generator)[: batches * batch_size]
        for chosen in order.to(self.images.device).split(batch_size):
            images = augment(self.images[chosen], crop, flip, generator)
            yield self.inputs(images), self.labels[chosen]


def read(path: str | Path, folder: str | Path | None, job: records.Job) -> Dataset:
    """Read a processed data set for a job, whose code is more where pictures are streamed from `folder`."""
    dataset = datasets.read(path, folder)
    if dataset.files:
        job.load(_STREAMED)
    return dataset


def split(
    dataset: Dataset,
    indices: np.ndarray,
    normalisation: Mapping[str, Sequence[float]],
    device: torch.device,
) -> Split:
    """Return a split of a data set, in memory or streamed; see `Split`."""
    kind = importlib.import_module(_STREAMED).Streamed if dataset.files else Split
    found: Split = kind(dataset, indices, normalisation, device)
    return found


def augment(images: torch.Tensor, crop: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Pad by `crop` black pixels, crop back at random, mirror half of them: uint8 [b, h, w, c]."""
    if not crop and not flip:
        return images
    count, height, width, _ = images.shape
    rows = torch.arange(height).expand(count, -1)
    columns = torch.arange(width).expand(count, -1)
    if crop:
        images = functional.pad(images, (0, 0, crop, crop, crop, crop))
        rows = rows + torch.randint(2 * crop + 1, (count, 1), generator=generator)
        columns = columns + torch.randint(2 * crop + 1, (count, 1), generator=generator)
    if flip:
        mirrored = torch.randint(2, (count, 1), generator=generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    device = images.device
    index = torch.arange(count, device=device)[:, None, None]
    return images[index, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]


def to(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device, weights laid out channels last as the pictures are."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split) -> measures.Evaluation:
    """Return top-1, top-5 and mean cross-entropy of a model over a split, per example."""
    model.eval()
    return measures.score_logits((model(pictures), labels) for pictures, labels in split.in_order())


class Masking:
    """What keeps a network pruned while it trains: here, masks that stay as they are.

    `masks` maps parameter names to tensors of 0 and 1; none: a dense network.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor] | None = None) -> None:
        self.masks = dict(masks or {})
        # Steps of pruning made so far, where there are any.
        self.done = 0
        self._placed: list[tuple[torch.Tensor, torch.Tensor]] = []

    def start(self, model: nn.Module) -> None:
        """Take the network, on its device, that will be trained; prune it."""
        self._place(model)
        self._apply()

    def resume(self, model: nn.Module, masks: Mapping[str, torch.Tensor], done: int) -> None:
        """Go on, after `start`, with the masks and the steps made of a training that was interrupted."""
        self.masks, self.done = dict(masks), done
        self._place(model)

    def after_step(self, progress: float) -> None:
        """See to the network after an optimizer step; `progress` in epochs of the recipe."""
        self._apply()

    def after_epoch(self, model: nn.Module, epoch: int) -> nn.Module:
        """Return the pruned network of an epoch: the one to evaluate, and to keep if it is the best."""
        return model

    def complete(self, epoch: int) -> bool:
        """Whether the network of an epoch is as small as it has to be, and so may be chosen."""
        return True

    def _place(self, model: nn.Module) -> None:
        named = dict(model.named_parameters())
        self._placed = [
            (named[name], mask.to(named[name]).contiguous(memory_format=_format(mask)))
            for name, mask in self.masks.items()
        ]

    @torch.no_grad()
    def _apply(self) -> None:
        for weight, mask in self._placed:
            weight.mul_(mask)


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history. The first is the network before any training."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_top1: float


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    `state` and `masks` are those of the best validation epoch; `kept` holds the states, by epoch, that were
    to be kept for rewinding; `candidates` those that the best was chosen from, where they were asked for.
    """

    state: dict[str, torch.Tensor]
    best_epoch: int
    history: tuple[Epoch, ...]
    masks: dict[str, torch.Tensor]
    kept: dict[int, dict[str, torch.Tensor]]
    candidates: dict[int, dict[str, torch.Tensor]]


@dataclass
class _Best:
    """The best epoch so far: what it was chosen by, its network and masks."""

    quality: tuple[float, float]
    epoch: int
    state: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]


@dataclass
class _Course:
    """What a training has come to, besides the state of model, optimizer and masking.

    `highest` is the best validation accuracy, `improved` the epoch that patience counts from, and `over` says
    that it ran out.
    """

    epoch: int
    history: list[Epoch]
    improved: int
    highest: float = -1.0
    over: bool = False
    best: _Best | None = None
    kept: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    choices: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


def train(
    model: nn.Module,
    train_split: Split,
    validation: Split,
    recipe: Recipe,
    seed: int,
    label: str,
    masking: Masking | None = None,
    *,
    begin: int = 0,
    keep: Sequence[int] = (),
    candidates: bool = False,
    point: Point | None = None,
) -> Trained:
    """Train `model` in place by a recipe and return the state of its best validation epoch.

    The best epoch, of those trained, has the highest validation top-1; ties go to the lower loss, then
    to the earlier epoch. `label` names the training in messages.

    Args:
        model: the network to train.
        train_split: pictures to train with.
        validation: pictures to choose the best epoch by.
        recipe: how.
        seed: of data order, augmentation and dropout, which depend on the epoch besides.
        label: the name of the training in messages.
        masking: what keeps the network pruned: a weight masked 0 is exactly zero after every step.
        begin: epochs of the recipe to leave out at its start, learning-rate schedule included.
        keep: epochs whose states to keep; 0 is the network as it comes.
        candidates: whether to keep the state of every epoch that could have been the best.
        point: where to keep what it has come to after each epoch, and to go on from if there is something.

    Raises:
        UserError: the loss is no longer finite.
    """
    to(model, train_split.device)
    masking = masking or Masking()
    masking.start(model)
    step = optimizer(model.parameters(), recipe)
    course = _resume(point, model, step, masking) if point else None
    if course is None:
        before = evaluate(model, validation)
        course = _Course(begin, [Epoch(begin, 0.0, math.nan, before.loss, before.top1)], improved=begin)
        if begin in keep:
            course.kept[begin] = _snapshot(model)
    else:
        print(f"{label}: resumed after epoch {course.epoch} of {recipe.epochs}", file=sys.stderr, flush=True)
    started, first = time.monotonic(), course.epoch
    while course.epoch < recipe.epochs and not course.over:
        epoch = course.epoch + 1
        torch.manual_seed(torch_seed(seed, Purpose.DROPOUT, epoch))
        loss, rate = train_epoch(model, step, masking, train_split, recipe, seed, epoch)
        pruned = masking.after_epoch(model, epoch)
        found = evaluate(pruned, validation)
        if not math.isfinite(loss) or not math.isfinite(found.loss):
            raise UserError(
                f"{label}: training diverged in epoch {epoch} (training loss {loss}, validation loss "
                f"{found.loss}); lower 'lr' ({recipe.lr:g}) of its recipe"
            )
        course.epoch = epoch
        course.history.append(Epoch(epoch, rate, loss, found.loss, found.top1))
        if epoch in keep:
            course.kept[epoch] = _snapshot(model)
        if masking.complete(epoch):
            if candidates:
                course.choices[epoch] = _snapshot(pruned)
            quality = (found.top1, -found.loss)
            if course.best is None or quality > course.best.quality:
                course.best = _Best(quality, epoch, _snapshot(pruned), dict(masking.masks))
            if found.top1 > course.highest:
                course.highest, course.improved = found.top1, epoch
        else:
            # Patience begins when the network has its size.
            course.improved = epoch
        _report(label, recipe, course.history[-1], (time.monotonic() - started) / (epoch - first))
        # An epoch that is to be kept may still lie ahead.
        if recipe.patience and epoch - course.improved >= recipe.patience and epoch >= max(keep, default=0):
            print(f"{label}: no better for {recipe.patience} epochs, stopped", file=sys.stderr)
            course.over = True
        if point:
            point.save(*_packed(course, model, step, masking))
    best = course.best
    assert best is not None  # a recipe has at least one epoch, and the last one is complete
    return Trained(best.state, best.epoch, tuple(course.history), best.masks, course.kept, course.choices)


def _packed(
    course: _Course, model: nn.Module, step: Step, masking: Masking
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return all that the rest of a training depends on, as a resume point holds it: (tensors, state)."""
    groups = {
        "model": model.state_dict(),
        "optimizer": step.state(),
        "masks": masking.masks,
        **{f"kept/{epoch}": state for epoch, state in course.kept.items()},
        **{f"choices/{epoch}": state for epoch, state in course.choices.items()},
    }
    state: dict[str, Any] = {
        "epoch": course.epoch,
        "history": [_to_json(line) for line in course.history],
        "improved": course.improved,
        "highest": course.highest,
        "over": course.over,
        "done": masking.done,
        "kept": list(course.kept),
        "choices": list(course.choices),
    }
    if course.best:
        groups |= {"best": course.best.state, "best masks": course.best.masks}
        state["best"] = {"quality": course.best.quality, "epoch": course.best.epoch}
    tensors = {
        f"{group}/{name}": value.detach().cpu().numpy()
        for group, values in groups.items()
        for name, value in values.items()
    }
    return tensors, state


def _resume(point: Point, model: nn.Module, step: Step, masking: Masking) -> _Course | None:
    """Put model, optimizer and masking where a resume point left them; return the course, if there is one."""
    found = point.load()
    if found is None:
        return None
    tensors, state = found

    def group(prefix: str) -> dict[str, torch.Tensor]:
        prefix += "/"
        return {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in tensors.items()
            if name.startswith(prefix)
        }

    model.load_state_dict(group("model"))
    step.load(group("optimizer"))
    masking.resume(model, group("masks"), state["done"])
    best = None
    if "best" in state:
        quality = tuple(state["best"]["quality"])
        best = _Best(quality, state["best"]["epoch"], group("best"), group("best masks"))
    return _Course(
        state["epoch"],
        [_from_json(line) for line in state["history"]],
        state["improved"],
        state["highest"],
        state["over"],
        best,
        {epoch: group(f"kept/{epoch}") for epoch in state["kept"]},
        {epoch: group(f"choices/{epoch}") for epoch in state["choices"]},
    )


def train_epoch(
    model: nn.Module,
    step: Step,
    masking: Masking,
    split: Split,
    recipe: Recipe,
    seed: int,
    epoch: int,
) -> tuple[float, float]:
    """Train one epoch; return (mean training loss per example, learning rate of the last step)."""
    model.train()
    steps = math.ceil(len(split) / recipe.batch_size)
    total = torch.zeros((), device=split.device, dtype=torch.float64)
    count, rate = 0, 0.0
    for index, (pictures, labels) in enumerate(split.shuffled(recipe, seed, epoch)):
        rate = learning_rate(recipe, epoch - 1 + index / steps)
        loss = functional.cross_entropy(model(pictures), labels)
        loss.backward()
        step(rate)
        masking.after_step(epoch - 1 + (index + 1) / steps)
        total += loss.detach() * len(labels)
        count += len(labels)
    return total.item() / count, rate


def _to_json(line: Epoch) -> dict[str, Any]:
    # JSON has no NaN, which stands where there was no training yet.
    return asdict(line) | ({"train_loss": None} if math.isnan(line.train_loss) else {})


def _from_json(line: Mapping[str, Any]) -> Epoch:
    return Epoch(**dict(line) | ({"train_loss": math.nan} if line["train_loss"] is None else {}))


def _format(tensor: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format


def _snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format).cpu()
        for name, value in model.state_dict().items()
    }


def _report(label: str, recipe: Recipe, line: Epoch, per_epoch: float) -> None:
    print(
        f"{label}: epoch {line.epoch}/{recipe.epochs}, lr {line.lr:.2g}, loss {line.train_loss:.4f}, "
        f"validation loss {line.val_loss:.4f}, top-1 {line.val_top1:.2%}, {per_epoch:.1f} s an epoch, "
        f"{per_epoch * (recipe.epochs - line.epoch):.0f} s left at most",
        file=sys.stderr,
        flush=True,
    )


def fit(
    model: nn.Module,
    dataset: Dataset,
    described: Mapping[str, Any],
    recipe: Recipe,
    seed: int,
    device: torch.device,
    label: str,
    masking: Masking | None = None,
    *,
    begin: int = 0,
    keep: Sequence[int] = (),
    candidates: bool = False,
    point: Point | None = None,
) -> Trained:
    """Train a network on a data set's training part, choosing on its validation part; see `train`.

    `described` is the metadata of the network's checkpoint: its normalisation is used, and it must have
    the data set's shape and classes.
    """
    splits = splits_of(dataset, described, device, label)
    options: dict[str, Any] = {"begin": begin, "keep": keep, "candidates": candidates, "point": point}
    return train(model, *splits, recipe, seed, label, masking, **options)


def splits_of(
    dataset: Dataset, described: Mapping[str, Any], device: torch.device, label: str
) -> tuple[Split, Split]:
    """Return the training and the validation part, normalised as the metadata of a checkpoint says.

    Raises `UserError` where the network is for other pictures or classes.
    """
    if tuple(described["shape"]) != dataset.shape or described["classes"] != len(dataset.classes):
        raise UserError(
            f"{label}: the checkpoint is for pictures of {described['shape']} in {described['classes']} "
            f"classes, data set '{dataset.name}' has {list(dataset.shape)} in {len(dataset.classes)}"
        )
    normalisation = described["normalisation"]
    return (
        split(dataset, dataset.train, normalisation, device),
        split(dataset, dataset.validation, normalisation, device),
    )


def write(
    checkpoint: str | Path,
    history: str | Path,
    model: nn.Module,
    described: Mapping[str, Any],
    trained: Trained,
) -> None:
    """Write a network in the state of the best epoch (its number goes into the metadata) and the history."""
    checkpoints.save(checkpoint, model, {**described, "epoch": trained.best_epoch})
    write_history(history, trained.history)


def write_history(path: str | Path, history: Sequence[Epoch]) -> None:
    """Write a training's history as CSV, one row per epoch, the training loss of epoch 0 empty."""
    lines = [",".join(field.name for field in fields(Epoch))]
    for e in history:
        train_loss = "" if math.isnan(e.train_loss) else f"{e.train_loss:.6f}"
        lines.append(f"{e.epoch},{e.lr:.6g},{train_loss},{e.val_loss:.6f},{e.val_top1:.6f}")
    files.write_text(path, "\n".join(lines) + "\n")


def read_history(path: str | Path) -> list[Epoch]:
    """Read what `write_history` wrote."""
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Epoch(int(row.pop("epoch")), **{key: float(value or "nan") for key, value in row.items()})
        for row in rows
    ]
