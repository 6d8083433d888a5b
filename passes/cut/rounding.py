"""How far rounding may take a model: a tolerance by precision, and the model with its weights off by an ulp or two."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from spa.notation.operation import entry_of

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


def tolerances(
    model: ir.Model, dtypes: Mapping[ir.Value, ir.DataType] | None = None, *, least: float = 0.0
) -> dict[str, float]:
    """How far from the reference rounding may take each output: by the coarsest type that is computed in before it.

    What is only stored is exact in whatever type: weights of half precision that are cast to float32 loosen nothing,
    and neither does a branch that another output is made of.

    Args:
        dtypes: of values that do not tell their own.
        least: what each is at least.
    """
    known = dtypes or {}
    coarsest: dict[ir.Value | None, float] = {value: 0.0 for value in model.graph.inputs if not value.is_initializer()}
    for node in model.graph:
        inside = [each for body in _bodies(node) for each in ir.traversal.RecursiveGraphIterator(body)]
        read = {*node.inputs, *(value for each in inside for value in each.inputs)}
        if not coarsest.keys() & read and not inside and entry_of(node).draws is None:
            continue  # made of stored tensors alone
        made = [*node.outputs, *(value for each in inside for value in each.outputs)]
        inherited = [coarsest[value] for value in read if value in coarsest]
        own = [_tolerance(value.dtype or known.get(value)) for value in made]
        coarsest.update(dict.fromkeys(node.outputs, max([*inherited, *own])))
    return {
        str(value.name): max(coarsest.get(value, 0.0) or _tolerance(value.dtype) or DEFAULT_TOLERANCE, least)
        for value in model.graph.outputs
    }


def _bodies(node: ir.Node) -> list[ir.Graph]:
    return [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]


def _tolerance(dtype: ir.DataType | None) -> float:
    """Of numbers of a type; zero for whole numbers, and where the type is not known."""
    if dtype is None or not dtype.is_floating_point():
        return 0.0
    return TOLERANCE.get(dtype.numpy().name, DEFAULT_TOLERANCE)
