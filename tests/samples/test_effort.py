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


def foretold(body: str, weights: dict[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds for a network of pictures of 96 channels, were running it free."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[n, 96, 12, 12] x) => (float[n, m] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        tensor = onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        proto.graph.initializer.append(tensor)
    model = normalize(ir.from_proto(proto))
    samples = check_samples({"x": rng.standard_normal((8, 96, 12, 12)).astype(np.float32)}, model)
    times = iter(SECONDS.values())
    monkeypatch.setattr(effort, "_timed", lambda _: next(times))
    return sum(effort.effort(Recipe.of(model), samples, widest=1200, probes=0, probe_flops=0.0).values())


def convolution(group: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds for a convolution of 96 channels in so many groups."""
    body = f"d = Conv<group={group}, pads=[1,1,1,1]>(x, k) r = Relu(d) s = Conv(r, v) y = Flatten(s)"
    return foretold(body, {"k": (96, 96 // group, 3, 3), "v": (5, 96, 1, 1)}, monkeypatch)


def test_a_depthwise_layer_has_a_small_problem_for_each_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    depthwise, whole = convolution(96, monkeypatch), convolution(1, monkeypatch)
    assert 0 < depthwise < 0.05 * whole


def test_a_flattened_row_is_solved_by_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only channels can go, so that a problem of 64 is solved, not one of 64 channels at 144 places."""
    flattened = "d = Conv<pads=[1,1,1,1]>(x, k) r = Relu(d) f = Flatten(r) y = Gemm(f, v)"
    pooled = "d = Conv<pads=[1,1,1,1]>(x, k) r = Relu(d) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, v)"
    kernel = {"k": (64, 96, 3, 3)}
    wide = foretold(flattened, {**kernel, "v": (64 * 144, 5)}, monkeypatch)
    assert wide < 1.5 * foretold(pooled, {**kernel, "v": (64, 5)}, monkeypatch)


def test_long_repairs_get_fewer_samples_and_probes() -> None:
    parts = {"runs": 60.0, "probes": 40.0, "grams": 20.0, "solves": 5.0}
    count, share = effort.thinned(parts, 512, 45.0)
    assert count == int(512 * 40 / 120)
    assert share == pytest.approx(40 / 120)
    assert effort.thinned(parts, 512, 500.0) == (512, 1.0)
    assert effort.thinned(parts, 512, 1.0) == (effort.LEAST_SAMPLES, effort.LEAST_SHARE)
    assert effort.thinned(parts, 20, 1.0)[0] == 20
