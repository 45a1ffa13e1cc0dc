"""Time the training engine against a plain PyTorch loop, whole machine each: `make bench`.

Same pictures (32 x 32, cut from scikit-learn's two photographs), same network (ResNet-20, three quarters
of its weights pruned), same batch size, optimizer and augmentation. The plain loop is what a tutorial
writes: a DataLoader with PIL transforms, `torch.nn.utils.prune` masks multiplied in at every forward pass,
all cores in one process; the better of no workers and one per core counts. The engine runs as in a study:
one job of one thread per core, side by side. Rounds alternate, medians count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

import numpy as np
import torch
from torch import nn

from shrinkflow import measures, models, training
from shrinkflow.data.dataset import Dataset
from shrinkflow.importing import import_torchvision
from shrinkflow.optimizers import optimizer
from shrinkflow.prunable import prunable
from shrinkflow.recipe import Recipe
from shrinkflow.seeds import Purpose, numpy_generator, torch_generator

RECIPE = Recipe("sgd", 0.01, 1, batch_size=64, momentum=0.9, flip=True, crop=4)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def patches() -> np.ndarray:
    """Return uint8 [n, 3, 32, 32]: every 32 x 32 window of two photographs, 16 pixels apart."""
    from sklearn.datasets import load_sample_images

    found = [
        picture[y : y + 32, x : x + 32]
        for picture in load_sample_images().images
        for y in range(0, picture.shape[0] - 32, 16)
        for x in range(0, picture.shape[1] - 32, 16)
    ]
    return np.stack(found).transpose(0, 3, 1, 2)


def pictures(count: int) -> Dataset:
    """Return a data set of `count` pictures with labels drawn at random."""
    images = np.resize(patches(), (count, 3, 32, 32))
    labels = numpy_generator(0, Purpose.SPLIT).integers(0, 10, count)
    every, none = np.arange(count), np.arange(0)
    return Dataset("photographs", images, labels, tuple("0123456789"), MEAN, STD, every, none, none)


def network_and_masks() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return a ResNet-20 and masks that keep a quarter of its weights."""
    network = models.build("resnet20", (3, 32, 32), 10, seed=1)
    generator = torch_generator(1, Purpose.SCORE)
    weights = prunable(network)
    return network, {k: (torch.rand(w.shape, generator=generator) < 0.25) for k, w in weights.items()}


def engine_job(count: int, barrier: Any, results: Any) -> None:
    """Train one epoch as a job of a study does; put the seconds it took into `results`."""
    device = training.start(1, "cpu")
    dataset = pictures(count)
    split = training.Split(dataset, dataset.train, {"mean": MEAN, "std": STD}, device)
    network, masks = network_and_masks()
    training.to(network, device)
    masking = training.Masking(masks)
    masking.start(network)
    step = optimizer(network.parameters(), RECIPE)
    barrier.wait()
    began = time.perf_counter()
    training.train_epoch(network, step, masking, split, RECIPE, 1, 1)
    results.put(time.perf_counter() - began)


def engine(count: int, cores: int) -> float:
    """Return pictures a second of `cores` jobs side by side."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(cores), context.Queue()
    jobs = [context.Process(target=engine_job, args=(count, barrier, results)) for _ in range(cores)]
    for job in jobs:
        job.start()
    seconds = [results.get() for _ in jobs]
    for job in jobs:
        job.join()
    return float(sum(count / spent for spent in seconds))


def plain(count: int, cores: int, workers: int) -> float:
    """Return pictures a second of a textbook loop with all cores in one process."""
    import_torchvision()
    from PIL import Image
    from torch.nn.utils import prune
    from torchvision import transforms

    torch.set_num_threads(cores)
    dataset = pictures(count)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            picture = Image.fromarray(dataset.images[index].transpose(1, 2, 0))
            return transform(picture), int(dataset.labels[index])

    loader = torch.utils.data.DataLoader(Pictures(), RECIPE.batch_size, shuffle=True, num_workers=workers)
    network, masks = network_and_masks()
    for name, mask in masks.items():
        module = network.get_submodule(name.removesuffix(".weight"))
        prune.custom_from_mask(module, "weight", mask)
    sgd = torch.optim.SGD(network.parameters(), lr=RECIPE.lr, momentum=RECIPE.momentum)
    criterion = nn.CrossEntropyLoss()
    network.train()
    began = time.perf_counter()
    for inputs, labels in loader:
        sgd.zero_grad()
        criterion(network(inputs), labels).backward()
        sgd.step()
    return count / (time.perf_counter() - began)


def matmul(cores: int) -> float:
    """Return GFLOP/s that matrix multiplication reaches with all cores."""
    torch.set_num_threads(cores)
    side = 1024
    a, b = torch.ones(side, side), torch.ones(side, side)
    rates = []
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(a, b)
        rates.append(2 * side**3 / (time.perf_counter() - began) / 1e9)
    return max(rates)


def main() -> None:
    """Time both in turn and print a table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=3200, help="pictures of an epoch")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    macs = measures.count(network_and_masks()[0], (3, 32, 32)).macs
    # A training step costs three passes, a MAC is two operations.
    gigaflop = 6 * macs / 1e9
    ways: dict[str, Callable[[], float]] = {
        "plain loop, no workers": lambda: plain(args.pictures, cores, 0),
        f"plain loop, {cores} workers": lambda: plain(args.pictures, cores, cores),
        f"engine, {cores} jobs of one thread": lambda: engine(args.pictures, cores),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    peaks = []
    for _ in range(args.rounds):
        peaks.append(matmul(cores))
        for name, way in ways.items():
            rates[name].append(way())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peak = statistics.median(peaks)
    print(f"ResNet-20, batch {RECIPE.batch_size}, {cores} cores; matmul peak {peak:.0f} GFLOP/s")
    print(f"{'':34} {'pictures/s':>10} {'spread':>13} {'GFLOP/s':>8} {'of peak':>8}")
    for name, rate in medians.items():
        spread = f"{min(rates[name]):.0f} - {max(rates[name]):.0f}"
        share = rate * gigaflop / peak
        print(f"{name:34} {rate:10.0f} {spread:>13} {rate * gigaflop:8.1f} {share:8.0%}")
    *loops, ours = medians.values()
    print(f"ratio: {ours / max(loops):.2f} (engine / the better plain loop)")


if __name__ == "__main__":
    main()
