"""What a refitted layer loses on samples that no fit has seen."""

from __future__ import annotations

import numpy as np

from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Problem
from spa.passes.repair.difference import NEXT_TO_NOTHING
from spa.passes.repair.fitting import Refitted
from spa.passes.repair.session import Session
from spa.passes.repair.streaming import Stream
from spa.passes.secondorder import columns_of

MEASURED_ROWS = 2048


def lost_on_unseen(session: Session, layer: Layer, new: Refitted, dense: Stream, pruned: Stream) -> float:
    """Share of the variance of a layer's outputs that is lost, over the rows of all unseen samples together."""
    network, numbers = session.network, session.split.unseen
    matrix, bias = network.dense_matrix(layer), network.dense_bias(layer)
    lost, count, squares, sums = 0.0, 0.0, 0.0, np.zeros_like(bias)
    for number in numbers:
        data = dense.value(layer.data, number)
        weights = session.weigh(Problem(layer), number, data.shape)
        rows = np.arange(layer.row_count(data.shape)) if weights is None else np.flatnonzero(weights)
        most = -(-MEASURED_ROWS // len(numbers))
        positions = np.random.default_rng(number).choice(rows, min(len(rows), most), replace=False)
        read, reads = layer.rows(data, positions), layer.rows(pruned.value(layer.data, number), positions)
        balance = session.balance(session.batches[number])
        counts = np.ones((len(positions), 1)) if balance is None else balance(Problem(layer), data)[positions, None]
        for some in columns_of(matrix):
            wanted = read @ matrix[..., some] + bias[:, None, some]
            outputs = reads @ new.matrix[..., some] + new.biases[layer][:, None, some]
            lost += float(np.sum(counts * (wanted - outputs) ** 2))
            sums[:, some] += (counts * wanted).sum(1)
            squares += float(np.sum(counts * wanted**2))
        count += float(counts.sum())
    variance = squares - float(np.sum(sums**2)) / (count or 1.0)
    return lost / ((variance if variance > NEXT_TO_NOTHING * squares else squares) or 1.0)
