# ruff: noqa: ARG001, ARG005 (what stands for a function takes its arguments)
"""Every step that a repair advertises earns its keep: switched off, what it is for gets worse.

A step is switched off in its one function. What is measured is the distance of the outputs on fresh samples, or for the
inner steps of the greedy removal its loss; figures are the geometric mean over networks with weights of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa import runtime
from spa.passes.choose.allocation import Curve
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Statistics
from spa.passes.repair import fitting, groundwork, probe, scaling, sequential
from spa.passes.repair.drift import Drift
from spa.passes.repair.rowweights import RowWeights
from spa.passes.repair.sequential import Repair
from spa.passes.repair.session import Session
from spa.passes.secondorder import Consumer, greedy, remove_units, solver
from spa.passes.secondorder.pool import Pool
from spa.passes.secondorder.problem import NormalEquations
from spa.passes.secondorder.system import System
from tests.models import build
from tests.secondorder.made import DAMPING, asymmetric, moments_of, scratch_loss

CHAIN = """(float[n,24] x) => (float[n,6] y) {
    a1 = MatMul(x, w1)  b1 = Add(a1, c1)  r1 = Relu(b1)   a2 = MatMul(r1, w2)  b2 = Add(a2, c2)  r2 = Relu(b2)
    a3 = MatMul(r2, w3)  b3 = Add(a3, c3)  r3 = Relu(b3)   a4 = MatMul(r3, w4)  b4 = Add(a4, c4)  r4 = Relu(b4)
    y = MatMul(r4, z) }"""
RESIDUAL = """(float[n,24] x) => (float[n,6] y) {
    s = MatMul(x, u)
    a1 = MatMul(s, v1)  b1 = Add(a1, c1)  r1 = Relu(b1)  d1 = MatMul(r1, w1)  j = Add(s, d1)
    a2 = MatMul(j, v2)  b2 = Add(a2, c2)  r2 = Relu(b2)  d2 = MatMul(r2, w2)  k = Add(j, d2)
    l = Relu(k)  y = MatMul(l, z) }"""
LINEAR = """(float[n,24] x) => (float[n,6] y) {
    a = MatMul(x, v)  l = MatMul(a, w)  b = Add(l, c)  r = Relu(b)  y = MatMul(r, z) }"""
MASKED = """(float[n,5,24] x, float[n,5] mask) => (float[n,5,6] y) {
    a = MatMul(x, w1)  r = Relu(a)  h = MatMul(r, w2)  k = Unsqueeze(mask, one)  m = Mul(h, k)  y = MatMul(m, z) }"""
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    CHAIN: {
        "w1": (24, 32), "w2": (32, 32), "w3": (32, 32), "w4": (32, 32), "z": (32, 6),
        "c1": (32,), "c2": (32,), "c3": (32,), "c4": (32,),
    },
    RESIDUAL: {
        "u": (24, 16), "v1": (16, 40), "c1": (40,), "w1": (40, 16), "v2": (16, 40), "c2": (40,), "w2": (40, 16),
        "z": (16, 6),
    },
    LINEAR: {"v": (24, 20), "w": (20, 30), "c": (30,), "z": (30, 6)},
    MASKED: {"w1": (24, 32), "w2": (32, 16), "z": (16, 6)},
}  # fmt: skip


def network(text: str, seed: int, larger: Mapping[str, float]) -> onnx.ModelProto:
    """A network with weights of its own, activations of like size from layer to layer."""
    generator, weights = np.random.default_rng(seed), {}
    for name, shape in SHAPES[text].items():
        array = generator.standard_normal(shape) / np.sqrt(shape[0] / 2 if len(shape) > 1 else 4)
        weights[name] = (larger.get(name, 1.0) * array).astype(np.float32)
    return build(text, {**weights, "one": np.array([2], np.int64)} if text == MASKED else weights)


def samples(text: str, seed: int, count: int) -> dict[str, np.ndarray]:
    """Rows of 24 numbers that eight others mix, with some noise; of the masked network, padding holds large numbers."""
    mix = np.random.default_rng(99).standard_normal((8, 24))
    generator = np.random.default_rng(seed)
    shape = (count, 5) if text == MASKED else (count,)
    x = generator.standard_normal((*shape, 8)) @ mix + 0.3 * generator.standard_normal((*shape, 24)) + 0.5
    if text != MASKED:
        return {"x": x.astype(np.float32)}
    mask = (np.arange(5) < generator.integers(1, 4, count)[:, None]).astype(np.float32)
    padding = 20.0 * generator.standard_normal(x.shape)
    return {"x": np.where(mask[..., None] > 0, x, padding).astype(np.float32), "mask": mask}


@dataclass(frozen=True, slots=True)
class Repaired:
    """Networks pruned with samples, and how far their outputs are off on fresh ones: relative L2 for each."""

    text: str
    count: int = 240
    ratio: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)
    larger: Mapping[str, float] = field(default_factory=dict)

    def __call__(self) -> list[float]:
        fresh, losses = samples(self.text, 2, 800), []
        for seed in range(4):
            dense = network(self.text, seed, self.larger)
            options: dict[str, Any] = {"of": "channels", "align": 1} | dict(self.options)
            data = samples(self.text, 1, self.count)
            result = spa.prune(dense, ratio=self.ratio, data=data, verify=False, **options)
            expected, given = (
                runtime.run(runtime.session(model, optimize=False), fresh)["y"].astype(np.float64)
                for model in (dense, result.model)
            )
            losses.append(float(np.linalg.norm(expected - given) / np.linalg.norm(expected)))
        return losses


def swapped() -> list[float]:
    """The loss of a greedy removal with swaps at the end."""
    consumers = ([asymmetric(seed, count=30, sizes=(2,) * 8)] for seed in range(12))
    return [remove_units(each, units=8, remove=5, damping=0.01, swap_rounds=20).final_loss for each in consumers]


def duplicated() -> list[float]:
    """The loss of a greedy removal of half of the units at once, each of which has a duplicate."""
    losses = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        rows = np.repeat(generator.standard_normal((300, 8)), 2, axis=1)
        consumer = Consumer(moments_of(rows), generator.standard_normal((16, 6)), np.arange(16))
        kept = remove_units([consumer], units=16, remove=8, damping=DAMPING, rounds=1, swap_rounds=0).kept
        losses.append(scratch_loss([consumer], kept) - scratch_loss([consumer], range(16)))
    return losses


def shrunk() -> list[float]:
    """What is missing of the standard deviation of outputs of a fit, as a share."""
    generator, missing = np.random.default_rng(3), []
    for _ in range(4):
        rows = generator.standard_normal((400, 12))
        weight = generator.standard_normal((12, 5))
        fit = solver.refit(Consumer(moments_of(rows), weight, np.arange(12)), np.arange(6), spread=0.5)
        outputs = rows[:, :6] @ fit.weight + fit.bias
        missing.append(float(1 - np.mean(outputs.std(0) / (rows @ weight).std(0))))
    return missing


# ------------------------------------------------------------------------------------------------- the steps
def cut_only(session: Session, layer: Layer, gone: np.ndarray, *_: Mapping[Key, Statistics], **__: Any) -> Any:
    """The dense weights, but for what is gone."""
    matrix = np.where(gone[..., None], 0.0, session.network.dense_matrix(layer))
    biases = {use: session.network.dense_bias(use) for use in session.network.uses[layer]}
    return fitting.Refitted(matrix, biases, float("nan"))


def by_chance(system: System, kept: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).random(len(kept))


WORSE = 1.004
"""By how much at least, which is far more than rounding does."""

Switch = tuple[object, str, object]
STEPS: dict[str, tuple[Callable[[], Sequence[float]], list[Switch]]] = {
    "readers are refitted": (
        Repaired(CHAIN), [(sequential, "refitted", cut_only), (probe, "refitted", cut_only)],
    ),
    "biases keep the means": (
        Repaired(RESIDUAL, ratio=0.6),
        [(NormalEquations, "bias", lambda self, weight: np.zeros(weight.shape[1]))],  # as in the dense network
    ),
    "few samples are damped": (
        Repaired(CHAIN, count=36), [(solver, "DAMPINGS", (1e-9,)), (solver, "default_damping", lambda _: 1e-9)],
    ),
    "samples held out are fitted in the end": (
        Repaired(RESIDUAL, ratio=0.6, options={"exclude": ("u:1",)}), [(solver, "pooled", lambda each: each.moments)],
    ),
    "outputs get variance back": (shrunk, [(solver, "widened", lambda weight, *_: weight)]),
    "targets are the dense network's, inputs the pruned one's": (
        Repaired(RESIDUAL, ratio=0.6, options={"exclude": ("u:1",)}),
        [(Session, "symmetric", property(lambda self: True))],
    ),
    "layers behind are refitted too": (
        Repaired(RESIDUAL, ratio=0.6, options={"exclude": ("u:1",)}), [(sequential, "_is_plain", lambda layer: False)],
    ),
    "a layer makes up for the branch beside it": (
        Repaired(RESIDUAL, ratio=0.6, options={"exclude": ("u:1",)}), [(Drift, "junction", lambda self, layer: None)],
    ),
    "units go by what their readers lose": (Repaired(CHAIN), [(System, "saliency", by_chance)]),
    "of duplicates one goes": (duplicated, [(Pool, "remove", lambda self, unit: None)]),
    "units are swapped at the end": (
        swapped, [(greedy, "swap", lambda systems, kept, free, *, rounds: (kept, 0, 0.0))],
    ),
    "units are chosen again": (
        Repaired(CHAIN, count=400, ratio=0.75), [(Repair, "choose_again", lambda self, layers, statistics: None)],
    ),
    "losses are brought to the scale of the outputs": (
        Repaired(RESIDUAL, options={"of": "params"}, larger={"w1": 0.2, "w2": 2.0}),
        [(scaling, "scaled_by", lambda curve, measured: curve)],
    ),
    "the budget goes where it costs least": (
        Repaired(RESIDUAL, options={"of": "params"}, larger={"w1": 0.2, "w2": 2.0}),
        [(Curve, "slopes", lambda self: np.ones(len(self.order)))],
    ),
    "linear groups are turned": (
        Repaired(LINEAR, options={"of": "params"}), [(groundwork, "turn", lambda session, groups: {})],
    ),
    "padding is left out": (
        Repaired(MASKED, count=120), [(RowWeights, "rows", lambda self, problem, batch, shape: None)],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured() -> dict[str, Sequence[float]]:
    """What was measured with every step on, once for each setting."""
    return {}


@pytest.mark.parametrize("step", STEPS)
def test_without_it_the_result_is_worse(
    step: str, measured: dict[str, Sequence[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quality, switches = STEPS[step]
    key = repr(quality)  # a function's, or a setting's
    if key not in measured:
        measured[key] = quality()
    for owner, name, off in switches:
        monkeypatch.setattr(owner, name, off)
    without = quality()
    ratio = float(np.exp(np.mean(np.log(np.array(without) / np.maximum(measured[key], 1e-6)))))
    assert ratio > WORSE
