"""What numbers an input takes, read off the weights of the layers that it comes to first."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from spa.errors import DataError
from spa.passes.normalize.normalize import normalize
from spa.passes.samples.datafree import Recipe, make_samples
from spa.passes.samples.photographs import photographs
from tests.models import Weight, build

NAMES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "standardised": (-1.8, 2.2)}
NET = """(float[n,3,32,32] x) => (float[n,4] y) {
    BEFORE a = Conv<pads=[1,1,1,1]>(IN, w, b) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }"""


def trained(low: float, high: float, *, folded: bool) -> dict[str, Weight]:
    """A first layer whose results are of variance one and mean zero on pictures from `low` to `high`."""
    rng = np.random.default_rng(3)
    seen = low + (high - low) * photographs(24, 3, 32, 32, rng)
    weight = rng.standard_normal((16, 3, 3, 3))
    patches = np.lib.stride_tricks.sliding_window_view(seen, (3, 3), (2, 3))
    made = np.einsum("nchwij,ocij->nohw", patches, weight)
    mean, spread = made.mean((0, 2, 3)), made.std((0, 2, 3))
    head: dict[str, Weight] = {"v": rng.standard_normal((16, 4)).astype(np.float32)}
    if folded:
        scaled = weight / spread[:, None, None, None]
        return head | {"w": scaled.astype(np.float32), "b": (-mean / spread).astype(np.float32)}
    norm = {"s": np.ones(16), "o": np.zeros(16), "m": mean, "u": spread**2}
    return head | {"w": weight.astype(np.float32), "b": np.zeros(16, np.float32)} | {
        name: array.astype(np.float32) for name, array in norm.items()
    }  # fmt: skip


def ranges(text: str, weights: dict[str, Weight]) -> list[str]:
    model = normalize(ir.from_proto(build(text, weights)))
    return [span.name for span in Recipe.of(model).ranges["x"]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folded", [True, False])
def test_the_range_that_a_network_was_trained_on_is_among_those_used(name: str, folded: bool) -> None:
    text = NET.replace("BEFORE", "").replace("IN", "x")
    if not folded:
        text = text.replace("r = Relu(a)", "z = BatchNormalization(a, s, o, m, u) r = Relu(z)")
    names = ranges(text, trained(*NAMES[name], folded=folded))
    assert name in names
    if name == "0..255":
        assert names == ["0..255"]
    else:
        assert "0..255" not in names


@pytest.mark.parametrize(
    ("before", "weights"),
    [
        ("c = Sub(x, k) z = Div(c, d)", {"k": 73.0, "d": 90.3}),
        ("c = Mul(x, d) z = Add(c, k)", {"k": -0.5, "d": 1 / 64}),
        ("c = Sub(x, k) z = Mul(c, d)", {"k": np.array([124.0, 116.0, 104.0]), "d": np.array([0.017, 0.018, 0.019])}),
    ],
)
def test_a_scaling_inside_the_model_is_taken_back(before: str, weights: dict[str, object]) -> None:
    """With samples of the network behind the scaling, the one before it sees the same."""
    stored = trained(*NAMES["standardised"], folded=True)
    arrays = {name: np.asarray(value, np.float32).reshape(-1, 1, 1) for name, value in weights.items()}
    model = normalize(ir.from_proto(build(NET.replace("BEFORE", before).replace("IN", "z"), {**stored, **arrays})))
    plain = normalize(ir.from_proto(build(NET.replace("BEFORE", "").replace("IN", "x"), stored)))
    behind, seen = (make_samples(net, most=12, library=True).samples["x"] for net in (model, plain))
    if "Sub" in before:
        scaled = (behind - arrays["k"]) * (arrays["d"] if "Mul" in before else 1 / arrays["d"])
    else:
        scaled = behind * arrays["d"] + arrays["k"]
    assert "standardised behind the model's own scaling" in [span.name for span in Recipe.of(model).ranges["x"]]
    np.testing.assert_allclose(scaled[:3], seen[:3], atol=1e-3)


@pytest.mark.parametrize("samples", ["n", "1"])
@pytest.mark.parametrize(("size", "offset"), [(1.0, 0.0), (30.0, 0.0), (0.1, 0.0), (10.0, 20.0)])
def test_features_of_any_size(size: float, offset: float, samples: str) -> None:
    """The first layer takes features to variance one; samples come out within a factor of four of their size."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 32)) / np.sqrt(24) / size
    weights: dict[str, Weight] = {
        "w": weight.astype(np.float32), "b": (-offset * weight.sum(0)).astype(np.float32), "v": [32, 5]
    }  # fmt: skip
    text = f"(float[{samples},24] x) => (float[{samples},5] y) {{ h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v) }}"
    features = make_samples(normalize(ir.from_proto(build(text, weights))), most=60).samples["x"]
    assert size / 4 < np.sqrt(np.mean((features - offset) ** 2)) < 4 * size


def test_bytes_are_bytes() -> None:
    text = "(uint8[n,3,16,16] x) => (float[n,4,16,16] y) { f = Cast<to=1>(x) y = Conv(f, w) }"
    images = make_samples(normalize(ir.from_proto(build(text, {"w": [4, 3, 1, 1]}))), most=12, library=True).samples[
        "x"
    ]
    assert images.dtype == np.uint8
    assert images.max() > 200
    assert images.min() < 50


def test_a_range_that_is_given_is_kept_to() -> None:
    model = normalize(ir.from_proto(build("(float[n,3,16,16] x) => (float[n,4,16,16] y) { y = Conv(x, w) }",
                                          {"w": [4, 3, 1, 1]})))  # fmt: skip
    images = make_samples(model, most=12, bounds={"x": (10.0, 20.0)}).samples["x"]
    assert 10 <= images.min() < 12
    assert 18 < images.max() <= 20
    with pytest.raises(DataError, match="no input 'y'; its inputs are 'x'"):
        make_samples(model, bounds={"y": (0, 1)})


def test_scalars_are_tried() -> None:
    """A rate of one would leave no step of the sound: the model fails on it, and runs with 16,000."""
    text = """(float[n,16000] x, int64 rate) => (float[n,4] y) {
        step = Div(rate, thousand) k = Unsqueeze(step, first) s = Slice(x, zero, k, one) y = MatMul(s, w) }"""
    weights: dict[str, Weight] = {
        "w": [16, 4], "thousand": np.array(1000), "first": np.array([0]), "zero": np.array([0]), "one": np.array([1])
    }  # fmt: skip
    samples = make_samples(normalize(ir.from_proto(build(text, weights))), most=20)
    assert samples.scalars == {"rate": 16000}


@pytest.mark.parametrize("shape", [(12,), (4, 3)], ids=["row", "flattened"])
@pytest.mark.parametrize("first", ["a = Gemm<transB=1>(f, w, b)", "m = MatMul(f, t) a = Add(m, b)",
                                   "m = MatMul(f, t) a = BatchNormalization(m, s, o, k, u)"])  # fmt: skip
def test_means_and_sizes_of_columns_are_read_off_the_first_layer(shape: tuple[int, ...], first: str) -> None:
    """Columns that were standardised before the first layer, into which that was folded."""
    rng = np.random.default_rng(5)
    sizes = 10.0 ** rng.uniform(-2, 3, 12)
    means = sizes * rng.uniform(-4, 4, 12)
    plain = rng.standard_normal((64, 12))
    weight = plain / np.linalg.norm(plain, axis=0) / sizes
    off = (-weight @ means).astype(np.float32)
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    stored = {"w": weight, "t": weight.T, "b": off, "v": rng.standard_normal((64, 3)),
              "s": ones, "o": zeros, "k": -off, "u": ones}  # fmt: skip
    text = (
        f"(float[n,{','.join(map(str, shape))}] x) => (float[n,3] y) "
        f"{{ f = Flatten(x) {first} r = Relu(a) y = MatMul(r, v) }}"
    )
    words = set(re.findall(r"\w+", text))
    used = {name: array.astype(np.float32) for name, array in stored.items() if name in words}
    told = Recipe.of(normalize(ir.from_proto(build(text, used)))).ranges["x"][0]
    assert told.name == "sizes of its own for each number"
    assert told.scale.shape == shape
    assert np.all(np.abs(told.shift.reshape(-1) - means) < 0.25 * sizes)
    ratio = told.scale.reshape(-1) / sizes
    assert ratio.max() / ratio.min() < 1.01


def test_numbers_behind_a_convolution_have_no_sizes_of_their_own() -> None:
    text = """(float[n,40,24] x) => (float[n,4] y) {
        a = Conv(x, w) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }"""
    rng = np.random.default_rng(6)
    stored = {"w": rng.standard_normal((16, 40, 3)), "v": rng.standard_normal((16, 4))}
    names = ranges(text, {name: array.astype(np.float32) for name, array in stored.items()})
    assert "sizes of its own for each number" not in names
