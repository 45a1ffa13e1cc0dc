"""Weights that were published for models of the registry: where they are, and what they were trained with."""

from __future__ import annotations

from dataclasses import dataclass

from shrinkflow.registry import Registry

# The name by which a pair asks for the weights that torchvision publishes for its model.
TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Published:
    """One file of weights.

    Attributes:
        name: of the file.
        checksum: as `data.fetching` takes it.
        url: where it can be had.
        classes: how many the classifier tells apart.
        mean, std: of each channel, of pixels in 0 .. 1, as the pictures were normalised.
        side: the only height and width of pictures the weights fit; None where any do that the model takes.
        renamed: parts of names in the file, and what the model calls them now.
    """

    name: str
    checksum: str
    url: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int | None = None
    renamed: tuple[tuple[str, str], ...] = ()


PUBLISHED: Registry[Published] = Registry("model with published weights", "shrinkflow.models")
