"""Second derivatives of networks, which some scores need and torch does not have for every layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from shrinkflow.errors import UserError
from shrinkflow.prunable import weights


@contextmanager
def twice() -> Iterator[None]:
    """Differentiate twice: attention is computed by operations that allow it.

    Raises `UserError` where a layer has no second derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise UserError(
                "the score needs second derivatives, but torch lacks those of a layer of the network "
                f"({error}); use another score, or another model"
            ) from None


def check(model: nn.Module, pictures: torch.Tensor) -> None:
    """Raise `UserError` unless a network can be differentiated twice. It may be on the meta device."""
    wanted = list(weights(model).values())
    with twice():
        first = torch.autograd.grad(
            model(pictures).square().sum(), wanted, create_graph=True, materialize_grads=True
        )
        torch.autograd.grad(
            torch.stack([part.square().sum() for part in first]).sum(), wanted, materialize_grads=True
        )
