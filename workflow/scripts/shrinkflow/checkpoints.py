"""Checkpoints: the state dict of a model in a safetensors file, and weights made elsewhere.

A checkpoint says in its metadata which model it holds: {"model": name, "shape": [channels, height,
width], "classes": n, "normalisation": {"mean": [...], "std": [...]}}; the name is what `models.build` takes,
FILE:FUNCTION for a user's own. Nothing but tensors and plain containers is ever unpickled, and no weights
with NaN or infinity are read or written.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from shrinkflow import files
from shrinkflow.errors import UserError
from shrinkflow.models import Shape, build
from shrinkflow.models.published import PUBLISHED

_PICKLED = (".th", ".pt", ".pth")
# Where trainers put the state dict, and what nn.DataParallel puts before every name.
_NESTS = ("state_dict", "model")
_PARALLEL = "module."
_COUNTER = "num_batches_tracked"
_LISTED = 3
# Sides and classes beyond those a study can have are none of ours.
_LARGEST = 100_000


def metadata(
    model: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Return the metadata of a checkpoint. `mean` and `std` of each channel, of pixels in 0 .. 1.

    Raises `UserError` unless there are as many of both as channels, finite, and `std` positive.
    """
    if len(mean) != shape[0] or len(std) != shape[0]:
        raise UserError(
            f"the normalisation has {len(mean)} means and {len(std)} standard deviations for "
            f"{shape[0]} channels; give one of each per channel"
        )
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UserError(
            f"means must be finite and standard deviations positive, but they are {list(mean)} "
            f"and {list(std)}; give those the weights were trained with"
        )
    return {
        "model": model,
        "shape": list(shape),
        "classes": classes,
        "normalisation": {"mean": list(map(float, mean)), "std": list(map(float, std))},
    }


def save(path: str | os.PathLike[str], model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a model's state dict and metadata, atomically; equal weights give equal bytes.

    Raises `UserError` if a weight is NaN or infinite.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    endless = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if endless:
        raise UserError(
            f"{path} was not written, because training diverged (NaN or infinity in "
            f"{_few(endless)}); lower the learning rate"
        )
    files.write_tensors(path, {name: tensor.numpy() for name, tensor in state.items()}, metadata)


def save_kept(
    path: str | os.PathLike[str], kept: Mapping[int, Mapping[str, torch.Tensor]], metadata: Mapping[str, Any]
) -> None:
    """Write the state dicts of several epochs of one training into one file, tensors named `EPOCH/NAME`."""
    tensors = {
        f"{epoch}/{name}": value.numpy() for epoch, state in kept.items() for name, value in state.items()
    }
    files.write_tensors(path, tensors, metadata)


def epochs(path: str | os.PathLike[str]) -> list[int]:
    """Return the epochs, ascending, that a file written by `save_kept` holds."""
    arrays, _ = files.read_tensors(path)
    return sorted({int(name.partition("/")[0]) for name in arrays})


def load(path: str | os.PathLike[str], epoch: int | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read what `save` wrote, or one epoch of what `save_kept` wrote.

    Returns (model in train mode on the CPU, metadata). Raises `UserError` if the file is damaged, is no
    checkpoint, does not fit its model, or lacks the epoch.
    """
    arrays, metadata = files.read_tensors(path)
    if epoch is not None:
        arrays = {
            name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{epoch}/")
        }
        if not arrays:
            raise UserError(f"{path} does not hold epoch {epoch}; add it to 'keep' of these weights")
    match metadata:
        case {
            "model": str(name),
            "shape": [int(channels), int(height), int(width)],
            "classes": int(classes),
            "normalisation": {"mean": [*mean], "std": [*std]},
        } if max(channels, height, width, classes) <= _LARGEST and _numbers(*mean, *std):
            model = build(name, (channels, height, width), classes, seed=None)
        case _:
            raise UserError(
                f"{path} is no checkpoint of shrinkflow, because its metadata does not say which "
                f"model it holds; make one of weights from elsewhere with import_weights.py"
            )
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    _fill(model, tensors, path, f"model '{name}'", "delete it and run again")
    return model, metadata


def read_foreign(path: str | os.PathLike[str], name: str, shape: Shape, classes: int) -> nn.Module:
    """Build a model with weights made elsewhere, from a .safetensors, .th, .pt or .pth file.

    The file holds a state dict, at the top or under "state_dict" or "model", whose names may all
    start with "module."; batch-norm's counters of batches may be missing. Published weights may have the
    names that the model's parameters had when they were published. Floating-point weights
    are converted to the model's precision. Raises `UserError` for anything else, or for weights
    that do not fit.
    """
    model = build(name, shape, classes, seed=None)
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; name a file with weights")
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif suffix in _PICKLED:
        tensors = _state_dict(path, _unpickle(path))
    else:
        raise UserError(
            f"{path} does not end like a file with weights; name one that ends in .safetensors, "
            f"{', '.join(_PICKLED)}"
        )
    if all(key.startswith(_PARALLEL) for key in tensors):
        tensors = {key.removeprefix(_PARALLEL): tensor for key, tensor in tensors.items()}
    for old, new in PUBLISHED[name].renamed if name in PUBLISHED else ():
        tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    _fill(
        model,
        tensors,
        path,
        f"model '{name}' for pictures of {_sizes(shape)} and {classes} classes",
        "give other weights, or the model, shape and classes they were made for",
    )
    return model


def _numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None


def _unpickle(path: str | os.PathLike[str]) -> Any:
    """Load a PyTorch file, refusing everything but tensors and plain containers."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        # Damaged or hostile bytes can raise nearly anything in the unpickler.
        if "weights_only" in str(error):
            raise UserError(
                f"{path} was refused, because it holds more than tensors and could run code; "
                f"where you trust it, save its state dict alone as a safetensors file"
            ) from None
        raise UserError(f"{path} is not a whole PyTorch file; fetch it again") from None


def _state_dict(path: str | os.PathLike[str], found: Any) -> dict[str, torch.Tensor]:
    if isinstance(found, Mapping):
        state = next((found[key] for key in _NESTS if isinstance(found.get(key), Mapping)), found)
        tensors = {
            key: value
            for key, value in state.items()
            if isinstance(key, str) and isinstance(value, torch.Tensor)
        }
        if tensors and len(tensors) == len(state):
            return tensors
        if tensors:
            raise UserError(
                f"{path} holds other things than tensors among its weights "
                f"({_few([key for key in state if key not in tensors])}); save its state dict alone"
            )
    raise UserError(
        f"{path} holds no state dict, neither at the top nor under 'state_dict' or 'model'; save "
        f"model.state_dict() instead"
    )


def _fill(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    purpose: str,
    remedy: str,
) -> None:
    """Give a model on the meta device its numbers, in tensors with memory of their own."""
    targets = model.state_dict()
    common = [key for key in targets if key in tensors]
    problems = {
        "missing": [key for key in targets if key not in tensors and not key.endswith(_COUNTER)],
        "unexpected": [key for key in tensors if key not in targets],
        "wrongly shaped": [
            f"{key} ({_sizes(tensors[key].shape)} instead of {_sizes(targets[key].shape)})"
            for key in common
            if not _same_shape(tensors[key], targets[key])
        ],
        "wrong kind of numbers": [
            f"{key} ({tensors[key].dtype})" for key in common if not _same_kind(tensors[key], targets[key])
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_few(keys)}" for kind, keys in problems.items() if keys)
        raise UserError(f"{path} does not fit {purpose} ({listed}); {remedy}")
    state = {
        # The counters that may be missing start at zero.
        key: _own(tensors[key] if key in tensors else torch.zeros(target.shape), target)
        for key, target in targets.items()
    }
    endless = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    if endless:
        raise UserError(f"{path} holds NaN or infinity in {_few(endless)}; {remedy}")
    # One tensor for all names of a shared parameter, so that it stays shared.
    ties: dict[nn.Parameter, nn.Parameter] = {}
    for key, target in model.named_parameters(remove_duplicate=False):
        state[key] = ties.setdefault(target, nn.Parameter(state[key]))
    model.load_state_dict(state, assign=True)


def _same_shape(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    # A single number may come as one of no or of one dimension.
    return tensor.shape == target.shape or (target.dim() == 0 and tensor.shape == (1,))


def _same_kind(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    """Say whether a tensor is dense, and floating-point or integer like its target."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    real = not tensor.is_complex()
    return dense and real and tensor.is_floating_point() == target.is_floating_point()


def _own(tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy in the target's shape and precision, with memory of its own."""
    copy = torch.empty(target.shape, dtype=target.dtype)
    return copy.copy_(tensor.detach().reshape(target.shape))


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape) or "a single number"


def _few(names: Sequence[object]) -> str:
    listed = ", ".join(str(name) for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed
