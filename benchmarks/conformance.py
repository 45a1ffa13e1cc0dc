"""Compare masks with those of ShrinkBench's own code, and measure its defects.

Needs a clone of github.com/JJGO/shrinkbench, of which nothing is copied: its strategies run on the same
network, the same batch and the same draws as those here, in conformance mode and in normal mode.

    python benchmarks/conformance.py --clone shrinkbench --weights resnet20-12fca82f.th \\
        --pictures cifar10-images.tar.gz [--defects]

Without --weights only freshly initialised networks are compared; without --pictures they see windows of
scikit-learn's two photographs. Both files are looked for in the folder SHRINKFLOW_MIRROR too; --defects
needs both. Measured with torch on the CPU, one thread unless told otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from shrinkflow import (
    budget,
    checkpoints,
    conformance,
    faults,
    measures,
    models,
    scoring,
    selection,
    strategies,
    training,
)
from shrinkflow.data import imagefolder
from shrinkflow.data.dataset import Dataset
from shrinkflow.errors import UserError, run
from shrinkflow.importing import import_torchvision
from shrinkflow.prunable import prunable
from shrinkflow.seeds import Purpose, numpy_generator, torch_generator
from shrinkflow.strategies.shrinkbench import dropout_seed, with_biases
from shrinkflow.targets import Sizes, Target

Arrays = Mapping[str, np.ndarray]
Batch = tuple[torch.Tensor, torch.Tensor]

RATIOS = (2, 4, 8, 16, 32)
BATCH = 64
SHAPE = (3, 32, 32)
# The normalisation the published weights were trained with, and the one ShrinkBench evaluates them with.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR = {"mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)}
WEIGHTS, PICTURES = "resnet20-12fca82f.th", "cifar10-images.tar.gz"
# Name here, and class of ShrinkBench.
STRATEGIES = {
    "random": "RandomPruning",
    "global-magnitude": "GlobalMagWeight",
    "layerwise-magnitude": "LayerMagWeight",
    "global-gradient-magnitude": "GlobalMagGrad",
    "layerwise-gradient-magnitude": "LayerMagGrad",
    "global-activation-magnitude": "GlobalMagAct",
    "layerwise-activation-magnitude": "LayerMagAct",
}
SEED = 1


def load(clone: Path) -> types.SimpleNamespace:
    """Return the parts of ShrinkBench that are used, imported from a clone under its own name."""
    if not (clone / "strategies" / "magnitude.py").is_file():
        raise UserError(f"{clone} is no clone of github.com/JJGO/shrinkbench; clone it and name its folder")
    import_torchvision()
    package = types.ModuleType("shrinkbench")
    package.__path__ = [str(clone)]
    sys.modules["shrinkbench"] = package
    names = ("strategies", "pruning", "metrics", "models", "datasets", "experiment", "plot.data")
    parts = {name.rpartition(".")[2]: importlib.import_module(f"shrinkbench.{name}") for name in names}
    return types.SimpleNamespace(**parts)


def dataset(path: Path | None) -> Dataset:
    """Return the pictures to score on: CIFAR-10's, or windows of photographs with labels at random."""
    if path is None:
        from engine import pictures

        return pictures(640)
    found = imagefolder.load([path], SHAPE)
    if found.test is None:
        raise UserError(f"{path} has no test part; give {PICTURES}")
    order = numpy_generator(SEED, Purpose.SPLIT).permutation(len(found.labels))
    training_part = order[~np.isin(order, found.test)]
    return Dataset(
        "cifar10-jpeg",
        found.images,
        found.labels,
        found.classes,
        IMAGENET["mean"],
        IMAGENET["std"],
        training_part[5000:],
        training_part[:5000],
        order[np.isin(order, found.test)],
    )


def split(data: Dataset, part: str, normalisation: Mapping[str, Any] = IMAGENET) -> training.Split:
    """Return one part of the pictures, normalised."""
    return training.Split(data, getattr(data, part), normalisation, torch.device("cpu"))


def mark(network: nn.Module) -> nn.Module:
    """Tell ShrinkBench by its attribute which layer is the classifier: the last Linear."""
    classifier: Any = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    classifier.is_classifier = True
    return network


def published(path: Path) -> nn.Module:
    """Return the ResNet-20 with its published weights."""
    return mark(checkpoints.read_foreign(path, "resnet20", SHAPE, 10))


def networks(weights: Path | None) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks to compare on. A fresh CIFAR-VGG has biases, but all of them 0: drawn, too."""
    if weights:
        yield "ResNet-20, published weights", published(weights)
    for seed in (1, 2):
        yield f"ResNet-20, fresh, seed {seed}", mark(models.build("resnet20", SHAPE, 10, seed))
    network = mark(models.build("cifar-vgg", SHAPE, 10, 1))
    yield "CIFAR-VGG, fresh, seed 1", network
    yield "CIFAR-VGG, fresh, biases drawn", draw_biases(network)


def draw_biases(network: nn.Module) -> nn.Module:
    """Return a copy whose biases are drawn from a normal distribution of standard deviation 0.02."""
    network = copy.deepcopy(network)
    generator = torch_generator(SEED, Purpose.INITIALISATION)
    with torch.no_grad():
        for name, bias in with_biases(network).items():
            if name.endswith(".bias"):
                bias.copy_(0.02 * torch.randn(bias.shape, generator=generator))
    return network


def its_masks(
    bench: Any, network: nn.Module, name: str, batch: Batch, ratio: float
) -> tuple[dict[str, np.ndarray], float]:
    """Return the masks of ShrinkBench, under names of parameters, and its fraction to keep."""
    model = copy.deepcopy(network).train()
    torch.manual_seed(dropout_seed(torch_generator(SEED, Purpose.SCORE)))
    np.random.seed(SEED)
    pruning = getattr(bench.strategies, STRATEGIES[name])(model, *batch, compression=ratio)
    names = {module: title for title, module in model.named_modules()}
    masks = pruning.model_masks()
    return (
        {f"{names[layer]}.{part}": mask for layer, parts in masks.items() for part, mask in parts.items()},
        pruning.fraction,
    )


def masks_here(
    mode: str, network: nn.Module, name: str, pictures: training.Split
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the masks of a strategy at every ratio, as a study with `conformance: MODE` makes them."""
    chosen = strategies.resolve(name, mode)
    job = training.to(copy.deepcopy(network), torch.device("cpu"))
    found = scoring.score(scoring.scorer(chosen.score, chosen.parameters), job, pictures, SEED)
    sizes = Sizes(sum(parameter.numel() for parameter in network.parameters()), 0, {})
    for ratio in RATIOS:
        target = Target(chosen.way, ratio)
        yield selection.choose(found, sizes, target, selection.fraction(found, sizes, target))


def its_draws(network: nn.Module) -> dict[str, np.ndarray]:
    """Return the uniform numbers that ShrinkBench draws: from numpy's global stream, layer by layer."""
    np.random.seed(SEED)
    return {name: np.random.uniform(0, 1, tuple(part.shape)) for name, part in with_biases(network).items()}


def fraction(network: nn.Module, parts: Mapping[str, nn.Parameter], ratio: float) -> float:
    """Return the fraction to keep of some parameters of a network."""
    total = sum(parameter.numel() for parameter in network.parameters())
    return budget.fraction_to_keep(total, sum(part.numel() for part in parts.values()), ratio)


def differing(theirs: Arrays, ours: Arrays) -> str:
    """Return how many weights and, after a plus sign, how many biases differ; none where it prunes none."""
    counts = {"weight": 0, "bias": 0}
    for name, mask in theirs.items():
        kind = name.rpartition(".")[2]
        counts[kind] += int((mask != ours.get(name, np.ones_like(mask))).sum())
    biases = any(name.endswith(".bias") for name in theirs)
    return f"{counts['weight']:,}" + (f" + {counts['bias']:,}" if biases else "")


def compare(
    bench: Any, network: nn.Module, pictures: training.Split, batch: Batch
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (strategy, what of ours, differing entries by ratio)."""
    for name in STRATEGIES:
        theirs = [its_masks(bench, network, name, batch, ratio)[0] for ratio in RATIOS]
        if name == "random":
            draws, parts = its_draws(network), with_biases(network)
            fed = (
                conformance.select(draws, fraction(network, parts, ratio), conformance.DRAWS)
                for ratio in RATIOS
            )
            yield name, "conformance, its draws", list(map(differing, theirs, fed))
        for title, mode in (("conformance", "shrinkbench"), ("normal", "none")):
            yield name, title, list(map(differing, theirs, masks_here(mode, network, name, pictures)))


def agreement(bench: Any, data: Dataset, weights: Path | None) -> None:
    """Print how many entries of the masks differ."""
    source = split(data, "train")
    # The batch that conformance mode draws with this seed, in the layout that ShrinkBench's loader gives it.
    pictures, labels = next(scoring.pictures(source, SEED)(1, BATCH, crop=4, flip=True))
    batch = pictures.contiguous(), labels
    print("Entries that differ from ShrinkBench's masks, at ratios 2 to 32: weights + biases")
    for title, network in networks(weights):
        parts = with_biases(network)
        biases = sum(part.numel() for name, part in parts.items() if name.endswith(".bias"))
        count = sum(part.numel() for part in parts.values()) - biases
        gaps = [
            abs(its_masks(bench, network, "random", batch, ratio)[1] / fraction(network, parts, ratio) - 1)
            for ratio in RATIOS
        ]
        print(f"\n{title}: {count:,} weights and {biases:,} biases of prunable layers")
        print(f"fraction to keep: equal but for {max(gaps):.1e} of it")
        print(f"{'':31}{'':26}" + "".join(f"{ratio:>20}" for ratio in RATIOS))
        for name, mode, cells in compare(bench, network, source, batch):
            print(f"{name:31}{mode:26}" + "".join(f"{cell:>20}" for cell in cells))


@dataclass(frozen=True)
class Case:
    """What the defects are measured with."""

    bench: Any
    network: nn.Module
    data: Dataset
    epochs: int

    def part(self, name: str, count: int, normalisation: Mapping[str, Any] = IMAGENET) -> TensorDataset:
        """Return `count` pictures of a part, normalised, as ShrinkBench's loaders want them."""
        found = split(self.data, name, normalisation)
        pictures = found.inputs(found.images[:count]).contiguous()
        return TensorDataset(pictures, found.labels[:count])

    def accuracy(self, model: nn.Module, normalisation: Mapping[str, Any] = IMAGENET) -> measures.Evaluation:
        """Return accuracy and loss on the test pictures, rightly."""
        return training.evaluate(copy.deepcopy(model), split(self.data, "test", normalisation))

    def experiment(
        self,
        strategy: str | None,
        ratio: float = 1,
        *,
        model: nn.Module | None = None,
        parts: tuple[TensorDataset, TensorDataset] | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> Any:
        """Return an experiment of ShrinkBench on pictures of ours: finetuning alone if `strategy` is None."""
        train_part, test_part = parts or (self.part("train", 512), self.part("test", 512))
        # It looks a data set up by its name in this module.
        self.bench.datasets.ours = lambda train: train_part if train else test_part
        options = {"dl_kwargs": {"batch_size": BATCH, "num_workers": 0}, **options}
        chosen = (strategy, ratio) if strategy else ()
        kind = "PruningExperiment" if strategy else "TrainingExperiment"
        network = copy.deepcopy(self.network if model is None else model).train()
        found = getattr(self.bench.experiment, kind)("ours", network, *chosen, **options)
        # Where it writes; its own option `path` cannot be used.
        found.rootdir = folder
        found.log_csv = found.log_tb = False
        return found


def masks_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the masks that ShrinkBench put into a model."""
    return {
        name: value for name, value in model.named_buffers() if name.endswith(("weight_mask", "bias_mask"))
    }


def pruned(model: nn.Module) -> int:
    """Return how many entries those masks prune."""
    return sum(int((mask == 0).sum()) for mask in masks_of(model).values())


def same_seed(case: Case) -> Iterator[str]:
    """1. The network is pruned before the seed is set."""
    for name in ("random", "global-gradient-magnitude"):
        strategy = STRATEGIES[name]
        # As a new process starts: no seed set.
        np.random.seed(None)
        torch.seed()
        first, second = (masks_of(case.experiment(strategy, 4, seed=42).model) for _ in range(2))
        differ = sum(int((first[key] != second[key]).sum()) for key in first)
        size = sum(mask.numel() for mask in first.values())
        yield f"two runs of {strategy} at ratio 4, seed 42: {differ / size:.1%} of the mask differs"


def accuracy_over_batches(case: Case) -> Iterator[str]:
    """2. Accuracy and loss are means over batches of unequal size."""
    labels = torch.arange(10_000) % 10
    perfect = nn.Sequential(nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        next(perfect.parameters()).copy_(100 * torch.eye(10))
    examples = TensorDataset(nn.functional.one_hot(labels, 10).float(), labels)
    options: dict[str, Any] = {"dl_kwargs": {"batch_size": 128, "num_workers": 0}}
    for title, model, parts in (
        ("a perfect classifier", perfect, (examples, examples)),
        ("the published ResNet-20", case.network, (case.part("train", 512), case.part("test", 10_000))),
    ):
        experiment = case.experiment(None, model=model, parts=parts, **options)
        experiment.to_device()
        loss, top1, _ = experiment.eval()
        right = measures.score_logits(
            (experiment.model(x).detach(), y) for x, y in torch.utils.data.DataLoader(parts[1], 500)
        )
        yield (
            f"{title}, {right.count:,} pictures in batches of 128: top-1 {top1:.2%} for {right.top1:.2%}, "
            f"loss {loss:.5f} for {right.loss:.5f}"
        )


def statistics_moved(case: Case) -> Iterator[str]:
    """3. Counting operations and scoring run in train mode."""
    pictures, batch = case.part("test", 128)[:][0], case.part("train", BATCH)[:]
    model = copy.deepcopy(case.network).train()
    before = statistics(model)
    yield f"as published: top-1 {case.accuracy(model).top1:.2%}, loss {case.accuracy(model).loss:.3f}"
    case.bench.metrics.flops(model, pictures)
    found = case.accuracy(model)
    yield (
        f"after counting with one test batch of 128: top-1 {found.top1:.2%}, loss {found.loss:.3f}; "
        f"{moved(before, statistics(model))}"
    )
    model = copy.deepcopy(case.network).train()
    case.bench.strategies.GlobalMagGrad(model, *batch, compression=4).model_masks()
    found = case.accuracy(model)
    yield (
        f"after scoring by the gradient of one training batch of 64: top-1 {found.top1:.2%}, "
        f"loss {found.loss:.3f}; {moved(before, statistics(model))}"
    )
    case.bench.metrics.flops(model, pictures)
    found = case.accuracy(model)
    yield f"after both, as in its experiment: top-1 {found.top1:.2%}, loss {found.loss:.3f}"


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of batch-norm's running means and variances."""
    return {name: value.clone() for name, value in model.named_buffers() if name.endswith(("_mean", "_var"))}


def moved(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> str:
    """Say how many statistics differ, and by how much variances do."""
    count = sum(int((before[name] != after[name]).sum()) for name in before)
    total = sum(value.numel() for value in before.values())
    ratios = torch.cat([(after[n] / before[n] - 1).abs() for n in before if n.endswith("_var")])
    return f"{count:,} of {total:,} statistics moved, variances by {ratios.median():.1%} (median)"


def ties(case: Case) -> Iterator[str]:
    """4. Ties at the threshold all stay."""
    model = copy.deepcopy(case.network)
    found = {name: weight.detach().abs().numpy() for name, weight in prunable(model).items()}
    zeros = selection.select(found, 0.4, "layer")
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(torch.from_numpy(zeros[name]))
    equal = copy.deepcopy(case.network)
    with torch.no_grad():
        for weight in prunable(equal).values():
            weight.fill_(0.1)
    for title, network in (("60 % of each layer zero", model), ("all weights equal", equal)):
        keep = fraction(network, prunable(network), 2)
        size = sum(weight.numel() for weight in prunable(network).values())
        absolute = {name: weight.detach().abs().numpy() for name, weight in prunable(network).items()}
        for name, scope in (("global-magnitude", "global"), ("layerwise-magnitude", "layer")):
            strategy = STRATEGIES[name]
            masks, _ = its_masks(case.bench, network, name, (torch.empty(0), torch.empty(0)), 2)
            theirs = sum(int((mask == 0).sum()) for mask in masks.values())
            ours = sum(int((mask == 0).sum()) for mask in selection.select(absolute, keep, scope).values())
            yield f"{title}, ratio 2: {strategy} prunes {theirs:,} of {size:,}, {name} here {ours:,}"


def twice(case: Case) -> Iterator[str]:
    """5. A pruned network is pruned again."""
    batch = case.part("train", BATCH)[:]
    for first, second, ratios in (
        ("GlobalMagWeight", "GlobalMagWeight", (4, 2)),
        ("GlobalMagWeight", "LayerMagWeight", (4, 4)),
        ("LayerMagWeight", "GlobalMagWeight", (4, 2)),
    ):
        model = copy.deepcopy(case.network)
        getattr(case.bench.strategies, first)(model, compression=ratios[0]).apply()
        before = {name: mask.clone() for name, mask in masks_of(model).items()}
        getattr(case.bench.strategies, second)(model, compression=ratios[1]).apply()
        after = masks_of(model)
        freed = sum(int(((before[name] == 0) & (after[name] != 0)).sum()) for name in before)
        step(model, batch, torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9))
        revived = sum(
            int(((before[name] == 0) & (model.get_parameter(name.removesuffix("_mask")) != 0)).sum())
            for name in before
        )
        total = sum(int((mask == 0).sum()) for mask in before.values())
        yield (
            f"{first} at {ratios[0]}, then {second} at {ratios[1]}: of {total:,} pruned weights {freed:,} "
            f"are free again, {revived:,} nonzero after one step of training"
        )


def step(model: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> None:
    """Take one step of training."""
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def finetuning(case: Case) -> Iterator[str]:
    """6 and 7. The best epoch by the test set; a control that is not finetuned."""
    parts = case.part("train", 2000), case.part("test", 2000)
    validation = torch.utils.data.DataLoader(case.part("validation", 2000), 500)
    test = torch.utils.data.DataLoader(parts[1], 500)
    budget_of: dict[str, Any] = {"train_kwargs": {"epochs": case.epochs}}
    try:
        case.experiment(None, train_kwargs={"optim": "Adam"})
    except TypeError as error:
        yield f"the optimizer of the paper, by its name, fails: {error}; set from outside in what follows"

    def top1(model: nn.Module, loader: Any) -> float:
        model.eval()
        with torch.inference_mode():
            return measures.score_logits((model(x), y) for x, y in loader).top1

    chosen = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        experiment = case.experiment("GlobalMagWeight", 4, parts=parts, **budget_of)
        use_adam(experiment)
        history = []
        for epoch in range(case.epochs):
            experiment.train(epoch)
            history.append((top1(experiment.model, validation), top1(experiment.model, test)))
        chosen.append((max(t for _, t in history), max(history, key=lambda pair: pair[0])[1], history[-1][1]))
    best, honest, last = (np.mean(column) for column in zip(*chosen, strict=True))
    yield (
        f"GlobalMagWeight at 4, {case.epochs} epochs of 2,000 pictures, mean of three runs: top-1 on 2,000 "
        f"test pictures {best:.2%} in the best epoch on them, {honest:.2%} in the best on validation, "
        f"{last:.2%} in the last"
    )
    with tempfile.TemporaryDirectory() as folder:
        control = case.experiment("GlobalMagWeight", 1, parts=parts, folder=Path(folder), **budget_of)
        control.run()
        epochs = len((control.path / "logs.csv").read_text().splitlines()) - 2
    before = top1(control.model, test)
    torch.manual_seed(1)
    experiment = case.experiment(None, parts=parts, **budget_of)
    use_adam(experiment)
    for epoch in range(case.epochs):
        experiment.train(epoch)
    yield (
        f"its control at ratio 1 trains {epochs} epochs: top-1 {before:.2%}; the same network finetuned "
        f"{case.epochs} epochs: {top1(experiment.model, test):.2%}"
    )


def use_adam(experiment: Any) -> None:
    """Make an experiment ready for training by the paper's optimizer."""
    experiment.to_device()
    experiment.optim = torch.optim.Adam(experiment.model.parameters(), lr=3e-4)


def operations(case: Case) -> Iterator[str]:
    """8. Padding and groups in the count of operations."""
    torch.manual_seed(SEED)
    mnist = case.bench.models.MnistNet()
    theirs, _ = case.bench.metrics.flops(mnist, torch.zeros(1, 1, 28, 28))
    ours = measures.count(models.build("mnistnet", (1, 28, 28), 10, seed=1), (1, 28, 28)).macs
    yield f"MnistNet: {theirs / 1e6:.3f} M for {ours / 1e6:.3f} M multiply-accumulates"
    case.bench.strategies.GlobalMagWeight(mnist, compression=8).apply()
    theirs, left = case.bench.metrics.flops(mnist, torch.zeros(1, 1, 28, 28))
    network = models.build("mnistnet", (1, 28, 28), 10, seed=1)
    network.load_state_dict(
        {key: value for key, value in mnist.state_dict().items() if not key.endswith("_mask")}
    )
    speedup = measures.count(network, (1, 28, 28)).speedup
    yield f"MnistNet pruned by GlobalMagWeight at 8: speedup {theirs / left:.2f} for {speedup:.2f}"
    depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32))
    theirs, _ = case.bench.metrics.flops(depthwise, torch.zeros(1, 32, 16, 16))
    ours = measures.count(depthwise, (32, 16, 16)).macs
    yield f"a depthwise convolution, 32 channels of 16 x 16: {theirs:,} for {ours:,}"
    theirs, _ = case.bench.metrics.flops(copy.deepcopy(case.network), torch.zeros(2, *SHAPE))
    ours = measures.count(case.network, SHAPE).macs
    yield f"ResNet-20, padding of 1 around 3 x 3: {theirs:,} for {ours:,}"


def normalisation(case: Case) -> Iterator[str]:
    """9. Weights evaluated with another normalisation than they were trained with."""
    right, theirs = (case.accuracy(case.network, way) for way in (IMAGENET, CIFAR))
    yield (
        f"published ResNet-20: top-1 {theirs.top1:.2%}, loss {theirs.loss:.3f} with ShrinkBench's; "
        f"{right.top1:.2%}, {right.loss:.3f} with that of its training"
    )


def interrupts(case: Case) -> Iterator[str]:
    """10. Interrupts, the last epoch, resuming."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT)}
    small = TensorDataset(torch.randn(8, 4), torch.arange(8))
    # Ten classes: its top-5 accuracy stops at fewer than five.
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 10))
    options: dict[str, Any] = {"model": mark(model), "parts": (small, small), "train_kwargs": {"epochs": 30}}
    options["dl_kwargs"] = {"batch_size": 4, "num_workers": 0}
    with tempfile.TemporaryDirectory() as folder:
        experiment = case.experiment("GlobalMagWeight", 1.25, folder=Path(folder), **options)
        experiment.run()
        saved = sorted((experiment.path / "checkpoints").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        yield f"30 epochs, 0 to 29: checkpoints saved {', '.join(file.name for file in saved)}"
        try:
            os.kill(os.getpid(), signal.SIGINT)
            yield "Ctrl-C: ignored, the run goes on"
        except KeyboardInterrupt:
            yield "Ctrl-C: stops the run"
        try:
            os.kill(os.getpid(), signal.SIGQUIT)
        except SystemExit:
            left = "kept" if experiment.path.exists() else "deleted"
            yield f"Ctrl-\\: stops the run, its folder of results is {left}"
        tried: dict[str, Any] = {"resume": str(saved[-1]), "path": folder}
        for title, value in tried.items():
            try:
                case.experiment("GlobalMagWeight", 1.25, **options, **{title: value}).run()
                yield f"option '{title}': works"
            except Exception as error:  # whatever its code raises is the finding
                yield f"option '{title}': {type(error).__name__}: {error}"
    for number, handler in handlers.items():
        signal.signal(number, handler)


def revival(case: Case) -> Iterator[str]:
    """11. Masked weights that momentum moves."""
    batch = case.part("train", BATCH)[:]
    for title, steps in (("before any step, as in its experiment", 0), ("after three steps", 3)):
        model = copy.deepcopy(case.network)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
        for _ in range(steps):
            step(model, batch, optimizer)
        case.bench.strategies.GlobalMagWeight(model, compression=4).apply()
        step(model, batch, optimizer)
        revived = sum(
            int(((mask == 0) & (model.get_parameter(name.removesuffix("_mask")) != 0)).sum())
            for name, mask in masks_of(model).items()
        )
        size, left = case.bench.metrics.model_size(model)
        yield (
            f"pruned at 4 {title}, one more step: {revived:,} of {pruned(model):,} pruned weights nonzero, "
            f"compression reported {size / left:.2f}"
        )


def foreign_code(case: Case) -> Iterator[str]:
    """12. Results read by `eval`."""
    with tempfile.TemporaryDirectory() as folder:
        trap, run_folder = Path(folder) / "ran", Path(folder) / "run"
        run_folder.mkdir()
        code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
        (run_folder / "params.json").write_text(json.dumps({"params": code}))
        with contextlib.suppress(Exception):
            case.bench.data.df_from_results(folder, "run")
        yield f"an expression in params.json {'is run' if trap.exists() else 'is not run'} by reading results"


def collapse(case: Case) -> Iterator[str]:
    """13. Layers of which nothing is left."""
    for name in ("global-magnitude", "global-gradient-magnitude"):
        strategy = STRATEGIES[name]
        for ratio in (32, 64):
            said = io.StringIO()
            with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                experiment = case.experiment(strategy, ratio)
            masks = masks_of(experiment.model)
            empty = [mask for mask in masks.values() if not mask.any()]
            told = [str(w.message) for w in warned] + said.getvalue().split("\n")
            words = {line for line in told if "layer" in line.lower()}
            yield (
                f"{strategy} at {ratio}: {len(empty)} of {len(masks)} layers empty, "
                f"top-1 {case.accuracy(experiment.model).top1:.2%} before finetuning; "
                f"said: {'; '.join(words) or 'nothing'}"
            )


def further(case: Case) -> Iterator[str]:
    """14. Found while comparing: a ratio that varies, top-5 of few classes, biases that rank wrongly."""
    np.random.seed(SEED)
    size = sum(parameter.numel() for parameter in case.network.parameters())
    part = sum(weight.numel() for weight in prunable(case.network).values())
    for ratio in (32, 100):
        keep = fraction(case.network, prunable(case.network), ratio)
        kept = [case.bench.strategies.random_mask(np.zeros(part), keep).sum() for _ in range(1000)]
        low, high = np.quantile([size / (size - part + count) for count in kept], (0.025, 0.975))
        yield f"random at {ratio}, ResNet-20, 1,000 draws: compression {low:.2f} to {high:.2f} in 95 %"
    try:
        case.bench.metrics.correct(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), (1, 5))
        yield "top-5 of three classes: works"
    except RuntimeError as error:
        yield f"top-5 of three classes: {error}"
    network = draw_biases(mark(models.build("cifar-vgg", SHAPE, 10, SEED)))
    batch = case.part("train", BATCH)[:]
    for name in ("global-magnitude", "global-gradient-magnitude", "global-activation-magnitude"):
        masks, _ = its_masks(case.bench, network, name, batch, 32)
        shares = [
            np.concatenate([mask.ravel() for key, mask in masks.items() if key.endswith(kind)]).mean()
            for kind in (".weight", ".bias")
        ]
        yield (
            f"CIFAR-VGG, biases drawn, {STRATEGIES[name]} at 32: {shares[0]:.1%} of the weights stay and "
            f"{shares[1]:.1%} of the biases"
        )


DEFECTS: dict[int, Callable[[Case], Iterator[str]]] = {
    1: same_seed,
    2: accuracy_over_batches,
    3: statistics_moved,
    4: ties,
    5: twice,
    6: finetuning,
    8: operations,
    9: normalisation,
    10: interrupts,
    11: revival,
    12: foreign_code,
    13: collapse,
    14: further,
}


def defects(case: Case, only: list[int] | None) -> None:
    """Print what each defect, or some, does to the numbers."""
    for number, measure in DEFECTS.items():
        if only and number not in only:
            continue
        print(f"\n{measure.__doc__}")
        # Its progress bars and colours.
        quiet = io.StringIO()
        found = measure(case)
        while True:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                line = next(found, None)
            if line is None:
                break
            print(f"   {line}", flush=True)


def given(value: str | None, name: str) -> Path | None:
    """Return the file named on the command line, or that of the mirror if it is there."""
    path = faults.find_file(value or name)
    if value and path is None:
        raise UserError(f"{value} does not exist; give the file {name}")
    return path


def main() -> None:
    """Read the command line; print the table, or the defects."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clone", type=Path, required=True, metavar="FOLDER", help="clone of ShrinkBench")
    parser.add_argument("--weights", metavar="FILE", help=f"published ResNet-20: {WEIGHTS}")
    parser.add_argument("--pictures", metavar="FILE", help=f"CIFAR-10 as JPEG: {PICTURES}")
    parser.add_argument("--defects", action="store_true", help="measure the defects instead")
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="N", help="defects by their numbers, 14 the further ones"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of the finetuning among the defects")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights, pictures = given(args.weights, WEIGHTS), given(args.pictures, PICTURES)
    if args.defects and not (weights and pictures):
        raise UserError(f"--defects needs --weights and --pictures: {WEIGHTS} and {PICTURES}")
    bench = load(args.clone)
    print(f"numpy {np.__version__}, torch {torch.__version__}")
    if args.defects and weights:
        defects(Case(bench, published(weights), dataset(pictures), args.epochs), args.only)
    else:
        agreement(bench, dataset(pictures), weights)


if __name__ == "__main__":
    run(main)
