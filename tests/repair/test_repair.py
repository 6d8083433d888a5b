"""Pruning with samples, from the options to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa import pipeline
from spa.cli import main
from spa.errors import DataError, UsageError
from spa.options import PruneOptions
from spa.presets import OURS, PUBLISHED
from tests.models import build

NET = """(float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, u)
    b = BatchNormalization(a, s, t, m, v)
    r = Relu(b)
    c = Conv<pads=[1,1,1,1]>(r, w)
    d = Relu(c)
    g = GlobalAveragePool(d)
    f = Flatten(g)
    y = Gemm<transB=1>(f, z)
}"""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    weights: dict[str, Any] = {"u": [16, 3, 3, 3], "w": [12, 16, 3, 3], "z": [4, 12]}
    vectors = {"s": np.ones(16, np.float32), "t": np.full(16, 0.3, np.float32), "m": np.zeros(16, np.float32)}
    return build(NET, weights | vectors | {"v": np.ones(16, np.float32)})


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal((60, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("method", [None, OURS, *PUBLISHED])
def test_every_method_prunes_and_is_verified(model, samples, method):
    result = spa.prune(model, ratio=0.4, data=samples, criterion=method, preset="fast")
    assert result.report.verified
    assert result.report.removed_share("params") >= 0.4
    assert result.report.difference is not None
    assert result.report.difference < 1e-4
    assert result.report.layers
    assert result.report.outputs["y"]["relative_l2"] > 0
    assert result.plan.repair.startswith(method or "spa")


def test_repair_is_nearer_to_the_dense_model_than_the_same_cut_alone(model, samples):
    repaired = spa.prune(model, ratio=0.4, data=samples)
    alone = pipeline.apply_plan(model, repaired.plan)
    assert any("only cuts" in note for note in alone.report.notes)
    dense, new, cut = (outputs(proto, samples["x"]) for proto in (model, repaired.model, alone.model))
    assert np.sum((dense - new) ** 2) < 0.5 * np.sum((dense - cut) ** 2)


def test_the_dense_model_of_a_result_is_the_one_that_went_in(model, samples):
    result = spa.prune(model, ratio=0.4, align=1, data=samples, preset="fast")
    given = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    dense, refitted = (
        {str(v.name): v.const_value.numpy() for v in side.graph.initializers.values() if v.const_value is not None}
        for side in (result.dense, result.reference)
    )
    assert all(np.array_equal(dense[name], array) for name, array in given.items())
    assert refitted["z"].shape == given["z"].shape
    assert not np.array_equal(refitted["z"], given["z"])


def test_without_data(model):
    result = spa.prune(model, ratio=0.3, data_free=True, preset="fast")
    assert result.report.verified
    assert any("made up" in note for note in result.report.notes)
    kept = {value.name: value for value in result.model.graph.initializers.values()}
    assert kept["v"].const_value is not None
    assert set(np.unique(kept["v"].const_value.numpy())) == {1.0}, "running statistics stay those of training"


def test_without_data_and_without_batch_normalisations():
    net = build(
        "(float[n,20] x) => (float[n,3] y) { a = MatMul(x, u)  b = Relu(a)  y = MatMul(b, v) }",
        {"u": [20, 12], "v": [12, 3]},
    )
    assert spa.prune(net, ratio=0.4, data_free=True).report.verified


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "flap", "weights": True}, "criterion 'flap' needs samples"),
        ({"data_free": True, "weights": True}, "weights and data exclude each other"),
        ({"data": {}, "input_ranges": {"x": (0, 1)}}, "input ranges are for samples that are made up"),
        ({"data": {}, "data_free": True}, "exclude each other"),
        ({"data": {}, "criterion": "fpgm"}, "it scores weights alone, so leave the data out"),
        ({"data": {}, "criterion": "magic"}, "expected one of l1, .*, spa, "),
        ({"data": {}, "preset": "slow"}, "preset 'slow': expected one of fast, default, best"),
    ],
)
def test_options_that_do_not_fit_together(options, message):
    with pytest.raises(UsageError, match=message):
        PruneOptions.of(ratio=0.3, **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"z": np.ones((4, 3, 8, 8))}, "no samples for input 'x'"),
        ({"x": np.ones((4, 3, 8, 9))}, r"takes samples of shape \(3, 8, 8\)"),
        ({"x": np.zeros((4, 3, 8, 8))}, "all samples of input 'x' are zero"),
        ("nowhere.npz", "no such file or folder"),
    ],
)
def test_bad_samples_are_refused(model, data, message):
    with pytest.raises(DataError, match=message):
        spa.prune(model, ratio=0.3, data=data)


def test_from_the_command_line(model, samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, data, plan, target = (tmp_path / name for name in ("net.onnx", "data.npz", "plan.json", "out.onnx"))
    onnx.save(model, source)
    np.savez(data, **samples)
    options = ["--ratio", "0.4", "--data", str(data), "--preset", "fast", "-o", str(target)]
    run("prune", str(source), *options, "--save-plan", str(plan))
    printed = capsys.readouterr().out
    assert "refitted layer" in printed
    assert "output, on samples held out" in printed
    run("verify", str(source), str(target), "--plan", str(plan))
    assert "the dense model, whose weights were refitted (spa, fast, 60 samples)" in capsys.readouterr().out
    run("prune", str(source), *options, "--json")
    report = json.loads(capsys.readouterr().out)
    assert {layer["name"] for layer in report["layers"]}
    assert report["outputs"]["y"]["relative_l2"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-std", "0"], "expected numbers other than zero"),
        (["--image-mean", "red"], "expected numbers separated by commas"),
        (["--size", "7"], "expected a height and a width"),
    ],
)
def test_bad_image_options(options, message, model, tmp_path, capsys):
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(tmp_path / "net.onnx"), "--ratio", "0.3", *options])
    assert ended.value.code == UsageError.exit_code
    assert message in capsys.readouterr().err


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    from spa import runtime

    y: np.ndarray = runtime.run(runtime.session(model, optimize=False), {"x": x})["y"]
    return y
