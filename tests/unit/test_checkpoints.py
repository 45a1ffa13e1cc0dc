from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import pickle
import tarfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional

import import_weights
from shrinkflow import checkpoints, files, measures
from shrinkflow.errors import UserError
from shrinkflow.models import Shape, build
from shrinkflow.prunable import prunable

DIGITS = (1, 8, 8)
CIFAR = (3, 32, 32)
METADATA = checkpoints.metadata("digitsnet", DIGITS, 10, [0.25], [0.5])


def digitsnet(seed: int = 1) -> nn.Module:
    """A DigitsNet with statistics that differ from fresh ones."""
    model = build("digitsnet", DIGITS, 10, seed)
    model(torch.randn(8, *DIGITS, generator=torch.Generator().manual_seed(seed)))
    return model


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def raw(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in state.items()}


def sentence(error: pytest.ExceptionInfo[UserError], path: Path) -> str:
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# Checkpoints


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model = digitsnet()
    checkpoints.save(path, model, METADATA | {"epoch": 7})
    loaded, metadata = checkpoints.load(path)
    assert metadata == METADATA | {"epoch": 7}
    assert same(loaded.state_dict(), model.state_dict())
    assert loaded.training
    pictures = torch.randn(3, *DIGITS)
    assert torch.equal(loaded.eval()(pictures), model.eval()(pictures))


def test_metadata_is_that_of_the_format() -> None:
    assert checkpoints.metadata("resnet20", CIFAR, 10, (0.5, 0, 1), (1, 2, 3)) == {
        "model": "resnet20",
        "shape": [3, 32, 32],
        "classes": 10,
        "normalisation": {"mean": [0.5, 0.0, 1.0], "std": [1.0, 2.0, 3.0]},
    }


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5, 0.5], [1]),
        ([0.5], [1, 1]),
        ([], []),
        ([0.5], [0]),
        ([0.5], [-1]),
        ([math.nan], [1]),
        ([0.5], [math.nan]),
        ([0.5], [math.inf]),
        ([-math.inf], [1]),
    ],
)
def test_normalisation_that_cannot_be_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(UserError, match="give"):
        checkpoints.metadata("digitsnet", DIGITS, 10, mean, std)


def test_equal_weights_give_equal_bytes_whatever_the_memory_format(tmp_path: Path) -> None:
    model = digitsnet()
    checkpoints.save(tmp_path / "one.safetensors", model, METADATA)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shuffled = dict(reversed(METADATA.items()))
    checkpoints.save(tmp_path / "other.safetensors", model, shuffled)
    loaded, metadata = checkpoints.load(tmp_path / "one.safetensors")
    checkpoints.save(tmp_path / "again.safetensors", loaded, metadata)
    names = ("one", "other", "again")
    contents = {(tmp_path / f"{name}.safetensors").read_bytes() for name in names}
    assert len(contents) == 1


def test_loaded_parameters_are_trainable_and_own_their_memory(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.save(path, digitsnet(), METADATA)
    model, _ = checkpoints.load(path)
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.device.type == "cpu"
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    for parameter in model.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.requires_grad
        assert parameter.is_leaf
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    functional.cross_entropy(model(torch.randn(4, *DIGITS)), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    after = model.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in prunable(model))
    assert int(after["features.1.num_batches_tracked"]) == 2
    # The file is not mapped into memory: training does not write to it, another load is unchanged.
    assert same(checkpoints.load(path)[0].state_dict(), before)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3)
        self.second = nn.Conv2d(1, 1, 3)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)  # type: ignore[union-attr]


def test_shared_parameters_stay_shared_and_frozen_ones_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tied(name: str, shape: Shape, classes: int, seed: int | None) -> nn.Module:
        with torch.device("meta"):
            return Tied()

    model = Tied()
    checkpoints.save(tmp_path / "tied.safetensors", model, METADATA)
    monkeypatch.setattr(checkpoints, "build", tied)
    loaded, _ = checkpoints.load(tmp_path / "tied.safetensors")
    assert isinstance(loaded, Tied)
    assert loaded.first.weight is loaded.second.weight
    assert torch.equal(loaded.first.weight, model.first.weight)
    assert [p.requires_grad for p in loaded.parameters()] == [True, True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["features.3.weight", "features.1.running_var"])
def test_nan_and_infinity_are_neither_written_nor_read(tmp_path: Path, key: str, value: float) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model = digitsnet()
    with torch.no_grad():
        model.state_dict()[key].view(-1)[1] = value
    with pytest.raises(UserError, match=key) as error:
        checkpoints.save(path, model, METADATA)
    assert "learning rate" in sentence(error, path)
    assert not path.exists()
    files.write_tensors(path, raw(model.state_dict()), METADATA)
    with pytest.raises(UserError, match="NaN or infinity") as error:
        checkpoints.load(path)
    assert key in sentence(error, path)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        METADATA | {"model": 3},
        METADATA | {"shape": [1, 8]},
        METADATA | {"shape": "1 8"},
        METADATA | {"classes": "ten"},
        METADATA | {"normalisation": None},
        METADATA | {"normalisation": {"mean": [0.5]}},
    ],
)
def test_a_file_that_does_not_say_its_model_is_no_checkpoint(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    files.write_tensors(path, raw(digitsnet().state_dict()), metadata)
    with pytest.raises(UserError, match=r"import_weights\.py") as error:
        checkpoints.load(path)
    sentence(error, path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    checkpoints.save(path, digitsnet(), METADATA | {"classes": 9})
    with pytest.raises(UserError, match=r"classifier\.weight \(10 x 128 instead of 9 x 128\)") as error:
        checkpoints.load(path)
    sentence(error, path)
    checkpoints.save(path, digitsnet(), METADATA | {"model": "nosuchnet"})
    with pytest.raises(UserError, match="unknown model 'nosuchnet'"):
        checkpoints.load(path)


def test_damaged_and_missing_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        checkpoints.load(path)
    checkpoints.save(path, digitsnet(), METADATA)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="whole safetensors file") as error:
            checkpoints.load(path)
        sentence(error, path)


# Weights made elsewhere


def parallel(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


Writer = Callable[[Any, Path], None]
WRITERS: dict[str, tuple[str, Writer]] = {
    "zip": (".pth", torch.save),
    "legacy": (".th", legacy),
    "pt": (".pt", torch.save),
    "upper": (".PTH", torch.save),
}
NESTS: dict[str, Callable[[Any], Any]] = {
    "top": dict,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best_prec1": 91.7},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "parallel": lambda state: {"state_dict": parallel(state)},
}


def read(path: Path) -> nn.Module:
    return checkpoints.read_foreign(path, "digitsnet", DIGITS, 10)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("nest", NESTS)
def test_pytorch_files_are_read(tmp_path: Path, writer: str, nest: str) -> None:
    suffix, write = WRITERS[writer]
    state = digitsnet().state_dict()
    write(NESTS[nest](state), tmp_path / f"weights{suffix}")
    assert same(read(tmp_path / f"weights{suffix}").state_dict(), state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_files_are_read(tmp_path: Path, prefix: str) -> None:
    state = digitsnet().state_dict()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({f"{prefix}{key}": value for key, value in state.items()}, path)
    assert same(read(path).state_dict(), state)


def test_missing_batch_counters_start_at_zero(tmp_path: Path) -> None:
    state = digitsnet().state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("tracked")}
    torch.save(kept, tmp_path / "weights.pt")
    loaded = read(tmp_path / "weights.pt").state_dict()
    assert same({key: loaded[key] for key in kept}, kept)
    assert torch.equal(loaded["features.1.num_batches_tracked"], torch.tensor(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in digitsnet().state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    loaded = read(tmp_path / "weights.safetensors").state_dict()
    assert loaded["features.0.weight"].dtype == torch.float32
    assert torch.equal(loaded["features.0.weight"], state["features.0.weight"].float())


def test_numbers_too_large_for_the_models_precision_are_refused(tmp_path: Path) -> None:
    state = digitsnet().state_dict()
    torch.save(
        state | {"classifier.bias": torch.full((10,), 1e300, dtype=torch.float64)},
        tmp_path / "w.pt",
    )
    with pytest.raises(UserError, match=r"NaN or infinity in classifier\.bias"):
        read(tmp_path / "w.pt")


def test_views_are_copied(tmp_path: Path) -> None:
    # All weights are views of one large tensor, some of them transposed or expanded.
    pool = torch.randn(200_000)
    state: dict[str, torch.Tensor] = {}
    for key, value in digitsnet().state_dict().items():
        if value.is_floating_point():
            state[key] = pool[: value.numel()].view(value.shape[::-1]).permute(*range(value.dim())[::-1])
    state["classifier.bias"] = torch.ones(1).expand(10)
    torch.save(state, tmp_path / "weights.pt")
    model = read(tmp_path / "weights.pt")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    for tensor in model.parameters():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()


def test_mismatch_names_the_first_few_of_each_kind(tmp_path: Path) -> None:
    state = dict(digitsnet().state_dict())
    for key in ("features.0.weight", "features.1.bias", "features.4.bias", "features.7.bias"):
        del state[key]
    state["extra.weight"] = torch.zeros(2)
    state["features.6.weight"] = torch.zeros(128, 64, 1, 1)
    state["classifier.bias"] = torch.zeros(())
    state["features.4.weight"] = torch.zeros(64).long()
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        read(path)
    message = sentence(error, path)
    assert "'digitsnet' for pictures of 1 x 8 x 8 and 10 classes" in message
    assert "missing: features.0.weight, features.1.bias, features.4.bias and 1 more;" in message
    assert "unexpected: extra.weight;" in message
    assert "features.6.weight (128 x 64 x 1 x 1 instead of 128 x 64 x 3 x 3)" in message
    assert "classifier.bias (a single number instead of 10)" in message
    assert "wrong kind of numbers: features.4.weight (torch.int64)" in message


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(10, dtype=torch.complex64),
        torch.zeros(10).to_sparse(),
        torch.zeros(10, device="meta"),
        torch.zeros(10, dtype=torch.bool),
    ],
    ids=["complex", "sparse", "meta", "bool"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, odd: torch.Tensor) -> None:
    path = tmp_path / "weights.pt"
    torch.save(digitsnet().state_dict() | {"classifier.bias": odd}, path)
    with pytest.raises(UserError, match=r"classifier\.bias") as error:
        read(path)
    sentence(error, path)


def test_a_complex_batch_counter_is_refused(tmp_path: Path) -> None:
    counter = torch.tensor(1, dtype=torch.complex64)
    torch.save(digitsnet().state_dict() | {"features.1.num_batches_tracked": counter}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"num_batches_tracked \(torch.complex64\)"):
        read(tmp_path / "w.pt")


def test_a_prefix_on_some_names_only_is_not_removed(tmp_path: Path) -> None:
    state = dict(digitsnet().state_dict())
    state["module.classifier.bias"] = state.pop("classifier.bias")
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"unexpected: module\.classifier\.bias"):
        read(tmp_path / "weights.pt")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_foreign_nan_and_infinity_are_refused(tmp_path: Path, value: float, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = digitsnet().state_dict()
    state["features.6.weight"][5, 4, 0, 1] = value
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(state, path)
    with pytest.raises(UserError, match=r"NaN or infinity in features\.6\.weight") as error:
        read(path)
    sentence(error, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (5, "no state dict"),
        ([torch.zeros(3)], "no state dict"),
        (torch.zeros(3), "no state dict"),
        ({}, "no state dict"),
        ({"state_dict": {}}, "no state dict"),
        ({"epoch": 3, "net": {"weight": torch.zeros(3)}}, "no state dict"),
        ({"state_dict": {"weight": 3}}, "no state dict"),
        (
            {"weight": torch.zeros(3), "epoch": 3},
            "other things than tensors among its weights \\(epoch",
        ),
        ({"weight": torch.zeros(3), 4: torch.zeros(3)}, "other things than tensors"),
        ({"model": {"weight": torch.zeros(3), "lr": "x"}}, "other things than tensors"),
    ],
)
def test_files_without_a_plain_state_dict_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=words) as error:
        read(path)
    sentence(error, path)


class Hostile:
    """Unpickling this would create the file it names."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self.canary), "w")


HOSTILE: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": legacy,
    "plain pickle": lambda value, path: path.write_bytes(pickle.dumps(value)) and None,
    "old plain pickle": lambda value, path: path.write_bytes(pickle.dumps(value, 2)) and None,
}


@pytest.mark.parametrize("writer", HOSTILE)
@pytest.mark.parametrize("override", ["", "1"])
def test_code_in_a_file_does_not_run_and_no_warning_is_shown(
    tmp_path: Path, writer: str, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", override)
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    state = digitsnet().state_dict()
    HOSTILE[writer]({"state_dict": state, "extra": Hostile(canary)}, path)
    with (
        warnings.catch_warnings(record=True, action="always") as shown,
        pytest.raises(UserError, match=r"refused|not a whole PyTorch file") as error,
    ):
        read(path)
    assert "weights_only" not in sentence(error, path)
    assert not canary.exists()
    assert shown == []


def test_the_hostile_file_would_do_harm(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Hostile(canary))).close()
    assert canary.exists()


@pytest.mark.parametrize("junk", [argparse.Namespace(lr=0.1), nn.Linear(2, 2), np.ones(3)])
def test_objects_other_than_tensors_are_refused_with_a_remedy(tmp_path: Path, junk: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": digitsnet().state_dict(), "args": junk}, path)
    with pytest.raises(UserError, match="could run code") as error:
        read(path)
    assert "state dict alone" in sentence(error, path)


@pytest.mark.parametrize("suffix", [".pt", ".th", ".safetensors"])
def test_truncated_and_foreign_bytes_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = digitsnet().state_dict()
    {".pt": torch.save, ".th": legacy, ".safetensors": safetensors.torch.save_file}[suffix](state, path)
    whole = path.read_bytes()
    sizes = (0, 1, 10, len(whole) // 2, len(whole) - 1)
    for content in (
        *(whole[:size] for size in sizes),
        b"hello\n" * 99,
        b"<html>404</html>",
        b"\x80",
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read(path)
        sentence(error, path)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", [".pt", ".th", ".safetensors"])
def test_flipped_bytes_give_finite_weights_or_one_sentence(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if not whole.exists():
        write = {".pt": torch.save, ".th": legacy, ".safetensors": safetensors.torch.save_file}[suffix]
        write(digitsnet().state_dict(), whole)
    content = bytearray(whole.read_bytes())
    # Structure stands at the ends of the files.
    near = st.integers(0, 4000) | st.integers(len(content) - 4000, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(near)] ^= data.draw(st.integers(1, 255))
    path = tmp_path / f"flipped{suffix}"
    path.write_bytes(content)
    try:
        model = read(path)
    except UserError:  # anything else would be a traceback
        return
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_unknown_endings_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path)
    odd = tmp_path / "weights.onnx"
    odd.write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.safetensors, \.th, \.pt, \.pth") as error:
        read(odd)
    sentence(error, odd)


# The program


def run(monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, **changed: str) -> None:
    flags = {
        "file": str(source),
        "model": "digitsnet",
        "shape": "1 8 8",
        "classes": "10",
        "mean": "0.25",
        "std": "0.5",
        "weights": "elsewhere",
        "out": str(out),
    } | changed
    words = [word for key, text in flags.items() for word in (f"--{key}", *text.split())]
    monkeypatch.setattr("sys.argv", ["import_weights.py", *words])
    import_weights.main()


def test_program_writes_a_checkpoint_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "weights.th", tmp_path / "out" / "checkpoint.safetensors"
    model = digitsnet()
    torch.save({"state_dict": parallel(model.state_dict())}, source)
    run(monkeypatch, source, out)
    loaded, metadata = checkpoints.load(out)
    assert same(loaded.state_dict(), model.state_dict())
    assert metadata == METADATA
    record = json.loads((tmp_path / "out" / "checkpoint.safetensors.record.json").read_text())
    assert record["parameters"] == METADATA | {"weights": "elsewhere"}
    assert [entry["path"] for entry in record["inputs"]] == [source.as_posix()]
    assert record["artifact"]["md5"] == hashlib.md5(out.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "digitnet"}, "did you mean 'digitsnet'"),
        ({"shape": "1 2 2"}, "at least 4 x 4"),
        ({"classes": "11"}, "10 x 128 instead of 11 x 128"),
        ({"std": "0"}, "standard deviations positive"),
        ({"mean": "0.1 0.2"}, "one of each per channel"),
    ],
)
def test_program_writes_nothing_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], words: str
) -> None:
    source, out = tmp_path / "weights.th", tmp_path / "checkpoint.safetensors"
    torch.save(digitsnet().state_dict(), source)
    with pytest.raises(UserError, match=words):
        run(monkeypatch, source, out, **changed)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.th"]


# Published weights


@pytest.fixture(scope="module")
def mirror() -> Path:
    folder = os.environ.get("SHRINKFLOW_MIRROR")
    if not folder:
        pytest.skip("SHRINKFLOW_MIRROR names no folder with published weights and pictures")
    return Path(folder)


PUBLISHED = [
    ("resnet20-12fca82f.th", "resnet20", 269_722, 0.81),
    ("resnet56-4bfd9763.th", "resnet56", 853_018, 0.832),
]


@pytest.mark.parametrize(("file", "name", "size", "_accuracy"), PUBLISHED)
def test_published_weights_fit(
    mirror: Path, tmp_path: Path, file: str, name: str, size: int, _accuracy: float
) -> None:
    path = mirror / "weights" / file
    model = checkpoints.read_foreign(path, name, CIFAR, 10)
    published = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    state = model.state_dict()
    assert all(torch.equal(state[key.removeprefix("module.")], published[key]) for key in published)
    metadata = checkpoints.metadata(name, CIFAR, 10, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    checkpoints.save(tmp_path / "checkpoint.safetensors", model, metadata)
    assert same(checkpoints.load(tmp_path / "checkpoint.safetensors")[0].state_dict(), state)


@pytest.fixture(scope="module")
def pictures(mirror: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised test pictures [500, 3, 32, 32], 50 of each class in turn, and their labels."""
    found, labels = [], []
    with tarfile.open(mirror / "cifar10-images.tar.gz", "r|gz") as tar:
        for member in tar:  # test/<class>/<number>.jpg, before train/
            parts = member.name.split("/")
            if parts[1:2] == ["train"]:
                break
            if member.isfile() and int(Path(member.name).stem) % 20 == 0:
                stream = tar.extractfile(member)
                assert stream is not None
                found.append(np.asarray(Image.open(io.BytesIO(stream.read()))))
                labels.append(parts[2])
    classes = sorted(set(labels))
    assert len(classes) == 10
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    inputs = ((torch.from_numpy(np.stack(found)) / 255 - mean) / std).permute(0, 3, 1, 2)
    truth = torch.tensor([classes.index(label) for label in labels])
    turns = torch.arange(500).reshape(10, 50).T.flatten()
    return inputs[turns], truth[turns]


@pytest.mark.parametrize(("file", "name", "_size", "accuracy"), PUBLISHED)
def test_published_weights_recognise_real_pictures(
    mirror: Path,
    pictures: tuple[torch.Tensor, torch.Tensor],
    file: str,
    name: str,
    _size: int,
    accuracy: float,
) -> None:
    # Enough that three standard errors of the accuracy tell a wrong network from the right one.
    count = 500 if name == "resnet20" else 200
    batches = zip(*(tensor[:count].split(100) for tensor in pictures), strict=True)
    model = checkpoints.read_foreign(mirror / "weights" / file, name, CIFAR, 10).eval()
    with torch.inference_mode():
        found = measures.score_logits((model(inputs), labels) for inputs, labels in batches)
    assert found.count == count
    error = math.sqrt(accuracy * (1 - accuracy) / count)
    assert found.top1 == pytest.approx(accuracy, abs=3 * error)
