"""Samples brought to the statistics that batch normalisations stored of the training data.

Pixels and features are moved by gradients until each normalisation sees the mean and the variance that it keeps: what
the training set was like, by all layers at once. (Yin et al., "Dreaming to Distill", CVPR 2020, eq. 4; Cai et al.,
"ZeroQ", CVPR 2020, eq. 4.) Labels and priors on pictures are not needed, since samples begin as pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor

from spa.analysis.neighbours import Normalisation
from spa.gradients.graphs import to_torch
from spa.gradients.module import GraphModule
from spa.passes.samples.calibrate import Calibration
from spa.presets import Progress

RATE = 0.1
"""Of Adam, in deviations of a sample."""

PULL = 1e-3
"""Towards the sample as it was, in its deviations."""

FAINT = 1e-3
"""Of the mean variance of a normalisation: beside that, channels that hardly vary count as those that do."""

TOGETHER = 128
"""Samples whose statistics are compared with stored ones."""


@dataclass(frozen=True, slots=True)
class Inverted:
    """Samples, and how far they are from stored statistics.

    Attributes:
        before, after: squared distance of means and deviations, in stored deviations, as a mean over all channels.
    """

    samples: Calibration
    before: float
    after: float


def invert(
    model: ir.Model,
    samples: Calibration,
    inputs: Sequence[str],
    normalisations: Sequence[Normalisation],
    *,
    passes: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Inverted:
    """Samples that the normalisations of a model take for those that it was trained with.

    One thread does it: so the result is the same on every machine, and many small steps do not wait for each other's
    threads where other work is going on.

    Args:
        model: in which the normalisations are; never changed.
        samples: to begin with; numbers stay within the largest and smallest of their input.
        inputs: that are moved, of floating-point numbers.
        passes: how often all samples are seen.

    Raises:
        ModelError: an operator before a normalisation has no gradient here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _inverted(_Watched.of(model, normalisations), samples, inputs, passes, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _inverted(
    watched: _Watched, samples: Calibration, inputs: Sequence[str], passes: int, seed: int, progress: Progress | None
) -> Inverted:
    begun = {name: torch.from_numpy(np.array(samples.samples[name], np.float32)) for name in inputs}
    sizes = {name: _deviations(array) for name, array in begun.items()}
    limits = {name: (array.amin(), array.amax()) for name, array in begun.items()}
    moves = {name: torch.zeros_like(array, requires_grad=True) for name, array in begun.items()}
    optimiser = torch.optim.Adam(list(moves.values()), lr=RATE)
    generator = np.random.default_rng(seed)

    def moved(chosen: np.ndarray) -> dict[str, Tensor]:
        return {
            name: (start[chosen] + sizes[name][chosen] * moves[name][chosen]).clamp(*limits[name])
            for name, start in begun.items()
        }

    def distance() -> float:
        with torch.no_grad():
            parts = list(_parts(np.arange(len(samples)), samples.batch_size))
            return float(np.mean([float(watched.distance(samples, part, moved(part))) for part in parts]))

    before = distance()
    for number in range(passes):
        for chosen in _parts(generator.permutation(len(samples)), samples.batch_size):
            optimiser.zero_grad()
            loss = watched.distance(samples, chosen, moved(chosen))
            (loss + PULL * sum((move[chosen] ** 2).mean() for move in moves.values())).backward()
            optimiser.step()
        if progress is not None:
            progress("samples", (number + 1) / passes)
    with torch.no_grad():
        whole = moved(np.arange(len(samples)))
        arrays = {name: array.numpy().astype(samples.samples[name].dtype) for name, array in whole.items()}
    there = replace(samples, samples={**samples.samples, **arrays}, inverted=True, unlike=False)
    return Inverted(there, before, distance())


@dataclass(frozen=True, slots=True)
class _Watched:
    """A model that gives what normalisations read, and the mean and variance that each has stored."""

    module: GraphModule
    names: Sequence[str]
    stored: Sequence[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: ir.Model, normalisations: Sequence[Normalisation]) -> _Watched:
        names, stored, part = [], [], model.clone()
        for layer in normalisations:
            data, mean, variance = layer.node.inputs[0], layer.mean.const_value, layer.variance.const_value
            assert data is not None
            assert mean is not None
            assert variance is not None
            names.append(str(data.name))
            stored.append((to_torch(mean).float(), to_torch(variance).float()))
        known = {str(value.name): value for node in part.graph for value in node.outputs}
        part.graph.outputs[:] = [known[name] for name in dict.fromkeys(names)]
        RemoveUnusedNodesPass()(part)
        module = GraphModule(part).eval()
        return cls(module.requires_grad_(False), names, stored)

    def distance(self, samples: Calibration, chosen: np.ndarray, moved: Mapping[str, Tensor]) -> Tensor:
        """Squared distance of some samples' statistics from stored ones, in stored deviations.

        Args:
            chosen: numbers of the samples.
            moved: inputs by name, of the chosen samples, that stand for those in `samples`.
        """
        results = [self.module.outputs(feed) for feed in _feeds(samples, chosen, moved, self.module.input_names)]
        distances = []
        for name, (mean, variance) in zip(self.names, self.stored, strict=True):
            rows = torch.cat([result[name].movedim(1, -1).flatten(0, -2).float() for result in results])
            least = FAINT * variance.mean()
            deviation = (variance + least).sqrt()
            spread = (rows.var(0, correction=0) + least).sqrt() / deviation
            distances.append((((rows.mean(0) - mean) / deviation) ** 2 + (spread - 1) ** 2).mean())
        return torch.stack(distances).mean()


def _feeds(
    samples: Calibration, chosen: np.ndarray, moved: Mapping[str, Tensor], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Some samples as the model takes them: all at once, or so many at a time."""
    size = samples.batch_size or len(chosen)
    for start in range(0, len(chosen), size):
        part, feed = chosen[start : start + size], dict(samples.scalars)
        for name, array in samples.samples.items():
            axis = samples.axes.get(name, 0)
            inner = moved[name][start : start + size].movedim(0, axis) if name in moved else None
            feed[name] = np.moveaxis(array[part], 0, axis) if inner is None else inner  # type: ignore[assignment]
        yield {name: feed[name] for name in names}


def _parts(order: np.ndarray, batch_size: int | None) -> Iterator[np.ndarray]:
    """Numbers of samples, about `TOGETHER` at a time; a model that takes a fixed number gets whole batches."""
    size = batch_size or 1
    whole = len(order) // size * size
    count = max(1, round(whole / TOGETHER))
    for part in np.array_split(order[:whole].reshape(-1, size), count):
        if part.size:
            yield part.reshape(-1)


def _deviations(array: Tensor) -> Tensor:
    """(samples, 1, ...) the deviation of each sample's numbers; of plain ones that of all."""
    own = array.flatten(1).std(1) if array[0].numel() > 1 else torch.zeros(len(array))
    whole = array.std() if array.numel() > 1 else torch.ones(())
    own = torch.where(own > 0.05 * whole, own, 0.05 * whole)
    return own.reshape(-1, *[1] * (array.dim() - 1))
