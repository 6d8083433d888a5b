from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import spa
from models import folder as toy
from spa.errors import DataError
from spa.passes.repair.packed import Packed, close, opened, packed_weights
from spa.passes.repair.quantised import Levels
from spa.passes.secondorder.grid import Grid
from spa.written import verify_files
from tests.decoding import Decoder

MICROSOFT = "com.microsoft"
SIZES = toy.Sizes(layers=2)


def quantised(
    model: onnx.ModelProto, bits: int, block: int, *, symmetric: bool, keep: Sequence[str] = ("node/logits",)
) -> onnx.ModelProto:
    """By onnxruntime's own tool, but for the nodes to keep: that of the logits."""
    tool = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    copy = onnx.ModelProto.FromString(model.SerializeToString())  # which the tool changes
    made = tool.MatMulNBitsQuantizer(
        copy, bits=bits, block_size=block, is_symmetric=symmetric, nodes_to_exclude=[*keep]
    )
    made.process()
    packed: onnx.ModelProto = made.model.model
    return packed


def texts(count: int, length: int = 24) -> np.ndarray:
    """(count, length): words of a small language, as bytes."""
    rng = np.random.default_rng(0)
    words = ["the ", "pruned ", "model ", "reads ", "writes ", "a ", "text ", "of ", "few ", "bits ", "and ", "heads "]
    stream = "".join(rng.choice(words, count * length)).encode()[: count * length]
    return np.frombuffer(stream, np.uint8).astype(np.int64).reshape(count, length)


def samples(count: int = 64) -> dict[str, np.ndarray]:
    ids = texts(count)
    empty = np.zeros((count, SIZES.kv_heads, 0, SIZES.head_size), np.float32)
    caches = {f"past_key_values.{n}.{part}": empty for n in range(SIZES.layers) for part in ("key", "value")}
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **caches}


def grids_in(plain: ir.Model) -> dict[str, Grid | Levels]:
    return {name: packed.grid for name, packed in packed_weights(plain).items() if isinstance(packed, Packed)}


FORMS = [(4, 16, True), (4, 32, False), (8, 32, True), (8, 16, False)]


@pytest.mark.parametrize(("bits", "block", "symmetric"), FORMS)
def test_opened_and_closed_it_is_the_same_file(bits: int, block: int, symmetric: bool) -> None:
    model = ir.from_proto(quantised(toy.graph_of(SIZES), bits, block, symmetric=symmetric))
    plain = opened(model)
    assert len(packed_weights(plain)) == 7 * SIZES.layers
    assert not any(node.op_type == "MatMulNBits" for node in plain.graph)
    grids = grids_in(plain)
    close(plain, grids)
    before, after = ir.to_proto(model).graph, ir.to_proto(plain).graph
    assert [node.op_type for node in before.node] == [node.op_type for node in after.node]
    there = {tensor.name: tensor for tensor in after.initializer}
    for tensor in before.initializer:
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(there[tensor.name]), onnx.numpy_helper.to_array(tensor)
        )


def _one(bits: int, *, width: int = 40, bias: bool = False, **more: Any) -> onnx.ModelProto:
    """x -> MatMulNBits -> Relu -> MatMul, with a width that no block divides."""
    rng, outputs, block = np.random.default_rng(0), 12, 16
    blocks = -(-width // block)
    stored: dict[str, np.ndarray] = {
        "w": rng.integers(0, 256, (outputs, blocks, block * bits // 8)).astype(np.uint8),
        "s": (0.1 * rng.random((outputs, blocks))).astype(np.float32),
        "b": rng.standard_normal(outputs).astype(np.float32),
        "v": rng.standard_normal((outputs, 5)).astype(np.float32),
    }
    inputs = ["x", "w", "s", "", "", "b"] if bias else ["x", "w", "s"]
    sizes: dict[str, Any] = {"K": width, "N": outputs, "bits": bits, "block_size": block}
    make = onnx.helper.make_node
    nodes = [
        make("MatMulNBits", inputs, ["h"], domain=MICROSOFT, **sizes, **more),
        make("Relu", ["h"], ["r"]),
        make("MatMul", ["r", "v"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    x, y = value("x", onnx.TensorProto.FLOAT, ["n", width]), value("y", onnx.TensorProto.FLOAT, ["n", 5])
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items() if bias or name != "b"]
    graph = onnx.helper.make_graph(nodes, "one", [x], [y], tensors)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _answers(model: ir.Model, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_ragged_widths_and_biases_compute_the_same(bits: int, bias: bool) -> None:
    model = ir.from_proto(_one(bits, bias=bias))
    x = np.random.default_rng(1).standard_normal((7, 40)).astype(np.float32)
    plain = opened(model)
    np.testing.assert_allclose(_answers(plain, x), _answers(model, x), rtol=1e-3, atol=1e-3)
    close(plain, grids_in(plain))
    np.testing.assert_allclose(_answers(plain, x), _answers(model, x), rtol=1e-5, atol=1e-5)


def test_what_is_laid_out_for_one_processor_stays() -> None:
    model = ir.from_proto(_one(4, weight_prepacked=1))
    assert opened(model) is model


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
def test_units_go_one_by_one_and_the_result_is_packed(bits: int, symmetric: bool) -> None:
    dense = quantised(toy.graph_of(SIZES), bits, 32, symmetric=symmetric)
    result = spa.prune(dense, ratio=0.25, data=samples(), preset="fast", align=4)
    assert result.report.verified
    packed = [node for node in result.model.graph if node.op_type == "MatMulNBits"]
    assert len(packed) == 7 * SIZES.layers
    widths = {node.attributes["K"].as_int() for node in packed if "down_proj" in str(node.name)}
    assert any(width % 32 for width in widths)  # not whole blocks alone
    assert result.report.after["bytes"] < result.report.before["bytes"]
    note = next(note for note in result.report.notes if "packed again" in note)
    assert note == f"14 weights of {bits} bits were opened, cut and packed again"


def test_files_are_verified_and_plans_applied(tmp_path: Any) -> None:
    dense = quantised(toy.graph_of(SIZES), 4, 32, symmetric=True)
    result = spa.prune(dense, ratio=0.25, data=samples(), preset="fast")
    result.save(tmp_path / "small.onnx")
    plan = type(result.plan).from_json(result.plan.to_json())
    assert plan.opened
    report = verify_files(dense, tmp_path / "small.onnx", plan)
    assert report.verified
    assert any("are those that the repair made" in note for note in report.notes)
    again = spa.apply_plan(dense, plan)
    assert again.report.verified
    assert sum(node.op_type == "MatMulNBits" for node in again.model.graph) == 14
    assert [value.shape for value in again.model.graph.outputs] == [value.shape for value in result.model.graph.outputs]


def test_by_weights_alone_blocks_stay_whole() -> None:
    result = spa.prune(quantised(toy.graph_of(SIZES), 4, 32, symmetric=True), ratio=0.2, weights=True)
    assert not result.plan.opened
    widths = [node.attributes["K"].as_int() for node in result.model.graph if node.op_type == "MatMulNBits"]
    assert all(width % 32 == 0 for width in widths)


# ------------------------------------------------------------------------------------- pruned first, or packed first
def _logits(model: onnx.ModelProto | ir.Model, tmp_path: Any, ids: np.ndarray) -> np.ndarray:
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(model) if isinstance(model, ir.Model) else model, path)
    decoder = Decoder(path)
    return np.concatenate([decoder.whole(list(row)) for row in ids])


def test_packed_first_is_as_good_as_pruned_first(tmp_path: Any) -> None:
    """Both against the float model, on texts that neither has seen: fewer bits lose the same at either end."""
    dense = toy.graph_of(SIZES)
    options: dict[str, Any] = {"ratio": 0.25, "data": samples(), "preset": "fast", "align": 4}
    held_out = texts(96)[80:]
    expected = _logits(dense, tmp_path, held_out)
    first = spa.prune(quantised(dense, 4, 32, symmetric=True), **options)
    last = quantised(ir.to_proto(spa.prune(dense, **options).model), 4, 32, symmetric=True)
    losses = [float(np.mean((_logits(model, tmp_path, held_out) - expected) ** 2)) for model in (first.model, last)]
    assert losses[0] <= 1.1 * losses[1]


def test_a_graph_that_does_not_fit_its_samples_is_refused_as_ever() -> None:
    with pytest.raises(DataError, match="no samples for input"):
        spa.prune(quantised(toy.graph_of(SIZES), 4, 32, symmetric=True), ratio=0.2, data={"input_ids": texts(4)})
