"""What the open axes of a graph's inputs count as: the sizes at which FLOPs are counted, which a report names.

A batch counts as one. Any other open axis counts as the first of these that every node of the graph accepts:

| axis | counts as |
|---|---|
| of an input of four axes or more: pictures, volumes | 224, and so on with 256, 512, 640, 64, 32 |
| the last of a float input of two axes, or of three with one channel: sound | 16000, one second |
| any other: tokens, frames, boxes | 128 |
| earlier tokens, of a decoder that keeps their keys and values | 0 |

Where no first choice suits, the next sizes of the ladder are tried for all of them. An axis whose size the data decide
(what NonZero finds) counts as 100. Sizes that a caller gives are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from spa.shapes import Shapes
from spa.shapes.binding import Axis, Binding, bound_shapes, declared_shapes, free_axes, given_numbers, symbol_of
from spa.shapes.decoder import Decoder
from spa.shapes.node import NodeInference
from spa.shapes.walk import Walk

PICTURE, SOUND, ITEMS, COUNTED = 224, 16000, 128, 100
_LADDER = (None, 256, 512, 640, 64, 32, 128, 1024, 48, 16, 8, 4096, 16000, 4, 2, 1)
"""Sizes of all open axes but batches; None: by the kind of the input."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes at which a graph is counted.

    Attributes:
        inputs: the shape of each input with an open axis, by name; empty where there is none.
        of: the shape of each value under them; empty where every size of the graph is fixed.
    """

    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    of: Mapping[ir.Value, tuple[int, ...]] = field(default_factory=dict)


def count_sizes(model: ir.Model, shapes: Shapes, *, inputs: Mapping[str, Sequence[int]] | None = None) -> Sizes:
    """The sizes at which a model's FLOPs are counted; none where every size is fixed.

    Args:
        shapes: of its values, from `infer_shapes`.
        inputs: input name -> shape to count with.

    Raises:
        UsageError: `inputs` names no input of the graph or contradicts its static axes.
    """
    if not shapes.binding:
        return Sizes()
    given = {**_prompt(model.graph, inputs or {}), **(inputs or {})}
    inference = NodeInference(model)
    best: Walk | None = None
    chosen: Binding | None = None
    fewest = math.inf
    for binding in _choices(model.graph, given):
        walk = Walk(model, inference, binding, counted=COUNTED, patience=fewest)
        if walk.misfits:
            walk = Walk(model, inference, binding, uncounted=walk.misfits, counted=COUNTED)
        wrong = walk.contradictions + _misnamed(model.graph, walk, binding)
        if walk.finished and (best is None or wrong < fewest):
            best, chosen, fewest = walk, binding, wrong
        if best is not None and fewest == 0:
            break
    assert best is not None  # the first walk has endless patience
    assert chosen is not None
    open_ = {
        str(value.name): chosen.inputs[str(value.name)]
        for value in model.graph.inputs
        if value.name in chosen.inputs and (value.shape is None or not value.shape.is_static())
    }
    of = {value: type_.static for value, type_ in best.types.items()}
    return Sizes(open_, {value: dims for value, dims in of.items() if dims is not None})


def _prompt(graph: ir.Graph, inputs: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shapes of a decoder's inputs for its first tokens, before which its caches are empty; else none."""
    decoder = Decoder.of(graph)
    if decoder is None or not decoder.caches:
        return {}
    shapes = decoder.shapes(decoder.batch or 1, decoder.length or ITEMS)
    return {} if shapes.keys() & inputs.keys() else shapes


def _misnamed(graph: ir.Graph, walk: Walk, binding: Binding) -> int:
    """Axes of outputs that have another size than their name has in the inputs: a Reshape made samples of positions."""
    wrong = 0
    for value in graph.outputs:
        type_ = walk.types.get(value)
        if value.shape is None or type_ is None or type_.static is None or len(type_.static) != len(value.shape):
            continue
        for dim, size in zip(value.shape, type_.static, strict=True):
            symbol = None if isinstance(dim, int) else symbol_of(dim)
            wrong += symbol is not None and binding.numbers.get(symbol, size) != size
    return wrong


def _choices(graph: ir.Graph, inputs: Mapping[str, Sequence[int]]) -> Iterator[Binding]:
    declared = declared_shapes(graph)
    given = given_numbers(graph, inputs)
    axes = free_axes(declared, given)
    kinds = {symbol: _kind(graph, declared, symbol) for symbol in (axis.symbol for axis in axes)}
    seen = set()
    for size in _LADDER:
        numbers = given | {axis.symbol: _number(axis, kinds[axis.symbol], size) for axis in axes}
        if (choice := tuple(numbers.items())) not in seen:
            seen.add(choice)
            yield Binding(numbers, bound_shapes(declared, numbers, inputs))


def _number(axis: Axis, kind: int, size: int | None) -> int:
    if axis.leads:
        return 1
    return kind if size is None else size


def _kind(graph: ir.Graph, declared: Mapping[str, tuple[int | str, ...]], symbol: str) -> int:
    """What an axis counts as first, by the first input that has it."""
    for value in graph.inputs:
        dims = declared.get(str(value.name), ())
        if symbol not in dims:
            continue
        if len(dims) >= 4:
            return PICTURE
        last = dims.index(symbol) == len(dims) - 1
        sound = len(dims) == 2 or (len(dims) == 3 and dims[1] == 1)
        return SOUND if last and sound and value.dtype is not None and value.dtype.is_floating_point() else ITEMS
    return ITEMS
