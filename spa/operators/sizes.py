"""What onnx's own inference functions do not say of sizes; entries of operators name these functions.

They take operands whose contents are known in full or not at all, and let some impossible operands pass. Here: dims
that follow from the known elements of a target, and contradictions that tell that a binding does not suit a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from spa.notation.partial import Dim, Dims, Partial, static


def elements_do_not_fit(node: Partial) -> bool:
    """Whether a reshaped tensor would have another number of elements."""
    source, result = node.static(0), static(node.result)
    return source is not None and result is not None and math.prod(source) != math.prod(result)


def index_is_out_of_range(node: Partial) -> bool:
    """Whether a known index lies beyond the axis that it picks from."""
    data, indices = node.static(0), node.elements(1)
    numbers = [index for index in indices or () if isinstance(index, int)]
    if not data or indices is None or not numbers or len(numbers) < len(indices):
        return False
    return bool(max(numbers) >= data[node.attribute("axis", 0)])


def batch_differs(node: Partial) -> bool:
    """Whether a recurrence has a state for another batch."""
    sequence, state = node.static(0), node.static(5)
    axis = 0 if node.attribute("layout", 0) else 1
    return sequence is not None and state is not None and sequence[axis] != state[axis]


def reflects_too_far(node: Partial) -> bool:
    """Whether an axis is padded with more of its own positions than it has."""
    source, pads = node.static(0), node.elements(1)
    if source is None or pads is None or len(pads) != 2 * len(source) or node.attribute("mode", b"") != b"reflect":
        return False
    return any(isinstance(pad, int) and pad >= size for pad, size in zip(pads, (*source, *source), strict=True))


def window_is_too_wide(node: Partial) -> bool:
    """Whether a window is wider than the padded image."""
    source, weight = node.static(0), node.static(1)
    window = node.attribute("kernel_shape", weight[2:] if weight else None)
    if source is None or window is None or node.attribute("auto_pad", b"NOTSET").startswith(b"SAME"):
        return False
    rank = len(window)
    pads, dilations = node.attribute("pads", [0] * 2 * rank), node.attribute("dilations", [1] * rank)
    return any(
        size + pads[axis] + pads[rank + axis] < dilations[axis] * (window[axis] - 1) + 1
        for axis, size in enumerate(source[2:])
    )


def reshaped(node: Partial) -> Dims | None:
    """What a target says, 0 and -1 worked out."""
    source, target = node.of(0), node.elements(1)
    if target is None:
        return None
    dims: list[Dim] = []
    for axis, size in enumerate(target):
        copied = size == 0 and not node.attribute("allowzero", 0)
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


def expanded(node: Partial) -> Dims | None:
    """The operand's dims broadcast against a target."""
    source, target = node.of(0), node.elements(1)
    if source is None or target is None:
        return None
    rank = max(len(source), len(target))
    pairs = zip((1,) * (rank - len(source)) + source, (1,) * (rank - len(target)) + tuple(target), strict=True)
    return tuple(_broadcast(left, right) for left, right in pairs)


def _broadcast(left: Dim, right: Dim) -> Dim:
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    return next((dim for dim in (left, right) if isinstance(dim, int)), None)


def listed_in(position: int) -> Callable[[Partial], Dims | None]:
    """What an operand lists."""

    def listed(node: Partial) -> Dims | None:
        target = node.elements(position)
        return None if target is None else tuple(target)

    return listed


def sliced(node: Partial) -> Dims | None:
    """The dims of a slice, as far as its bounds are known."""
    source, count = node.of(0), node.static(1)
    if source is None or not count:
        return None
    unknown: list[Dim] = [None] * count[0]
    starts, ends = node.elements(1) or unknown, node.elements(2) or unknown
    axes = node.elements(3) if node.of(3) is not None else list(range(count[0]))
    steps = node.elements(4) if node.of(4) is not None else [1] * count[0]
    dims = list(source)
    for axis, *bounds in zip(axes or unknown, starts, ends, steps or unknown, strict=True):
        if not isinstance(axis, int):
            return None
        dim, numbers = dims[axis], [bound for bound in bounds if isinstance(bound, int)]
        known = isinstance(dim, int) and len(numbers) == len(bounds)
        dims[axis] = len(range(*slice(*numbers).indices(dim))) if known and isinstance(dim, int) else None
    return tuple(dims)


def cropped(node: Partial) -> Dims | None:
    """A picture for each region: its channels, and the size that the last operand lists."""
    source, regions = node.of(0), node.of(1)
    if source is None or regions is None:
        return None
    return (regions[0], source[1], *(node.elements(3) or (None, None)))


def convolved(taps: slice) -> Callable[[Partial], Dims | None]:
    """A convolution of data whose channels stand last; `taps` are the axes of its weight that slide."""

    def places(node: Partial) -> Dims | None:
        source, weight = node.of(0), node.of(1)
        if source is None or weight is None:
            return None
        rank = len(source) - 2
        kernel: Sequence[Dim] = node.attribute("kernel_shape", weight[taps])
        strides, gaps = (node.attribute(name, [1] * rank) for name in ("strides", "dilations"))
        pads, same = node.attribute("pads", [0] * 2 * rank), node.attribute("auto_pad", b"").startswith(b"SAME")
        sizes: list[Dim] = []
        for size, tap, stride, gap, before, behind in zip(
            source[1:-1], kernel, strides, gaps, pads[:rank], pads[rank:], strict=True
        ):
            if not isinstance(size, int) or not isinstance(tap, int):
                sizes.append(size if (tap, stride, before, behind) == (1, 1, 0, 0) else None)
            else:
                reach = 1 if same else gap * (tap - 1) + 1
                sizes.append((size + (0 if same else before + behind) - reach) // stride + 1)
        return (source[0], *sizes, weight[0])

    return places


def multiplied(node: Partial) -> Dims | None:
    """A product of data and one matrix, neither of them transposed."""
    data, matrix = node.of(0), node.of(1)
    moved = any(node.attribute(f"trans{which}{side}", 0) for which in ("", "Batch") for side in "AB")
    return None if data is None or matrix is None or moved or len(matrix) != 2 else (*data[:-1], matrix[1])


def ranked(node: Partial) -> Dims | None:
    """The operand's dims, but for the axis that is ranked: as many as the second operand says."""
    source, count = node.of(0), node.elements(1)
    if source is None:
        return None
    dims = list(source)
    dims[node.attribute("axis", -1)] = count[0] if count else None
    return tuple(dims)


def same_as_operand(node: Partial) -> Dims | None:
    """The dims of the first operand."""
    return node.of(0)
