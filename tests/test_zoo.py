"""A sample of the zoo of real exports, with no help: valid, same inputs and outputs, exact."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from spa import pipeline


def _zoo() -> ModuleType:
    path = Path(__file__).parent / "benchmarks" / "zoo.py"
    spec = importlib.util.spec_from_file_location("zoo_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _zoo()

pytestmark = [
    pytest.mark.skipif(
        not (zoo.SHARED / "graphs" / "manifest.json").exists(), reason="the zoo is not there: set SPA_SHARED"
    ),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime"),
]

# What is least to go at half of all channels: some below what does, so that a lost family of groups shows.
SAMPLE = {
    "aecmos_16k.ts.onnx": 0.40,  # GRU behind convolutions
    "bert_tiny.dynamo.onnx": 0.40,
    "bert_tiny.ts.dynint8.onnx": 0.40,  # quantised when it runs
    "bert_tiny.ts.ortfused.onnx": 0.40,  # com.microsoft
    "bert_tiny.ts.qdq.onnx": 0.40,
    "bilstm.ts.onnx": 0.65,
    "hf_mixtral_bmm.dynamo.onnx": 0.40,  # experts
    "hf_t5.dynamo.onnx": 0.40,
    "jax_linen_vit.jax2onnx_dyn_op18.onnx": 0.35,
    "keras_gru_attn.tensorflow.tf2onnx.onnx": 0.65,  # a loop that carries its weights
    "keras_lstm_bigru.jax.keras_export.onnx": 0.65,  # loops with stacked results
    "llama_tiny.dynamo.onnx": 0.40,  # shared keys and values, rotary positions
    "ppocr_v2_cls.paddle.onnx": 0.60,  # every unnamed axis is called the same
    "shufflenet_v2_x1_0.ts.onnx": 0.40,
    "timm_nf_regnet_b0.dynamo.onnx": 0.60,  # standardised weights
}


@pytest.mark.parametrize("name", SAMPLE)
def test_graph(name: str, tmp_path: Path) -> None:
    entry = zoo.manifest()[name]
    dense = tmp_path / "dense.onnx"
    zoo.fill(str(zoo.SHARED / "graphs" / name), str(dense))
    inputs = {k: v["run_shape"] for k, v in entry["inputs"].items() if v.get("run_shape") is not None}
    result = pipeline.prune(
        dense, ratio=0.5, of="channels", inputs=inputs, weights=True
    )  # verifies, and raises what is wrong
    assert zoo.boundary(result.dense, result.model)
    assert result.report.exact
    assert result.report.difference is not None
    assert result.report.difference <= zoo.EXACT
    assert result.report.removed_share("params") >= SAMPLE[name]


def test_families() -> None:
    """Told from operators alone; those whose names say it agree."""
    told = {name: zoo.family(entry["ops"]) for name, entry in zoo.manifest().items()}
    for word, family in (("resnet50", "convolutional"), ("bert_tiny", "transformer"), ("llama", "transformer"),
                         ("vit_tiny", "transformer"), ("mobilenet_v2", "convolutional")):  # fmt: skip
        assert {told[name] for name in told if word in name} == {family}
