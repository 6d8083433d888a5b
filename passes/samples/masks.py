"""Masks that nobody gave samples of: ones, since nothing is hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa import runtime


def ones(
    samples: Mapping[str, np.ndarray], inputs: Sequence[ir.Value], axes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The masks among the inputs of which there are no samples, where names of axes say how large they are.

    Args:
        samples: arrays of other inputs, by name.
        axes: along which axis of each input samples lie.
    """
    sizes: dict[str, int] = {}
    counts: set[int] = set()
    shapes = {str(value.name): value.shape for value in inputs}
    for name, array in samples.items():
        shape = shapes.get(name)
        if shape is None or len(shape) != array.ndim or not array.ndim:
            continue
        pairs = zip(shape, array.shape, strict=True)
        sizes |= {str(dim.value): size for dim, size in pairs if not isinstance(dim, int) and dim.value}
        counts.add(array.shape[axes[name]])
    made = {}
    for value in inputs:
        name, shape, dtype = str(value.name), value.shape, value.dtype
        if name in samples or not runtime.is_mask(name) or not shape or dtype is None or dtype.is_floating_point():
            continue
        known = [dim if isinstance(dim, int) else sizes.get(str(dim.value)) for dim in shape]
        known[axes[name]] = next(iter(counts)) if len(counts) == 1 else None
        whole = [size for size in known if size is not None]
        if len(whole) == len(known):
            made[name] = np.ones(whole, dtype.numpy())
    return made
