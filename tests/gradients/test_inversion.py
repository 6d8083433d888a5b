"""Samples that are brought to the statistics that batch normalisations stored of the training data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa.clock import Clock  # noqa: E402
from spa.gradients.inversion import invert  # noqa: E402
from spa.owned import LEAST_PASSES, inverted, stored_statistics  # noqa: E402
from spa.passes.repair.batchnorm import batch_statistics  # noqa: E402
from spa.passes.samples.calibrate import Calibration  # noqa: E402
from spa.passes.samples.checking import check_samples  # noqa: E402
from spa.passes.samples.datafree import Recipe  # noqa: E402
from spa.pipeline import load_normal  # noqa: E402


def real(count: int = 64, seed: int = 0) -> np.ndarray:
    """Dark pictures with one bright stripe each: unlike anything that is made up."""
    generator = np.random.default_rng(seed)
    pictures = np.full((count, 2, 8, 8), -0.8) + 0.05 * generator.standard_normal((count, 2, 8, 8))
    for sample, row in zip(pictures, generator.integers(0, 8, count), strict=True):
        sample[:, row] += 2.0
    return pictures.astype(np.float32)


def network(batch: str = "n", mask: bool = False) -> onnx.ModelProto:
    """Two convolutions, each with a normalisation whose statistics are those of `real`."""
    generator = np.random.default_rng(3)
    masked = "e = Mul (x, m)" if mask else "e = Identity (x)"
    inputs = f"float[{batch}, 2, 8, 8] x" + (f", float[{batch}, 2, 8, 8] m" if mask else "")
    proto = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        net ({inputs}) => (float[{batch}, 4] y) {{
          {masked}
          a = Conv <pads = [1, 1, 1, 1]> (e, w1)
          b = BatchNormalization (a, s1, b1, m1, v1)
          c = Relu (b)
          d = Conv <pads = [1, 1, 1, 1]> (c, w2)
          f = BatchNormalization (d, s2, b2, m2, v2)
          g = Relu (f)
          p = GlobalAveragePool (g)
          q = Flatten (p)
          y = MatMul (q, w3)
        }}""")
    shapes = {"w1": (16, 2, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 4)}
    arrays = {name: 0.3 * generator.standard_normal(shape) for name, shape in shapes.items()}
    arrays |= {name: generator.uniform(0.5, 1.5, 16) for name in ("s1", "s2")}
    arrays |= {name: 0.3 * generator.standard_normal(16) for name in ("b1", "b2")}
    arrays |= {name: np.zeros(16) for name in ("m1", "m2")} | {name: np.ones(16) for name in ("v1", "v2")}
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    if batch != "n":
        return trained(proto, [{"x": sample[None]} for sample in real()])
    feeds = {"x": real()} | ({"m": np.ones((64, 2, 8, 8), np.float32)} if mask else {})
    return trained(proto, [feeds])


def trained(proto: onnx.ModelProto, batches: list[dict[str, np.ndarray]]) -> onnx.ModelProto:
    statistics = batch_statistics(ir.from_proto(proto), batches)
    for tensor in proto.graph.initializer:
        if tensor.name in statistics:
            tensor.CopyFrom(numpy_helper.from_array(statistics[tensor.name].astype(np.float32), tensor.name))
    return proto


def noise(model: ir.Model, count: int = 48, **others: np.ndarray) -> Calibration:
    arrays = np.random.default_rng(1).standard_normal((count, 2, 8, 8)).astype(np.float32)
    return check_samples({"x": arrays, **others}, model)


@pytest.mark.parametrize("batch", ["n", "1"], ids=["any number at a time", "one at a time"])
def test_statistics_come_to_those_of_training(batch: str) -> None:
    model = load_normal(network(batch))
    kept = stored_statistics(Recipe.of(model))
    assert len(kept) == 2
    samples = noise(model)
    moved = invert(model, samples, ["x"], kept, passes=60)
    assert moved.after < 0.05 * moved.before
    arrays = moved.samples.samples["x"]
    again = batch_statistics(model, moved.samples.batches(moved.samples.batch_size or 48))
    for stored in kept:
        mean, variance = (value.const_value.numpy() for value in (stored.mean, stored.variance))  # type: ignore[union-attr]
        off = (again[str(stored.mean.name)] - mean) / np.sqrt(variance)
        assert np.sqrt(np.mean(off**2)) < 0.25
    assert arrays.dtype == np.float32
    assert arrays.shape == samples.samples["x"].shape
    assert samples.samples["x"].min() <= arrays.min() < arrays.max() <= samples.samples["x"].max()


def test_the_same_seed_gives_the_same_samples() -> None:
    model = load_normal(network())
    kept, samples = stored_statistics(Recipe.of(model)), noise(model)
    first, second = (invert(model, samples, ["x"], kept, passes=3, seed=4).samples.samples["x"] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, samples.samples["x"])


def test_only_the_inputs_named_are_moved() -> None:
    model = load_normal(network(mask=True))
    masks = np.ones((48, 2, 8, 8), np.float32)
    moved = invert(model, noise(model, m=masks), ["x"], stored_statistics(Recipe.of(model)), passes=3)
    assert np.array_equal(moved.samples.samples["m"], masks)


def test_statistics_that_nobody_learned_say_nothing() -> None:
    proto = network()
    for tensor in proto.graph.initializer:
        if tensor.name in ("m1", "v1"):
            tensor.CopyFrom(numpy_helper.from_array(np.full(16, float(tensor.name == "v1"), np.float32), tensor.name))
    kept = stored_statistics(Recipe.of(load_normal(proto)))
    assert [stored.mean.name for stored in kept] == ["m2"]


def test_a_prune_without_samples_is_nearer_to_training(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = real(200, seed=1)

    def distance(**options: Any) -> tuple[float, list[str]]:
        result = spa.prune(network(), ratio=0.4, of="channels", verify=False, **options)
        dense, pruned = (spa.runtime.run(spa.runtime.session(model, optimize=False), {"x": fresh})["y"]
                         for model in (network(), result.model))  # fmt: skip
        return float(np.linalg.norm(pruned - dense) / np.linalg.norm(dense - dense.mean(0))), result.report.notes

    nearer, notes = distance(data_free=True)
    assert any("the statistics that 2 normalisations stored" in note for note in notes)
    monkeypatch.setattr("spa.owned.PASSES", LEAST_PASSES - 1)
    further, notes = distance(data_free=True)
    assert not any("normalisations stored" in note for note in notes)
    assert nearer < 0.95 * further


def test_in_a_hurry_large_networks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.of(load_normal(network()))
    samples = noise(recipe.model)
    monkeypatch.setattr("spa.owned.GRADIENT_FLOPS", 1.0)
    assert inverted(recipe, samples, Clock(None), hurried=True) is samples
    monkeypatch.setattr("spa.owned.PATIENCE", 1e15)
    told = inverted(recipe, replace(samples, unlike=True), Clock(None))
    assert told.inverted
    assert not told.unlike
