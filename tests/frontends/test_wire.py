from __future__ import annotations

import mmap
from pathlib import Path

import onnx
import pytest

from spa.frontends.files import check, wire
from tests.small import WEIGHT, everything, linear, write


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63 - 1])
def test_numbers_are_encoded_as_protobuf_does(number: int) -> None:
    assert b"\x08" + wire._encoded(number) == onnx.ModelProto(ir_version=number).SerializeToString()


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def test_skeleton_is_the_model_without_its_large_weights(tmp_path: Path) -> None:
    data = mapped(write(tmp_path, linear()))
    reduced = onnx.ModelProto.FromString(wire.skeleton(data, location="here"))
    (weight,) = reduced.graph.initializer
    where = {entry.key: entry.value for entry in weight.external_data}
    assert where["location"] == "here"
    assert data[int(where["offset"]) :][: int(where["length"])] == WEIGHT.tobytes()
    expected = linear()
    expected.graph.initializer[0].ClearField("raw_data")
    for field in ("external_data", "data_location"):
        weight.ClearField(field)
    assert reduced == expected


def test_weights_are_found_wherever_a_tensor_may_be(tmp_path: Path) -> None:
    """In initializers, in attributes, in subgraphs and in functions."""
    weight = onnx.numpy_helper.from_array(WEIGHT, "nested")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=weight)
    graph = onnx.helper.make_graph([constant], "body", [], [], [weight])
    proto = linear()
    proto.graph.node.append(constant)
    proto.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=graph, else_branch=graph))
    proto.functions[0].node.append(constant)
    reduced = onnx.ModelProto.FromString(wire.skeleton(mapped(write(tmp_path, proto)), location="here"))
    tensors = list(check.all_tensors(reduced))
    assert len([tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]) == 7
    assert reduced.ByteSize() < 1024 < 7 * WEIGHT.nbytes < proto.ByteSize()


def test_external_tensors_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, everything(), external=True)
    assert wire.skeleton(mapped(path), location="here") == path.read_bytes()


def test_streamed_model_is_the_model() -> None:
    proto = linear()
    marked = onnx.ModelProto.FromString(proto.SerializeToString())
    marked.graph.initializer[0].ClearField("raw_data")
    marked.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    marked.graph.initializer[0].external_data.add(key="location", value="")
    streamed = wire.streamed(marked, {"weight": WEIGHT.nbytes})
    content = b"".join(piece if isinstance(piece, bytes) else WEIGHT.tobytes() for piece in streamed.pieces)
    assert len(content) == streamed.nbytes
    assert onnx.ModelProto.FromString(content) == proto
