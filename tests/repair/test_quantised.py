"""Weights of integers: opened, cut, refitted and closed, beside DequantizeLinear and in nodes of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import spa
from spa.passes.repair.packed import close, opened, packed_weights
from spa.passes.repair.quantised import Levels, Quantised
from spa.written import verify_files
from tests.models import build

Model = onnx.ModelProto


def network(seed: int = 0) -> Model:
    """Two convolutions, one in groups, and two layers behind; x (n, 3, 8, 8) -> y (n, 6)."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    stored: dict[str, Any] = {
        "u": weight(16, 3, 3, 3), "a": weight(16, 1)[:, 0], "v": weight(24, 4, 3, 3), "b": weight(24, 1)[:, 0],
        "w": weight(24, 40) * np.float32(0.8), "c": weight(40, 1)[:, 0], "z": weight(6, 40), "d": weight(6, 1)[:, 0],
    }  # fmt: skip
    return build(
        """(float[n,3,8,8] x) => (float[n,6] y) {
            p = Conv<pads=[1,1,1,1]>(x, u, a)
            q = Relu(p)
            r = Conv<pads=[1,1,1,1], group=4>(q, v, b)
            s = Relu(r)
            g = GlobalAveragePool(s)
            f = Flatten(g)
            h = MatMul(f, w)
            i = Add(h, c)
            j = Relu(i)
            y = Gemm<transB=1>(j, z, d)
        }""",
        stored,
    )


def images(count: int, seed: int = 1) -> np.ndarray:
    """Smooth ones, so that inputs are correlated as those of pictures."""
    x = np.random.default_rng(seed).standard_normal((count, 3, 12, 12))
    for axis in (2, 3):
        x = np.cumsum(x, axis)
    return np.ascontiguousarray((x[:, :, 2:10, 2:10] / 4).astype(np.float32))


def quantised(model: Model, form: str, *, per_channel: bool = True, weights: str = "QInt8", count: int = 32) -> Model:
    """By onnxruntime's own tools."""
    tool = pytest.importorskip("onnxruntime.quantization")
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), before)
        kind = getattr(tool.QuantType, weights)
        if form == "dynamic":
            tool.quantize_dynamic(before, after, per_channel=per_channel, weight_type=kind)
        else:
            tool.quantize_static(
                before, after, _Reader(tool, images(count)), quant_format=getattr(tool.QuantFormat, form),
                per_channel=per_channel, weight_type=kind, activation_type=tool.QuantType.QUInt8,
            )  # fmt: skip
        return onnx.load(after)


def _Reader(tool: Any, x: np.ndarray) -> Any:
    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": x[at : at + 8]} for at in range(0, len(x), 8)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    return Reader()


FORMS: dict[str, Callable[[], Model]] = {
    "QDQ": lambda: quantised(network(), "QDQ"),
    "QDQ, one scale": lambda: quantised(network(), "QDQ", per_channel=False),
    "QDQ, zero points": lambda: quantised(network(), "QDQ", per_channel=False, weights="QUInt8"),
    "QOperator": lambda: quantised(network(), "QOperator"),
    "QOperator, one scale": lambda: quantised(network(), "QOperator", per_channel=False, weights="QUInt8"),
    "dynamic": lambda: quantised(network(), "dynamic", per_channel=False),
}


def answers(model: Model | ir.Model, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def integers(model: Model | ir.Model) -> dict[str, np.ndarray]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype in (np.int8, np.uint8) and array.ndim > 1}


def computing(model: Model) -> list[str]:
    """The operators that multiply, and those that quantise."""
    words = ("Linear", "Integer", "Conv", "MatMul", "Gemm")
    return sorted(node.op_type for node in model.graph.node if any(word in node.op_type for word in words))


@pytest.mark.parametrize("form", FORMS)
def test_opened_and_closed_it_is_the_same_file(form: str) -> None:
    model = ir.from_proto(FORMS[form]())
    plain = opened(model)
    assert plain is not model
    assert packed_weights(plain)
    assert not any(array.size for array in integers(plain).values())
    levels: dict[str, Any] = {
        name: each.levels for name, each in packed_weights(plain).items() if isinstance(each, Quantised)
    }
    close(plain, levels)
    before, after = ir.to_proto(model).graph, ir.to_proto(plain).graph
    assert sorted(node.op_type for node in before.node) == sorted(node.op_type for node in after.node)
    there = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.initializer}
    for tensor in before.initializer:
        if tensor.name in there:
            np.testing.assert_array_equal(there[tensor.name], onnx.numpy_helper.to_array(tensor))
    x = images(16, 5)
    np.testing.assert_array_equal(answers(plain, x), answers(model, x))


@pytest.mark.parametrize("form", FORMS)
def test_opened_it_computes_the_same(form: str) -> None:
    model = ir.from_proto(FORMS[form]())
    x = images(64, 5)
    assert distance(answers(opened(model), x), answers(model, x)) < 0.02


@pytest.mark.parametrize("form", FORMS)
def test_units_go_and_what_stays_is_refitted_on_its_grid(form: str) -> None:
    dense = FORMS[form]()
    x, fresh = images(192, 2), images(256, 9)
    result = spa.prune(dense, ratio=0.3, data={"x": x}, align=1)
    assert result.report.verified
    assert computing(dense) == computing(ir.to_proto(result.model))
    before, after = integers(dense), integers(result.model)
    assert set(before) == set(after)
    assert any(after[name].shape != before[name].shape for name in before)
    cut = spa.apply_plan(dense, result.plan)
    assert cut.report.verified
    expected = answers(dense, fresh)
    refitted, alone = (distance(answers(each.model, fresh), expected) for each in (result, cut))
    assert refitted < 0.6 * alone
    assert any("were opened, cut and packed again" in note for note in result.report.notes)


@pytest.mark.parametrize("data", [None, images(96, 2)], ids=["samples of its own", "given ones"])
def test_a_dynamically_quantised_network_gets_its_samples_one_by_one(data: np.ndarray | None) -> None:
    """Together they would share a scale, so that each would change what comes of the others."""
    dense, fresh = FORMS["dynamic"](), images(64, 9)
    result = spa.prune(dense, ratio=0.3, data=data, align=1)
    assert result.report.verified
    assert any("samples are run one by one" in note for note in result.report.notes)
    assert not any("by weights" in note or "one feed only" in note for note in result.report.notes[1:])
    alone = spa.apply_plan(dense, result.plan)
    expected, repaired, cut = (
        np.concatenate([answers(each, x[None]) for x in fresh]) for each in (dense, result.model, alone.model)
    )
    assert distance(repaired, expected) < 0.8 * distance(cut, expected)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_files_are_verified(form: str, tmp_path: Any) -> None:
    dense = FORMS[form]()
    result = spa.prune(dense, ratio=0.3, data={"x": images(96, 2)}, align=1, preset="fast")
    result.save(tmp_path / "small.onnx")
    plan = type(result.plan).from_json(result.plan.to_json())
    report = verify_files(dense, tmp_path / "small.onnx", plan)
    assert report.verified
    assert any("are those that the repair made" in note for note in report.notes)


# ------------------------------------------------------------------------------------------------------- one weight
def _stored(numbers: np.ndarray, scales: np.ndarray, zeros: np.ndarray, dtype: ir.DataType, **more: Any) -> Quantised:
    return Quantised(Levels(numbers, scales, zeros, **more), dtype, ir.DataType.FLOAT, "s", "z", "w")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [0, 4])
def test_parts_of_levels_are_parts_of_values(axis: int, block: int) -> None:
    rng = np.random.default_rng(0)
    shape = (8, 12)
    count = shape[axis] // (block or 1)
    size = tuple(count if at == axis else length for at, length in enumerate(shape)) if block else (count,)
    levels = Levels(rng.integers(-9, 9, shape), rng.random(size) + 0.1, rng.integers(-3, 3, size), axis, block)
    keep = [rng.random(length) < 0.6 for length in shape]
    if block:
        assert levels.part(keep) is None
        keep[axis][:] = True
    part = levels.part(keep)
    assert part is not None
    np.testing.assert_allclose(part.values(), levels.values()[np.ix_(*keep)])


@pytest.mark.parametrize(("dtype", "top"), [(ir.DataType.INT8, 127), (ir.DataType.INT8, 60), (ir.DataType.INT4, 7)])
def test_levels_keep_to_what_the_dense_weight_used(dtype: ir.DataType, top: int) -> None:
    rng = np.random.default_rng(0)
    stored = _stored(rng.integers(-top, top + 1, (6, 40)), np.full(6, 0.01), np.zeros(6, np.int64), dtype)
    new = stored.levels.values() + 0.02 * rng.standard_normal((6, 40))
    levels = stored.rounded(new, [np.ones(6, bool), np.ones(40, bool)], None, None, {})
    assert np.abs(levels.numbers).max() <= (64 if top == 60 else top)
    assert distance(levels.values(), new) < (0.02 if top > 7 else 0.12)


def test_a_scale_that_others_read_stays() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(0)
    stored = replace(
        _stored(rng.integers(-127, 128, (6, 40)), np.full((), 0.01), np.zeros((), np.int64), ir.DataType.INT8),
        own=False,
    )
    levels = stored.rounded(0.5 * stored.levels.values(), [np.ones(6, bool), np.ones(40, bool)], None, None, {})
    assert levels.scales == stored.levels.scales
    np.testing.assert_allclose(levels.values(), 0.5 * stored.levels.values(), atol=0.00501)


def test_correlated_inputs_are_made_up_for() -> None:
    """The rounding error of an input goes where others that read the same take it."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((400, 8)) @ rng.standard_normal((8, 32)) + 0.1 * rng.standard_normal((400, 32))
    stored = _stored(rng.integers(-7, 8, (5, 32)), np.full(5, 0.1), np.zeros(5, np.int64), ir.DataType.INT4)
    from spa.passes.secondorder.grid import on_grid

    weight = rng.standard_normal((5, 32))
    form = stored.form(32)
    gram = mixed.T @ mixed
    errors = [np.linalg.norm(mixed @ (on_grid(weight, form, each).values() - weight).T) for each in (None, gram)]
    assert errors[1] < 0.7 * errors[0]
