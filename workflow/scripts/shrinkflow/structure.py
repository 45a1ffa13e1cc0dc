"""Structured pruning: which channels of a network go together, which to keep, and how to take the rest out.

A mask stays in the shapes of the full network: a removed filter is a row of zeros, and the columns that
read its channel, in the layers behind it, are zero as well. Training, evaluation and timing use a reduced
network, out of which these channels were taken.

What depends on what is found by torch-pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning"). It believes, for one, that padded shortcuts keep their channels' numbers. So nothing is
taken on trust: channels may only be removed where a reduced network computes what the full one with these
channels zeroed does, and this is tried out. CIFAR ResNets keep the channels of their residual stream whole
that way, and lose those inside the blocks, as in Li et al. 2017.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch_pruning  # type: ignore[import-untyped]
from torch import nn

from shrinkflow import budget, measures
from shrinkflow.budget import MACS, PARAMETERS
from shrinkflow.errors import UserError, nearest
from shrinkflow.prunable import prunable

Shape = tuple[int, int, int]
Masks = Mapping[str, np.ndarray | torch.Tensor]

GLOBAL, LAYER = "global", "layer"

# A channel number of rows and columns that are never removed.
_FIXED = -1
# A reduced network and the full one differ by rounding, 1e-4 at most of what the outputs for two pictures do;
# with wrong channels they differ by about as much as these.
_SAME = 1e-2
# A round of pruning may miss its target, for a channel is all or nothing; by more than this it is a mistake.
_NEAR = 0.99
# 1 / ratio is rounded, and so is its product with the largest ratio.
_EXACT = 1e-9


@dataclass(frozen=True)
class Group:
    """Channels that are removed one by one, each from several layers at once.

    Attributes:
        layers: names of the weights whose filters (output channels) make these channels.
        channels: their numbers; every channel of a network that may be removed has one.
    """

    layers: tuple[str, ...]
    channels: range


@dataclass(frozen=True)
class Part:
    """A layer from which channels may be removed: Conv2d, Linear or batch-norm.

    Attributes:
        name: of the module.
        rows: the channel that each output belongs to, -1 = none, shape [out].
        columns: the channel that each input belongs to, shape [in]; None where the weight has no such
            dimension: depthwise convolutions and batch-norm.
        area: entries of the weight per row and column.
        vectors: how many parameters there are per row beside those.
        uses: MACs per entry of the weight.
    """

    name: str
    rows: np.ndarray
    columns: np.ndarray | None
    area: int
    vectors: int
    uses: int


@dataclass(frozen=True)
class Structure:
    """Which channels of a network may be removed, and what each costs.

    Attributes:
        groups: in the order of their first layers.
        parts: by name of the module; only those that have a channel that may be removed.
        dense: the whole network's cost on each axis.
        shapes: of the prunable weights by name, in `named_parameters` order.
    """

    groups: tuple[Group, ...]
    parts: Mapping[str, Part]
    dense: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """The number of channels that may be removed."""
        return sum(len(group.channels) for group in self.groups)

    def cost(self, kept: np.ndarray, axis: str) -> int:
        """Return the cost of the network reduced to the channels `kept` (bool, [size]).

        `axis` is "parameters" (all of them, biases, batch-norm and classifier included) or "macs", as
        `measures.count` counts them in the reduced network.
        """
        alive = np.append(kept, True)  # so that -1 is always there
        everything = np.ones_like(alive)
        parts = self.parts.values()
        return self.dense[axis] - sum(_cost(p, everything, axis) - _cost(p, alive, axis) for p in parts)

    def kept(self, masks: Masks) -> np.ndarray:
        """Return which channels stay under masks, bool [size]: at least one of every group.

        A channel is removed when all its filters, in every layer of its group, are zero.
        """
        kept = np.zeros(self.size, dtype=bool)
        for name in self.shapes:
            part = self.parts.get(name.removesuffix(".weight"))
            if part is not None:
                mask = np.asarray(masks[name])
                alive = mask.reshape(len(mask), -1).any(axis=1) & (part.rows != _FIXED)
                kept[part.rows[alive]] = True
        for group in self.groups:
            # A layer with no outputs at all cannot be built.
            kept[group.channels[0]] |= not kept[group.channels].any()
        return kept

    def masks(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return the closed masks (uint8, 1 = kept) that leave the channels `kept`.

        Closed: the columns that read removed channels are zero as well. Counting the nonzero weights then
        gives the reduced network's parameters and MACs, but for biases and batch-norm.
        """
        alive = np.append(kept, True).astype(np.uint8)
        masks = {}
        for name, shape in self.shapes.items():
            masks[name] = np.ones(shape, dtype=np.uint8)
            part = self.parts.get(name.removesuffix(".weight"))
            if part is not None:
                masks[name] *= alive[part.rows].reshape(-1, *[1] * (len(shape) - 1))
                if part.columns is not None:
                    masks[name] *= alive[part.columns].reshape(1, -1, *[1] * (len(shape) - 2))
        return masks


@dataclass(frozen=True)
class Reduced:
    """A smaller network, and where its numbers lie in the full one.

    `positions` has an int64 tensor for every parameter and buffer of `model`, in its shape: the index of
    each entry in the flattened tensor of the full network.
    """

    model: nn.Module
    positions: Mapping[str, torch.Tensor]


def find(model: nn.Module, shape: Shape) -> Structure:
    """Find the channels of a network for pictures of `shape` (channels, height, width) that may be removed.

    Left alone are the classifier's outputs, weights that several layers share, grouped convolutions that
    are not depthwise, channels that pass through layers of other kinds than Conv2d, Linear and batch-norm
    (1d, 2d), and those with which the network would not compute what it does with them zeroed. The model
    may be on the meta device; it is not changed.
    """
    twin = _stand_in(model)
    candidates = _candidates(twin, shape)
    count = measures.count(twin, shape)
    pictures = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

    def sound(chosen: Sequence[_Candidate], beside: Sequence[_Candidate]) -> list[_Candidate]:
        """Return those of `chosen` that work, beside others that do, in few trials."""
        if not chosen or _agrees(twin, _assembled(twin, count, [*beside, *chosen]), pictures):
            return list(chosen)
        half = len(chosen) // 2
        if not half:
            return []
        first = sound(chosen[:half], beside)
        return first + sound(chosen[half:], [*beside, *first])

    return _assembled(twin, count, sound(candidates, []))


def choose(
    model: nn.Module,
    shape: Shape,
    scores: Mapping[str, np.ndarray],
    kept: float,
    axis: str,
    scope: str,
    previous: Masks | None = None,
    exclude: Collection[str] = (),
    found: Structure | None = None,
    comparable: bool = False,
) -> dict[str, np.ndarray]:
    """Return closed masks (see `Structure.masks`) of a network reduced to the part `kept` of its cost.

    The cost comes as near to the target as whole channels allow, and every group keeps at least one.

    Unless they are `comparable`, scores of different layers have different scales, so those of each layer
    are divided by their mean absolute value, as torch-pruning does (Fang et al. 2023). Molchanov et al. 2017
    divide by the l2 norm, under which a filter would count for less only because its layer has many. The
    score of a channel is the mean over its filters in all layers of its group. Of equal channels the one
    that comes first is kept.

    Args:
        model: the network, on any device, meta too.
        shape: of a picture: channels, height, width.
        scores: per prunable weight one value per filter, shape [out]; higher is kept first.
        kept: target cost / dense cost, in (0, 1].
        axis: "parameters" or "macs"; see `Structure.cost`.
        scope: "global": all channels are ranked together; "layer": every group keeps the same part, rounded
            to whole channels, and of groups with equal claims the first keep one more.
        previous: masks of an earlier round; channels removed there stay removed.
        exclude: names of weights whose groups stay whole; their inputs may still be removed.
        found: what `find` returned for the network, to save finding it again.
        comparable: whether the scores of all layers have one unit, such as a change of the loss.

    Raises:
        UserError: the target cannot be reached, or an earlier round left less; an unknown name in `exclude`.
    """
    structure = found or find(model, shape)
    if scope not in (GLOBAL, LAYER):
        raise UserError(f"unknown scope '{scope}' for whole filters; known: {GLOBAL}, {LAYER}")
    free = _free(structure, exclude)
    largest = _largest(structure, free, axis)
    if kept * largest < 1 - _EXACT:
        raise budget.impossible(1 / kept, largest, "whole filters of this network")
    alive = np.ones(structure.size, dtype=bool) if previous is None else structure.kept(previous)
    target = kept * structure.dense[axis]
    if structure.cost(alive, axis) < _NEAR * target:
        raise UserError(
            f"cannot keep {target:.0f} {axis}: an earlier round left {structure.cost(alive, axis)}; "
            "give ratios in ascending order"
        )
    values = _values(structure, scores, comparable)
    chosen = alive.copy()
    claims: list[tuple[float, int]] = []  # sorted, these are the channels in the order they are kept
    for group in free:
        ranked = sorted((c for c in group.channels if alive[c]), key=lambda c: (-values[c], c))
        chosen[ranked[1:]] = False
        for rank, channel in enumerate(ranked[1:], start=1):
            # A group of n channels, of which the part f is kept, keeps the channel of rank r (from 0) when
            # f * n rounds to more than r.
            part = (rank + 0.5) / len(group.channels)
            claims.append((part if scope == LAYER else -values[channel], channel))
    order = [channel for _, channel in sorted(claims)]

    def with_first(count: int) -> np.ndarray:
        more = chosen.copy()
        more[order[:count]] = True
        return more

    def cost(count: int) -> int:
        return structure.cost(with_first(count), axis)

    above = bisect.bisect_left(range(len(order)), target, key=cost)
    best = min(range(max(above - 1, 0), above + 1), key=lambda count: abs(cost(count) - target))
    return structure.masks(with_first(best))


def largest_ratio(
    model: nn.Module, shape: Shape, axis: str, exclude: Collection[str] = (), found: Structure | None = None
) -> float:
    """Return dense cost / cost with one channel left in every group; arguments as in `choose`."""
    structure = found or find(model, shape)
    return _largest(structure, _free(structure, exclude), axis)


def reduce(model: nn.Module, shape: Shape, masks: Masks, found: Structure | None = None) -> Reduced:
    """Return a copy of a network out of which the removed channels (see `Structure.kept`) were taken.

    Weights that are masked in channels that stay are copied as they are.
    """
    structure = found or find(model, shape)
    return _cut(model, structure, structure.kept(masks))


@torch.no_grad()
def expand(model: nn.Module, reduced: Reduced, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a reduced network, or a `state` dict of it, back into the full network `model`, in place.

    All that was removed becomes zero: filters, biases, and batch-norm, but for its running variances, which
    become 1.
    """
    source = reduced.model.state_dict() if state is None else state
    for name, target in model.state_dict().items():
        full = torch.zeros(target.numel(), dtype=target.dtype, device=target.device)
        if name.endswith("running_var"):
            full.fill_(1)
        full[reduced.positions[name].flatten().to(target.device)] = source[name].flatten().to(full)
        target.copy_(full.view(target.shape))


def without(model: nn.Module, shape: Shape, masks: Masks, found: Structure | None = None) -> nn.Module:
    """Return a copy, of full shapes, of a network without the removed channels (see `Structure.kept`).

    Their filters and all that reads them, their biases and their batch-norm are zero: it computes what the
    reduced network does.
    """
    full = _copied(model, lambda _, tensor: tensor.detach().clone())
    expand(full, reduce(model, shape, masks, found))
    return full


# A module, and whether its outputs (True) or inputs are meant.
_Side = tuple[str, bool]


@dataclass(frozen=True)
class _Candidate:
    """What may be a group: for every side the entries that belong to it, and the channel of each, from 0."""

    size: int
    sides: Mapping[_Side, tuple[np.ndarray, np.ndarray]]
    sound: bool


def _candidates(twin: nn.Module, shape: Shape) -> list[_Candidate]:
    """Return the groups of torch-pruning's dependency graph that are consistent in themselves."""
    modules = dict(twin.named_modules())
    weights = prunable(twin)
    graph = torch_pruning.DependencyGraph()
    with torch.enable_grad():
        try:
            graph.build_dependency(twin, (torch.zeros(1, *shape),), verbose=False)
        except Exception as error:  # torch-pruning's own, of any kind
            raise UserError(
                "torch-pruning cannot follow this network, so no filters can be removed from it "
                f"({type(error).__name__}: {error}); prune single weights, or another network"
            ) from error
    names = {module: name for name, module in modules.items()}
    found: list[_Candidate] = []
    for name, module in modules.items():
        whole = any(len(c.sides[name, True][0]) == _outputs(module) for c in found if (name, True) in c.sides)
        if f"{name}.weight" in weights and module in graph.module2node and not whole:
            found.append(_candidate(twin, graph, module, names, weights))
    # Entries that two groups claim were misunderstood; both would fail on trial, one by one.
    claims: dict[_Side, np.ndarray] = {}
    for candidate in found:
        for side, (entries, _) in candidate.sides.items():
            total = claims.setdefault(side, np.zeros(_length(modules, side), dtype=np.int64))
            np.add.at(total, entries, 1)
    return [
        candidate
        for candidate in found
        if candidate.sound and all((claims[s][e] == 1).all() for s, (e, _) in candidate.sides.items())
    ]


def _candidate(
    twin: nn.Module,
    graph: torch_pruning.DependencyGraph,
    root: nn.Module,
    names: Mapping[nn.Module, str],
    weights: Collection[str],
) -> _Candidate:
    """Return what has to go with the outputs of a layer."""
    occurrences = Counter(id(parameter) for _, parameter in twin.named_parameters(remove_duplicate=False))
    modules = {name: module for module, name in names.items()}
    handler = graph.get_pruner_of_module(root).prune_out_channels
    sides: dict[_Side, tuple[np.ndarray, np.ndarray]] = {}
    sound = True
    for item in graph.get_pruning_group(root, handler, list(range(_outputs(root)))):
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            sound = False
        elif module in names and module.state_dict():
            name = names[module]
            outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
            classifier = isinstance(module, nn.Conv2d | nn.Linear) and f"{name}.weight" not in weights
            shared = any(occurrences[id(parameter)] > 1 for parameter in module.parameters())
            if not _supported(module) or shared or (outputs and classifier):
                sound = False
                continue
            entries, channels = np.array(item.idxs), np.array(item.root_idxs)
            inside = entries < _length(modules, (name, outputs))
            sound = sound and bool(inside.all())
            sides[name, outputs] = entries[inside], channels[inside]
    return _Candidate(_outputs(root), sides, sound)


def _supported(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or _depthwise(module)
    return isinstance(module, nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d)


def _depthwise(module: nn.Module) -> bool:
    # The condition under which torch-pruning treats a convolution as one.
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def _outputs(module: nn.Module) -> int:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return module.num_features
    return module.get_parameter("weight").shape[0]


def _inputs(module: nn.Module) -> int | None:
    """Return the size of a weight's second dimension, where it stands for the layer's inputs."""
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        return module.get_parameter("weight").shape[1]
    return None


def _length(modules: Mapping[str, nn.Module], side: _Side) -> int:
    module = modules[side[0]]
    return _outputs(module) if side[1] else _inputs(module) or 0


def _assembled(twin: nn.Module, count: measures.Counts, candidates: Sequence[_Candidate]) -> Structure:
    """Number the channels of groups, and add up what each layer costs."""
    modules = dict(twin.named_modules())
    weights = prunable(twin)
    uses = {layer.name: layer.macs // layer.weights for layer in count.layers}
    owners: dict[_Side, np.ndarray] = {}
    groups, start = [], 0
    for candidate in candidates:
        for side, (entries, channels) in candidate.sides.items():
            length = _length(modules, side)
            owners.setdefault(side, np.full(length, _FIXED, dtype=np.int64))[entries] = channels + start
        members = {f"{name}.weight" for name, outputs in candidate.sides if outputs}
        groups.append(
            Group(tuple(name for name in weights if name in members), range(start, start + candidate.size))
        )
        start += candidate.size
    parts = {}
    for name, module in modules.items():
        if (name, True) in owners or (name, False) in owners:
            rows, columns = _outputs(module), _inputs(module)
            sizes = {key: parameter.numel() for key, parameter in module.named_parameters(recurse=False)}
            parts[name] = Part(
                name=name,
                rows=owners.get((name, True), np.full(rows, _FIXED)),
                columns=None if columns is None else owners.get((name, False), np.full(columns, _FIXED)),
                area=sizes.get("weight", 0) // (rows * (columns or 1)),
                vectors=sizes.get("bias", 0) // rows,
                uses=uses.get(f"{name}.weight", 0),
            )
    return Structure(
        groups=tuple(groups),
        parts=parts,
        dense={PARAMETERS: count.params, MACS: count.macs},
        shapes={name: tuple(weight.shape) for name, weight in weights.items()},
    )


def _cost(part: Part, alive: np.ndarray, axis: str) -> int:
    rows = int(alive[part.rows].sum())
    columns = 1 if part.columns is None else int(alive[part.columns].sum())
    weights = rows * columns * part.area
    return weights * part.uses if axis == MACS else weights + rows * part.vectors


def _free(structure: Structure, exclude: Collection[str]) -> list[Group]:
    for name in exclude:
        if name not in structure.shapes:
            raise UserError(
                f"'exclude' names '{name}', which is no prunable weight{nearest(name, structure.shapes)}"
            )
    return [group for group in structure.groups if not set(group.layers) & set(exclude)]


def _largest(structure: Structure, free: Collection[Group], axis: str) -> float:
    kept = np.ones(structure.size, dtype=bool)
    for group in free:
        kept[group.channels[1:]] = False
    return structure.dense[axis] / structure.cost(kept, axis)


def _values(structure: Structure, scores: Mapping[str, np.ndarray], comparable: bool) -> np.ndarray:
    """Return a score for every channel, float64 [size]."""
    total, count = np.zeros(structure.size), np.zeros(structure.size)
    for name in structure.shapes:
        part = structure.parts.get(name.removesuffix(".weight"))
        if part is not None:
            own = part.rows != _FIXED
            values = np.asarray(scores[name], dtype=np.float64)
            mean = 1 if comparable else np.abs(values).mean()
            np.add.at(total, part.rows[own], values[own] / (mean if mean > 0 else 1))
            np.add.at(count, part.rows[own], 1)
    return total / count


@torch.no_grad()
def _cut(model: nn.Module, structure: Structure, kept: np.ndarray) -> Reduced:
    """Take the channels that are not kept out of a copy of the network."""
    # What is cut is a network whose numbers are their own positions, exact in float64; what is left of it
    # says where every other number comes from.
    small = _copied(model, lambda _, t: torch.arange(t.numel(), dtype=torch.float64).view(t.shape))
    removed = np.append(~kept, False)
    for name, part in structure.parts.items():
        module = small.get_submodule(name)
        pruner = torch_pruning.PrunerBox[torch_pruning.ops.module2type(module)]
        pruner.prune_out_channels(module, np.flatnonzero(removed[part.rows]).tolist())
        if part.columns is not None:
            pruner.prune_in_channels(module, np.flatnonzero(removed[part.columns]).tolist())
    positions = {name: tensor.long() for name, tensor in _tensors(small)}
    left = dict(_tensors(small))
    for name, full in _tensors(model):
        left[name].data = full.flatten()[positions[name].to(full.device)]
        left[name].requires_grad_(full.requires_grad)
    return Reduced(small, positions)


def _agrees(twin: nn.Module, structure: Structure, pictures: torch.Tensor) -> bool:
    """Say whether the network, about half of its channels taken out, computes as with them zeroed."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(structure.size, generator=generator).numpy() < 0.5
    for group in structure.groups:
        # One at least stays, and one goes where there are two.
        kept[group.channels[-1]], kept[group.channels[0]] = False, True
    reduced = _cut(twin, structure, kept)
    full = _copied(twin, lambda _, tensor: tensor.detach().clone())
    expand(full, reduced)
    with torch.no_grad():
        expected = _normalised_by_batch(full)(pictures)
        try:
            found = _normalised_by_batch(reduced.model)(pictures)
        except Exception:  # whatever a network does when its parts do not fit
            return False
    if found.shape != expected.shape:
        return False
    # Measured by what the pictures change, which is little where biases make most of the output.
    scale = (expected[0] - expected[1]).abs().max()
    return bool((found - expected).abs().max() < _SAME * scale)


def _normalised_by_batch(model: nn.Module) -> nn.Module:
    """Let batch-norm use the batch's statistics: then no layer, however deep, saturates or dies out."""
    for module in model.modules():
        module.training = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return model


def _stand_in(model: nn.Module) -> nn.Module:
    """Return a copy of a network on the CPU, in eval mode, with numbers from a generator of its own."""
    generator = torch.Generator().manual_seed(0)

    def fill(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if tensor.dim() > 1:  # as He et al. 2015
            deviation = math.sqrt(2 * len(tensor) / tensor.numel())
            return torch.randn(tensor.shape, generator=generator) * deviation
        values = torch.rand(tensor.shape, generator=generator)
        return values * 0.2 if name.endswith("bias") else values + 0.5

    return _copied(model, fill).eval()


def _copied(model: nn.Module, fill: Callable[[str, torch.Tensor], torch.Tensor]) -> nn.Module:
    """Return a deep copy with other parameters and buffers: `fill` of their name and tensor."""
    memo: dict[int, object] = {}
    for name, tensor in _tensors(model):
        new = fill(name, tensor)
        memo[id(tensor)] = (
            nn.Parameter(new, new.is_floating_point()) if isinstance(tensor, nn.Parameter) else new
        )
    twin: nn.Module = copy.deepcopy(model, memo)
    return twin


def _tensors(model: nn.Module) -> itertools.chain[tuple[str, torch.Tensor]]:
    """Return all parameters and buffers, shared ones under each of their names."""
    return itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
