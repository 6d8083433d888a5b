from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spa.adapters import restore
from spa.errors import ModelError
from spa.frontends import keras as frontend
from spa.frontends.exporting.exported import difference, run_model
from spa.frontends.exporting.keras_running import load_keras

pytest.importorskip("tensorflow", reason="the extra tensorflow is not installed")
pytest.importorskip("tf2onnx", reason="the extra tensorflow is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # tensorflow's own


@pytest.fixture
def model() -> Any:
    keras = load_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    start = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, use_bias=False)(start)
    x = layers.Activation("gelu")(layers.BatchNormalization()(x))  # gelu: Erfc, which ONNX lacks
    x = layers.DepthwiseConv2D(3)(x)
    gate = layers.Reshape((1, 1, 16))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(16, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, gate]))
    return keras.Model(start, layers.Dense(4)(layers.Dense(32, activation="relu")(x)))


def test_export(model: Any) -> None:
    exported = frontend.export(model)
    names = set(exported.graph.initializers)
    assert {"dense.kernel", "dense_1.kernel"} <= names
    assert not any(node.op_type == "Erfc" for node in exported.graph)


def test_a_model_comes_back_smaller(model: Any, tmp_path: Path) -> None:
    restored = restore.prune(frontend, model, None, ratio=0.3)
    assert restored.source.count_params() < 0.72 * model.count_params()
    assert not restored.left
    feeds = frontend.trace(restored.source).feeds
    assert (
        difference(frontend.run(restored.source), run_model(restored.result.model, feeds, what="the pruned graph"))
        < 1e-5
    )
    frontend.save(restored.source, tmp_path / "small.keras")
    again = frontend.load(tmp_path / "small.keras")
    assert np.array_equal(frontend.run(again)[0], frontend.run(restored.source)[0])


def test_no_keras_file(tmp_path: Path) -> None:
    (tmp_path / "no.keras").write_text("text")
    with pytest.raises(ModelError, match="Keras cannot read it"):
        frontend.load(tmp_path / "no.keras")


def test_with_samples_the_smaller_model_is_repaired(model: Any) -> None:
    samples = np.random.default_rng(0).standard_normal((64, 8, 8, 3)).astype(np.float32)
    expected = np.asarray(model(samples))
    off = []
    for options in ({}, {"data": samples, "preset": "fast"}):
        smaller = frontend.prune(model, ratio=0.3, **options)
        assert smaller.count_params() < 0.72 * model.count_params()
        off.append(float(np.linalg.norm(np.asarray(smaller(samples)) - expected)))
    assert off[1] < 0.5 * off[0]
