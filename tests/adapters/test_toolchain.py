"""What comes out of SPA goes on into the tools that people run next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa import runtime
from spa.frontends.exporting.exported import difference, run_model
from spa.frontends.files import onnx_file
from tests.benchmarks.zoo import SHARED

RESNET = Path(__file__).resolve().parents[2] / "models" / "fashion_resnet.onnx"
pytestmark = pytest.mark.filterwarnings("ignore")  # of the tools


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruned") / "resnet.onnx"
    spa.prune(RESNET, ratio=0.3, weights=True).save(path)
    return path


def images(path: Path, count: int = 4) -> dict[str, np.ndarray]:
    (value,) = onnx_file.load(path).graph.inputs
    shape = [size if isinstance(size, int) else count for size in value.shape or ()]
    return {str(value.name): np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def agree(path: Path, proto: Any, feeds: dict[str, np.ndarray]) -> float:
    return difference(*(run_model(onnx_file.load(each), feeds, what="") for each in (proto, path)))


def test_onnxslim(pruned: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    assert agree(pruned, onnxslim.slim(onnx.load(pruned)), images(pruned)) < 1e-5


def test_onnxsim(pruned: Path) -> None:
    onnxsim = pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    simplified, valid = onnxsim.simplify(onnx.load(pruned))
    assert valid
    assert agree(pruned, simplified, images(pruned)) < 1e-5


def test_static_quantisation(pruned: Path, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples: Iterator[dict[str, np.ndarray]] = iter([images(pruned)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.samples, None)

    quantization.quantize_static(pruned, tmp_path / "int8.onnx", Reader(), per_channel=True)
    feeds = images(pruned)
    outputs = [runtime.run(runtime.session(each, optimize=True), feeds) for each in (tmp_path / "int8.onnx", pruned)]
    left, right = (next(iter(each.values())) for each in outputs)
    assert np.corrcoef(left.reshape(-1), right.reshape(-1))[0, 1] > 0.98


@pytest.mark.skipif(not (SHARED / "graphs" / "bert_tiny.ts.onnx").exists(), reason="the shared graphs are not here")
def test_transformer_optimiser(tmp_path: Path) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer", reason="onnxruntime is not installed")
    path = tmp_path / "bert.onnx"
    dense = tmp_path / "dense.onnx"
    fill = [sys.executable, str(SHARED / "tools" / "skeleton.py"), "fill"]
    subprocess.run([*fill, str(SHARED / "graphs" / "bert_tiny.ts.onnx"), str(dense)], check=True, capture_output=True)
    spa.prune(dense, ratio=0.1, only=["ffn"], weights=True).save(path)
    fused = optimizer.optimize_model(str(path), model_type="bert", opt_level=0).model
    shapes = {
        str(value.name): [size if isinstance(size, int) else 2 for size in value.shape or ()]
        for value in onnx_file.load(path).graph.inputs
    }
    feeds = runtime.random_feeds(onnx_file.load(path), shapes=shapes, seed=0)
    left, right = (runtime.run(runtime.session(each, optimize=True), feeds) for each in (fused, path))
    assert difference(list(left.values()), list(right.values())) < 1e-4
    assert len(fused.graph.node) < len(onnx.load(path).graph.node)
