"""Folding: what depends neither on the graph's inputs nor on the sizes of symbolic axes becomes an initializer."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
import onnx_ir as ir

from spa.notation.bodies import Runs
from spa.notation.operation import entry_of
from spa.shapes import Shapes, infer_static
from spa.shapes.content import SMALL, Content, can_evaluate, evaluate
from spa.shapes.node import NodeInference
from spa.shapes.types import Type, constant_tensor

LISTED_INITIALIZERS = 3  # up to this IR version a graph lists its initializers as inputs, and a subgraph has none


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer that no caller can override, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


class Names:
    """The names that values and nodes of a model have, to find others."""

    def __init__(self, model: ir.Model) -> None:
        self._counts = collections.Counter(
            value.name for graph in model.graphs() for value in values_of(graph) if value.name
        )
        self._nodes = {node.name for graph in model.graphs() for node in graph}

    def free(self, name: str) -> str:
        """``name``, or where a value or node has it, with a number."""
        if name in self._counts or name in self._nodes:
            return self.fresh(name)
        self._counts[name] += 1
        return name

    def fresh(self, name: str) -> str:
        """``name.2``, or the next number that is free."""
        number = 2
        while f"{name}.{number}" in self._counts or f"{name}.{number}" in self._nodes:
            number += 1
        self._counts[f"{name}.{number}"] += 1
        return f"{name}.{number}"

    def settle(self, value: ir.Value) -> None:
        """Rename a value that shares its name with one of another branch, as it leaves its own."""
        if value.name and self._counts[value.name] > 1:
            self._counts[value.name] -= 1
            value.name = self.fresh(value.name)


class FoldConstants(ir.passes.InPlacePass):
    """Nodes whose results are known become initializers of the same names; an If that is decided becomes its branch.

    Results of at most 4096 elements are folded wherever they come from. Larger ones, computed from weights, are folded
    where the model does not grow by it: the weights are read by nothing that stays. Nodes that give a graph output
    stay, as do those that quantise or draw random numbers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        static, inference = infer_static(model), NodeInference(model)
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        large = _large(nodes, static, inference)
        modified = False
        for node in nodes:
            if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
                modified |= _decide(model, node, static)
            elif _may_fold(model, node):
                tensors = _known(node, static)
                if tensors is None and node in large:
                    tensors = _computed(node, inference)
                if tensors is not None:
                    _replace(node, tensors)
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def values_of(graph: ir.Graph) -> list[ir.Value]:
    """The values that a graph itself defines."""
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _may_fold(model: ir.Model, node: ir.Node) -> bool:
    if node.graph is not model.graph and (model.ir_version or 0) <= LISTED_INITIALIZERS:
        return False
    return not any(value.is_graph_output() for value in node.outputs)


def _known(node: ir.Node, static: Shapes) -> Sequence[ir.TensorProtocol | None] | None:
    """Tensors of the outputs (None: an omitted output) as the shape inference found them."""
    if entry_of(node).holds:
        tensor = constant_tensor(node)
        return None if tensor is None else [_own(tensor)]
    if not all(value in static.values for value in node.outputs if value.name):
        return None
    return [ir.Tensor(static.values[value]) if value.name else None for value in node.outputs]


def _own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data in a tensor of its own: saving a model names its tensors, and this one is the input model's."""
    shape = ir.Shape(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), shape=shape)
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=shape)


def _computed(node: ir.Node, inference: NodeInference) -> Sequence[ir.TensorProtocol] | None:
    """Tensors of the outputs computed from initializers; None where one is not, or where the result grows."""
    operands = [constant(value) for value in node.inputs]
    if any(value is not None and operand is None for value, operand in zip(node.inputs, operands, strict=True)):
        return None
    arrays = [None if operand is None else operand.numpy() for operand in operands]
    call = inference.call(node)
    results = evaluate(call.payload, call.version, arrays)
    if results is None:
        return None
    types = [None if operand is None else Type.of(operand) for operand in operands]
    contents = [None if array is None or array.size > SMALL else Content(array) for array in arrays]
    answer = inference.infer(call, types, contents)
    if not all(type_.describes(array) for type_, array in zip(answer.types, results, strict=True)):
        return None
    limit = max(sum(array.nbytes for array in arrays if array is not None), SMALL * np.dtype(np.float64).itemsize)
    return [ir.Tensor(array) for array in results] if sum(array.nbytes for array in results) <= limit else None


def _large(nodes: Sequence[ir.Node], static: Shapes, inference: NodeInference) -> set[ir.Node]:
    """Nodes that compute from weights alone, and whose folding makes what they read superfluous."""
    sizes = {value: math.prod(dims) for value, dims in static.of.items()}
    folded: set[ir.Value] = set()  # outputs that are, or may become, initializers
    candidates: dict[ir.Node, None] = {}
    for node in nodes:
        operands = [value for value in node.inputs if value is not None]
        if all(value in static.values for value in node.outputs):
            folded.update(node.outputs)
        elif operands and all(constant(value) is not None or value in folded for value in operands):
            call = inference.call(node)
            known = all(value in sizes for value in (*operands, *node.outputs))
            if known and can_evaluate(call.payload, call.version):
                folded.update(node.outputs)
                candidates[node] = None
    together = _shrinking(candidates, sizes)
    while growing := [n for n in candidates if n not in together and _grows(n, candidates, folded, sizes)]:
        for node in growing:
            del candidates[node]
            folded.difference_update(node.outputs)
    return set(candidates)


def _shrinking(candidates: Mapping[ir.Node, None], sizes: Mapping[ir.Value, int]) -> set[ir.Node]:
    """Candidates joined by large tensors that all become no more than the weights they alone read.

    What lies between (a weight minus its mean, read twice) counts for nothing.
    """
    linked: nx.Graph[ir.Node] = nx.Graph()
    linked.add_nodes_from(candidates)
    touched = {value for node in candidates for value in (*node.inputs, *node.outputs) if value is not None}
    readers = {value: {use.node for use in value.uses()} for value in touched if sizes[value] > SMALL}
    for value, users in readers.items():
        around = [user for user in users if user in candidates]
        producer = value.producer()
        around += [producer] if producer is not None and producer in candidates else []
        nx.add_path(linked, around)
    shrinking: set[ir.Node] = set()
    for nodes in nx.connected_components(linked):
        read = {value for node in nodes for value in node.inputs if value in readers}
        made = {value for node in nodes for value in node.outputs if value in readers}
        stay = {value for value in made if value.is_graph_output() or not readers[value] <= nodes}
        weights = read - made
        gone = {value for value in weights if constant(value) is not None and readers[value] <= nodes}
        if weights == gone and sum(sizes[value] for value in stay) <= sum(sizes[value] for value in gone):
            shrinking |= nodes
    return shrinking


def _grows(
    node: ir.Node, candidates: Mapping[ir.Node, None], folded: set[ir.Value], sizes: Mapping[ir.Value, int]
) -> bool:
    operands = [value for value in node.inputs if value is not None]
    if not all(constant(value) is not None or value in folded for value in operands):
        return True  # what it reads stays computed
    size = sum(sizes[value] for value in node.outputs)
    if size <= SMALL:
        return False
    return size > sum(sizes[value] for value in operands) or any(
        _survives(value, candidates, sizes) for value in operands if sizes[value] > SMALL
    )


def _survives(value: ir.Value, candidates: Mapping[ir.Node, None], sizes: Mapping[ir.Value, int]) -> bool:
    """Whether folding its readers leaves a weight in the model, or several versions of it."""
    readers = {use.node for use in value.uses()}
    if value.is_graph_output() or not readers <= candidates.keys():
        return True
    if len(readers) == 1:
        return False
    # Several readers may share the weight out among them, as slices do, but not each make a version of it.
    parts = [sum(sizes[result] for result in reader.outputs) for reader in readers]
    return sum(min(part, sizes[value]) for part in parts if part > SMALL) > sizes[value]


def _replace(node: ir.Node, tensors: Sequence[ir.TensorProtocol | None]) -> None:
    graph = node.graph
    assert graph is not None  # it was found in one
    for value, tensor in zip(node.outputs, tensors, strict=True):
        if tensor is None or not value.uses():
            continue
        initializer = ir.Value(
            name=value.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
            metadata_props=dict(value.metadata_props),
        )
        graph.register_initializer(initializer)
        ir.convenience.replace_all_uses_with(value, initializer)
    graph.remove(node, safe=True)


def _decide(model: ir.Model, node: ir.Node, static: Shapes) -> bool:
    """Put the branch that an If always takes in its place."""
    bodies, graph = entry_of(node).bodies, node.graph
    condition = node.inputs[0] if bodies is not None and bodies.runs is Runs.BRANCH else None
    if bodies is None or graph is None or condition is None or condition not in static.values:
        return False
    then, otherwise = bodies.names
    branch = node.attributes[then if static.values[condition].all() else otherwise].as_graph()
    names = Names(model)
    results = list(branch.outputs)
    branch.outputs.clear()
    for weight in list(branch.initializers.values()):
        branch.initializers.pop(weight.name or "")
        names.settle(weight)
        graph.register_initializer(weight)
    moved = list(branch)
    branch.remove(moved)
    for value in (value for inner in moved for value in inner.outputs):
        names.settle(value)
    copies = [ir.node("Identity", [result], name=f"{node.name}.{k}") for k, result in enumerate(results)]
    graph.insert_before(node, [*moved, *copies])
    for value, copy in zip(node.outputs, copies, strict=True):
        result = copy.outputs[0]
        result.name, result.type, result.shape = value.name, value.type, value.shape
        ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True
