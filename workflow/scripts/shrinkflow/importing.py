"""Torchvision, imported where it is used and nowhere else, because that takes more than a second."""

from __future__ import annotations

import sys
from types import ModuleType

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Return torchvision, also where it was built for CUDA and torch was not.

    PyPI's torchvision cannot load its compiled operators beside a CPU-only torch, and then stumbles
    over the absence of two of them. Nothing here uses any, so declaring those two is enough, but
    only once the plain import has failed: beside operators that do load, they would clash.
    """
    try:
        return _torchvision()
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    import torch

    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", _NMS)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    return _torchvision()


def _torchvision() -> ModuleType:
    import torchvision

    module: ModuleType = torchvision
    return module
