"""A small network from end to end: choosing and refitting beats what was published."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spa.passes.secondorder import BASELINES, Consumer, Moments, is_held_out, prune, refit, remove_units
from tests.secondorder.made import (
    Array,
)

Layers = list[tuple[Array, Array]]


def nested(rng: np.random.Generator, count: int, basis: Array, classes: int = 10) -> tuple[Array, npt.NDArray[np.intp]]:
    """Points of curved three-dimensional sheets, one for each class, in 32 dimensions, overlapping through noise."""
    label = rng.integers(0, classes, count)
    latent = rng.standard_normal((count, 3))
    features = np.concatenate([latent, np.sin(2 * latent), np.ones((count, 1))], axis=1)
    return np.einsum("nk,nkd->nd", features, basis[label]) + 0.7 * rng.standard_normal((count, 32)), label


def run(layers: Layers, inputs: Array) -> list[Array]:
    """Input of every layer, and the logits."""
    streams = [inputs]
    for index, (weight, bias) in enumerate(layers):
        output = streams[-1] @ weight + bias
        streams.append(output if index == len(layers) - 1 else np.maximum(output, 0))
    return streams


def train(rng: np.random.Generator, basis: Array, steps: int = 700) -> Layers:
    """A ReLU network 32-96-96-96-10, by Adam."""
    sizes = [32, 96, 96, 96, 10]
    layers = [(rng.standard_normal((a, b)) * np.sqrt(2 / a), np.zeros(b)) for a, b in pairwise(sizes)]
    flat = [array for layer in layers for array in layer]
    first, second = ([np.zeros_like(array) for array in flat] for _ in range(2))
    for step in range(1, steps + 1):
        inputs, label = nested(rng, 128, basis)
        streams = run(layers, inputs)
        odds = np.exp(streams[-1] - streams[-1].max(1, keepdims=True))
        slope = odds / odds.sum(1, keepdims=True)
        slope[np.arange(128), label] -= 1
        slopes: list[Array] = []
        for (weight, _), stream in zip(reversed(layers), reversed(streams[:-1]), strict=True):
            slopes = [stream.T @ slope / 128, slope.mean(0), *slopes]
            slope = (slope @ weight.T) * (stream > 0)
        for array, m, v, g in zip(flat, first, second, slopes, strict=True):
            m += 0.1 * (g - m)
            v += 0.01 * (g * g - v)
            array -= 3e-3 * (1 - step / steps) * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
    return layers


def divergence(dense: Array, pruned: Array) -> float:
    """Mean KL of the softmax outputs, nats."""
    logs = [logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) for logits in (dense, pruned)]
    return float(np.mean(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=1)))


def halve(layers: Layers, inputs: Array, method: str, *, asymmetric_targets: bool) -> Layers:
    """Half of the units of every hidden layer, in order; the input of a later layer is what its predecessors left."""
    pruned, dense = list(layers), run(layers, inputs)
    for index in range(1, len(layers)):
        weight, bias = layers[index]
        now = run(pruned, inputs)[index]
        fit, held = (Moments(96, dense_width=96 if asymmetric_targets else None) for _ in range(2))
        out = np.array([is_held_out(sample) for sample in range(len(inputs))])
        for moments, part in ((fit, ~out), (held, out)):
            if asymmetric_targets:
                moments.update(now[part], dense[index][part])
            else:
                moments.update(dense[index][part])
        consumer = Consumer(fit, weight, np.arange(96), bias=bias, held_out=held)
        if method == "ours":
            kept = remove_units([consumer], units=96, remove=48).kept
            layer = refit(consumer, consumer.kept_rows(kept))
        else:
            kept, (layer,) = prune(BASELINES[method], [consumer], units=96, remove=48)
        before, before_bias = pruned[index - 1]
        pruned[index - 1] = before[:, kept], before_bias[kept]
        pruned[index] = layer.weight, layer.bias
    return pruned


def test_end_to_end_selection_and_refit_beat_what_was_published() -> None:
    rng = np.random.default_rng(27)
    basis = 0.6 * rng.standard_normal((10, 7, 32))
    layers = train(rng, basis)
    calibration, (test, label) = nested(rng, 1500, basis)[0], nested(rng, 3000, basis)
    dense = run(layers, test)[-1]
    logits = {name: run(halve(layers, calibration, name, asymmetric_targets=False), test)[-1] for name in BASELINES}
    logits["ours, symmetric"] = run(halve(layers, calibration, "ours", asymmetric_targets=False), test)[-1]
    logits["ours"] = run(halve(layers, calibration, "ours", asymmetric_targets=True), test)[-1]
    kl = {name: divergence(dense, output) for name, output in logits.items()}
    accuracy = {name: float(np.mean(output.argmax(1) == label)) for name, output in logits.items()}
    assert np.mean(dense.argmax(1) == label) > 0.98
    assert kl["ours"] < 0.1 * kl["magnitude"]
    assert kl["ours"] < 0.2 * kl["flap"] < 0.2 * kl["wanda-sp"]
    assert kl["ours"] < 0.5 * kl["obspa"]
    assert kl["ours"] < kl["ours, symmetric"] < 0.75 * kl["one-shot-obs"] < 0.75 * kl["l2+refit"]
    assert accuracy["ours"] > accuracy["magnitude"] + 0.3
    assert accuracy["ours"] == max(accuracy.values())
