"""Devices that are made up: a profile in which every unit takes what a function of its shapes says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx
import onnx_ir as ir

from spa.passes.choose.widths import multiples
from spa.passes.latency.variants import Settings, plan_of
from spa.record import Device, Profile, Unit, Variant
from spa.shapes import infer_shapes
from spa.steps import analyse, cut, load_normal

BOARD = Device("board", "aarch64", 4, 16, "CPUExecutionProvider", 1, "0.0")

Time = Callable[[str, Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]], float]
"""Milliseconds of an operator with shapes of operands and results."""


def flops(operator: str, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]) -> float:
    """A microsecond for each thousand multiplications, and one for the call."""
    if operator == "Conv":
        return 1e-3 + 1e-6 * math.prod(outputs[0]) * math.prod(inputs[1][1:])
    if operator == "Gemm":
        return 1e-3 + 1e-6 * math.prod(inputs[1])
    return 1e-3


def profile(proto: onnx.ModelProto, time: Time, *, device: Device = BOARD, seed: int = 0) -> Profile:
    """The profile of a model on a made-up device."""
    dense = load_normal(ir.from_proto(proto))
    analysis = analyse(dense.clone())
    settings = Settings.of(analysis.groups, multiples(analysis.groups, "auto", device=device.block), seed=seed)
    variants = []
    for removed in settings.removed:
        model = dense.clone()
        mine = analyse(model)
        cut(mine, plan_of(mine.groups, removed))
        units = units_of(model, time)
        variants.append(Variant(removed, sum(unit.milliseconds for unit in units), units))
    about = {"groups": {group.name: group.size for group in analysis.groups}, "inputs": _inputs(dense)}
    return Profile(about, device, tuple(variants))


def units_of(model: ir.Model, time: Time) -> tuple[Unit, ...]:
    """A unit for each node."""
    shapes = infer_shapes(model, inputs=_inputs(model))
    units = []
    for node in model.graph:
        inputs = tuple(_shape(shapes, value) for value in node.inputs if value is not None)
        outputs = tuple(_shape(shapes, value) for value in node.outputs)
        name = str(node.outputs[0].name)
        units.append(Unit(name, node.op_type, inputs, outputs, time(node.op_type, inputs, outputs)))
    return tuple(units)


def _inputs(model: ir.Model) -> dict[str, list[int]]:
    values = [value for value in model.graph.inputs if value.shape is not None]
    return {str(v.name): [size if isinstance(size, int) else 1 for size in v.shape or ()] for v in values}


def _shape(shapes, value: ir.Value) -> tuple[int, ...]:
    if value.const_value is not None:
        return tuple(int(size) for size in value.const_value.shape.numpy())
    return tuple(shapes.of[value])


def elsewhere(source: Profile, **changes) -> Profile:
    """The same profile of another device."""
    return replace(source, device=replace(source.device, **changes))
