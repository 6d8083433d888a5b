"""A graph cut into stages behind chosen values, so that each is there before any node that reads it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from spa.analysis.reading import reads


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
    found: list[list[ir.Value]] = [[] for _ in range(last + 1)]
    for value in stage_of:
        if value in wanted:
            found[stage_of[value]].append(value)
    return Stages(model, [nodes.get(stage, []) for stage in range(last + 1)], found, last_use, outputs)
