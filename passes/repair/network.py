"""A dense model made ready for repair: coupled, with a bias on every mixing layer, and who reads which group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.application import Application
from spa.analysis.cost import Cost, measure
from spa.analysis.coupling import Coupling, couple
from spa.analysis.group import Group, find_groups
from spa.notation.dims import Factor, leaves
from spa.notation.rule import names_of
from spa.operators.linearity import is_unseen, leaves_out
from spa.passes.layers.consumers import Layer, find_layers
from spa.passes.normalize.fold import Names
from spa.passes.repair.biases import add_biases
from spa.passes.repair.difference import comparable, may_be_logits
from spa.passes.repair.streaming import Batch, Weights, piece
from spa.shapes import Shapes, infer_shapes
from spa.shapes.sizes import Sizes, count_sizes


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer that reads a group.

    Attributes:
        units: (blocks, width) the unit that each element of a row belongs to; -1: none.
    """

    layer: Layer
    units: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model, what is known of it, and the weights that stand for its own.

    Attributes:
        readers: for each group (by name) the layers whose weight is summed over its units.
        others: for each group what sums over its units without a weight that could make up for them.
        new_biases: names of the biases that the model did not have.
        weights: stored tensors, by name, that have been changed; float64.
        erased: positions along axes of stored tensors that are zero for good.
        compared: what tells how far the outputs moved, see `difference.comparable`.
        logits: for each of these whether it may be logits.
        decided: values with an axis whose size the data decide.
        removable: leaves of which something may be removed.
        sizes: at which the cost is counted.
    """

    model: ir.Model
    shapes: Shapes
    coupling: Coupling
    groups: Sequence[Group]
    cost: Cost
    layers: Sequence[Layer]
    readers: Mapping[str, Sequence[Reader]]
    others: Mapping[str, Sequence[str]]
    new_biases: Sequence[str]
    weights: dict[str, np.ndarray]
    compared: Sequence[ir.Value]
    logits: Sequence[bool]
    decided: Set[ir.Value]
    removable: Set[Factor]
    sizes: Sizes
    erased: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)

    def array(self, value: ir.Value, weights: Weights | None = None) -> np.ndarray:
        """A stored tensor as it is now, float64."""
        known = self.weights if weights is None else weights
        if value.name in known:
            return known[str(value.name)]
        assert value.const_value is not None
        return np.asarray(value.const_value.numpy(), np.float64)

    def dense_matrix(self, layer: Layer) -> np.ndarray:
        """The layer's dense weight, (blocks, width, outputs)."""
        return layer.matrix(self.array(layer.weight, {}))

    def dense_bias(self, layer: Layer) -> np.ndarray:
        """The layer's dense bias, (blocks, outputs)."""
        return layer.bias_vector(None if layer.bias is None else self.array(layer.bias, {}))

    def put(self, weights: dict[str, np.ndarray], layer: Layer, matrix: np.ndarray, bias: np.ndarray) -> None:
        """Note a layer's new weight and bias."""
        weights[str(layer.weight.name)] = layer.weight_of(matrix)
        if layer.bias is not None:
            weights[str(layer.bias.name)] = layer.bias_of(bias, self.array(layer.bias, weights))
        for name in (str(value.name) for value in (layer.weight, layer.bias) if value is not None):
            for axis, positions in self.erased.get(name, ()):
                np.moveaxis(weights[name], axis, 0)[positions] = 0.0

    def holds(self, layer: Layer) -> bool:
        """Whether a layer's new weight and bias are numbers of the types that they are stored in."""
        for value in (layer.weight, layer.bias):
            if value is not None and value.const_value is not None:
                with np.errstate(over="ignore"):
                    cast = self.array(value).astype(value.const_value.dtype.numpy())
                if not np.all(np.isfinite(cast)):
                    return False
        return True

    def erase(self, weights: dict[str, np.ndarray], group: Group, units: np.ndarray) -> None:
        """Let what makes some units make zeros: for units that other nodes sum over than layers with a weight."""
        for value, axis, positions in _made(group, units):
            array = self.array(value, weights).copy()
            np.moveaxis(array, axis, 0)[positions] = 0.0
            weights[str(value.name)] = array

    def erase_for_good(self, group: Group, units: np.ndarray) -> None:
        """The same in the network's weights, now and whenever a layer gets new ones."""
        self.erase(self.weights, group, units)
        for value, axis, positions in _made(group, units):
            self.erased.setdefault(str(value.name), []).append((axis, positions))

    def in_order(self, groups: Iterable[Group]) -> list[Group]:
        """Groups in the order in which the graph comes to what changes when they are cut."""
        place = {node: number for number, node in enumerate(self.model.graph)}

        def first(group: Group) -> int:
            nodes = [reader.layer.node for reader in self.readers[group.name]]
            if self.others[group.name]:
                nodes += [node for part in group.slices if part.producer for node in part.value.consumers()]
            return min((place[node] for node in nodes if node in place), default=0)

        return sorted(groups, key=first)

    def session(
        self, outputs: Sequence[ir.Value], sample: Batch, weights: Weights, *, threads: int | None = None
    ) -> Any:
        """A session of the whole model that gives some values."""
        names = [str(value.name) for value in outputs]
        whole = piece(self.model, list(self.model.graph), sample, names, weights)
        return runtime.session(whole, optimize=True, threads=threads)


def _made(group: Group, units: np.ndarray) -> Iterator[tuple[ir.Value, int, np.ndarray]]:
    """Tensors that make some units, the axis, and where along it."""
    for part in group.slices:
        positions = np.flatnonzero(np.isin(part.unit_of, units))
        if part.producer and len(positions):
            yield part.value, part.axis, positions


def prepare(
    model: ir.Model,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    counted: Mapping[str, Sequence[int]] | None = None,
    closed: bool = False,
) -> Network:
    """Make a copy of a normalised model ready.

    Args:
        inputs: shapes to couple with, by input name.
        counted: shapes at which FLOPs are counted; `inputs` unless told.
        closed: no tensors may be added, so that layers without a bias do without.
    """
    model = model.clone()
    _name_results(model)
    new = [] if closed else add_biases(model, find_layers(model, couple(model, infer_shapes(model, inputs=inputs))))
    shapes = infer_shapes(model, inputs=inputs)
    coupling = couple(model, shapes)
    groups = find_groups(coupling)
    layers = find_layers(model, coupling, closed=closed)
    readers = {group.name: _readers(group, layers) for group in groups}
    others = {group.name: _others(group, coupling, readers[group.name]) for group in groups}
    decided = decided_sizes(model, shapes, coupling)
    removable = {leaf for group in groups for leaf in group.leaves}
    compared = comparable(model, shapes.dtypes, decided, _along(coupling, removable))
    logits = [may_be_logits(value, layers) for value in compared]
    sizes = count_sizes(model, shapes, inputs=inputs if counted is None else counted)
    return Network(
        model, shapes, coupling, groups, measure(coupling, sizes), layers, readers, others, new, {}, compared, logits,
        decided, removable, sizes,
    )  # fmt: skip


def _name_results(model: ir.Model) -> None:
    """Give the first result of every node a name: a recurrent node reads its own, which a graph may leave out."""
    names = Names(model)
    for node in model.graph:
        if node.outputs and not node.outputs[0].name:
            node.outputs[0].name = names.free(f"{node.name or node.op_type}/first")


def decided_sizes(model: ir.Model, shapes: Shapes, coupling: Coupling) -> Set[ir.Value]:
    """Values with an axis whose size the data decide (what NonZero finds), or whose size is not known.

    Two networks find other things, so that their rows do not belong together.
    """
    counted = {
        leaf for value, axis in shapes.counted if value in coupling.axes for leaf in leaves(coupling.axes[value][axis])
    }
    unknown = {value for node in model.graph for value in node.outputs if value not in coupling.axes}
    return unknown | _along(coupling, counted)


def _along(coupling: Coupling, wanted: Set[Factor]) -> set[ir.Value]:
    """Values with some of these leaves in an axis."""
    return {
        value for value, axes in coupling.axes.items() if any(leaf in wanted for dim in axes for leaf in leaves(dim))
    }


def _readers(group: Group, layers: Sequence[Layer]) -> list[Reader]:
    found = [Reader(layer, layer.unit_of(group)) for layer in layers]
    return [reader for reader in found if np.any(reader.units >= 0)]


def _others(group: Group, coupling: Coupling, readers: Sequence[Reader]) -> list[str]:
    """Nodes that sum over a group's units, other than its readers."""
    mine = set(group.leaves)
    known = {reader.layer.node for reader in readers}
    return [
        str(application.node.name or application.node.op_type)
        for application in coupling.applications
        if application.node not in known and mine & _summed(application)
    ]


def _summed(application: Application) -> set[Any]:
    if leaves_out(application.node):
        return set()
    seen = {
        name.name.split(".")[0]
        for position in range(len(application.node.inputs))
        if not is_unseen(application.node, position)
        for term in application.operand_axes(position)
        for name in names_of(term)
    }
    names = seen & application.rule.contracted - set(application.rule.frozen)
    return {leaf for name, dim in application.factors.items() if name.split(".")[0] in names for leaf in leaves(dim)}
