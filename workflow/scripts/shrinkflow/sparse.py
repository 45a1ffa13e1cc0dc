"""A network whose pruned layers multiply by sparse matrices, to be timed beside dense kernels.

Every pruned Linear multiplies by a CSR matrix (`torch.sparse_csr`); every pruned Conv2d does the same with
the pictures unfolded to columns (im2col, as in Chellapilla et al. 2006). Dense kernels multiply by zeros like
by any other number: single weights that were pruned cost them as much as before.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.nn import functional


def sparsified(model: nn.Module) -> nn.Module:
    """Return a copy of a network in which every Conv2d and Linear that has zero weights is sparse.

    Layers without a zero stay as they are, and so do subclasses, attention, and convolutions whose padding is
    not by a number of zeros; these, in no network of the registry, are timed dense.
    """
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and _pruned(child):
                setattr(module, name, Linear(child))
            elif type(child) is nn.Conv2d and _pruned(child) and _padded_by_zeros(child):
                setattr(module, name, Convolution(child))
    return twin


def _pruned(layer: nn.Conv2d | nn.Linear) -> bool:
    return not bool(layer.weight.all())


def _padded_by_zeros(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def csr(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix as CSR."""
    with warnings.catch_warnings(action="ignore"), torch.sparse.check_sparse_tensor_invariants(False):
        return matrix.detach().to_sparse_csr()


class Linear(nn.Module):
    """x W' + b with W, [out, in], in CSR, for x of shape [..., in]."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Buffer(csr(dense.weight))
        self.bias: nn.Parameter | None = dense.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return [..., out]."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = (self.weight @ rows.t().contiguous()).t()
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], self.weight.shape[0])


class Convolution(nn.Module):
    """A convolution as one product of a CSR matrix, [out, in * height * width], with unfolded pictures.

    With groups the matrix is block diagonal: what lies between the blocks is not stored.
    """

    def __init__(self, dense: nn.Conv2d) -> None:
        super().__init__()
        weight = dense.weight.detach()
        per_group = len(weight) // dense.groups
        blocks = [block.flatten(1) for block in weight.split(per_group)]
        self.weight = nn.Buffer(csr(torch.block_diag(*blocks)))
        self.bias = dense.bias
        assert not isinstance(dense.padding, str)
        self.kernel, self.stride = dense.kernel_size, dense.stride
        self.padding, self.dilation = dense.padding, dense.dilation

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return [n, out, height, width] of [n, in, height, width]."""
        # On a CPU picture by picture: the columns of one stay in its caches, those of 64 would not.
        together = len(pictures) if pictures.is_cuda else 1
        return torch.cat([self._product(part) for part in pictures.split(together)])

    def _product(self, pictures: torch.Tensor) -> torch.Tensor:
        number = len(pictures)
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                pictures.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        # Columns of all pictures beside each other: [in * kernel, n * positions].
        columns = self._unfolded(pictures).transpose(0, 1).reshape(self.weight.shape[1], -1)
        outputs = self.weight @ columns
        if self.bias is not None:
            outputs += self.bias[:, None]
        return outputs.view(-1, number, height, width).transpose(0, 1)

    def _unfolded(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return [n, in * kernel, positions]; of a 1 x 1 kernel the pictures themselves."""
        if self.kernel == (1, 1) and tuple(self.padding) == (0, 0):
            return pictures[:, :, :: self.stride[0], :: self.stride[1]].flatten(2)
        return functional.unfold(
            pictures, self.kernel, dilation=self.dilation, padding=self.padding, stride=self.stride
        )
