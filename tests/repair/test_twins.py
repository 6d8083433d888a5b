"""Sessions made again elsewhere are like the one here: the same layers, the same moments, the same repair."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from models import folder as toy
from spa.errors import ClusterError
from spa.executor import Threads
from spa.passes.choose.budget import Budget
from spa.passes.repair import twins as module
from spa.passes.repair.compensate import Compensation, compensated
from spa.passes.repair.curves import find_curves
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.naming import Names, digest_of
from spa.passes.repair.network import analysed, prepare
from spa.passes.repair.packed import of_few_bits, opened
from spa.passes.repair.session import Session
from spa.passes.repair.twins import Twins, framed, work
from spa.passes.samples.checking import check_samples
from spa.passes.secondorder.grid import recovered
from spa.pipeline import load_normal
from spa.presets import PRESETS
from spa.runtime import random_feeds
from tests import models
from tests.elsewhere import Elsewhere
from tests.models import build
from tests.repair.test_packed import SIZES, quantised
from tests.repair.test_packed import samples as few_bits_samples

MLP = """(float[n,6] x) => (float[n,3] y) {
    a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, v)  d = Relu(c)  y = MatMul(d, w) }"""
SHARED = """(float[n,6] x) => (float[n,6] y) {
    a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, v)  d = MatMul(c, u)  e = Relu(d)  y = MatMul(e, v) }"""
MASKED = """(float[n,5,6] x, int64[n,5] mask) => (float[n,5,3] y) {
    one = Constant<value = int64[1] {-1}>()  m = Unsqueeze(mask, one)  f = Cast<to = 1>(m)
    a = MatMul(x, u)  b = Relu(a)  c = Mul(b, f)  d = MatMul(c, v)  e = Relu(d)  g = MatMul(e, w)  y = Mul(g, f) }"""


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Any:
    module._TWINS.clear()
    yield
    module._TWINS.clear()


def session_of(text: str = MLP, count: int = 120, preset: str = "default") -> Session:
    model: ir.Model = load_normal(build(text, {"u": [6, 12], "v": [12, 10 if text != SHARED else 6], "w": [10, 3]}))
    generator = np.random.default_rng(4)
    samples: dict[str, np.ndarray] = {"x": generator.standard_normal((count, 6)).astype(np.float32)}
    if text == MASKED:
        samples = {
            "x": generator.standard_normal((count, 5, 6)).astype(np.float32),
            "mask": (np.arange(5) < generator.integers(2, 6, (count, 1))).astype(np.int64),
        }
    return Session.of(prepare(model), check_samples(samples, model), PRESETS[preset], threads=1)


def elsewhere(session: Session) -> Session:
    return replace(session, twins=Twins(Elsewhere()), known={}, notes=[])


def readers(session: Session) -> list[Any]:
    return [
        session.problem(reader.layer) for group_readers in session.network.readers.values() for reader in group_readers
    ]


@pytest.mark.parametrize("text", [MLP, SHARED, MASKED], ids=["mlp", "shared", "masked"])
def test_moments_of_shards_are_those_of_all_samples(text: str) -> None:
    session = session_of(text)
    local, there = (each.dense_statistics(readers(session)) for each in (session, elsewhere(session)))
    assert local.keys() == there.keys() != set()
    for key, expected in local.items():
        for side in ("fitted", "held_out"):
            for ours, theirs in zip(getattr(expected, side), getattr(there[key], side), strict=True):
                assert ours.count == theirs.count
                np.testing.assert_allclose(theirs.gram, ours.gram, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(theirs.mean, ours.mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [MLP, SHARED, MASKED], ids=["mlp", "shared", "masked"])
@pytest.mark.parametrize("preset", ["fast", "default"])
def test_curves_are_the_same(text: str, preset: str) -> None:
    session = session_of(text, preset=preset)
    local, there = (find_curves(each, session.network.groups, [0.5], {}) for each in (session, elsewhere(session)))
    assert list(local) == list(there)
    assert local
    for name, curve in local.items():
        assert there[name].group is curve.group
        np.testing.assert_array_equal(there[name].order, curve.order)
        np.testing.assert_allclose(there[name].predicted, curve.predicted, rtol=1e-3, atol=1e-5)


def repaired(model: ir.Model, samples: dict[str, np.ndarray], executor: Any, **options: Any) -> Compensation:
    budget = Budget(ratio=0.4, of="params")
    data = check_samples(samples, model)
    return compensated(Groundwork.of(model, data, budget, threads=1, executor=executor, **options), budget)


@pytest.mark.parametrize("method", ["spa", "flap"])
def test_a_repair_gives_the_same_plan_and_weights(method: str) -> None:
    model = load_normal(models.residual_cnn())
    shapes = {
        str(v.name): [48, *(s for s in list(v.shape or ())[1:] if isinstance(s, int))] for v in model.graph.inputs
    }
    samples = random_feeds(model, shapes=shapes, seed=0)
    local, there = (repaired(model, samples, executor, method=method) for executor in (Threads(1), Elsewhere()))
    assert local.plan.removed == there.plan.removed != {}
    for name, value in local.model.graph.initializers.items():
        other = there.model.graph.initializers[name].const_value
        assert value.const_value is not None
        assert other is not None
        np.testing.assert_allclose(other.numpy(), value.const_value.numpy(), rtol=1e-4, atol=1e-5)


def test_refits_of_few_bits_are_rounded_there_too() -> None:
    dense = opened(load_normal(quantised(toy.graph_of(SIZES), 4, 32, symmetric=True)))
    there = repaired(dense, few_bits_samples(16), Elsewhere(), preset="fast")
    rounded = {name: stored for name, stored in of_few_bits(dense).items() if "down_proj" in name}
    assert len(rounded) == SIZES.layers
    for name, stored in rounded.items():
        tensor = there.model.graph.initializers[name].const_value
        assert tensor is not None
        values = tensor.numpy().astype(np.float64)
        rows = values.any(axis=1)
        assert not rows.all()
        assert recovered(values[rows].T, stored.grid.form) is not None


def test_weights_that_change_meanwhile_are_seen() -> None:
    session = session_of()
    far = elsewhere(session)
    before = far.dense_statistics(readers(session))
    value = session.network.model.graph.initializers["u"]
    assert value.const_value is not None
    value.const_value = ir.Tensor(2 * value.const_value.numpy(), name="u")
    after, expected = (each.dense_statistics(readers(session)) for each in (far, session))
    twice = next(problem.key for problem in readers(session) if problem.layer.weight.name == "v")
    np.testing.assert_allclose(after[twice].fitted[0].gram, 4 * before[twice].fitted[0].gram, rtol=1e-4)
    np.testing.assert_allclose(after[twice].fitted[0].gram, expected[twice].fitted[0].gram, rtol=1e-5)
    assert far.twins is not None
    assert far.twins.place is not None
    assert far.twins.place.version == 1


MADE = (
    "residual_cnn", "grouped_cnn", "dense_block", "picked_shuffle", "channel_shuffle", "quantized", "gated_mlp",
    "attention", "packed_attention", "shared_keys", "rotary_halves", "folded_heads", "recurrent", "tied_embedding",
    "shared_biases", "layer_normed", "branches", "rounds", "scanned", "unknown_operator",
)  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_layers_and_groups_are_numbered_alike(name: str) -> None:
    network = prepare(load_normal(getattr(models, name)()))
    again = ir.from_proto(ir.to_proto(network.model))
    other = analysed(
        again, inputs=None, counted=None, closed=False, new_biases=network.new_biases, gates=[], before=network.before
    )
    assert digest_of(other) == digest_of(network)
    assert set(Names.of(other).known) == set(Names.of(network).known)


def test_another_network_is_told_apart() -> None:
    ours, another = session_of(MLP), session_of(SHARED)
    assert digest_of(ours.network) != digest_of(another.network)
    frame = replace(framed(ours, Names.of(ours.network)), digest=digest_of(another.network))
    with pytest.raises(ClusterError, match="finds other layers in the same model: install the same versions"):
        module._Twin.of(frame)


def test_what_belongs_to_another_network_is_not_sent() -> None:
    ours, another = session_of(MLP), session_of(MLP)
    names = Names.of(ours.network)
    layer = ours.network.layers[0]
    body, arrays = names.dump({layer: np.arange(6.0), "value": layer.data})
    loaded = names.load(body, arrays)
    assert loaded[layer].tolist() == list(range(6))
    assert loaded["value"] is layer.data
    with pytest.raises(pickle.PicklingError, match="does not belong to the network"):
        names.dump(another.network.layers[0])


def test_arrays_are_views_of_what_is_shared() -> None:
    session = session_of()
    frame = framed(session, Names.of(session.network))
    twin = module._Twin.of(frame)
    assert any(np.shares_memory(twin.session.batches[0]["x"], array) for array in frame.arrays)


def test_errors_of_a_piece_are_raised_as_they_are() -> None:
    far = elsewhere(session_of())
    with pytest.raises(ZeroDivisionError):
        far.each(_fail, [(0,)])
    assert far.each(_fail, [(2,), (4,)]) == [0.5, 0.25]
    assert work.__module__ == module.__name__


def _fail(_session: Session, number: int) -> float:
    return 1 / number
