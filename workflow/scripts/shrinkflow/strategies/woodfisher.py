"""Optimal Brain Surgeon with a block-wise empirical Fisher: WoodFisher (Hassibi 1993; Singh & Alistarh 2020).

The loss near a minimum is taken as quadratic, with the matrix F = damping * I + (1/N) sum g g' in the place
of the Hessian, g being N gradients; F is cut into blocks of `block_size` successive weights of one layer.
Removing weight w and moving the others of its block as well as possible costs w^2 / (2 [F^-1]_ii).

The paper gets F^-1 gradient by gradient, by the Woodbury identity, because its blocks are large. Here they
are small, so F itself is summed up and solved: the same matrix, exactly symmetric, and faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional

from shrinkflow import strategies
from shrinkflow.errors import UserError
from shrinkflow.prunable import prunable
from shrinkflow.way import Way

# Gradients held at once: few, because each is as large as the network; several, because adding one by one
# reads and writes all of F each time.
_HELD = 16
# Numbers in the double-precision matrices solved at once: 32 MB.
_SOLVED = 4 << 20


def update(
    model: nn.Module,
    data: strategies.Data,
    masks: Mapping[str, torch.Tensor],
    *,
    gradients: int = 1000,
    batch_size: int = 1,
    block_size: int = 50,
    damping: float = 1e-5,
) -> dict[str, torch.Tensor]:
    """Return the weights of the pruned network, moved to make good for what is gone.

    `model` is the network as it was scored; `masks` are bool, True = kept, and pruned weights become exactly
    zero. All weights Q pruned of a block go together: the move that costs least is
    -F^-1[:, Q] (F^-1[Q, Q])^-1 w_Q (Hassibi 1993, for several weights). Singh & Alistarh add up the moves of
    single weights instead, which is right only for one weight of a block; at this block size the joint
    move takes seconds.

    Parameters and errors are those of the score.
    """
    moved = {}
    fisher = _fisher(model, data, gradients, batch_size, block_size)
    weights = prunable(model)
    for name, given in masks.items():
        weight, mask = weights[name], given.to(weights[name].device).bool()
        width = fisher[name].shape[-1]
        kept, old = _cut(mask.flatten().double(), width), _cut(weight.detach().flatten().double(), width)
        steps = torch.empty_like(old)
        for part, matrix in _damped(fisher[name], damping):
            stay = kept[part].unsqueeze(-1)
            # F[S, S] x = F[S, Q] w_Q for those that stay, S; a row and column of the identity for Q.
            right = stay * (matrix @ ((1 - stay) * old[part].unsqueeze(-1)))
            matrix = matrix * stay * stay.mT + torch.diag_embed(1 - kept[part])
            steps[part] = torch.cholesky_solve(right, _cholesky(matrix, name, damping)).squeeze(-1)
        new = (old + steps).flatten()[: weight.numel()].view(weight.shape)
        moved[name] = torch.where(mask, new, 0.0).to(weight.dtype)
    return moved


@strategies.score(
    "woodfisher",
    source="Hassibi & Stork 1993; Singh & Alistarh 2020",
    cost="1000 pictures, forward and backward one by one, twice",
    strategies={"woodfisher": Way()},
    update=update,
)
def woodfisher(
    model: nn.Module,
    data: strategies.Data,
    generator: torch.Generator,
    *,
    gradients: int = 1000,
    batch_size: int = 1,
    block_size: int = 50,
    damping: float = 1e-5,
) -> dict[str, torch.Tensor]:
    """Score each weight by w^2 / (2 [F^-1]_ii).

    Args:
        model: the network.
        data: pictures.
        generator: not used.
        gradients: how many make up F, fewer if the pictures run out; 1000 are the paper's for ResNet-20.
        batch_size: pictures whose mean cross-entropy each gradient is of. 1 is the empirical Fisher; more
            see more pictures in the same memory, a heuristic of the paper for ImageNet.
        block_size: weights per block, in their order in the flattened tensor. Memory is that of
            `block_size` networks, so the default is small, as that of Kurtic et al. 2022.
        damping: added to the diagonal; 1e-5 is the paper's.

    Raises:
        UserError: a block cannot be inverted, because damping is too small.
    """
    scores = {}
    fisher = _fisher(model, data, gradients, batch_size, block_size)
    for name, weight in prunable(model).items():
        inverse = torch.empty(fisher[name].shape[:2], dtype=torch.float64, device=weight.device)
        for part, matrix in _damped(fisher[name], damping):
            found = torch.cholesky_inverse(_cholesky(matrix, name, damping))
            inverse[part] = found.diagonal(dim1=-2, dim2=-1)
        flat = inverse.flatten()[: weight.numel()].view(weight.shape)
        scores[name] = weight.detach().double().square() / (2 * flat)
    return scores


def _fisher(
    model: nn.Module, data: strategies.Data, gradients: int, batch_size: int, block_size: int
) -> dict[str, torch.Tensor]:
    """Return the mean of g g' for each prunable weight, cut into blocks, without damping: [blocks, b, b].

    b is `block_size`, or the size of a smaller layer. The last block is filled up with zeros.
    """
    weights = prunable(model)
    sums = {}
    for name, weight in weights.items():
        width = min(block_size, weight.numel())
        sums[name] = weight.new_zeros(-(-weight.numel() // width), width, width)
    count = 0
    held: dict[str, list[torch.Tensor]] = {name: [] for name in weights}

    def add() -> None:
        for name, total in sums.items():
            # [gradients, weights] -> [blocks, gradients, b]
            rows = _cut(torch.stack(held[name]), total.shape[-1]).transpose(0, 1)
            total.baddbmm_(rows.mT, rows)
            held[name].clear()

    for pictures, labels in data(gradients, batch_size):
        loss = functional.cross_entropy(model(pictures), labels)
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        for rows, gradient, weight in zip(held.values(), found, weights.values(), strict=True):
            # A weight that an earlier round pruned cannot move to make good for others.
            rows.append((gradient * (weight.detach() != 0)).flatten())
        count += 1
        if count % _HELD == 0:
            add()
    if count % _HELD:
        add()
    return {name: total.div_(count) for name, total in sums.items()}


def _cut(flat: torch.Tensor, width: int) -> torch.Tensor:
    """Cut the last dimension into blocks of `width`, the last one filled up with zeros."""
    blocks: torch.Tensor = functional.pad(flat, (0, -flat.shape[-1] % width)).unflatten(-1, (-1, width))
    return blocks


def _damped(matrices: torch.Tensor, damping: float) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield blocks of F in double precision, with damping, several at a time, and which ones they are."""
    width = matrices.shape[-1]
    several = max(1, _SOLVED // width**2)
    for begin in range(0, len(matrices), several):
        part = slice(begin, begin + several)
        identity = torch.eye(width, dtype=torch.float64, device=matrices.device)
        yield part, matrices[part].double() + damping * identity


def _cholesky(matrices: torch.Tensor, name: str, damping: float) -> torch.Tensor:
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if failed.any():
        raise UserError(
            f"the Fisher matrix of '{name}' cannot be inverted with damping {damping:g}; raise 'damping'"
        )
    return factors  # type: ignore[no-any-return]
