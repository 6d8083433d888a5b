"""Find the inputs that hold keys and values of earlier calls, so that their heads may go like any others.

    past (b, 4 heads, p, 16) -> Concat -> present (b, 4 heads, p + t, 16)

A caller takes the keys and values of all tokens so far from one call and gives them to the next, with as many heads as
the model has. So these axes bind nobody, unlike those of other inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import onnx_ir as ir

from spa.notation.dims import ONE, Factor, leaves
from spa.notation.operation import Moves, entry_of

HEADS = frozenset({"heads", "kv_heads"})

Axes = Mapping[ir.Value, Sequence[Factor]]


def cached_heads(graph: ir.Graph, axes: Axes, kinds: Mapping[Factor, Set[str]]) -> dict[Factor, list[ir.Value]]:
    """The heads of which inputs and outputs hold caches and nothing else, with these inputs and outputs.

    Args:
        axes: a dim for each axis of each tensor.
        kinds: what leaves are called.
    """
    ends = [value for value in (*graph.inputs, *graph.outputs) if not value.is_initializer()]
    held: dict[Factor, list[tuple[ir.Value, int]]] = {}
    for value in ends:
        for axis, dim in enumerate(axes.get(value, ())):
            for leaf in leaves(dim):
                if leaf is not ONE and HEADS & kinds.get(leaf, set()):
                    held.setdefault(leaf, []).append((value, axis))
    if not held:
        return {}
    pairs = [(value, end) for value in graph.inputs if not value.is_initializer() for end in continued(value)]
    heads = {}
    for leaf, places in held.items():
        partners = [pair for pair in pairs if _alike(axes, pair, dict(places))]
        if {value for value, _ in places} <= {value for pair in partners for value in pair}:
            heads[leaf] = list(dict.fromkeys(value for value, _ in places))
    return heads


def _alike(axes: Axes, pair: tuple[ir.Value, ir.Value], places: Mapping[ir.Value, int]) -> bool:
    """Whether the heads stand in an input and in the output that continues it as the same axis of the same layout."""
    past, present = (axes.get(value, ()) for value in pair)
    if len(past) != len(present) or any(value not in places for value in pair):
        return False
    axis, other = (places[value] for value in pair)
    return axis == other and past[axis].root is present[axis].root


def continued(value: ir.Value) -> Iterator[ir.Value]:
    """The outputs of the graph that hold what an input does, and more."""
    seen, waiting = {value}, [value]
    while waiting:
        holder = waiting.pop()
        if holder.is_graph_output():
            yield holder
        for node, position in holder.uses():
            for result in _holding(node, position):
                if result not in seen:
                    seen.add(result)
                    waiting.append(result)


def caches_behind(graph: ir.Graph, feeds: Mapping[str, np.ndarray]) -> set[str]:
    """The outputs that hold what the next call is given: they continue inputs that were fed without elements."""
    empty = [value for value in graph.inputs if value.name in feeds and not feeds[str(value.name)].size]
    return {str(end.name) for value in empty for end in continued(value)}


def _holding(node: ir.Node, position: int) -> list[ir.Value]:
    """The results of a node that hold the elements of an operand."""
    entry = entry_of(node)
    if entry.moves is Moves.ALL or (entry.moves is Moves.FIRST and position == 0):
        return list(node.outputs)
    return [
        node.outputs[result]
        for operand, result in entry.continues
        if operand == position < len(node.inputs) and result < len(node.outputs)
    ]
