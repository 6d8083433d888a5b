"""The graph that the rest of the engine sees: the same function as the input's, written in the plainest way.

Called functions are inlined, everything constant is folded, shape arithmetic on static axes included (a scale computed
from a head axis must be a constant before that axis is cut), nodes that do nothing go, and each use of a small constant
has a copy of its own (exporters merge equal ones: zero biases, scales of all ones) while tied matrices stay tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
)

from spa.errors import ModelError
from spa.notation.operation import entry_of
from spa.passes.normalize.assignments import PlaceAssignments
from spa.passes.normalize.fold import LISTED_INITIALIZERS, FoldConstants, Names, constant, values_of
from spa.passes.normalize.loops import LiftInvariants
from spa.passes.normalize.sequences import UnrollSequences
from spa.shapes import in_order

_TIED_MINIMUM = 4096  # elements; an integer tensor below is a list of positions or sizes, not a table
_ROUNDS = 16  # of folding and removing; each but the last makes the graph smaller


def normalize(model: ir.Model) -> ir.Model:
    """A normalised copy of the model; weights that are not folded stay where they are (memory-mapped, shared).

    The copy computes the same, for every size of its symbolic axes, and has the same inputs, outputs, opset and IR
    versions, metadata and functions that no node calls. Initializers that are listed as inputs are weights, and stay
    listed unless they are folded. Normalising twice changes nothing more.

    Raises ModelError where nodes or functions wait for each other, or those of a subgraph are out of order.
    """
    try:
        copy = _copy(model)
    except RuntimeError as error:
        raise ModelError("the graph cannot be read: the nodes of a subgraph are out of order") from error
    listed = [str(value.name) for value in copy.graph.inputs]
    try:
        normal = _PASSES(copy).model
    except ir.passes.PassError as error:
        raise ModelError(f"the graph cannot be normalised: {error.__cause__ or error}") from error
    list_initializers(normal, listed)
    return normal


def _copy(model: ir.Model) -> ir.Model:
    """A copy that shares the weights, its nodes in topological order.

    Not by onnx_ir's TopologicalSortPass: it sorts in place, the caller's model, and only sorted graphs can be cloned.
    """
    graph = model.graph
    nodes = list(in_order(graph))
    if nodes == list(graph):
        return model.clone()
    ordered = ir.GraphView(
        graph.inputs,
        graph.outputs,
        nodes=nodes,
        initializers=list(graph.initializers.values()),
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    return ir.Model(
        ordered.clone(),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=[function.clone() for function in model.functions.values()],
        metadata_props=dict(model.metadata_props),
        device_configurations=model.device_configurations,
    )


def list_initializers(model: ir.Model, names: Sequence[str]) -> None:
    """Put initializers among the graph's inputs: those of the names given, in their order; in old IR versions all."""
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    wanted = [inputs.get(name) or graph.initializers.get(name) for name in names]
    if (model.ir_version or 0) <= LISTED_INITIALIZERS:
        wanted += graph.initializers.values()
    graph.inputs[:] = dict.fromkeys(value for value in wanted if value is not None)


class EliminateIdentities(ir.passes.InPlacePass):
    """Reads of an Identity become reads of what it copies.

    An Identity stays where it gives a graph output something that is not computed in that graph: an input, a weight, a
    value of an outer graph, or what is an output already. (onnx_ir's IdentityEliminationPass takes the last two away,
    and renames an output.)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        modified = False
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if entry_of(node).copies:
                modified |= self._eliminate(node)
        return ir.passes.PassResult(model, modified=modified)

    @staticmethod
    def _eliminate(node: ir.Node) -> bool:
        source, copy = node.inputs[0], node.outputs[0]
        if source is None or node.graph is None:
            return False
        if copy.is_graph_output():
            producer = source.producer()
            if producer is None or producer.graph is not node.graph or source.is_graph_output():
                return False
            name = copy.name
            copy.name = None
            source.name, source.shape, source.type = name, copy.shape or source.shape, copy.type or source.type
        ir.convenience.replace_all_uses_with(copy, source, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        return True


class CountAxesFromFront(ir.passes.InPlacePass):
    """The axes of a Transpose are counted from the front, as the standard wants; some exporters write negative ones."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        modified = False
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if permutes := entry_of(node).permutes:
                order = node.attributes.get_ints(permutes, ())
                if any(axis < 0 for axis in order):
                    node.attributes[permutes] = ir.AttrInt64s(permutes, [axis % len(order) for axis in order])
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


class RemoveUnusedNodes(ir.passes.InPlacePass):
    """Nodes that nothing reads go; those that stay keep their omitted last inputs.

    Runtimes tell ``Pad(x, pads, "")`` from ``Pad(x, pads)``: onnxruntime moves the second into the convolution behind
    it, whose kernel took 1.76 times as long.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        counts = {node: len(node.inputs) for node in nodes if node.inputs and node.inputs[-1] is None}
        result = RemoveUnusedNodesPass()(model)
        for node, count in counts.items():
            if node.graph is not None:
                node.resize_inputs(count)
        return result


class RemoveUnusedInitializers(ir.passes.InPlacePass):
    """Initializers that nothing reads go, in subgraphs too, where onnx_ir's RemoveUnusedNodesPass leaves them."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        modified = False
        for graph in model.graphs():
            for value in list(graph.initializers.values()):
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                    graph.initializers.pop(value.name or "")
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


class ForgetSubgraphs(ir.passes.InPlacePass):
    """Nodes in the subgraphs of removed nodes no longer count as readers of outer values."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        graphs = set(model.graphs())
        gone = [
            use
            for graph in graphs
            for value in values_of(graph)
            for use in value.uses()
            if use.node.graph not in graphs
        ]
        for node, position in gone:
            node.replace_input_with(position, None)
        return ir.passes.PassResult(model, modified=bool(gone))


class UnshareConstants(ir.passes.InPlacePass):
    """Each use of a constant has a copy of its own, but for matrices, which are shared on purpose."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        modified, names = False, Names(model)
        for graph in model.graphs():
            for value in list(graph.initializers.values()):
                if constant(value) is not None and not _is_tied(value):
                    modified |= self._unshare(graph, value, names)
        return ir.passes.PassResult(model, modified=modified)

    @staticmethod
    def _unshare(graph: ir.Graph, value: ir.Value, names: Names) -> bool:
        uses = list(value.uses())
        extra = uses if value.is_graph_output() else uses[1:]
        for node, position in extra:
            copy = ir.Value(
                name=names.fresh(value.name or "constant"),
                type=value.type,
                shape=value.shape,
                const_value=value.const_value,  # not written to: replacing it in one value leaves the others
                metadata_props=dict(value.metadata_props),
            )
            graph.register_initializer(copy)
            node.replace_input_with(position, copy)
        return bool(extra)


def _is_tied(value: ir.Value) -> bool:
    tensor = value.const_value
    assert tensor is not None
    if sum(dim > 1 for dim in tensor.shape.numpy()) < 2:
        return False
    index = tensor.dtype in (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL)
    return not index or tensor.size > _TIED_MINIMUM


_CLEANING = [
    FoldConstants(),
    UnrollSequences(),
    PlaceAssignments(),
    EliminateIdentities(),
    LiftInvariants(),
    RemoveUnusedNodes(),
    ForgetSubgraphs(),
    RemoveUnusedInitializers(),
]
_PASSES = ir.passes.Sequential(
    RemoveInitializersFromInputsPass(),
    InlinePass(),
    CountAxesFromFront(),
    ir.passes.PassManager(_CLEANING, steps=_ROUNDS, early_stop=True),
    UnshareConstants(),
)
