from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa.passes.normalize.normalize import normalize
from spa.passes.samples import effort
from spa.passes.samples.checking import check_samples
from spa.passes.samples.datafree import Recipe

SECONDS = {"run": 0.0, "product": 1e-3, "load": 0.0}


def foretold(group: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds for a convolution of 96 channels in so many groups, were running the model free."""
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[n, 96, 12, 12] x) => (float[n, 5, 12, 12] y)'
        f" {{ d = Conv<group={group}, pads=[1,1,1,1]>(x, k) r = Relu(d) y = Conv(r, v) }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"k": (96, 96 // group, 3, 3), "v": (5, 96, 1, 1)}.items():
        tensor = onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        proto.graph.initializer.append(tensor)
    model = normalize(ir.from_proto(proto))
    samples = check_samples({"x": rng.standard_normal((8, 96, 12, 12)).astype(np.float32)}, model)
    times = iter(SECONDS.values())
    monkeypatch.setattr(effort, "_timed", lambda _: next(times))
    return sum(effort.effort(Recipe.of(model), samples, widest=1200, probes=0, probe_flops=0.0).values())


def test_a_depthwise_layer_has_a_small_problem_for_each_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    depthwise, whole = foretold(96, monkeypatch), foretold(1, monkeypatch)
    assert 0 < depthwise < 0.05 * whole


def test_long_repairs_get_fewer_samples_and_probes() -> None:
    parts = {"runs": 60.0, "probes": 40.0, "grams": 20.0, "solves": 5.0}
    count, share = effort.thinned(parts, 512, 45.0)
    assert count == int(512 * 40 / 120)
    assert share == pytest.approx(40 / 120)
    assert effort.thinned(parts, 512, 500.0) == (512, 1.0)
    assert effort.thinned(parts, 512, 1.0) == (effort.LEAST_SAMPLES, effort.LEAST_SHARE)
    assert effort.thinned(parts, 20, 1.0)[0] == 20
