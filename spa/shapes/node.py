"""Infer the types of one node's results from its operands' types and the contents that are known.

The rules are those of onnx itself: the inference function of each operator's schema. For operators without a schema,
onnxruntime is asked when it is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from spa.notation.operation import entry_of
from spa.notation.partial import Dim, Partial
from spa.shapes.content import Content
from spa.shapes.types import Call, Type, type_proto

Types = Sequence[Type | None]  # of a call's operands, None: omitted
Contents = Sequence[Content | None]  # None: omitted, or not known

# Elements of a 1-D operand that an inference function could want to read, by kind of its numbers: targets, axes and
# pads are integers, scales are floats.
_READ = {"i": 1024, "u": 1024, "f": 16, "b": 1}
_FLOATS = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE,
)  # fmt: skip
_RUNTIME_IR_VERSION = 10
_RUNTIME_ELEMENTS = {
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "bool": onnx.TensorProto.BOOL,
    "double": onnx.TensorProto.DOUBLE,
    "float": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Types of a call's results.

    contradiction: no operands of such sizes can meet in this node
    fault: what onnx says is wrong with the operands, whatever sizes are open
    """

    types: tuple[Type, ...]
    contradiction: bool = False
    fault: str = ""


class NodeInference:
    """Infers node by node, and remembers, as layers repeat; one for all walks over a model."""

    def __init__(self, model: ir.Model) -> None:
        self._opsets = {domain: version or 1 for domain, version in model.opset_imports.items()}
        self._functions = {(function.domain, function.name): function for function in model.functions.values()}
        self._calls: dict[ir.Node, Call] = {}
        self._answers: dict[object, Answer] = {}

    def call(self, node: ir.Node) -> Call:
        """What stays of a node when the names of its tensors are left out."""
        call = self._calls.get(node)
        if call is None:
            call = self._calls[node] = Call.of(node, self._opsets.get(node.domain, 1))
        return call

    def infer(self, call: Call, types: Types, contents: Contents) -> Answer:
        """Types of the results for operands of these types and contents."""
        data = tuple(map(_readable, contents))
        key = (call, tuple(types), data)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._ask(call, types, data)
        if not answer.types:
            return answer
        entry, first = entry_of(call), answer.types[0]
        if entry.contradicts is None and entry.completes is None:
            return answer
        partial = _partial(call, types, contents, first)
        if not answer.contradiction and entry.contradicts is not None and entry.contradicts(partial):
            return replace(answer, contradiction=True)
        dims = None if entry.completes is None or first.static is not None else entry.completes(partial)
        if dims is None:
            return answer
        element = _assumed(call, types)
        return replace(
            answer, types=tuple(type_._replace(element=type_.element or element, dims=dims) for type_ in answer.types)
        )

    def _ask(self, call: Call, types: Types, data: Sequence[bytes | None]) -> Answer:
        named = {str(position): type_proto(type_) for position, type_ in enumerate(types) if type_ is not None}
        known = {str(position): onnx.TensorProto.FromString(tensor) for position, tensor in enumerate(data) if tensor}
        unknown = Answer((Type(),) * call.results)
        node = onnx.NodeProto.FromString(call.payload)
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        try:
            if (call.domain, call.op_type) in self._functions:
                function = ir.serde.serialize_function(self._functions[call.domain, call.op_type])
                return _through(function, node, named)
            schema = onnx.defs.get_schema(call.op_type, call.version, call.domain)
            if schema.deprecated:  # onnx infers nothing for these, and its checker raises; runtimes still run them
                return _through(schema.function_body, node, named) if schema.function_body.node else unknown
            _write_out_defaults(node, schema)
            inferred = onnx.shape_inference.infer_node_outputs(schema, node, named, known, opset_imports=imports)
            shaped = any(type_.tensor_type.HasField("shape") for type_ in inferred.values())
            if not shaped and schema.function_body.node:
                return _through(schema.function_body, node, named)
        except onnx.defs.SchemaError:
            return _ask_runtime(node, named, known, imports) or unknown
        except (InferenceError, ValidationError, RuntimeError, ValueError) as error:
            static = all(type_ is None or type_.static is not None for type_ in types)
            certain = static or isinstance(error, ValidationError)  # which is of numbers' types
            return replace(unknown, contradiction=static, fault=_in_short(error) if certain else "")
        answer = Answer(tuple(Type.read(inferred[name]) if name in inferred else Type() for name in node.output))
        if any(isinstance(dim, int) and dim < 0 for type_ in answer.types for dim in type_.dims or ()):
            return replace(unknown, contradiction=True)
        return answer


def _in_short(error: Exception) -> str:
    return " ".join(str(error).removeprefix("[ShapeInferenceError]").split())[:200]


def _assumed(call: Call, types: Types) -> int:
    """Of what type results are that nobody knows the type of: the numbers that come first; 0 where a schema tells."""
    first = types[0] if types else None
    if first is None or first.element not in _FLOATS or onnx.defs.has(call.op_type, call.domain):
        return 0
    return first.element


def _write_out_defaults(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """State the attributes that are left at their defaults: some inference functions take them for zero (STFT)."""
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            node.attribute.append(attribute.default_value)


def _partial(call: Call, types: Types, contents: Contents, first: Type) -> Partial:
    dims = [None if type_ is None else type_.dims for type_ in types]

    def numbers(position: int) -> Sequence[Dim] | None:
        content = contents[position] if position < len(contents) else None
        return None if content is None or content.array.dtype.kind not in "iub" else content.elements()

    return Partial(dims, numbers, first.dims, call.attribute)


def _through(function: onnx.FunctionProto, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> Answer:
    """Inference through the body of a function."""
    operands = [types.get(name, onnx.TypeProto()) for name in node.input]
    results = onnx.shape_inference.infer_function_output_types(function, operands, list(node.attribute))
    return Answer(tuple(map(Type.read, results)))


def _readable(content: Content | None) -> bytes | None:
    """The serialised tensor if an inference function could want to read it."""
    if content is None or not content.complete or content.array.ndim > 1:
        return None
    if content.array.size > _READ.get(content.array.dtype.kind, 0):
        return None
    return bytes(onnx.numpy_helper.from_array(content.array).SerializeToString())


def _ask_runtime(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    contents: Mapping[str, onnx.TensorProto],
    imports: Sequence[onnx.OperatorSetIdProto],
) -> Answer | None:
    """Onnxruntime's own inference, for an operator without a schema in onnx; None where it cannot say."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    initializers = []
    for name, tensor in contents.items():
        initializers.append(onnx.TensorProto())
        initializers[-1].CopyFrom(tensor)
        initializers[-1].name = name
    inputs = [onnx.ValueInfoProto(name=name, type=type_) for name, type_ in types.items() if name not in contents]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs, initializers)
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=_RUNTIME_IR_VERSION)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001  # its exceptions share no base; an operator it does not know stays unknown
        return None
    inferred = {result.name: _runtime_type(result.type, result.shape) for result in session.get_outputs()}
    return Answer(tuple(inferred.get(name, Type()) for name in node.output))


def _runtime_type(name: str, shape: Sequence[int | str | None]) -> Type:
    element = _RUNTIME_ELEMENTS.get(name.removeprefix("tensor(").removesuffix(")"), 0)
    return Type(element, tuple(shape) or None)  # no dims: a scalar, or nothing inferred
