"""How far rounding may take a model: a tolerance by precision, and the model with its weights off by an ulp or two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float64": 1e-6}


DEFAULT_TOLERANCE = 1e-3  # float32: relative to the largest value of a slice


RANGE_TOLERANCE = 5e-2  # eight bits over a range found when the graph runs, which is another without some units


ULPS = 2.5
"""A rounding error or two: by how many units of the last place stored numbers are moved to see what rounding does."""


def shaken(model: ir.Model, seed: int = 0) -> ir.Model:
    """The model with every stored float, single numbers aside, off by a rounding error or two of its type."""
    copy = model.clone()
    for number, value in enumerate(copy.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.size == 1:  # an exponent or a bound: 2.0000002 is no 2
            continue
        if tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= 16:
            value.const_value = _moved(tensor, str(value.name), (seed, number))
    return copy


def _moved(tensor: ir.TensorProtocol, name: str, seed: tuple[int, int]) -> ir.TensorProtocol:
    dtype = tensor.dtype

    def move() -> ir.TensorProtocol:
        array = tensor.numpy()
        share = ULPS * _eps(dtype)
        wide = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
        signs = np.random.default_rng(seed).integers(0, 2, array.shape, np.int8) * 2 - 1
        moved = wide * (1 + share * signs).astype(wide.dtype)
        return ir.Tensor(moved.astype(array.dtype), dtype=dtype, name=name)

    return ir.LazyTensor(move, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)


def _eps(dtype: ir.DataType) -> float:
    """The distance from one to the next number of a type."""
    return 2.0**-7 if dtype == ir.DataType.BFLOAT16 else float(np.finfo(dtype.numpy()).eps)


def tolerance(model: ir.Model) -> float:
    """How far from the reference rounding may take a model of this precision."""
    kinds = {
        v.const_value.dtype.numpy().name
        for v in model.graph.initializers.values()
        if v.const_value is not None and v.const_value.dtype.is_floating_point() and v.const_value.size > 1
    }
    return max((TOLERANCE.get(kind, DEFAULT_TOLERANCE) for kind in kinds), default=DEFAULT_TOLERANCE)
