"""Inputs and outputs that a cut makes smaller: what a caller hands from call to call (`spa.analysis.caches`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks, keep_mask
from spa.analysis.unread import gone_with
from spa.passes.cut.forwarding import gone_branches

Changes = dict[str, dict[str, "list[int | str | None] | None"]]


@dataclass(frozen=True, slots=True)
class Boundary:
    """What a cut leaves of each input and output.

    Attributes:
        kept: of those that change, by name: which positions of each axis stay; None: all.
        gone: names of those that go with a residual branch.
    """

    kept: Mapping[str, tuple[np.ndarray | None, ...]] = field(default_factory=dict)
    gone: Set[str] = frozenset()

    @classmethod
    def of(cls, graph: ir.Graph, coupling: Coupling, masks: Masks) -> Boundary:
        """What masks leave of the inputs and outputs of a coupled graph."""
        ends = (value for value in (*graph.inputs, *graph.outputs) if not value.is_initializer())
        keeps = {
            str(value.name): tuple(keep_mask(dim.root, masks) for dim in coupling.axes.get(value, ())) for value in ends
        }
        branches = gone_branches(coupling, masks)
        edges = [edge for branch in branches for edge in branch.edges]
        gone = gone_with(graph, edges).ends if branches else frozenset[str]()
        kept = {name: axes for name, axes in keeps.items() if any(mask is not None for mask in axes)}
        return cls({name: axes for name, axes in kept.items() if name not in gone}, gone)

    def cut(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs or outputs of the dense model as the pruned one has them."""
        return {
            name: self._cut(array, self.kept[name]) if name in self.kept else array
            for name, array in arrays.items()
            if name not in self.gone
        }

    @staticmethod
    def _cut(array: Any, axes: Sequence[np.ndarray | None]) -> Any:
        for axis, mask in enumerate(axes):
            if mask is not None:
                array = np.compress(mask, array, axis=axis)
        return array

    def shape_of(self, value: ir.Value) -> ir.Shape | None:
        """The shape that the pruned model declares for an input or output of the dense one."""
        masks = self.kept.get(str(value.name))
        if masks is None or value.shape is None:
            return value.shape
        return resized(value.shape, [None if mask is None else int(mask.sum()) for mask in masks])

    def changes(self, graph: ir.Graph) -> Changes:
        """By name the shapes before and after, as JSON has them, None of what goes; in the order of the graph."""
        changes: Changes = {}
        for value in (*graph.inputs, *graph.outputs):
            if value.name in self.gone:
                shape = [] if value.shape is None else _plain(value.shape)
                changes[str(value.name)] = {"before": shape, "after": None}
            after = self.shape_of(value)
            if value.name in self.kept and value.shape is not None and after is not None:
                changes[str(value.name)] = {"before": _plain(value.shape), "after": _plain(after)}
        return changes


UNCHANGED = Boundary()


def resized(shape: ir.Shape, sizes: Sequence[int | None]) -> ir.Shape:
    """A shape with other numbers; a symbolic axis was bound to a number that means nothing outside."""
    pairs = zip(shape, sizes, strict=True)
    return ir.Shape([old if size is None else size if isinstance(old, int) else None for old, size in pairs])


def _plain(shape: ir.Shape) -> list[int | str | None]:
    return [size if isinstance(size, int) else size.value for size in shape]
