"""Sessions of every kind of model, weights that are lent, and runs in batches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from spa import runtime
from spa.errors import DataError, ModelError
from spa.frontends.files.onnx_file import load
from spa.runtime import weights
from tests.models import build
from tests.small import WEIGHT, array, linear, text_model, write

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
Y = np.maximum(X @ WEIGHT + 1, 0)


@pytest.mark.parametrize("kind", ["ir", "proto", "bytes", "path", "str", "external path"])
@pytest.mark.parametrize("optimize", [False, True])
def test_every_kind_of_model_runs(tmp_path: Path, kind: str, optimize: bool) -> None:
    path = write(tmp_path, linear(), external=kind == "external path")
    models: dict[str, Callable[[], ir.Model | onnx.ModelProto | bytes | str | Path]] = {
        "ir": lambda: load(path),
        "proto": linear,
        "bytes": path.read_bytes,
        "path": lambda: path,
        "str": lambda: str(path),
        "external path": lambda: path,
    }
    model = models[kind]()
    session = runtime.session(model, optimize=optimize, threads=1)
    levels = onnxruntime.GraphOptimizationLevel
    options = session.get_session_options()
    assert options.graph_optimization_level == (levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL)
    assert options.intra_op_num_threads == 1
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)


def test_large_weights_are_used_where_they_lie(tmp_path: Path) -> None:
    model = load(write(tmp_path, linear(), external=True))
    weight = array(model, "weight")
    session = runtime.session(model, optimize=False)
    assert [np.shares_memory(lent, weight) for lent in session.lent_weights] == [True]
    assert array(model, "weight") is weight
    del model, weight
    gc.collect()
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)


def test_weights_go_through_a_file_that_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(linear())
    monkeypatch.setattr(weights, "_SPILLED_NBYTES", 0)
    session = runtime.session(model, optimize=False, spill=True)
    folder = Path(session.lent_weights.name)
    assert (folder / "weights").stat().st_size == WEIGHT.nbytes
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)
    del session
    gc.collect()
    assert not folder.exists()


def test_weights_at_odd_bytes_are_aligned(tmp_path: Path) -> None:
    proto = linear()
    for shift in range(8):
        proto.producer_name = "p" * shift  # moves everything that follows in the file
        model = load(write(tmp_path, proto))
        (lent,) = runtime.session(model, optimize=False).lent_weights
        assert lent.flags.aligned
        assert np.array_equal(lent, WEIGHT)


LENT_TYPES = [np.float16, np.float64, np.int8, np.bool_, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("dtype", LENT_TYPES)
@pytest.mark.parametrize("optimize", [False, True])
def test_weights_of_every_type_are_lent(dtype: type, optimize: bool) -> None:
    weight: np.ndarray = (np.arange(2048) % 2).astype(dtype)
    proto = text_model("y = Cast<to = 1>(weight)", "", "float[2048] y")
    code = ir.DataType.from_numpy(weight.dtype).value
    proto.graph.initializer.add(name="weight", data_type=code, dims=[2048], raw_data=weight.tobytes())
    session = runtime.session(proto, optimize=optimize)
    assert len(session.lent_weights) == 1
    assert np.array_equal(runtime.run(session, {})["y"], np.arange(2048) % 2)


def test_weights_that_are_also_inputs() -> None:
    proto = linear()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [32, 16]))
    session = runtime.session(proto, optimize=True)
    assert session.lent_weights == []
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)
    assert np.all(runtime.run(session, {"x": X, "weight": 0 * WEIGHT})["y"] == 1)


def test_external_tensors_of_the_caller(tmp_path: Path) -> None:
    model = ir.load(write(tmp_path, linear(), external=True))  # read by onnx_ir itself, tensors still external
    session = runtime.session(model, optimize=False)
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)


@pytest.mark.parametrize(
    "model", [b"", b"no model", text_model("y = NoSuchOperator(x)")], ids=["empty", "text", "unknown"]
)
def test_model_that_onnxruntime_refuses(model: bytes | onnx.ModelProto, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"^onnxruntime refuses the model: ") as caught:
        runtime.session(model, optimize=False)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_batches_give_what_one_run_gives() -> None:
    session = runtime.session(linear(), optimize=False)
    x = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    whole = runtime.run(session, {"x": x})["y"]
    parts = runtime.run(session, {"x": x}, batch_size=3)["y"]
    assert parts.shape == (7, 16)
    assert np.allclose(parts, whole, rtol=1e-6)


def test_batches_need_one_row_in_for_one_row_out() -> None:
    session = runtime.session(text_model("y = ReduceSum(x)", "float[n, 2] x", "float[1, 1] y"), optimize=False)
    with pytest.raises(DataError, match="result 'y' does not have one row for each input row"):
        runtime.run(session, {"x": np.ones((4, 2), np.float32)}, batch_size=2)
    with pytest.raises(DataError, match="axis 0 of the inputs differs"):
        runtime.run(session, {"x": np.ones((), np.float32)}, batch_size=2)


@pytest.mark.parametrize(
    "feeds", [{}, {"x": X.astype(np.float64)}, {"x": X[:, :3]}, {"y": X}], ids=["none", "type", "shape", "name"]
)
def test_inputs_that_do_not_fit(feeds: dict[str, np.ndarray], capfd: pytest.CaptureFixture[str]) -> None:
    session = runtime.session(linear(), optimize=False)
    with pytest.raises(DataError, match="cannot run the model on these inputs: ") as caught:
        runtime.run(session, feeds)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_types_that_numpy_lacks(dtype: type) -> None:
    name = ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    proto = text_model("y = Identity(x) z = Cast<to = 1>(x)", f"{name}[2, 2] x", f"{name}[2, 2] y, float[2, 2] z")
    session = runtime.session(proto, optimize=False)
    feeds = runtime.random_feeds(session, shapes={}, seed=0)
    assert feeds["x"].dtype == dtype
    results = runtime.run(session, feeds)
    assert results["y"].dtype == dtype
    assert np.array_equal(results["y"].astype(np.float32), feeds["x"].astype(np.float32))
    assert np.array_equal(results["z"], feeds["x"].astype(np.float32))


@pytest.mark.parametrize("spill", [False, True])
def test_a_large_weight_that_nothing_reads(spill: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a part of a model is cut out: onnxruntime drops such weights, and looks for none that it was lent."""
    monkeypatch.setattr(weights, "_SPILLED_NBYTES", 1)
    model = ir.from_proto(build("(float[n,400] x) => (float[n,5] y) { y = MatMul(x, v) }", {"v": [400, 5]}))
    unread = ir.Value(name="unread", const_value=ir.tensor(np.zeros((400, 5), np.float32), name="unread"))
    model.graph.register_initializer(unread)
    session = runtime.session(model, optimize=True, spill=spill)
    assert runtime.run(session, {"x": np.ones((2, 400), np.float32)})["y"].shape == (2, 5)
