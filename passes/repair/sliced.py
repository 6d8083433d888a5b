"""The network with some units really cut out, beside the dense one that it is compared with node by node.

Units that layers alone sum over can be taken out by zeros in the weights that read them. Where a norm, a product of two
computed values, a loop or a quantised weight sums over them, zeros are not what is left when they are gone: there the
network is sliced, and what is read of it is put back to the dense shape, zeros where units were. Experts with weights
of their own go by scores of minus infinity, which computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir

from spa.analysis.couple import couple
from spa.analysis.group import Masks, find_groups
from spa.analysis.plan import Plan
from spa.analysis.reading import reads
from spa.notation.dims import Factor, Kind
from spa.notation.positions import keep_mask
from spa.passes.cut.masking import bar
from spa.passes.cut.slicing import slice_model
from spa.passes.repair.network import Network
from spa.shapes import infer_shapes

Keeps = Sequence["np.ndarray | None"]
"""For each axis of a tensor (size,) what stays; None: all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sliced:
    """A smaller model whose values have the names of the dense one's.

    Attributes:
        twins: for each node of the dense model the node that stands for it.
        inserted: nodes that compute sizes and stand for none.
        changed: nodes of the dense model whose twins compute something else.
        masks: what stays of each leaf that is cut, of the dense network.
    """

    network: Network
    model: ir.Model
    twins: Mapping[ir.Node, ir.Node]
    inserted: Set[ir.Node]
    changed: Set[ir.Node]
    masks: Masks
    _keeps: dict[ir.Value, Keeps | None] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, units: Mapping[str, np.ndarray]) -> Sliced:
        """The network without some units of some groups (by name)."""
        plan = Plan.of(network.groups, {name: gone.tolist() for name, gone in units.items()})
        model = network.model.clone()
        twins = dict(zip(network.model.graph, list(model.graph), strict=True))
        shapes = infer_shapes(model, inputs=network.inputs)
        coupling = couple(model, shapes)
        masks = plan.masks(find_groups(coupling))
        apart = {leaf for choice in coupling.choices for leaf in choice}
        slice_model(model, coupling, shapes, {leaf: mask for leaf, mask in masks.items() if leaf not in apart})
        bar(model, coupling, {leaf: mask for leaf, mask in masks.items() if leaf in apart})
        inserted = set(model.graph) - set(twins.values())
        changed = {node for node, twin in twins.items() if _differs(node, twin)}
        whole = {leaf for choice in network.coupling.choices for leaf in choice}
        cut = {leaf: mask for leaf, mask in plan.masks(network.groups).items() if leaf not in whole}
        return cls(network, model, twins, inserted, changed, cut)

    def nodes(self, dense: Sequence[ir.Node]) -> list[ir.Node]:
        """The nodes that stand for some of the dense model, in order, with those that compute sizes for them."""
        wanted = {self.twins[node] for node in dense}
        waiting = list(wanted)
        while waiting:
            for value in reads(waiting.pop()):
                producer = value.producer()
                if producer is not None and producer in self.inserted and producer not in wanted:
                    wanted.add(producer)
                    waiting.append(producer)
        return [node for node in self.model.graph if node in wanted]

    def narrow(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Stored tensors, by name, without what is cut."""
        narrowed = {}
        for name, array in weights.items():
            for axis, keep in enumerate(self.keeps(self.network.model.graph.initializers[name], array.shape) or ()):
                if keep is not None:
                    array = np.compress(keep, array, axis=axis)
            narrowed[name] = array
        return narrowed

    def widen(self, value: ir.Value, array: np.ndarray) -> np.ndarray:
        """A value with zeros where units were; `value` is the dense model's."""
        for axis, keep in enumerate(self.keeps(value, array.shape) or ()):
            if keep is not None:
                wide = np.zeros((*array.shape[:axis], len(keep), *array.shape[axis + 1 :]), array.dtype)
                wide[(slice(None),) * axis + (keep,)] = array
                array = wide
        return array

    def narrowed(self, value: ir.Value, axis: int, shape: Sequence[int]) -> np.ndarray | None:
        """Which positions of an axis of a value are there; None: all."""
        keeps = self.keeps(value, shape)
        return None if keeps is None else keeps[axis]

    def keeps(self, value: ir.Value, shape: Sequence[int]) -> Keeps | None:
        """What stays along each axis of a value; None: all of it. An axis of several samples may be of any length."""
        if value not in self._keeps:
            axes = self.network.coupling.axes.get(value, ())
            keeps = [keep_mask(dim.root, self.masks) for dim in axes]
            self._keeps[value] = keeps if any(keep is not None for keep in keeps) else None
        known = self._keeps[value]
        if known is None:
            return None
        axes = self.network.coupling.axes[value]
        return [
            keep if keep is None else _as_long(keep, dim, n) for keep, dim, n in zip(known, axes, shape, strict=True)
        ]


def _as_long(keep: np.ndarray, dim: Factor, size: int) -> np.ndarray:
    """The mask of an axis that has `size` positions, of all or of those that stay, where its outermost part is open."""
    if size in (len(keep), int(keep.sum())):
        return keep
    root = dim.root
    if root.kind is Kind.PRODUCT:
        inside = keep[: prod(part.size for part in root.parts[1:])]
        if len(inside) and np.array_equal(np.resize(inside, len(keep)), keep) and inside.any():
            return np.tile(inside, size // int(inside.sum()))
    return keep


def _differs(node: ir.Node, twin: ir.Node) -> bool:
    """Whether a node of the smaller model computes something else than the dense one from what it reads."""
    for dense_value, cut_value in zip(reads(node), reads(twin), strict=False):
        if dense_value.name != cut_value.name:
            return True
        dense, cut = dense_value.const_value, cut_value.const_value
        if dense is not None and cut is not None and dense is not cut and dense.shape != cut.shape:
            return True
    return ir.serde.serialize_node(node) != ir.serde.serialize_node(twin)
