"""Rows that a mask hides are left out of statistics."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.repair.network import prepare
from spa.passes.repair.session import Session
from spa.passes.samples.checking import check_samples
from spa.pipeline import load_normal
from spa.presets import PRESETS
from tests import models
from tests.models import Weight, build

MASKED = """(float[N,T,6] x, float[N,T] attention_mask) => (float[N,T,3] y) {
    h = MatMul(x, w1)  r = Relu(h)  k = Unsqueeze(attention_mask, one)  s0 = Transpose <perm=[0,2,1]> (r)
    s = MatMul(r, s0)  m = Mul(s, k)  c = MatMul(m, r)  y = MatMul(c, w2) }"""


def masked(name: str = "attention_mask") -> ir.Model:
    weights: dict[str, Weight] = {"w1": [6, 8], "w2": [8, 3], "one": models.integers(1)}
    return load_normal(build(MASKED.replace("attention_mask", name), weights))


def samples(name: str = "attention_mask", *, hidden: float = 1.0) -> dict[str, np.ndarray]:
    """Eight samples of up to five steps; what padding holds is `hidden`."""
    lengths = np.array([5, 3, 1, 4, 5, 2, 3, 4])
    mask = (np.arange(5) < lengths[:, None]).astype(np.float32)
    x = np.random.default_rng(0).standard_normal((8, 5, 6)).astype(np.float32)
    return {"x": np.where(mask[..., None] > 0, x, hidden).astype(np.float32), name: mask}


def session_of(given: dict[str, np.ndarray], name: str = "attention_mask") -> Session:
    model = masked(name)
    return Session.of(prepare(model), check_samples(given, model), PRESETS["default"])


def test_statistics_do_not_see_padding() -> None:
    layers = [session_of(samples(hidden=value)) for value in (1.0, 100.0)]
    means = []
    for session in layers:
        problems = [session.problem(layer) for layer in session.network.layers if layer.weight.name == "w1"]
        (statistics,) = session.dense_statistics(problems).values()
        assert statistics.fitted[0].count + statistics.held_out[0].count == samples()["attention_mask"].sum()
        means.append(statistics.fitted[0].mean)
    assert np.allclose(means[0], means[1])


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((8, 5), np.float32),  # hides nothing
        np.full((8, 5), 0.5, np.float32) + np.eye(8, 5, dtype=np.float32),  # weighs, hides nothing
    ],
)
def test_other_inputs_hide_nothing(mask: np.ndarray) -> None:
    assert not session_of({"x": samples()["x"], "attention_mask": mask}).masks.masks


@pytest.mark.parametrize("name", ["attention_mask", "valid", "pad"])
def test_a_mask_is_known_by_what_it_does_not_by_its_name(name: str) -> None:
    masks = session_of(samples(name), name).masks
    assert list(masks.masks) == [name]
    assert not masks.inverted


def test_a_mask_whose_ones_hide() -> None:
    text = MASKED.replace("m = Mul(s, k)", "o = Sub(unit, k)  m = Mul(s, o)")
    weights: dict[str, Weight] = {"w1": [6, 8], "w2": [8, 3], "one": models.integers(1), "unit": np.ones(1, np.float32)}
    model = load_normal(build(text, weights))
    given = samples()
    given["attention_mask"] = 1.0 - given["attention_mask"]
    session = Session.of(prepare(model), check_samples(given, model), PRESETS["default"])
    assert list(session.masks.inverted) == ["attention_mask"]
    problems = [session.problem(layer) for layer in session.network.layers if layer.weight.name == "w1"]
    (statistics,) = session.dense_statistics(problems).values()
    assert statistics.fitted[0].count + statistics.held_out[0].count == samples()["attention_mask"].sum()


def test_zeros_and_ones_that_both_count_are_no_mask() -> None:
    """Which segment a word is of, say."""
    text = """(float[N,T,6] x, float[N,T] segment) => (float[N,T,3] y) {
        u = Unsqueeze(segment, two)  s = Add(x, u)  h = MatMul(s, w1)  r = Relu(h)  y = MatMul(r, w2) }"""
    model = load_normal(build(text, {"two": models.integers(2), "w1": [6, 8], "w2": [8, 3]}))
    given = {"x": samples()["x"], "segment": samples()["attention_mask"]}
    session = Session.of(prepare(model), check_samples(given, model), PRESETS["default"])
    assert not session.masks.masks


def test_rows_over_more_axes_than_the_mask_has() -> None:
    """Heads beside the steps: each head's row counts where its step does."""
    text = """(float[N,T,6] x, float[N,T] mask) => (float[N,T,2,3] y, float[N,T,6] z) {
        z = Mul(x, u)  u = Unsqueeze(mask, two)  h = Reshape(x, four)  y = MatMul(h, w) }"""
    text = text.replace("z = Mul(x, u)  u = Unsqueeze(mask, two)", "u = Unsqueeze(mask, two)  z = Mul(x, u)")
    weights: dict[str, Weight] = {"two": models.integers(2), "four": models.integers(0, 0, 2, 3), "w": [3, 3]}
    network = prepare(load_normal(build(text, weights)))
    given = {"x": samples()["x"], "mask": samples()["attention_mask"]}
    (layer,) = network.layers
    session = Session.of(network, check_samples(given, network.model), PRESETS["default"])
    rows = session.masks.rows(session.problem(layer), given, (8, 5, 2, 3))
    assert rows is not None
    assert rows.tolist() == np.repeat(given["mask"].reshape(-1), 2).tolist()


def test_a_batch_that_is_all_padding_adds_nothing() -> None:
    given = samples()
    given["attention_mask"][:2] = 0.0
    session = session_of(given)
    problems = [session.problem(layer) for layer in session.network.layers if layer.weight.name == "w1"]
    (statistics,) = session.dense_statistics(problems).values()
    assert statistics.fitted[0].count + statistics.held_out[0].count == given["attention_mask"].sum()


def test_outputs_are_compared_where_the_mask_is_one() -> None:
    given = samples()
    session = session_of(given)
    batches = session.batches
    (dense,) = session.outputs(batches)
    moved = [np.where(b["attention_mask"][..., None] > 0, a, a + 9) for a, b in zip(dense, batches, strict=True)]
    assert session.difference(0, dense, moved, batches)["relative_l2"] == 0.0
    off = [array + 1 for array in dense]
    assert session.difference(0, dense, off, batches)["relative_l2"] > 0.0
