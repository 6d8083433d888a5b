from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from spa import runtime
from spa.errors import DataError, MissingExtra, ModelError, UsageError
from spa.frontends.files.onnx_file import load
from tests.small import WEIGHT, array, linear, text_model, write

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
Y = np.maximum(X @ WEIGHT + 1, 0)

TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
tokens (
    int64[batch, length] ids, float[batch, length] attention_mask, bool[batch] keep, uint8[2, 3] image, float16[4] half
) => (int64[batch, length] y, float[batch, length] m, bool[batch] k, uint8[2, 3] i, float16[4] h)
{
    y = Identity(ids)
    m = Identity(attention_mask)
    k = Identity(keep)
    i = Identity(image)
    h = Identity(half)
}
"""


# Sessions


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
    monkeypatch.setattr(runtime, "_SPILLED_NBYTES", 0)
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


def test_cpu_is_the_fallback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A CUDA provider that was built in says nothing about a device that works."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [runtime.CUDA, runtime.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", _cpu_only(onnxruntime.InferenceSession))
    runtime._cuda_works.cache_clear()
    try:
        session = runtime.session(linear(), optimize=True)
    finally:
        runtime._cuda_works.cache_clear()
    assert session.get_providers() == [runtime.CPU]
    assert capfd.readouterr() == ("", "")


def _cpu_only(session: type[onnxruntime.InferenceSession]) -> object:
    """onnxruntime as it is where CUDA's libraries are missing: it says so on stderr and goes on with the CPU."""

    def create(source: object, *options: object, providers: list[str], **_: object) -> object:
        if runtime.CUDA in providers:
            print("[E:onnxruntime] Failed to create CUDAExecutionProvider", file=sys.stderr, flush=True)
        return session(source, *options, providers=[runtime.CPU])

    return create


@pytest.mark.gpu
def test_cuda_computes_in_full_precision() -> None:
    if not runtime._cuda_works():
        pytest.skip("no CUDA device that onnxruntime can use")
    session = runtime.session(linear(), optimize=True)
    assert session.get_providers()[0] == runtime.CUDA
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "NoSuchExecutionProvider"])
def test_provider_that_does_not_work_here(provider: str, capfd: pytest.CaptureFixture[str]) -> None:
    if provider == runtime.CUDA and runtime._cuda_works():
        pytest.skip("CUDA works here")
    with pytest.raises(UsageError, match=f"cannot use {provider} here; it has CPUExecutionProvider"):
        runtime.session(linear(), optimize=True, providers=[provider, runtime.CPU])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "model", [b"", b"no model", text_model("y = NoSuchOperator(x)")], ids=["empty", "text", "unknown"]
)
def test_model_that_onnxruntime_refuses(model: bytes | onnx.ModelProto, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"^onnxruntime refuses the model: ") as caught:
        runtime.session(model, optimize=False)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'spa-onnx\[cpu\]'") as caught:
        runtime.session(linear(), optimize=False)
    assert "\n" not in str(caught.value)


def test_with_the_remains_of_two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(MissingExtra, match=r"broken.*pip uninstall both"):
        runtime.session(linear(), optimize=False)


# Inputs


@pytest.mark.parametrize("of", ["model", "session"])
def test_random_feeds(of: str) -> None:
    proto = onnx.parser.parse_model(TOKENS)
    source = ir.from_proto(proto) if of == "model" else runtime.session(proto, optimize=False)
    shapes = {"ids": [2, 500], "attention_mask": [2, 500], "keep": [2]}
    feeds = runtime.random_feeds(source, shapes=shapes, seed=0, high={"ids": 7})
    assert {name: array.dtype.name for name, array in feeds.items()} == {
        "ids": "int64",
        "attention_mask": "float32",
        "keep": "bool",
        "image": "uint8",
        "half": "float16",
    }
    assert {name: list(feeds[name].shape) for name in shapes} == shapes
    assert set(feeds["ids"].flat) == set(range(7))
    assert np.all(feeds["attention_mask"] == 1)
    assert np.all(feeds["keep"])
    again = runtime.random_feeds(source, shapes=shapes, seed=0, high={"ids": 7})
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    other = runtime.random_feeds(source, shapes=shapes, seed=1, high={"ids": 7})
    assert not np.array_equal(feeds["ids"], other["ids"])
    session = runtime.session(proto, optimize=False)
    assert np.array_equal(runtime.run(session, feeds)["y"], feeds["ids"])


def test_integers_index_any_table_by_default() -> None:
    source = ir.from_proto(onnx.parser.parse_model(TOKENS))
    shapes = {"ids": [1, 100], "attention_mask": [1, 1], "keep": [1]}
    assert set(runtime.random_feeds(source, shapes=shapes, seed=0)["ids"].flat) == {0, 1}


def test_initializers_that_are_also_inputs_need_no_feed() -> None:
    proto = linear()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [32, 16]))
    feeds = runtime.random_feeds(ir.from_proto(proto), shapes={"x": [3, 32]}, seed=0)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (3, 32)}


@pytest.mark.parametrize(
    ("shapes", "high", "message"),
    [
        ({}, {}, "input 'x' has the shape batch,32: give a number for each axis"),
        ({"x": [2, 16]}, {}, "input 'x' has the shape batch,32, which 2,16 does not fit"),
        ({"x": [2]}, {}, "which 2 does not fit"),
        ({"x": [-2, 32]}, {}, "which -2,32 does not fit"),
        ({"x": [2**40, 32]}, {}, "would have 3.5e\\+13 elements; the limit is 2\\^31"),
        ({"x": [2, 32], "z": [1]}, {}, "there is no input 'z'; the inputs are 'x'"),
        ({"x": [2, 32]}, {"ids": 7}, "there is no input 'ids'"),
        ({"x": [2, 32]}, {"x": 0}, None),
    ],
)
def test_shapes_that_do_not_fit(shapes: Mapping[str, list[int]], high: Mapping[str, int], message: str | None) -> None:
    for source in (ir.from_proto(linear()), runtime.session(linear(), optimize=False)):
        if message is None:
            assert runtime.random_feeds(source, shapes=shapes, seed=0, high=high)["x"].shape == (2, 32)
            continue
        with pytest.raises(UsageError, match=message):
            runtime.random_feeds(source, shapes=shapes, seed=0, high=high)


@pytest.mark.parametrize("declared", ["string[2] x", "seq(float[2]) x"])
@pytest.mark.parametrize("of", ["model", "session"])
def test_inputs_that_cannot_be_made_up(declared: str, of: str) -> None:
    proto = text_model("y = Identity(x)", declared, declared.replace(" x", " y"))
    source = ir.from_proto(proto) if of == "model" else runtime.session(proto, optimize=False)
    with pytest.raises(UsageError, match="no input can be made up for it"):
        runtime.random_feeds(source, shapes={}, seed=0)


# Runs


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


def test_newest_versions_are_those_that_run_and_the_next_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.require()
    ir_version, opset = runtime.newest_versions()
    runtime.session(runtime._probe(ir_version, opset), optimize=False)
    assert ir_version <= onnx.IR_VERSION
    assert opset <= onnx.defs.onnx_opset_version()
    for versions in ((ir_version + 1, opset), (ir_version, opset + 1)):
        assert not runtime._takes(*versions) or versions > (onnx.IR_VERSION, onnx.defs.onnx_opset_version())
    monkeypatch.setattr(runtime, "_takes", lambda *versions: versions <= (9, 20) and versions[1] <= 20)
    assert runtime._taken.__wrapped__(14, 28) == (9, 20)


def test_without_onnxruntime_the_newest_versions_are_those_of_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert runtime.newest_versions() == (onnx.IR_VERSION, onnx.defs.onnx_opset_version())
