"""The way back from a cut model: its weights, put where they came from in a model as large as the dense one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks, keep_mask


def scatter(coupling: Coupling, masks: Masks, small: ir.Model) -> None:
    """Write the stored numbers of a cut model into the model that it was cut from, in place; what was cut stays.

    Args:
        coupling: of the model that is written.
        masks: by which `small` was cut.
    """
    stored = small.graph.initializers
    for value, axes in coupling.axes.items():
        tensor, made = value.const_value, stored.get(str(value.name))
        if tensor is None or made is None or made.const_value is None or not tensor.dtype.is_floating_point():
            continue
        kept = [keep_mask(dim.root, masks) for dim in axes]
        whole = [np.arange(size) for size in tensor.shape.numpy()]
        places = [np.flatnonzero(mask) if mask is not None else every for mask, every in zip(kept, whole, strict=True)]
        numbers = made.const_value.numpy()
        if numbers.shape != tuple(map(len, places)):
            continue
        array = np.array(tensor.numpy())
        if array[np.ix_(*places)].tobytes() == numbers.tobytes():
            continue
        array[np.ix_(*places)] = numbers
        value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
