"""Few given samples, and the tool's own beside them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from spa import pipeline
from spa.passes.normalize.normalize import normalize
from spa.passes.repair import own
from spa.passes.samples.checking import check_samples
from spa.passes.samples.datafree import Recipe
from spa.passes.samples.photographs import photographs
from spa.passes.samples.topping import FEW, TOPPED, top_up
from tests import models
from tests.models import build


def pictures(count: int) -> dict[str, np.ndarray]:
    return {"x": 40.0 + 100.0 * photographs(count, 3, 8, 8, np.random.default_rng(2))}


def test_samples_beside_are_in_the_range_of_those_given() -> None:
    model = normalize(ir.from_proto(models.residual_cnn()))
    topped = top_up(model, check_samples(pictures(4), model))
    assert topped is not None
    assert 4 < len(topped) <= 4 * TOPPED
    assert pictures(4)["x"].min() - 1e-3 <= topped.samples["x"].min()
    assert topped.samples["x"].max() <= pictures(4)["x"].max() + 1e-3
    assert top_up(model, check_samples(pictures(FEW + 1), model)) is None


def test_features_are_not_topped_up() -> None:
    """What numbers of unknown kind look like, a few given ones say better than any made up."""
    model = normalize(ir.from_proto(build("(float[n,40] x) => (float[n,5] y) { a=MatMul(x,u) r=Relu(a) y=MatMul(r,v) }",
                                          {"u": [40, 64], "v": [64, 5]})))  # fmt: skip
    x = np.random.default_rng(1).standard_normal((4, 40)).astype(np.float32)
    assert top_up(model, check_samples({"x": x}, model)) is None


def test_no_model_of_tokens_is_loaded_to_be_topped_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of 1.5 billion parameters would be, as a whole, beyond whatever --memory says."""
    model = normalize(ir.from_proto(build("(int64[n,8] x) => (float[n,8,16] y) { e=Gather(t,x) y=MatMul(e,v) }",
                                          {"t": [32, 8], "v": [8, 16]})))  # fmt: skip
    given = check_samples({"x": np.random.default_rng(1).integers(0, 32, (4, 8))}, model)
    monkeypatch.setattr(Recipe, "of", lambda *_, **__: pytest.fail("the model was loaded"))
    assert top_up(model, given) is None


@pytest.mark.parametrize(("enough", "topped"), [(np.inf, True), (0.0, False)])
def test_held_out_samples_decide(enough: float, topped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "TOPPED_UP", enough)
    result = pipeline.prune(models.residual_cnn(), ratio=0.3, data=pictures(6), preset="fast")
    assert result.report.verified
    assert any("6 samples are few" in note for note in result.report.notes) is topped
    assert result.report.outputs_on == "samples held out"
