"""What is said of stored statistics where torch is missing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from spa import gradients
from spa.clock import Clock
from spa.errors import MissingExtra
from spa.owned import inverted
from spa.passes.samples.checking import check_samples
from spa.passes.samples.datafree import Recipe
from spa.pipeline import load_normal

BODY = """<ir_version: 10, opset_import: ["": 20]> net (float[n, 2, 8, 8] x) => (float[n, 4, 6, 6] y) {{
    a = Conv (x, w)
    {last}
}}"""


def recipe_of(last: str) -> Recipe:
    proto = onnx.parser.parse_model(BODY.format(last=last))
    arrays = {"w": np.ones((4, 2, 3, 3)), "s": np.ones(4), "b": np.ones(4), "m": np.full(4, 0.5), "v": np.ones(4)}
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    return Recipe.of(load_normal(proto))


@pytest.mark.parametrize("normalised", [True, False])
def test_torch_is_named_where_it_would_help(monkeypatch: pytest.MonkeyPatch, normalised: bool) -> None:
    def missing() -> None:
        raise MissingExtra("PyTorch is not installed")

    monkeypatch.setattr(gradients, "require", missing)
    recipe = recipe_of("y = BatchNormalization (a, s, b, m, v)" if normalised else "y = Relu (a)")
    samples = check_samples({"x": np.ones((16, 2, 8, 8), np.float32)}, recipe.model)
    result = inverted(recipe, samples, Clock(None))
    assert np.array_equal(result.samples["x"], samples.samples["x"])
    assert not result.inverted
    assert any("spa-onnx[torch]" in note for note in result.notes) == normalised
