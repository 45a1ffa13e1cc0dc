"""What a pruned network takes on disk, in several forms.

Each number is the size of a whole safetensors file, header included, so that forms can be compared:

- dense: every parameter and buffer, zeros among them;
- bitmask: of prunable weights one bit per entry, and the values that are not zero; the rest dense;
- csr: of prunable weights, as matrices [out, all the rest], row pointers and column numbers (int32) and the
  values that are not zero; the rest dense;
- compressed: the dense file, by zlib at level 9.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from torch import nn

from shrinkflow.costs import FORMS
from shrinkflow.prunable import prunable

CODEC = "zlib level 9"


def sizes(model: nn.Module) -> dict[str, int]:
    """Return bytes by form, of a network as it is: of a reduced one, without the filters removed."""
    state = {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in model.state_dict().items()}
    sparse = prunable(model).keys()
    dense = _file(state)
    bitmask: dict[str, np.ndarray] = {}
    csr: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if name not in sparse:
            bitmask[name] = csr[name] = array
            continue
        kept = array != 0
        values = array[kept]
        bitmask |= {f"{name}.kept": np.packbits(kept), f"{name}.values": values}
        rows = kept.reshape(len(array), -1)
        pointers = np.concatenate([[0], rows.sum(axis=1).cumsum()]).astype(np.int32)
        columns = np.nonzero(rows)[1].astype(np.int32)
        csr |= {f"{name}.rows": pointers, f"{name}.columns": columns, f"{name}.values": values}
    files = (dense, _file(bitmask), _file(csr), zlib.compress(dense, 9))
    return dict(zip(FORMS, map(len, files), strict=True))


def _file(arrays: Mapping[str, np.ndarray]) -> bytes:
    return bytes(safetensors.numpy.save(dict(arrays)))
