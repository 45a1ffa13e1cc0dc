"""Whether a user's own model is what the workflow takes a model for, tried before anything runs."""

from __future__ import annotations

import torch

from shrinkflow import models, own
from shrinkflow.errors import UserError
from shrinkflow.models import Shape
from shrinkflow.models.published import PUBLISHED
from shrinkflow.strategies import SCORES


def score(name: str, shape: Shape, classes: int, score: str) -> None:
    """Raise `UserError` where a score of the registry cannot score a model, tried on the meta device.

    Tried are models whose layers are not written here: the user's own, and torchvision's.
    """
    check = SCORES[score].check
    if check is not None and (models.is_own(name) or name in PUBLISHED):
        network = models.build(name, shape, classes, None).eval()
        check(network, torch.empty(2, *shape, device="meta"))


def run(name: str, shape: Shape, classes: int) -> None:
    """Build a user's own model (see `models`) on the meta device, and run it there on two pictures.

    Raises:
        UserError: it fails, returns something other than [2, classes], or has a tensor that its state dict
            lacks, so that a checkpoint would not hold it.
    """
    file, _, function = name.rpartition(":")
    title = f"the model of function '{function}' in '{file}'"
    network = models.build(name, shape, classes, None)
    if not any(True for _ in network.parameters()):
        raise UserError(f"{title} has no parameters; return one with layers")
    state = network.state_dict()
    loose = [key for key, _ in network.named_buffers() if key not in state]
    for key, module in network.named_modules():
        found = [attribute for attribute, value in vars(module).items() if isinstance(value, torch.Tensor)]
        loose += [f"{key}.{attribute}".lstrip(".") for attribute in found]
    if loose:
        raise UserError(
            f"{title} keeps '{loose[0]}' out of its state dict, so checkpoints lack it; register it as a "
            "parameter or a persistent buffer"
        )
    pictures = torch.empty(2, *shape, device="meta")
    for training in (True, False):
        network.train(training)
        with own.told(f"{title} failed on pictures of {' x '.join(map(str, shape))}", file):
            logits = network(pictures)
        if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
            kind = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise UserError(f"{title} must map 2 pictures to logits [2, {classes}], not to {kind}")
