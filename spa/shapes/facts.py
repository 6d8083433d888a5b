"""What onnx's own inference functions do not say.

They take operands whose contents are known in full or not at all, and let some impossible operands pass. Here: dims
that follow from the known elements of a target, and contradictions that tell that a binding does not suit a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from spa.shapes.content import Content
from spa.shapes.types import Call, Dim, Dims, Type

Types = Sequence[Type | None]  # of a call's operands, None: omitted
Contents = Sequence[Content | None]  # None: omitted, or not known


def contradicts(call: Call, types: Types, contents: Contents, result: Type) -> bool:
    """Whether no operands of these types and contents can meet in this node."""
    check = _CONTRADICTIONS.get(call.op_type) if call.standard else None
    return check is not None and check(call, types, contents, result)


def complete(call: Call, types: Types, contents: Contents, result: Type) -> Type:
    """The first result's type with the dims that follow from known elements."""
    rule = _COMPLETIONS.get(call.op_type) if call.standard and result.static is None else None
    dims = rule(call, types, contents) if rule else None
    return result if dims is None else result._replace(dims=dims)


def _static(types: Types, position: int) -> tuple[int, ...] | None:
    type_ = types[position] if position < len(types) else None
    return type_.static if type_ else None


def _dims(types: Types, position: int) -> Dims | None:
    type_ = types[position] if position < len(types) else None
    return type_.dims if type_ else None


def _elements(contents: Contents, position: int) -> list[Dim] | None:
    content = contents[position] if position < len(contents) else None
    return content.elements() if content else None


def _elements_do_not_fit(_call: Call, types: Types, _contents: Contents, result: Type) -> bool:
    source = _static(types, 0)
    return source is not None and result.static is not None and math.prod(source) != math.prod(result.static)


def _index_is_out_of_range(call: Call, types: Types, contents: Contents, _result: Type) -> bool:
    data, indices = _static(types, 0), contents[1]
    if not data or indices is None or not indices.complete or not indices.array.size:
        return False
    return bool(indices.array.max() >= data[call.attribute("axis", 0)])


def _batch_differs(call: Call, types: Types, _contents: Contents, _result: Type) -> bool:
    sequence, state = _static(types, 0), _static(types, 5)
    axis = 0 if call.attribute("layout", 0) else 1
    return sequence is not None and state is not None and sequence[axis] != state[axis]


def _reflects_too_far(call: Call, types: Types, contents: Contents, _result: Type) -> bool:
    source, pads = _static(types, 0), _elements(contents, 1)
    if source is None or pads is None or len(pads) != 2 * len(source) or call.attribute("mode", b"") != b"reflect":
        return False
    return any(isinstance(pad, int) and pad >= size for pad, size in zip(pads, (*source, *source), strict=True))


def _window_is_too_wide(call: Call, types: Types, _contents: Contents, _result: Type) -> bool:
    source, weight = _static(types, 0), _static(types, 1)
    window = call.attribute("kernel_shape", weight[2:] if weight else None)
    if source is None or window is None or call.attribute("auto_pad", b"NOTSET").startswith(b"SAME"):
        return False
    rank = len(window)
    pads, dilations = call.attribute("pads", [0] * 2 * rank), call.attribute("dilations", [1] * rank)
    return any(
        size + pads[axis] + pads[rank + axis] < dilations[axis] * (window[axis] - 1) + 1
        for axis, size in enumerate(source[2:])
    )


_CONTRADICTIONS: dict[str, Callable[[Call, Types, Contents, Type], bool]] = {
    "AveragePool": _window_is_too_wide,
    "Conv": _window_is_too_wide,
    "GRU": _batch_differs,
    "Gather": _index_is_out_of_range,
    "LSTM": _batch_differs,
    "LpPool": _window_is_too_wide,
    "MaxPool": _window_is_too_wide,
    "Pad": _reflects_too_far,
    "RNN": _batch_differs,
    "Reshape": _elements_do_not_fit,
}


def _reshape(call: Call, types: Types, contents: Contents) -> Dims | None:
    source, target = _dims(types, 0), _elements(contents, 1)
    if target is None:
        return None
    dims: list[Dim] = []
    for axis, size in enumerate(target):
        copied = size == 0 and not call.attribute("allowzero", 0)
        dims.append(source[axis] if copied and source and axis < len(source) else None if size in (0, -1) else size)
    if source is not None and None not in source and dims.count(None) == 1:
        dims[dims.index(None)] = _quotient(source, [dim for dim in dims if dim is not None])
    return tuple(dims)


def _quotient(source: Sequence[Dim], others: Sequence[int | str]) -> Dim:
    """The axis that is left of the source's elements when the others are taken out."""
    total, rest = (math.prod(dim for dim in dims if isinstance(dim, int)) for dims in (source, others))
    left = [dim for dim in source if isinstance(dim, str)]
    for dim in others:
        if isinstance(dim, str):
            if dim not in left:
                return None
            left.remove(dim)
    if not rest or total % rest:
        return None
    if not left:
        return total // rest
    return left[0] if len(left) == 1 and total == rest else None


def _expand(_call: Call, types: Types, contents: Contents) -> Dims | None:
    source, target = _dims(types, 0), _elements(contents, 1)
    if source is None or target is None:
        return None
    rank = max(len(source), len(target))
    pairs = zip((1,) * (rank - len(source)) + source, [1] * (rank - len(target)) + target, strict=True)
    return tuple(_broadcast(one, two) for one, two in pairs)


def _broadcast(one: Dim, two: Dim) -> Dim:
    if one == two or two == 1:
        return one
    if one == 1:
        return two
    return next((dim for dim in (one, two) if isinstance(dim, int)), None)


def _constant_of_shape(_call: Call, _types: Types, contents: Contents) -> Dims | None:
    target = _elements(contents, 0)
    return None if target is None else tuple(target)


def _slice(_call: Call, types: Types, contents: Contents) -> Dims | None:
    source, count = _dims(types, 0), _static(types, 1)
    if source is None or not count:
        return None
    unknown: list[Dim] = [None] * count[0]
    starts, ends = _elements(contents, 1) or unknown, _elements(contents, 2) or unknown
    axes = _elements(contents, 3) if len(types) > 3 and types[3] else list(range(count[0]))
    steps = _elements(contents, 4) if len(types) > 4 and types[4] else [1] * count[0]
    dims = list(source)
    for axis, *bounds in zip(axes or unknown, starts, ends, steps or unknown, strict=True):
        if not isinstance(axis, int):
            return None
        dim, numbers = dims[axis], [bound for bound in bounds if isinstance(bound, int)]
        known = isinstance(dim, int) and len(numbers) == len(bounds)
        dims[axis] = len(range(*slice(*numbers).indices(dim))) if known and isinstance(dim, int) else None
    return tuple(dims)


_COMPLETIONS: dict[str, Callable[[Call, Types, Contents], Dims | None]] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "GroupNormalization": lambda _call, types, _contents: _dims(types, 0),
    "Reshape": _reshape,
    "Slice": _slice,
}
