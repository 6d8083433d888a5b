from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa.errors import ModelError
from spa.frontends.files.onnx_file import load, origin_of
from tests.small import WEIGHT, array, linear, text_model, write


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_mapped_not_copied(tmp_path: Path, external: bool) -> None:
    model = load(write(tmp_path, linear(), external=external))
    weight = array(model, "weight")
    assert np.array_equal(weight, WEIGHT)
    assert not weight.flags.owndata
    assert not weight.flags.writeable
    assert origin_of(model).external == external


def test_sources_give_the_same_model(tmp_path: Path) -> None:
    proto = linear()
    before = proto.SerializeToString(deterministic=True)
    from_ir = ir.from_proto(proto)
    models = [load(write(tmp_path, proto)), load(str(tmp_path / "model.onnx")), load(proto), load(from_ir)]
    texts = {onnx.printer.to_text(ir.to_proto(model)) for model in models}
    assert len(texts) == 1
    assert proto.SerializeToString(deterministic=True) == before
    assert models[3] is not from_ir
    assert models[3].graph[0] is not from_ir.graph[0]


def test_source_of_another_kind() -> None:
    with pytest.raises(ModelError, match="found <class 'int'>"):
        load(3)


def test_nodes_are_sorted() -> None:
    model = load(text_model("y = Relu(h) h = Abs(x)"))
    assert [node.op_type for node in model.graph] == ["Abs", "Relu"]


def test_axes_of_length_minus_one_are_unknown() -> None:
    proto = text_model("y = Relu(x)")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert load(proto).graph.inputs[0].shape == [None]


def test_both_names_of_the_standard_domain() -> None:
    proto = text_model("y = Relu(x)")
    proto.opset_import[0].domain = "ai.onnx"
    assert load(proto).opset_imports == {"": 20}


def test_linked_folder_as_in_a_model_cache(tmp_path: Path) -> None:
    """Snapshots of links to blobs: the data is beside the file that the model's link leads to."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    write(tmp_path, linear(), external=True)
    for number, name in enumerate(("model.onnx", "weights.bin")):
        (tmp_path / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(Path("../blobs") / str(number))
    assert np.array_equal(array(load(snapshot / "model.onnx"), "weight"), WEIGHT)


def test_data_with_a_second_hard_link(tmp_path: Path) -> None:
    path = write(tmp_path, linear(), external=True)
    os.link(tmp_path / "weights.bin", tmp_path / "backup.bin")
    assert np.array_equal(array(load(path), "weight"), WEIGHT)
