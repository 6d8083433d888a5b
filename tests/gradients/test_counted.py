"""What a mask hides is not learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="the extra torch is not installed")

import spa
from spa import runtime
from spa.errors import DataError
from tests.gradients.test_finetune import as_ir
from tests.models import build


def masked(width: int) -> onnx.ModelProto:
    """Each position goes by itself and by the mean of those that the mask shows."""
    body = """(float[N,T,6] x, int64[N,T] mask) => (float[N,T,4] y) {
        shown = Cast<to=1>(mask)  m = Unsqueeze(shown, last)  z = Mul(x, m)  sum = ReduceSum<keepdims=1>(z, first)
        count = ReduceSum<keepdims=1>(m, first)  mean = Div(sum, count)  both = Add(x, mean)
        a = MatMul(both, w)  h = Relu(a)  y = MatMul(h, v) }"""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("w", (6, 32)), ("v", (32, 4)))}
    weights = {"w": weights["w"][:, :width], "v": weights["v"][:width]}
    return build(body, weights | {"last": np.array([2]), "first": np.array([1])})


def test_what_a_mask_hides_is_not_learned() -> None:
    """Positions behind it hold numbers a hundred times as large, which would be all that counts."""
    rng = np.random.default_rng(1)
    x, mask = rng.standard_normal((48, 5, 6)).astype(np.float32), np.ones((48, 5), np.int64)
    mask[:, 3:] = rng.integers(0, 2, (48, 1))
    x[mask == 0] *= 100
    teacher, student = masked(32), masked(16)
    tuned = spa.finetune(student, teacher=teacher, data={"x": x, "mask": mask}, epochs=20, learning_rate=1e-2)
    feeds: dict[str, Any] = {"x": x[:, :3], "mask": mask[:, :3]}
    wanted, before, after = (
        runtime.run(runtime.session(model, optimize=False), feeds)["y"]
        for model in (as_ir(teacher), as_ir(student), tuned.model)
    )
    lost = [float(np.square(each - wanted).mean() / wanted.var()) for each in (before, after)]
    assert lost[1] < 0.5 * lost[0]
    assert tuned.report.before == pytest.approx(lost[0], rel=0.5)


def test_a_teacher_that_gives_no_floats_is_refused() -> None:
    body = """(float[N,T,6] x, int64[N,T] mask) => (int64[N,T] y) {
        a = MatMul(x, w)  h = Relu(a)  b = MatMul(h, v)  y = ArgMax<axis=-1, keepdims=0>(b) }"""
    model, mask = build(body, {"w": [6, 8], "v": [8, 4]}), np.ones((24, 5), np.int64)
    mask[:, 3:] = 0
    with pytest.raises(DataError, match="no floating-point numbers to learn"):
        spa.finetune(model, teacher=model, data={"x": np.ones((24, 5, 6), np.float32), "mask": mask}, epochs=1)
