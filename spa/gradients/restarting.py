"""A network as before its training: weights drawn anew, normalisations and biases as they begin (He et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.notation.operation import entry_of


def restart(coupling: Coupling, *, seed: int) -> None:
    """Draw the weights of a coupled model anew, in place.

    A tensor that a node sums over has a normal distribution of variance 2 / n, n the numbers that go into one result;
    vectors that scale are one, those that shift zero; stored means are zero and variances one. What no node sums over
    and that is no vector (tables, positions) keeps its own mean and deviation.
    """
    random = np.random.default_rng(seed)
    summed = _summed_axes(coupling)
    scales = _constants(coupling)
    for value in coupling.axes:
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point() or tensor.size < 2:
            continue
        shape, old = tuple(tensor.shape.numpy()), tensor.numpy().astype(np.float64)
        if value in scales:
            array = np.full(shape, scales[value])
        elif value in summed:
            free = [axis for axis in range(len(shape)) if axis not in summed[value]]
            fan = prod(shape) / (shape[free[0]] if free else 1)
            array = random.standard_normal(shape) * (2.0 / max(fan, 1.0)) ** 0.5
        elif sum(size > 1 for size in shape) > 1:
            array = old.mean() + old.std() * random.standard_normal(shape)
        else:
            array = np.ones(shape) if abs(old.mean() - 1) < old.std() / 4 + 1e-6 else np.zeros(shape)
        value.const_value = ir.Tensor(array.astype(tensor.dtype.numpy()), dtype=tensor.dtype, name=tensor.name)


def _summed_axes(coupling: Coupling) -> dict[ir.Value, set[int]]:
    """For stored tensors with several axes, those that some node sums over."""
    axes: dict[ir.Value, set[int]] = {}
    for application in coupling.applications:
        for summed in application.sums():
            value = application.node.inputs[summed.operand]
            if value is not None and value.const_value is not None and len(value.const_value.shape) > 1:
                axes.setdefault(value, set()).add(summed.axis)
    return axes


def _constants(coupling: Coupling) -> Mapping[ir.Value, float]:
    """What the tensors of normalisations begin with."""
    starts: dict[ir.Value, float] = {}
    for application in coupling.applications:
        running, inputs = entry_of(application.node).running, application.node.inputs
        if running is None:
            continue
        for at, number in ((running.scale, 1.0), (running.shift, 0.0), (running.mean, 0.0), (running.variance, 1.0)):
            value = inputs[at] if at < len(inputs) else None
            if value is not None:
                starts[value] = number
    return starts
