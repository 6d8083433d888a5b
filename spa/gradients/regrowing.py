"""Which units would do most good if they came back: by the gradients of the weights that would read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from spa.analysis.group import Group
from spa.gradients.criteria import BATCH
from spa.gradients.module import GraphModule, best_device
from spa.gradients.networks import GraphNetwork
from spa.gradients.samples import split_samples
from spa.gradients.sums import sums

MOST_BATCHES = 16
"""Batches whose gradients are added up."""


def regrowth(
    large: ir.Model, groups: Sequence[Group], removed: Mapping[str, Sequence[int]], *, data: Any, labels: str | None,
    loss: Any,
) -> list[np.ndarray]:  # fmt: skip
    """For each group (units,) the sum of abs(g) over what reads a unit, while removed units are read as zero.

    Without labels or a loss, g is the gradient for targets drawn from the network's own outputs.

    Args:
        large: the model in which `groups` were found, never changed.
    """
    module = GraphModule(large).eval().to(best_device())
    split = split_samples(data, large, labels=labels, batch_size=BATCH, everything=loss is not None)
    network = GraphNetwork(module, split, labels=labels, loss=loss, seed=0)
    pieces = []
    for group in groups:
        held = [piece for piece in group.slices if piece.value in network.weights]
        pieces.append([piece for piece in held if piece.consumer] or held)
    with torch.no_grad():
        for group, mine in zip(groups, pieces, strict=True):
            for piece in mine:
                gone = np.flatnonzero(np.isin(piece.unit_of, removed.get(group.name, ())))
                weight = network.weights[piece.value]
                weight.index_fill_(piece.axis, torch.from_numpy(gone).to(weight.device), 0.0)
    total = {value: torch.zeros_like(tensor) for value, tensor in network.weights.items()}
    for number, batch in enumerate(network.batches()):
        if number == MOST_BATCHES:
            break
        value = network.loss(network.outputs(batch), batch)
        gradients = torch.autograd.grad(value, list(network.weights.values()), allow_unused=True)
        for tensor, gradient in zip(total.values(), gradients, strict=True):
            tensor += 0 if gradient is None else gradient
    return sums(groups, pieces, {value: tensor.abs() for value, tensor in total.items()})
