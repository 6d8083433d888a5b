"""A graph cut into stages behind chosen values, so that each is there before any node that reads it runs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from spa.analysis.reading import reads
from spa.passes.repair.memory import held_nbytes


@dataclass(frozen=True, slots=True)
class Stages:
    """A graph cut behind targets.

    Attributes:
        nodes: of each stage, in graph order.
        targets: for each stage the targets that are there once it has run; those that are graph inputs come first.
        last_use: the last stage that reads a value.
        outputs: what is there in the end.
    """

    model: ir.Model
    nodes: Sequence[Sequence[ir.Node]]
    targets: Sequence[Sequence[ir.Value]]
    last_use: Mapping[ir.Value, int]
    outputs: Sequence[ir.Value]

    def __len__(self) -> int:
        return len(self.nodes)

    def first_to_differ(self, differs: Callable[[ir.Node], bool]) -> int:
        """The first stage with a node that differs."""
        return next((stage for stage, members in enumerate(self.nodes) if any(map(differs, members))), len(self))

    def behind(self, done: int) -> Stages:
        """All that comes behind some stages, as one."""
        nodes = [node for members in self.nodes[done:] for node in members]
        return Stages(self.model, [nodes], [[]], dict.fromkeys(self.outputs, 1), self.outputs)


def cut(model: ir.Model, targets: Iterable[ir.Value], outputs: Sequence[ir.Value] | None = None) -> Stages:
    """Cut a graph so that each target is there before any node that reads it runs.

    A node runs in the first stage in which it can, so the nodes that read one target, and targets that do not depend on
    each other, share a stage. What is made of stored tensors alone runs with its first reader: until then they may be
    replaced.

    Args:
        outputs: values that are wanted in the end; by default the graph's outputs.
    """
    wanted, outputs = set(targets), list(model.graph.outputs) if outputs is None else outputs
    stage_of: dict[ir.Value, int] = {}
    level: dict[ir.Value, int] = {}  # the first stage in which a value can be read
    for value in model.graph.inputs:
        stage_of[value], level[value] = 0, int(value in wanted)
    at: dict[ir.Node, int] = {}
    for node in model.graph:
        at[node] = max((level.get(value, 0) for value in reads(node)), default=0)
        if any(value in level for value in reads(node)):
            level.update((value, at[node] + int(value in wanted)) for value in node.outputs)
    first: dict[ir.Value, int] = {}
    for node in reversed(at):
        if not any(value in level for value in reads(node)):
            at[node] = min((first[value] for value in node.outputs if value in first), default=0)
        for value in reads(node):
            first[value] = min(at[node], first.get(value, at[node]))
    nodes: dict[int, list[ir.Node]] = {0: []}
    for node, stage in at.items():
        nodes.setdefault(stage, []).append(node)
        stage_of.update((value, stage) for value in node.outputs)
    last = max(nodes)
    last_use = {value: stage for value, stage in stage_of.items() if value in wanted}
    for stage, members in sorted(nodes.items()):
        for node in members:
            last_use.update((value, stage) for value in reads(node) if value in stage_of)
    last_use.update(dict.fromkeys(outputs, last + 1))
    ready: list[list[ir.Value]] = [[] for _ in range(last + 1)]
    for value in stage_of:
        if value in wanted:
            ready[stage_of[value]].append(value)
    return Stages(model, [nodes.get(stage, []) for stage in range(last + 1)], ready, last_use, outputs)


def parted(nodes: Sequence[ir.Node], model: ir.Model, weights_nbytes: int | None) -> list[list[ir.Node]]:
    """Nodes in graph order, in parts whose stored tensors take so much in a session; None: one part.

    What is made of stored tensors alone is in each part that reads it. A node with more has a part of its own.
    """
    if weights_nbytes is None or weights_nbytes >= _held(nodes, model, set()):
        return [list(nodes)]
    place = {node: number for number, node in enumerate(nodes)}
    of_stored: set[ir.Node] = set()
    for node in nodes:
        read = list(reads(node))
        if read and all(value.name in model.graph.initializers or value.producer() in of_stored for value in read):
            of_stored.add(node)
    parts: list[dict[ir.Node, None]] = [{}]
    there: set[str] = set()
    nbytes = 0
    for node in [node for node in nodes if node not in of_stored]:
        needed = _with_producers(node, of_stored)
        more = _held(needed, model, there)
        if parts[-1] and more and nbytes + more > weights_nbytes:
            parts.append({})
            there, nbytes = set(), 0
            more = _held(needed, model, there)
        nbytes += more
        there.update(str(value.name) for each in needed for value in reads(each))
        parts[-1].update(dict.fromkeys(needed))
    parts[-1].update(dict.fromkeys(node for node in of_stored if not any(node in part for part in parts)))
    return [sorted(part, key=place.__getitem__) for part in parts]


def _with_producers(node: ir.Node, of_stored: Container[ir.Node]) -> list[ir.Node]:
    """A node, and the nodes of some before it."""
    nodes, waiting = {node: None}, [node]
    while waiting:
        producers = (value.producer() for value in reads(waiting.pop()))
        new = [made for made in producers if made is not None and made in of_stored and made not in nodes]
        nodes.update(dict.fromkeys(new))
        waiting += new
    return list(nodes)


def _held(nodes: Iterable[ir.Node], model: ir.Model, without: Container[str]) -> int:
    """Bytes of the stored tensors that nodes read, in a session, but for some by name."""
    stored = model.graph.initializers
    names = {str(value.name) for node in nodes for value in reads(node)}
    tensors = (stored[name].const_value for name in names if name in stored and name not in without)
    return sum(held_nbytes(tensor) for tensor in tensors if tensor is not None)
