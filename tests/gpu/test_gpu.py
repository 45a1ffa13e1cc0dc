"""What only a GPU can show: `pytest tests/gpu`, on a machine with one. Skipped, saying so, everywhere else."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shrinkflow import devices, models, scoring, strategies, training
from shrinkflow.data.dataset import Dataset
from shrinkflow.recipe import Recipe
from shrinkflow.training import Split
from tests.workflow import test_methods
from tests.workflow.conftest import TINY, Project

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch was built without CUDA"),
    # Asked of the driver: torch's own question starts CUDA, after which no GPU can be chosen.
    pytest.mark.skipif(devices.absent(), reason="there is no GPU"),
]

NORMALISATION = {"mean": [0.4], "std": [0.3]}
STRATEGIES = sorted({strategy.score for strategy in strategies.registered().values()})
# Scores that take many pictures one by one, or many rounds, with fewer.
FEWER = {"obd-fisher": {"examples": 32}, "woodfisher": {"gradients": 32}}
# A model of each kind, and pictures that it takes.
MODELS = {
    "digitsnet": (1, 8, 8),
    "mnistnet": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "cifar-vgg": (3, 32, 32),
    "resnet18": (3, 64, 64),
    "resnet50": (3, 64, 64),
    "vgg16": (3, 64, 64),
    "mobilenet-v2": (3, 64, 64),
    "mobilenet-v3-small": (3, 64, 64),
    "mobilenet-v3-large": (3, 64, 64),
    "efficientnet-b0": (3, 64, 64),
    "vit-b-16": (3, 32, 32),
}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> torch.device:
    # Locks of its own: workers of pytest live until all are done, so others would wait for them for ever.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(devices.LEASES, str(tmp_path_factory.mktemp("device") / "leases"))
        return training.start(1, "cuda")


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of this test alone: its programs do not wait for the process of the tests, which holds a GPU."""
    monkeypatch.setenv(devices.LEASES, str(tmp_path / "leases"))


def dataset(shape: tuple[int, int, int], count: int = 96, classes: int = 10) -> Dataset:
    generator = np.random.Generator(np.random.PCG64(0))
    half = count // 2
    return Dataset(
        name="noise",
        images=generator.integers(0, 256, (count, *shape), dtype=np.uint8),
        labels=np.arange(count) % classes,
        train=np.arange(half),
        validation=np.arange(half, count),
        test=np.arange(0),
        classes=tuple(map(str, range(classes))),
        mean=(0.4,) * shape[0],
        std=(0.3,) * shape[0],
    )


def normalisation(shape: tuple[int, int, int]) -> dict[str, list[float]]:
    return {name: values * shape[0] for name, values in NORMALISATION.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def bytes_on_gpu(project: Project) -> dict[str, bytes]:
    """Run a study; return what it made, which must have been made on a GPU."""
    project.run("--cores", "2")
    artifacts = project.artifacts()
    environments = [
        json.loads(text)["environment"] for path, text in artifacts.items() if path.endswith(".record.json")
    ]
    names = {found["device"] for found in environments if "device" in found}
    assert names == {torch.cuda.get_device_name()}
    assert all({"cuda", "cudnn", "driver"} <= found.keys() for found in environments if "device" in found)
    return artifacts


@pytest.mark.parametrize("study", [TINY, test_methods.tiny()], ids=["tiny", "methods"])
def test_a_study_gives_the_same_bytes_twice(tmp_path, device, study):
    """The second time with four jobs on the GPU at once."""
    alone = bytes_on_gpu(Project(tmp_path / "alone", study | {"device": "cuda"}))
    shared = bytes_on_gpu(Project(tmp_path / "shared", study | {"device": "cuda", "jobs_per_gpu": 4}))
    assert alone.keys() == shared.keys()
    assert [path for path in alone if alone[path] != shared[path]] == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_to_the_same_bits_twice(device, name):
    shape = MODELS[name]
    recipe = Recipe("sgd", 0.01, 2, batch_size=16, crop=1, flip=True)

    def trained() -> dict[str, torch.Tensor]:
        network = models.build(name, shape, 10, seed=1)
        described = {"shape": shape, "classes": 10, "normalisation": normalisation(shape)}
        return training.fit(network, dataset(shape), described, recipe, 1, device, name).state

    assert same(trained(), trained())


@pytest.mark.parametrize("name", ["digitsnet", "resnet20", "mobilenet-v2", "vit-b-16"])
def test_a_gpu_computes_what_a_cpu_does_but_for_rounding(device, name):
    shape = MODELS[name]
    network = models.build(name, shape, 10, seed=1).eval()
    with torch.inference_mode():
        split = Split(dataset(shape), np.arange(16), normalisation(shape), torch.device("cpu"))
        pictures, _ = next(split.in_order())
        expected = network(pictures)
        found = training.to(network, device)(pictures.to(device)).cpu()
    # With TF32 they would differ by about a thousandth of their size.
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_score_is_the_same_twice(device, name):
    shape = MODELS["digitsnet"]
    entry = strategies.SCORES[name]
    chosen = scoring.scorer(name, FEWER.get(name, {}), None, entry.granularity)
    network = training.to(models.build("digitsnet", shape, 10, seed=1), device)
    split = Split(dataset(shape), np.arange(48), normalisation(shape), device)
    first, second = (scoring.score(chosen, copy.deepcopy(network), split, 1) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_moving_the_weights_that_stay_is_the_same_twice(device):
    shape = MODELS["digitsnet"]
    split = Split(dataset(shape), np.arange(48), normalisation(shape), device)

    def moved() -> dict[str, torch.Tensor]:
        network = training.to(models.build("digitsnet", shape, 10, seed=1), device)
        weights = {name: weight for name, weight in network.named_parameters() if weight.dim() == 4}
        masks = {
            name: (weight.abs() > weight.abs().mean()).to("cpu", torch.uint8)
            for name, weight in weights.items()
        }
        scoring.update("woodfisher", {"gradients": 32}, network, split, 1, masks)
        assert all(not weight.detach().cpu()[masks[name] == 0].any() for name, weight in weights.items())
        return network.state_dict()

    assert same(moved(), moved())


def test_two_jobs_take_the_only_gpu_one_after_the_other(tmp_path, device):
    """They see the one GPU that the process of the tests has; the second waits for the first."""
    program = (
        "import sys, torch; from shrinkflow import training; device = training.start(1, 'cuda'); "
        "print(torch.ones(3, device=device).sum().item(), flush=True); sys.stdin.read()"
    )
    start: Callable[[], subprocess.Popen[str]] = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    with start() as first:
        assert first.stdout.readline() == "3.0\n"
        with start() as second:
            assert second.stderr.readline().startswith("waits for a GPU: 1 may be used")
            first.stdin.close()
            assert first.wait(60) == 0
            assert second.stdout.readline() == "3.0\n"
            second.stdin.close()
            assert second.wait(60) == 0
