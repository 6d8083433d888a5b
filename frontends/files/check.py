"""Refuse a broken model with the place of the fault, before anything else looks at it.

onnx_ir reads broken models as far as it can (undefined names become new values, a repeated initializer replaces the
first); here they are refused, with the place, in time and memory that the file bounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import networkx as nx
import onnx
import onnx_ir as ir

from spa import runtime
from spa.errors import ModelError

# The oldest in which opsets and initializers mean what they mean today; the newest is a matter of what is installed.
OLDEST_IR_VERSION, OLDEST_OPSET = 3, 9

MAX_EXPANDED_NODES = 2_000_000
MAX_CALL_DEPTH = 500
MAX_SUBGRAPH_DEPTH = 32
_MAX_RANK = 64  # of a numpy array

_STANDARD_DOMAINS = ("", "ai.onnx")
_NAMES_SHOWN = 6


def check_proto(proto: onnx.ModelProto) -> None:
    """Refuse what onnx_ir would not keep or could not read.

    Raises:
        ModelError: with the reason.
    """
    if not proto.HasField("graph"):
        raise ModelError("not an ONNX model: it holds no graph")
    if repeated := _repeated(f"{each.domain}:{each.name}:{each.overload}" for each in proto.functions):
        raise ModelError(f"function {repeated} is defined twice")
    pending = [(proto.graph, 1)]
    pending += [(graph, 1) for function in proto.functions for node in function.node for graph in _subgraphs(node)]
    while pending:
        graph, depth = pending.pop()
        if depth > MAX_SUBGRAPH_DEPTH:
            raise ModelError(f"subgraphs are nested deeper than {MAX_SUBGRAPH_DEPTH} levels")
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise ModelError(f"initializer {name!r} is a sparse tensor; only dense tensors are supported")
        if repeated := _repeated(tensor.name for tensor in graph.initializer):
            raise ModelError(f"initializer {repeated} is defined twice in graph {graph.name!r}")
        pending += [(body, depth + 1) for node in graph.node for body in _subgraphs(node)]


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every initializer and every tensor attribute, those of subgraphs and functions too."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while pending:
        graph = pending.pop()
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
            pending += _subgraphs(node)


def _repeated(names: Iterable[str]) -> str:
    """The first name that occurs twice, quoted; empty if none does."""
    return next((repr(name) for name, count in Counter(names).items() if count > 1), "")


def check_model(model: ir.Model, graphs: Iterable[ir.Graph]) -> None:
    """Refuse a model whose versions are unknown or whose values are not well defined; sort the nodes if need be.

    Raises:
        ModelError: with the reason and the names of the values or nodes at fault.
    """
    _check_versions(model)
    if model.functions:
        _check_expansion(model)
    for graph in graphs:
        _check_names(graph)
    for graph in bodies(model):
        try:
            graph.sort()
        except ValueError:
            raise ModelError(f"the graph has a cycle: {_cycle(graph)}") from None


def bodies(model: ir.Model) -> list[ir.Graph]:
    """The main graph and the functions' graphs."""
    return [model.graph, *(function.graph for function in model.functions.values())]


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """The main graph, the functions' graphs, and all subgraphs."""
    return [graph for body in bodies(model) for graph in (body, *body.subgraphs())]


def _check_versions(model: ir.Model) -> None:
    newest_ir_version, newest_opset = runtime.newest_versions()
    if not OLDEST_IR_VERSION <= (model.ir_version or 0) <= newest_ir_version:
        raise ModelError(
            f"expected an IR version from {OLDEST_IR_VERSION} to {newest_ir_version} (what the installed onnx and "
            f"onnxruntime take), found {model.ir_version}; export the model again with another version"
        )
    for graph in bodies(model):
        imports = graph.opset_imports
        opset = next((imports[domain] for domain in _STANDARD_DOMAINS if domain in imports), None)
        if opset is not None and not OLDEST_OPSET <= opset <= newest_opset:
            raise ModelError(
                f"expected opset {OLDEST_OPSET} to {newest_opset} (what the installed onnx and onnxruntime take), "
                f"found {opset}; export the model again or use onnx.version_converter"
            )
        if opset is None and any(node.domain in _STANDARD_DOMAINS for node in graph):
            raise ModelError("the model does not say which opset its standard operators are of (opset_import)")


def _check_names(graph: ir.Graph) -> None:
    defined = [*graph.inputs, *(output for node in graph for output in node.outputs if output.name)]
    inputs = set(graph.inputs)
    defined += [value for value in graph.initializers.values() if value not in inputs]
    if repeated := _repeated(str(value.name) for value in defined):
        raise ModelError(f"value {repeated} is defined twice in graph {graph.name!r}")
    for node in graph:
        for value in node.inputs:
            if value is not None and not _is_defined(value):
                raise ModelError(f"{node_name(node)} reads value {value.name!r}, which nothing defines")
    for value in graph.outputs:
        if not _is_defined(value):
            raise ModelError(f"output {value.name!r} of graph {graph.name!r} is a value that nothing defines")


def _is_defined(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def node_name(node: ir.Node) -> str:
    """How messages name a node: its operator and its own name or, without one, its first result's."""
    name = node.name or next((output.name for output in node.outputs if output.name), "")
    return f"{node.op_type} node {name!r}"


def _cycle(graph: ir.Graph) -> str:
    """The names of the nodes of one cycle. A node waits for its operands and for the nodes of its subgraphs."""
    waits: nx.DiGraph[ir.Node] = nx.DiGraph()
    for node in graph.all_nodes():
        waits.add_edges_from(
            (value.producer(), node) for value in node.inputs if value is not None and value.producer()
        )
        waits.add_edges_from((inner, node) for inner in _inner_nodes(node))
    names = [node_name(node) for node, _ in nx.find_cycle(waits)]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return " -> ".join(names[:_NAMES_SHOWN]) + more


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                yield from body


def _check_expansion(model: ir.Model) -> None:
    """Refuse functions that call themselves, or that would become too many nodes when they are inlined."""
    calls: nx.DiGraph[ir.OperatorIdentifier] = nx.DiGraph()
    calls.add_nodes_from(model.functions)
    called: dict[ir.OperatorIdentifier, Counter[ir.OperatorIdentifier]] = {}
    nodes: dict[ir.OperatorIdentifier, int] = {}
    for identifier, function in model.functions.items():
        operators = Counter(node.op_identifier() for node in function.all_nodes())
        called[identifier] = Counter({name: count for name, count in operators.items() if name in model.functions})
        nodes[identifier] = operators.total() - called[identifier].total()
        calls.add_edges_from((identifier, callee) for callee in called[identifier])
    if not nx.is_directed_acyclic_graph(calls):
        names = " -> ".join(repr(caller[1]) for caller, _ in nx.find_cycle(calls)[:_NAMES_SHOWN])
        raise ModelError(f"functions call themselves: {names}")
    depth: dict[ir.OperatorIdentifier, int] = {}
    for identifier in reversed(list(nx.topological_sort(calls))):
        nodes[identifier] += sum(nodes[callee] * count for callee, count in called[identifier].items())
        depth[identifier] = 1 + max((depth[callee] for callee in called[identifier]), default=0)
        if depth[identifier] > MAX_CALL_DEPTH:
            raise ModelError(
                f"functions call each other more than {MAX_CALL_DEPTH} levels deep, from {identifier[1]!r} on"
            )
    total = sum(nodes.get(node.op_identifier(), 1) for node in model.graph.all_nodes())
    if total > MAX_EXPANDED_NODES:
        raise ModelError(
            f"with its functions inlined the model would have {total:.3g} nodes; the limit is {MAX_EXPANDED_NODES}"
        )


def expected_nbytes(name: str | None, dtype: ir.DataType, dims: Sequence[int]) -> int:
    """How many bytes a tensor of this type and shape takes.

    Raises:
        ModelError: if there is no such tensor.
    """
    if len(dims) > _MAX_RANK:
        raise ModelError(f"tensor {name!r} has {len(dims)} axes; the limit is {_MAX_RANK}")
    if any(size < 0 for size in dims):
        raise ModelError(f"tensor {name!r} has an axis of negative length: shape {list(dims)}")
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        raise ModelError(f"tensor {name!r} of type {dtype.name} cannot be stored as bytes")
    return _ceil_div(math.prod(dims) * dtype.bitwidth, 8)


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)  # in whole numbers: a shape may multiply up to more than a float holds


def _amount(number: int) -> str:
    return str(number) if number < 2**63 else "more than 2^63"


def check_nbytes(name: str | None, dtype: ir.DataType, dims: Sequence[int], nbytes: int) -> None:
    """Refuse bytes that are not as many as type and shape take.

    Raises:
        ModelError: with both numbers.
    """
    expected = expected_nbytes(name, dtype, dims)
    if nbytes != expected:
        raise ModelError(
            f"tensor {name!r} of type {dtype.name} and shape {list(dims)} takes {_amount(expected)} bytes, "
            f"found {nbytes}"
        )


def check_payload(proto: onnx.TensorProto) -> None:
    """Refuse a tensor that holds more or fewer elements than its shape says.

    Raises:
        ModelError: with both numbers.
    """
    dtype, dims = ir.DataType(proto.data_type), list(proto.dims)
    if proto.HasField("raw_data"):
        check_nbytes(proto.name, dtype, dims, len(proto.raw_data))
        return
    if dtype == ir.DataType.STRING:
        field, expected = "string_data", math.prod(dims)
    else:
        field, bits = _typed_field(dtype)
        expected = _ceil_div(expected_nbytes(proto.name, dtype, dims) * 8, bits)
    entries = len(getattr(proto, field))
    if entries != expected:
        raise ModelError(
            f"tensor {proto.name!r} of type {dtype.name} and shape {dims} takes {_amount(expected)} entries "
            f"in {field}, found {entries}"
        )


def _typed_field(dtype: ir.DataType) -> tuple[str, int]:
    """Where a tensor of this type lies when it has no raw data, and how many of its bits an entry holds there."""
    match dtype:
        case ir.DataType.FLOAT | ir.DataType.COMPLEX64:
            return "float_data", 32
        case ir.DataType.DOUBLE | ir.DataType.COMPLEX128:
            return "double_data", 64
        case ir.DataType.INT64:
            return "int64_data", 64
        case ir.DataType.UINT32 | ir.DataType.UINT64:
            return "uint64_data", dtype.bitwidth
        case _:
            # Types of two and four bits are packed into bytes, one byte an entry; all others have an entry each.
            return "int32_data", 8 if dtype.bitwidth in (2, 4) else dtype.bitwidth
