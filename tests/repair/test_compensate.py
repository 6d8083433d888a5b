"""Repair on small models: it never makes a weight that is no number, and it makes the cut model better."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa import runtime
from spa.analysis.couple import couple
from spa.analysis.group import find_groups
from spa.errors import BudgetError, NothingToPrune, UsageError
from spa.passes.choose.budget import Budget
from spa.passes.cut.masking import mask_consumers
from spa.passes.cut.slicing import slice_model
from spa.passes.normalize.normalize import normalize
from spa.passes.repair.compensate import Compensation, compensate
from spa.passes.samples.checking import check_samples
from spa.passes.secondorder import BASELINES
from spa.pipeline import load_normal
from spa.shapes import infer_shapes
from tests import models

MLP = """(float[n,6] x) => (float[n,3] y) {
    a = Gemm(x, u, c)  b = Relu(a)  d = MatMul(b, v)  e = Relu(d)  y = MatMul(e, w) }"""
MLP_WEIGHTS = {"u": (6, 24), "c": (24,), "v": (24, 20), "w": (20, 3)}
CNN = """(float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, u)
    b = BatchNormalization(a, s, t, m, q)
    r = Relu(b)
    d = Conv<pads=[1,1,1,1]>(r, v)
    k = Conv(x, z)
    j = Add(d, k)
    f = Relu(j)
    g = GlobalAveragePool(f)
    h = Flatten(g)
    y = Gemm<transB=1>(h, w)
}"""
CNN_WEIGHTS = {
    "u": (16, 3, 3, 3), "s": (16,), "t": (16,), "m": (16,), "v": (12, 16, 3, 3), "z": (12, 3, 1, 1), "w": (4, 12)
}  # fmt: skip


def noisy(text: str, weights: Mapping[str, tuple[int, ...]], seed: int = 0, /, **arrays: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    generator = np.random.default_rng(seed)
    drawn = {
        n: (generator.standard_normal(s) / np.sqrt(np.prod(s[1:]) or 1)).astype(np.float32) for n, s in weights.items()
    }
    for name, array in (drawn | arrays).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return normalize(ir.from_proto(proto))


def mlp(**arrays: np.ndarray) -> ir.Model:
    return noisy(MLP, MLP_WEIGHTS, **arrays)


def cnn() -> ir.Model:
    return noisy(CNN, CNN_WEIGHTS, q=np.full(16, 1.5, np.float32))


def samples(model: ir.Model, count: int, seed: int = 5) -> np.ndarray:
    shape = [size if isinstance(size, int) else count for size in model.graph.inputs[0].shape or ()]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sliced(result: Compensation) -> ir.Model:
    model = result.model.clone()
    shapes = infer_shapes(model)
    coupling = couple(model, shapes)
    slice_model(model, coupling, shapes, result.plan.masks(find_groups(coupling)))
    return model


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return runtime.run(runtime.session(model, optimize=False), {"x": x})["y"].astype(np.float64)


def error(model: ir.Model, result: Compensation) -> float:
    """Relative squared error of the cut model on samples that nothing has seen."""
    x = samples(model, 200, seed=99)
    dense, pruned = outputs(model, x), outputs(sliced(result), x)
    return float(np.sum((dense - pruned) ** 2) / np.sum((dense - dense.mean(0)) ** 2))


@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
@pytest.mark.parametrize("preset", ["fast", "default", "best"])
def test_repair_beats_removal(make, preset):
    model = make()
    data = check_samples(samples(model, 240), model)
    ours = compensate(model, data, Budget(ratio=0.5, of="channels"), preset=preset)
    plain = compensate(model, data, Budget(ratio=0.5, of="channels"), method="magnitude")
    assert error(model, ours) < 0.5 * error(model, plain)
    assert ours.layers
    assert all(np.isfinite(layer.measured) and layer.predicted >= 0 for layer in ours.layers)
    assert 0 < ours.difference["y"]["relative_l2"] < 1


def test_cutting_out_what_is_read_as_zero_changes_nothing():
    """What the repair saw of the pruned network is what slicing makes of it."""
    model = cnn()
    result = compensate(model, check_samples(samples(model, 120), model), Budget(ratio=0.4, of="channels"))
    masked = result.model.clone()
    coupling = couple(masked, infer_shapes(masked))
    mask_consumers(masked, coupling, result.plan.masks(find_groups(coupling)))
    x = samples(model, 20, seed=3)
    expected = outputs(result.model, x)
    np.testing.assert_allclose(outputs(sliced(result), x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs(masked, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made_up", [False, True])
def test_a_closed_model_gets_no_new_tensors_and_is_repaired_all_the_same(made_up: bool) -> None:
    """`x` feeds a convolution without a bias, whose normalisation has a mean to move."""
    model = noisy(
        """(float[n,6,6,6] x) => (float[n,3] y) {
        a = Conv(x, u)  r = Relu(a)  b = Conv(r, v)  c = BatchNormalization(b, s, t, m, q)  d = Relu(c)
        e = GlobalAveragePool(d)  f = Flatten(e)  k = Transpose(w)  y = MatMul(f, k) }""",
        {"u": (24, 6, 1, 1), "v": (8, 24, 1, 1), "s": (8,), "t": (8,), "m": (8,), "w": (3, 8)},
        q=np.full(8, 1.5, np.float32),
    )
    x = np.abs(np.random.default_rng(5).standard_normal((240, 6, 6, 6))).astype(np.float32)
    data = check_samples(x, model)
    closed = compensate(model, data, Budget(ratio=0.5, of="channels"), closed=True, made_up=made_up)
    plain = compensate(model, data, Budget(ratio=0.5, of="channels"), method="magnitude", closed=True)
    assert {*closed.model.graph.initializers} == {*model.graph.initializers}
    assert error(model, closed) < 0.5 * error(model, plain)


def test_the_model_that_was_given_stays_as_it_was():
    model = mlp()
    x = samples(model, 60)
    before = outputs(model, x)
    compensate(model, check_samples(x, model), Budget(ratio=0.5, of="channels"), preset="fast")
    np.testing.assert_array_equal(outputs(model, x), before)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
def test_fewer_samples_than_channels_never_give_what_is_no_number(make, count):
    model = make()
    result = compensate(model, check_samples(samples(model, count), model), Budget(ratio=0.5, of="channels"))
    for value in result.model.graph.initializers.values():
        assert value.const_value is not None
        if value.const_value.dtype.is_floating_point():
            assert np.all(np.isfinite(value.const_value.numpy()))
    dense = {
        n: float(np.abs(v.const_value.numpy()).max()) for n, v in model.graph.initializers.items() if v.const_value
    }
    for name, value in result.model.graph.initializers.items():
        if len(value.shape or ()) > 1 and name in dense:
            assert value.const_value is not None
            assert np.abs(value.const_value.numpy()).max() <= 10.001 * dense[name]


def test_identical_units_merge_for_free():
    """Twelve channels, each there twice: half of them go, and the outputs stay."""
    generator = np.random.default_rng(1)
    u, c = (np.repeat(generator.standard_normal(shape).astype(np.float32), 2, -1) for shape in ((6, 12), (12,)))
    model = mlp(u=u, c=c)
    result = compensate(
        model, check_samples(samples(model, 400), model), Budget(ratio=0.5, of="channels", only=("u:1",)), preset="best"
    )
    kept = set(range(24)) - set(result.plan.removed["u:1"])
    assert {unit // 2 for unit in kept} == set(range(12))
    assert error(model, result) < 1e-3


def test_weight_of_two_nodes_is_not_refitted():
    text = """(float[n,8] x) => (float[n,8] y) {
        a = MatMul(x, v)  b = Relu(a)  c = MatMul(b, w)  d = Relu(c)  e = MatMul(d, w)  f = Relu(e)
        y = MatMul(f, v) }"""
    model = noisy(text, {"v": (8, 8), "w": (8, 8)})
    data = check_samples(samples(model, 100), model)
    names = [group.name for group in find_groups(couple(model, infer_shapes(model)))]
    if not names:  # a tie across the boundary freezes both
        with pytest.raises(Exception, match="nothing"):
            compensate(model, data, Budget(ratio=0.3, of="channels"))
        return
    result = compensate(model, data, Budget(ratio=0.3, of="channels"))
    assert all(layer.note.startswith("left alone") for layer in result.layers)


@pytest.mark.parametrize("method", BASELINES)
def test_published_methods_run(method):
    model = cnn()
    result = compensate(
        model, check_samples(samples(model, 60), model), Budget(ratio=0.4, of="channels"), method=method
    )
    assert result.plan.removed
    assert np.all(np.isfinite(outputs(sliced(result), samples(model, 10))))


def test_budget_is_met_and_global_allocation_is_not_uniform():
    model = mlp()
    data = check_samples(samples(model, 240), model)
    result = compensate(model, data, Budget(ratio=0.4, of="params"))
    dense, cut = (
        sum(v.const_value.size for v in m.graph.initializers.values() if v.const_value) for m in (model, sliced(result))
    )
    assert 0.35 <= 1 - cut / dense <= 0.5  # biases that the repair adds count too
    shares = {name: len(units) / result.plan.sizes[name] for name, units in result.plan.removed.items()}
    assert len(set(shares.values())) > 1 or len(shares) == 1


def test_wrong_options_say_what_is_expected():
    model = mlp()
    data = check_samples(samples(model, 30), model)
    with pytest.raises(UsageError, match="preset 'slow': expected one of fast, default, best"):
        compensate(model, data, Budget(ratio=0.5), preset="slow")
    with pytest.raises(UsageError, match="method 'magic': expected one of spa, "):
        compensate(model, data, Budget(ratio=0.5), method="magic")
    with pytest.raises(BudgetError, match="cannot be met"):
        compensate(model, data, Budget(ratio=0.99, of="params"), preset="fast")


def test_progress_is_told():
    seen = []
    model = mlp()
    data = check_samples(samples(model, 60), model)
    compensate(model, data, Budget(ratio=0.5, of="channels"), progress=lambda step, share: seen.append((step, share)))
    assert {step for step, _ in seen} == {"statistics", "select", "measure", "repair"}
    assert all(0 <= share <= 1 for _, share in seen)


GATED = """(float[6,n,4] x) => (float[6,n,2] y) {
    h, last = GRU<hidden_size=10, linear_before_reset=1>(x, w, r, b)
    s = Squeeze(h, one)
    y = MatMul(s, v)
}"""


def test_hidden_units_of_a_recurrence():
    """Readers are the next layer and the recurrence itself."""
    shapes = {"w": (1, 30, 4), "r": (1, 30, 10), "b": (1, 60), "v": (10, 2)}
    model = noisy(GATED, shapes, one=np.array([1]))
    x = np.random.default_rng(5).standard_normal((60, 6, 4)).astype(np.float32)
    # the first axis counts steps here, so one sample is one whole sequence of batch 10
    data = check_samples({"x": x.reshape(10, 6, 6, 4).reshape(-1, 6, 4)[:6]}, model)
    result = compensate(model, data, Budget(ratio=0.3, of="channels", align=1))
    assert [len(units) for units in result.plan.removed.values()] == [3]
    assert {layer.width for layer in result.layers} == {10}
    assert np.all(np.isfinite(outputs(sliced(result), x[:6])))


def test_integer_weights_are_cut_at_the_loss_that_is_measured() -> None:
    """They cannot be refitted; a published way, which does nothing but refit, leaves them alone and says so."""
    model = load_normal(models.quantized())
    shape = [n if isinstance(n, int) else 8 for n in model.graph.inputs[0].shape or ()]
    samples = np.random.default_rng(0).standard_normal((24, *shape[1:])).astype(np.float32)
    groups = find_groups(couple(model, infer_shapes(model)))
    assert any(group.off is None for group in groups)
    data = check_samples(samples, model)
    result = compensate(model, data, Budget(ratio=0.3))
    assert result.plan.removed
    assert all(0 < off["relative_l2"] < 1 for off in result.difference.values())
    with pytest.raises(NothingToPrune, match="integers that were not opened"):
        compensate(model, data, Budget(ratio=0.3), method="flap")


def test_parts_of_one_matrix_that_are_sliced_apart_are_refitted() -> None:
    """A slice leaves the other parts out; it does not sum over them, so that readers can make up for any."""
    model = noisy(
        """(float[n,6] x) => (float[n,3] y) {
        a = MatMul(x, u)  b = Slice(a, zero, middle, one)  c = Slice(a, middle, end, one)
        d = Sigmoid(b)  e = Mul(d, c)  y = MatMul(e, w) }""",
        {"u": (6, 32), "w": (16, 3)},
        **{name: np.array([at], np.int64) for name, at in (("zero", 0), ("middle", 16), ("end", 32), ("one", 1))},
    )
    data = check_samples(samples(model, 200), model)
    ours = compensate(model, data, Budget(ratio=0.5, of="channels", align=1))
    plain = compensate(model, data, Budget(ratio=0.5, of="channels", align=1), method="magnitude")
    assert not ours.notes
    assert error(model, ours) < 0.5 * error(model, plain)
