"""Small models with something of everything that a model file may hold, and what the tests of files ask of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from spa.frontends.files import check

TEXT = """
<ir_version: 10, opset_import: ["" : 20, "local" : 1], producer_name: "here", metadata_props: ["key": "value"]>
linear (float[batch, 32] x) => (float[batch, 16] y)
{
    h = MatMul(x, weight)
    s = local.shift(h)
    y = Relu(s)
}
<domain: "local", opset_import: ["" : 20]>
shift (a) => (b)
{
    one = Constant<value_float = 1.0>()
    b = Add(a, one)
}
"""
WEIGHT = np.arange(512, dtype=np.float32).reshape(32, 16)  # 2 KiB: large enough to be mapped


def linear() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "weight"))
    return proto


def text_model(body: str, inputs: str = "float[2] x", outputs: str = "float[2] y") -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20]> graph '
    return onnx.parser.parse_model(f"{header}({inputs}) => ({outputs}) {{ {body} }}")


def write(folder: Path, proto: onnx.ModelProto, *, external: bool = False, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(proto, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def everything() -> onnx.ModelProto:
    """Inputs of every kind of field: functions, subgraphs, metadata, symbolic axes, all element types."""
    proto = linear()
    random = np.random.default_rng(0)
    for dtype in ir.DataType:
        if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING) or dtype not in onnx.helper.get_all_tensor_dtypes():
            continue
        for size in (3, 2051):  # one below and one above the limit for mapping; odd, so that packed types are padded
            nbytes = -(-size * dtype.bitwidth // 8)
            raw = bytearray(random.integers(0, 2, nbytes, dtype=np.uint8).tobytes())
            if dtype.bitwidth < 8:
                raw[-1] = 0
            tensor = onnx.TensorProto(name=f"{dtype.name}_{size}", data_type=dtype, dims=[size], raw_data=bytes(raw))
            tensor.doc_string = "documented"
            proto.graph.initializer.append(tensor)
    proto.graph.initializer.append(onnx.helper.make_tensor("words", onnx.TensorProto.STRING, [2], [b"a", b"b"]))  # type: ignore[list-item] # its annotation forgets strings
    proto.graph.initializer.append(onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [300], list(range(300))))
    branch = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "inner"], ["sum"])], "branch", [], [])
    branch.initializer.append(onnx.numpy_helper.from_array(np.ones((40, 32), np.float32)[:1].repeat(9, 0), "inner"))
    branch.output.add(name="sum")
    yes = onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["condition"], value=yes))
    proto.graph.node.append(
        onnx.helper.make_node("If", ["condition"], ["z"], name="choice", then_branch=branch, else_branch=branch)
    )
    return proto


DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def contents(proto: onnx.ModelProto) -> tuple[str, dict[str, bytes]]:
    """The graph as text, without its weights and without inferred shapes; and the weights' bytes."""
    weights = {}
    for tensor in check.all_tensors(proto):
        weights[tensor.name] = b"".join(tensor.string_data) or onnx.numpy_helper.to_array(tensor).tobytes()
    bare = onnx.ModelProto.FromString(proto.SerializeToString())
    graphs = [bare.graph]
    while graphs:
        graph = graphs.pop()
        del graph.initializer[:]
        del graph.value_info[:]
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    for tensor in check.all_tensors(bare):  # how onnx 1.20 prints a value depends on the field that holds it
        for field in DATA_FIELDS:
            tensor.ClearField(field)
    return onnx.printer.to_text(bare), weights
