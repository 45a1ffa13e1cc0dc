"""Time streamed pictures against torchvision's ImageFolder in a DataLoader, and see that memory stays flat.

Pictures are cut from scikit-learn's two photographs, 500 x 375 as ImageNet's are on average, JPEG of quality
90. Both decode, cut out a random part, resize it to 224 x 224, mirror half, and normalise; no network is
trained. Memory is the peak of a process of its own over one epoch; there, most pictures are links to others,
so that the disk holds few. The listing that a workflow hashes whenever it starts is timed as well. Rounds
alternate, medians count. For Linux.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

import numpy as np
import torch
from PIL import Image

from shrinkflow import training
from shrinkflow.data import dataset, imagefolder, imagenet, listing, members, splits, streaming
from shrinkflow.data.dataset import Dataset
from shrinkflow.importing import import_torchvision
from shrinkflow.recipe import Recipe
from shrinkflow.seeds import Purpose, numpy_generator

SHAPE = (3, 224, 224)
BATCH = 64
RECIPE = Recipe("sgd", 0.1, 1, batch_size=BATCH, flip=True, resized_crop=True)
CLASSES = 10
DIFFERENT = 400


def write(root: Path, count: int) -> Path:
    """Write `count` pictures in class folders, all but the first `DIFFERENT` as links to those."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    generator = numpy_generator(0, Purpose.SPLIT)
    paths: list[Path] = []
    for index in range(count):
        path = root / f"class{index % CLASSES}" / f"{index}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < DIFFERENT:
            photograph = photographs[index % 2]
            left, top = generator.integers((photograph.width - 500, photograph.height - 375), endpoint=True)
            photograph.crop((left, top, left + 500, top + 375)).save(path, quality=90)
        else:
            os.link(paths[index % DIFFERENT], path)
        paths.append(path)
    return root


def prepared(folder: Path) -> Dataset:
    """Return the streamed data set of a folder."""
    plan = splits.Plan(validation=0.02, test=0.02)
    found = imagefolder.find(folder)
    return listing.build("pictures", folder, found, SHAPE, CLASSES, 256, plan, imagenet.NORMALISATION)


def ours(data: Dataset, workers: int) -> float:
    """Return pictures a second of an epoch."""
    os.environ[streaming.WORKERS] = str(workers)
    normalisation = {"mean": data.mean, "std": data.std}
    split = training.split(data, data.train, normalisation, torch.device("cpu"))
    began = time.perf_counter()
    count = sum(len(labels) for _, labels in split.shuffled(RECIPE, 1, 1))
    return count / (time.perf_counter() - began)


def plain(folder: Path, workers: int) -> float:
    """Return pictures a second of what a tutorial writes, PIL pictures and a DataLoader of processes."""
    vision = import_torchvision()
    transforms = vision.transforms
    steps = [
        transforms.RandomResizedCrop(SHAPE[1:]),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(*imagenet.NORMALISATION),
    ]
    pictures = vision.datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(pictures, BATCH, shuffle=True, num_workers=workers)
    began = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    return count / (time.perf_counter() - began)


def peak(path: Path, folder: Path) -> float:
    """Return the peak memory, in MiB, of a process that reads one epoch."""
    words = [sys.executable, __file__, "--epoch", str(path), str(folder)]
    return float(subprocess.check_output(words, text=True))


def epoch(path: str, folder: str) -> None:
    """Read one epoch, and print the peak memory of this process in MiB."""
    training.start(1, "cpu")
    ours(dataset.read(path, folder), len(os.sched_getaffinity(0)))
    # getrusage would tell the larger of this process and the one that started it.
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(found) / 1024)


def main() -> None:
    """Time both in turn, measure memory at two sizes, print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000, help="pictures of a timed epoch")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 20000], help="pictures, for memory")
    parser.add_argument("--epoch", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.epoch:
        epoch(*args.epoch)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="shrinkflow-") as scratch:
        root = Path(scratch)
        folder = write(root / "timed", args.pictures)
        began = time.perf_counter()
        data = prepared(folder)
        rate = args.pictures / (time.perf_counter() - began)
        print(f"{len(os.sched_getaffinity(0))} cores, {SHAPE[1]} x {SHAPE[2]} from 500 x 375 pixels")
        print(f"prepare: {rate:.0f} pictures/s read, seen to be whole, and hashed")
        ways: dict[str, Callable[[], float]] = {
            **{f"streamed, {n} threads": lambda n=n: ours(data, n) for n in (0, 1, 2)},  # type: ignore[misc]
            **{f"DataLoader, {n} processes": lambda n=n: plain(folder, n) for n in (0, 1, 2)},  # type: ignore[misc]
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                rates[name].append(way())
        print(f"{'':28} {'pictures/s':>10} {'spread':>13}")
        for name, found in rates.items():
            print(f"{name:28} {statistics.median(found):10.0f} {f'{min(found):.0f} - {max(found):.0f}':>13}")
        for size in args.sizes:
            folder = write(root / str(size), size)
            began = time.perf_counter()
            members.listing_digest(folder)
            listed = time.perf_counter() - began
            dataset.write(root / f"{size}.safetensors", prepared(folder))
            memory = peak(root / f"{size}.safetensors", folder)
            held = size * np.prod(SHAPE) / 2**20
            print(
                f"{size:,} pictures: peak memory {memory:.0f} MiB (decoded, all of them have {held:.0f}); "
                f"names and sizes hashed in {listed:.2f} s"
            )


if __name__ == "__main__":
    main()
