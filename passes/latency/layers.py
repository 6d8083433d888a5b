"""Match the nodes of an optimised graph to layers of the model: by their names, and by what runs before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import sub

import onnx_ir as ir

from spa.record import Unit


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A fused unit and what it was before the runtime fused it.

    Attributes:
        name: of the node in the optimised graph.
        operator: that it runs as; one that converts layouts (ReorderInput) has no nodes.
        nodes: names of the model's nodes that became it, in graph order.
        stored: names of the stored tensors that these read, in graph order.
        milliseconds: of one run of the model.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]
    stored: tuple[str, ...]
    milliseconds: float


def layer_times(graph: ir.Graph, units: Sequence[Unit], milliseconds: float) -> list[LayerTime]:
    """The times of a model by layer, in the order in which they run.

    Args:
        milliseconds: of the whole model, to which those of the units are brought.
    """
    nodes = list(graph)
    names = {str(node.name): node for node in nodes if node.name}
    names |= {str(value.name): node for node in nodes for value in node.outputs if value.name}
    anchors = {unit.name: _anchor(unit.name, names) for unit in units}
    taken = {node for node in anchors.values() if node is not None}
    place = {node: at for at, node in enumerate(nodes)}
    scale = milliseconds / max(sum(unit.milliseconds for unit in units), 1e-9)
    times, given = [], set[ir.Node]()
    for unit in units:
        anchor = anchors[unit.name]
        members = [] if anchor is None or anchor in given else sorted(_behind(anchor, taken), key=place.__getitem__)
        members = [node for node in members if node not in given]
        given.update(members)
        stored = dict.fromkeys(str(v.name) for n in members for v in n.inputs if v is not None and v.is_initializer())
        times.append(
            LayerTime(
                unit.name, unit.operator, tuple(str(node.name) for node in members), tuple(stored),
                scale * unit.milliseconds,
            )
        )  # fmt: skip
    return times


def _anchor(name: str, names: Mapping[str, ir.Node]) -> ir.Node | None:
    """The node that an optimised one is called after, or whose result it is called after."""
    short = sub(r"(#\d+|_token_\d+|_nchwc)+$", "", name)
    if short in names:
        return names[short]
    within = [known for known in names if len(known) > _SHORT and known in short]
    return names[max(within, key=len)] if within else None


_SHORT = 3
"""Names up to this long are found in others by chance."""


def _behind(anchor: ir.Node, taken: set[ir.Node]) -> Iterator[ir.Node]:
    """A node and those before it that no other unit is called after."""
    seen = {anchor}
    waiting = [anchor]
    while waiting:
        node = waiting.pop()
        yield node
        for value in node.inputs:
            before = value.producer() if value is not None else None
            if before is not None and before not in taken and before not in seen:
                seen.add(before)
                waiting.append(before)
