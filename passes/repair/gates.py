"""A number before each residual branch's addition, one while the branch is there: with zero the residual stands.

    MatMul -> Mul(., gate) -> Add(x, .)

So a branch that goes is a stored tensor that changes, like any other, and streams compute only what comes behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa.analysis.branch import ADDED, Branch
from spa.analysis.neighbours import GATE
from spa.passes.normalize.fold import Names


def add_gates(model: ir.Model, branches: Sequence[Branch], dtypes: Mapping[ir.Value, ir.DataType]) -> list[str]:
    """Put a gate of one behind each branch, in place; the names of the new tensors. The model computes the same."""
    names = Names(model)
    return [_add(model, branch, names, dtypes) for branch in branches]


def _add(model: ir.Model, branch: Branch, names: Names, dtypes: Mapping[ir.Value, ir.DataType]) -> str:
    value, name = branch.value, names.free(f"{branch.name}/gate")
    dtype = value.dtype or dtypes.get(value, ir.DataType.FLOAT)
    tensor = ir.Tensor(np.ones((), dtype.numpy()), dtype=dtype, name=name)
    gate = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(()), const_value=tensor)
    gate.meta[ADDED] = gate.meta[GATE] = True
    model.graph.register_initializer(gate)
    for number, (node, position) in enumerate(branch.edges):
        addend = node.inputs[position]
        assert addend is not None
        times = ir.node("Mul", [addend, gate], name=name if not number else names.free(f"{name}/{number}"))
        times.meta[GATE] = True
        result = times.outputs[0]
        result.name, result.type, result.shape = names.free(f"{times.name}/gated"), addend.type, addend.shape
        model.graph.insert_before(node, times)
        node.replace_input_with(position, result)
    return name


def gate_of(branch: Branch) -> str:
    """The name of a branch's gate, in a model that has gates."""
    producer = branch.value.producer()
    assert producer is not None
    assert GATE in producer.meta
    return str(producer.name)


def drop_gates(model: ir.Model, names: Sequence[str]) -> None:
    """Remove gates, in place, open or shut."""
    for name in names:
        gate = model.graph.initializers[name]
        for node, _ in list(gate.uses()):
            value = node.inputs[0]
            assert value is not None
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            model.graph.remove(node, safe=True)
        del model.graph.initializers[name]
