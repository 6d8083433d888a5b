"""Running statistics of batch normalisations, measured anew on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa.analysis.neighbours import normalisation_of
from spa.passes.repair.pieces import Batch
from spa.passes.repair.stages import cut
from spa.passes.repair.streaming import Smaller, Stream


def batch_statistics(
    model: ir.Model,
    batches: Sequence[Batch],
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    sliced: Smaller | None = None,
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Mean and variance (channels,) by tensor name, such that every normalisation sees mean zero and variance one.

    Each is measured behind those before it, which already have theirs: what the network would compute in training mode.
    On noise this gives every layer the first two moments that it had in training, whatever the noise was; after a
    repair it is batch-norm re-estimation.

    Args:
        weights: stored tensors, by name, that stand for the model's own.
        sliced: a smaller model that runs instead.
    """
    nodes = {node: norm for node in model.graph if (norm := normalisation_of(node)) is not None}
    data = [node.inputs[0] for node in nodes]
    new: dict[str, np.ndarray] = dict(weights or {})
    made: dict[str, np.ndarray] = {}
    if not nodes:
        return made
    stages = cut(model, [value for value in data if value is not None])
    with Stream(stages, batches, weights=new, sliced=sliced, threads=threads) as stream:
        for _ in range(len(stream.stages)):
            there = set(stream.advance())
            for node, norm in nodes.items():
                moments = _moments(stream, node.inputs[0], len(batches)) if node.inputs[0] in there else None
                if moments is not None:
                    made[str(norm.mean.name)], made[str(norm.variance.name)] = moments
            new.update(made)
            stream.forget()
    return made


def _moments(stream: Stream, value: ir.Value | None, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and variance of each channel (axis 1) over all samples and places; None: there are no samples."""
    assert value is not None
    total, sums, squares = 0, np.zeros(1), np.zeros(1)
    shift: np.ndarray | None = None
    for number in range(count):
        array = np.asarray(stream.value(value, number), np.float64)
        rows = np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
        if not len(rows):
            continue
        shift = rows.mean(0) if shift is None else shift
        total += len(rows)
        sums = sums + (rows - shift).sum(0)
        squares = squares + ((rows - shift) ** 2).sum(0)
    if shift is None:
        return None
    mean = sums / total
    return shift + mean, np.maximum(squares / total - mean**2, 0.0)
