"""The ranges of an input's numbers: bytes, 0 to 1, -1 to 1, standardised, or of a size that only the graph can tell.

A file does not say. What it says it says by numbers: how an input is scaled before the first layers, the statistics
that a batch normalisation behind them has stored, and biases that make up for the mean of what training saw. On
samples of the right range the first layers' results vary about as much as training left them to, and lie about zero;
on a range that is too small they hardly vary beside their biases, on one that is too large they are beyond all measure.
Ranges that do nearly as well as the best are used together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.neighbours import scaled_behind
from spa.passes.layers.consumers import Layer

LEVEL, CONTRAST = 0.45, 0.25
"""Mean and deviation of pictures from 0 to 1, about those of natural ones (ImageNet: 0.449, 0.226)."""

PICTURE_RANGES = {"standardised": (-LEVEL / CONTRAST, (1 - LEVEL) / CONTRAST), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0),
                  "0..255": (0.0, 255.0)}  # fmt: skip
"""What black and white may be."""

SIZES = (1.0, 0.1, 0.3, 3.0, 10.0, 30.0, 100.0)
OFFSETS = (0.0, -2.0, 2.0)
"""Of features: their deviation, and their mean in units of it. The first is the most likely."""

LOUDNESSES = (1.0, 0.1, 3000.0)
"""Deviations of sound: normalised, from -1 to 1, of whole numbers of 16 bits."""

NEARLY, LIKELY, UNKNOWN, LOUD = 0.6, 1.0, 1.5, 2.5
"""By how much, in natural logarithms, the score of a range may be beyond the best; that of the most likely one, of
pictures and of features; and that of sounds, whose first layers say little."""

MOST = 3
"""Ranges that are used together."""

LOOKED_AT = 2048
"""Rows of a first layer."""

PULL = 0.01
"""Towards a mean of zero, where means are read off biases: of the mean square of a column of weights."""

FAINT = 1e-4
"""Of the median: columns of weights below that norm tell nothing of the size of what they meet."""


@dataclass(frozen=True, slots=True)
class Range:
    """How plain numbers become an input's: times `scale`, plus `shift`, which broadcast with a sample.

    Plain numbers are from 0 to 1 for pictures, and of mean zero and variance one elsewhere.
    """

    name: str
    scale: np.ndarray
    shift: np.ndarray

    def of(self, plain: np.ndarray) -> np.ndarray:
        """Numbers as the input takes them."""
        return np.asarray(plain * self.scale + self.shift)


def between(name: str, low: float, high: float, *, picture: bool) -> Range:
    """From `low` to `high`: a picture's black and white; elsewhere two deviations from the mean to either side."""
    if picture:
        return Range(name, np.array(high - low), np.array(low))
    return Range(name, np.array((high - low) / 4), np.array((high + low) / 2))


def candidates(*, picture: bool, sound: bool = False) -> list[Range]:
    """What an input may take where nothing is known, the most likely first."""
    if sound:
        return [Range(f"deviation {size:g}", np.array(size), np.array(0.0)) for size in LOUDNESSES]
    if picture:
        return [between(name, low, high, picture=True) for name, (low, high) in PICTURE_RANGES.items()]
    return [
        Range(f"{offset * size:g} +- {size:g}", np.array(size), np.array(offset * size))
        for offset in OFFSETS
        for size in SIZES
    ]


Fetch = Callable[[Mapping[str, np.ndarray], Sequence[ir.Value]], Sequence[np.ndarray]]
"""Some values, from inputs."""


@dataclass(frozen=True, slots=True)
class FirstLayers:
    """The layers that an input comes to first, which tell by their weights what it is like."""

    layers: Sequence[Layer]
    array: Callable[[ir.Value], np.ndarray]

    @classmethod
    def of(cls, model: ir.Model, layers: Sequence[Layer], name: str) -> FirstLayers:
        """Those of an input."""
        nodes = {layer.node for layer in layers}
        reached = {value for value in model.graph.inputs if value.name == name}
        behind: set[ir.Value] = set()
        for node in model.graph:
            read = [value for value in node.inputs if value is not None]
            if node in nodes or any(value in behind for value in read):
                behind.update(node.outputs)
            elif any(value in reached for value in read):
                reached.update(node.outputs)
        first = [layer for layer in layers if layer.data in reached and layer.data not in behind]
        return cls([layer for layer in first if layer.mixing.steps is None], _stored)

    def inside(self, fetch: Fetch, constants: Sequence[Mapping[str, np.ndarray]], channels: int) -> list[Range]:
        """Ranges that the graph states: those of pictures, taken back through the scaling before the first layer.

        Args:
            constants: the inputs where the one in question is 0, 1 and 2 throughout.
            channels: of the input, 1 where it has no channels that differ.
        """
        if not self.layers:
            return []
        value = self.layers[0].data
        levels = [np.asarray(fetch(feeds, [value])[0], np.float64) for feeds in constants]
        axis = next((at for at, size in enumerate(levels[0].shape) if at and size == channels), None)
        if channels > 1 and axis is not None:
            levels = [np.median(np.moveaxis(array, axis, 0).reshape(channels, -1), axis=1) for array in levels]
        else:
            levels = [np.median(array, keepdims=True).reshape(1) for array in levels]
        shift, scale = levels[0], levels[1] - levels[0]
        straight = np.allclose(levels[2] - levels[1], scale, rtol=1e-3, atol=1e-6 * np.abs(levels[2]).max())
        if not straight or not np.all(np.abs(scale) > 0) or np.allclose([scale, shift], [[1.0], [0.0]]):
            return []
        return [
            Range(f"{known.name} behind the model's own scaling", known.scale / scale, (known.shift - shift) / scale)
            for known in candidates(picture=True)[:3]
        ]

    def columns(self, fetch: Fetch, counted: Mapping[str, np.ndarray], shape: Sequence[int]) -> Range | None:
        """Numbers that have a mean and a size each, as tables have: what the first matrix's weights and biases tell.

        Where inputs were standardised before, and that was folded into the first layer, its columns are one over their
        deviations, and its biases make up for their means. None: the input comes to no matrix as it is.

        Args:
            counted: the inputs where the one in question counts from zero within each sample, and its shape.
        """
        if len(self.layers) != 1 or self.layers[0].mixing.window is not None or self.layers[0].block_count > 1:
            return None
        layer, size = self.layers[0], int(np.prod(shape[1:]))
        data = np.asarray(fetch(counted, [layer.data])[0], np.float64)
        places = layer.rows(data)[0].reshape(len(data), -1)[0]
        if places.size != size or not np.array_equal(np.sort(places), np.arange(size)):
            return None
        matrix, bias = layer.matrix(self.array(layer.weight))[0], np.zeros(layer.output_width)
        if layer.bias is not None:
            bias = layer.bias_vector(self.array(layer.bias))[0]
        if (behind := scaled_behind(layer.result)) is not None:
            deviation = np.sqrt(self.array(behind.variance) + behind.epsilon)
            matrix, bias = matrix / deviation, (bias - self.array(behind.mean)) / deviation
        norms = np.linalg.norm(matrix, axis=1)
        norms = np.maximum(norms, FAINT * np.median(norms))
        if not np.all(norms > 0):
            return None
        plain = matrix / norms[:, None]
        means = -np.linalg.solve(plain @ plain.T + PULL * np.eye(len(plain)), plain @ bias) / norms
        sizes = np.sqrt(layer.output_width / layer.width) / norms
        order = places.astype(int)
        scale, shift = np.empty(size), np.empty(size)
        scale[order], shift[order] = (np.resize(part, size) for part in (sizes, means))
        return Range("sizes of its own for each number", scale.reshape(shape[1:]), shift.reshape(shape[1:]))

    def score(self, fetch: Fetch, feeds: Mapping[str, np.ndarray]) -> float:
        """How unlike training these inputs are, in natural logarithms: how far results are from varying by one, and how
        much larger their means are than what they vary by."""
        if not self.layers:
            return 0.0
        scores = []
        for layer, data in zip(self.layers, fetch(feeds, [layer.data for layer in self.layers]), strict=True):
            total = layer.row_count(data.shape)
            positions = np.random.default_rng(0).choice(total, min(total, LOOKED_AT), replace=False)
            matrix = layer.matrix(self.array(layer.weight))
            bias = layer.bias_vector(None if layer.bias is None else self.array(layer.bias))
            results = layer.rows(np.asarray(data, np.float64), positions) @ matrix + bias[:, None]
            results = np.moveaxis(results, 1, 0).reshape(len(positions), -1)
            if (behind := scaled_behind(layer.result)) is not None:
                mean, variance = self.array(behind.mean), self.array(behind.variance)
                results = (results - mean) / np.sqrt(variance + behind.epsilon)
            spread = float(np.sqrt(np.mean(results.var(0)))) + 1e-9
            level = float(np.sqrt(np.mean(results.mean(0) ** 2)))
            scores.append(abs(np.log(spread)) + np.log1p(level / spread))
        return float(np.mean(scores))


def plausible(
    scores: Sequence[float], ranges: Sequence[Range], *, picture: bool = False, sound: bool = False
) -> list[Range]:
    """The ranges that do about as well as the best, at most `MOST`: the most likely first, then by how well they do."""
    order = np.argsort(scores, kind="stable")
    near, likely = (LOUD, LOUD) if sound else (NEARLY, LIKELY if picture else UNKNOWN)
    best = scores[order[0]]
    chosen = [0] if scores[0] <= best + likely else []
    chosen += [at for at in order if scores[at] <= best + near]
    return [ranges[at] for at in dict.fromkeys(chosen)][:MOST]


def _stored(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float64)
