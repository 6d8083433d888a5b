"""A dense model made ready for repair: coupled, with a bias on every mixing layer, and who reads which group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.cost import MEASURES, Cost, measure
from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group, find_groups
from spa.analysis.reading import reads
from spa.notation.dims import ONE, Factor, leaves
from spa.passes.layers.consumers import Layer
from spa.passes.layers.finding import find_layers
from spa.passes.normalize.fold import Names
from spa.passes.repair.biases import add_biases
from spa.passes.repair.difference import comparable, may_be_logits
from spa.passes.repair.gates import add_gates
from spa.passes.repair.kinds import column_axes
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
    """A dense model, and what is known of it.

    Attributes:
        readers: for each group (by name) the layers whose weight is summed over its units.
        others: for each group what sums over its units without a weight that could make up for them.
        uses: for each layer all that have its weight, in one form, and a bias each; none where that cannot be said.
        new_biases: names of the biases that the model did not have.
        gates: names of the gates of residual branches; none where branches do not take part.
        compared: what tells how far the outputs moved, see `difference.comparable`.
        logits: for each of these whether it may be logits.
        columns: and the axes along which its columns lie, see `kinds.column_axes`.
        decided: values with an axis whose size the data decide.
        removable: leaves of which something may go.
        sizes: at which the cost is counted.
        before: the cost of what the model came with, by measure.
        inputs, counted, closed: what it was analysed with, as `prepare` takes them.
    """

    model: ir.Model
    shapes: Shapes
    coupling: Coupling
    groups: Sequence[Group]
    cost: Cost
    layers: Sequence[Layer]
    readers: Mapping[str, Sequence[Reader]]
    others: Mapping[str, Sequence[str]]
    uses: Mapping[Layer, Sequence[Layer]]
    new_biases: Sequence[str]
    gates: Sequence[str]
    compared: Sequence[ir.Value]
    logits: Sequence[bool]
    columns: Sequence[frozenset[int]]
    decided: Set[ir.Value]
    removable: Set[Factor]
    sizes: Sizes
    before: Mapping[str, float]
    inputs: Mapping[str, Sequence[int]] | None = None
    counted: Mapping[str, Sequence[int]] | None = None
    closed: bool = False

    def array(self, value: ir.Value) -> np.ndarray:
        """A stored tensor of the dense model, float64."""
        assert value.const_value is not None
        return np.asarray(value.const_value.numpy(), np.float64)

    def dense_matrix(self, layer: Layer) -> np.ndarray:
        """The layer's dense weight, (blocks, width, outputs)."""
        return layer.matrix(self.array(layer.weight))

    def dense_bias(self, layer: Layer) -> np.ndarray:
        """The layer's dense bias, (blocks, outputs)."""
        return layer.bias_vector(None if layer.bias is None else self.array(layer.bias))

    def in_order(self, groups: Iterable[Group]) -> list[Group]:
        """Groups in the order in which the graph comes to what changes when they are cut."""
        place = {node: number for number, node in enumerate(self.model.graph)}

        def first(group: Group) -> int:
            if group.branch is not None:
                return place[group.branch.edge[0]]
            nodes = [reader.layer.node for reader in self.readers[group.name]]
            if self.others[group.name]:
                nodes += [node for part in group.slices if part.producer for node in part.value.consumers()]
            return min((place[node] for node in nodes if node in place), default=0)

        return sorted(groups, key=first)

    def only_layers_read(self, group: Group) -> bool:
        """Whether nothing but layers with a weight sums over a group, so that its units can be read as zeros."""
        return bool(self.readers[group.name]) and not self.others[group.name] and group.off is None


def prepare(
    model: ir.Model,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    counted: Mapping[str, Sequence[int]] | None = None,
    closed: bool = False,
    gated: bool = False,
) -> Network:
    """Make a copy of a normalised model ready.

    Args:
        inputs: shapes to couple with, by input name.
        counted: shapes at which FLOPs are counted; `inputs` unless told.
        closed: no tensors may be added, so that layers without a bias do without.
        gated: residual branches get gates.
    """
    model = model.clone()
    _name_results(model)
    shapes = infer_shapes(model, inputs=inputs)
    coupling = couple(model, shapes)
    came_with = measure(coupling, count_sizes(model, shapes, inputs=inputs if counted is None else counted))
    new = [] if closed else add_biases(model, _may_change(find_layers(model, coupling), coupling))
    gates = add_gates(model, coupling.branches, shapes.dtypes) if gated else []
    before = {name: came_with.before(name) for name in MEASURES}
    known = None if new or gates else (shapes, coupling)
    return analysed(
        model, known, inputs=inputs, counted=counted, closed=closed, new_biases=new, gates=gates, before=before
    )


def analysed(
    model: ir.Model,
    known: tuple[Shapes, Coupling] | None = None,
    *,
    inputs: Mapping[str, Sequence[int]] | None,
    counted: Mapping[str, Sequence[int]] | None,
    closed: bool,
    new_biases: Sequence[str],
    gates: Sequence[str],
    before: Mapping[str, float],
) -> Network:
    """The network of a model that is ready: as it was made so, or read again elsewhere.

    Args:
        known: its shapes and coupling, if somebody has them.
        new_biases, gates, before: as `Network` has them; inputs, counted, closed: as `prepare`.
    """
    shapes = infer_shapes(model, inputs=inputs) if known is None else known[0]
    coupling = couple(model, shapes) if known is None else known[1]
    groups = find_groups(coupling)
    layers = find_layers(model, coupling, closed=closed)
    readers = {group.name: _readers(group, layers) for group in groups}
    others = {group.name: _others(group, coupling, readers[group.name]) for group in groups}
    decided = decided_sizes(model, shapes, coupling)
    removable = {leaf for group in groups for leaf in group.leaves}
    compared = comparable(model, coupling, shapes.dtypes, decided, _along(coupling, removable))
    logits = [may_be_logits(value, layers) for value in compared]
    columns = list(map(column_axes(coupling), compared))
    sizes = count_sizes(model, shapes, inputs=inputs if counted is None else counted)
    return Network(
        model, shapes, coupling, groups, measure(coupling, sizes), layers, readers, others, _uses(layers),
        new_biases, gates, compared, logits, columns, decided, removable, sizes, before, inputs, counted, closed,
    )  # fmt: skip


def _may_change(layers: Sequence[Layer], coupling: Coupling) -> list[Layer]:
    """The layers that read something which a cut changes: made with stored tensors that have an axis to cut."""
    changes: set[ir.Value] = set()
    for application in coupling.applications:
        node = application.node
        stored = (value for value in reads(node) if value in coupling.weights)
        cut = any(_has_free_axis(value, coupling) for value in stored)
        if cut or changes.intersection(reads(node)):
            changes.update(node.outputs)
    return [layer for layer in layers if layer.shared or layer.data in changes]


def _has_free_axis(value: ir.Value, coupling: Coupling) -> bool:
    """Whether some axis of a tensor has a factor that may go."""
    factors = (leaf for dim in coupling.axes.get(value, ()) for leaf in leaves(dim))
    return any(leaf is not ONE and leaf not in coupling.frozen for leaf in factors)


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


def _uses(layers: Sequence[Layer]) -> dict[Layer, Sequence[Layer]]:
    """The layers that share a weight: it is refitted for all of them at once."""
    of: dict[ir.Value, list[Layer]] = {}
    for layer in layers:
        of.setdefault(layer.weight, []).append(layer)
    uses: dict[Layer, Sequence[Layer]] = {}
    for weight, mine in of.items():
        whole = len(weight.uses()) == len(mine) and all(layer.bias is not None for layer in mine)
        alike = len(mine) == 1 or (whole and len({_form(layer) for layer in mine}) == 1)
        uses.update(dict.fromkeys(mine, mine if alike and (whole or not mine[0].shared) else ()))
    return uses


def _form(layer: Layer) -> tuple[object, ...]:
    """What makes two uses of a weight the same matrix: how it is laid out, and by what it is multiplied."""
    assert layer.weight.const_value is not None
    numbers = np.arange(layer.weight.const_value.size).reshape(layer.weight.const_value.shape.numpy())
    return (
        layer.mixing.product.scale,
        layer.mixing.steps,
        layer.taps,
        *layer.matrix(numbers).shape,
        layer.matrix(numbers).tobytes(),
    )


def _readers(group: Group, layers: Sequence[Layer]) -> list[Reader]:
    readers = [Reader(layer, layer.unit_of(group)) for layer in layers]
    return [reader for reader in readers if np.any(reader.units >= 0)]


def _others(group: Group, coupling: Coupling, readers: Sequence[Reader]) -> list[str]:
    """Nodes that sum over a group's units, other than where readers do."""
    mine = set(group.leaves)
    refitted = {(r.layer.node, at) for r in readers for at in (r.layer.mixing.data, r.layer.mixing.weight)}
    return [
        str(application.node.name or application.node.op_type)
        for application in coupling.applications
        if any(
            (application.node, summed.operand) not in refitted
            and any(leaf in mine for name in summed.names for leaf in leaves(application.factors[name]))
            for summed in application.sums()
        )
    ]
