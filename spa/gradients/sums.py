"""From gradients of stored tensors to one number for each unit: sums over all weights of a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa.analysis.group import Group, Slice
from spa.passes.choose.importance.gather import Scores, by_unit

Pieces = Sequence[Sequence[Slice]]
"""For each group the slices that count."""


def pieces_of(groups: Sequence[Group], roles: str, parameters: Mapping[ir.Value, Tensor]) -> Pieces:
    """What has a gradient along each group, biases and scales too: without them, sums over a unit would not balance."""
    return [_pieces(group, roles, parameters) for group in groups]


def _pieces(group: Group, roles: str, parameters: Mapping[ir.Value, Tensor]) -> list[Slice]:
    held = [piece for piece in group.slices if piece.value in parameters]
    if roles == "both":
        return held
    return [piece for piece in held if piece.producer == (roles == "producers")] or held


def sums(groups: Sequence[Group], pieces: Pieces, numbers: Mapping[ir.Value, Tensor]) -> Scores:
    """For each group (units,) the numbers of all weights of a unit, added up."""
    results = []
    along: dict[tuple[ir.Value, int], np.ndarray] = {}
    for group, mine in zip(groups, pieces, strict=True):
        total = np.zeros(group.size)
        for piece in mine:
            if piece.value not in numbers:
                continue
            key = piece.value, piece.axis
            if key not in along:
                tensor = numbers[piece.value].double()
                others = [axis for axis in range(tensor.ndim) if axis != piece.axis]
                along[key] = (tensor.sum(others) if others else tensor).cpu().numpy()
            total += by_unit(piece, group.size, along[key])
        results.append(total)
    return results


class Gathered:
    """Sums over units that are kept from sample to sample."""

    def __init__(self, groups: Sequence[Group], pieces: Pieces, parameters: Mapping[ir.Value, Tensor]) -> None:
        self.groups, self.pieces = groups, pieces
        self.weights = {value: tensor.detach() for value, tensor in parameters.items()}
        self.mean = {value: torch.zeros_like(tensor) for value, tensor in self.weights.items()}
        self.squares = {value: torch.zeros_like(tensor) for value, tensor in self.weights.items()}
        self.sums = [np.zeros(group.size) for group in groups]
        self.sums_of_squares = [np.zeros(group.size) for group in groups]
        self.count = 0

    def add(self, gradients: Mapping[ir.Value, Tensor | None], count: int = 1) -> None:
        """The gradients of the mean loss of some samples; each counts as if it had this gradient."""
        products = {}
        for value, gradient in gradients.items():
            if gradient is None:
                continue
            self.mean[value] += count * gradient
            self.squares[value] += count * gradient.square()
            products[value] = self.weights[value] * gradient
        for at, numbers in enumerate(sums(self.groups, self.pieces, products)):
            self.sums[at] += count * numbers
            self.sums_of_squares[at] += count * numbers**2
        self.count += count

    def scores(self, name: str, *, drawn: bool) -> Scores:
        """For each group (units,); `drawn`: targets were drawn, so that a mean gradient is chance."""
        count = max(self.count, 1)
        if name == "taylor":
            if drawn:
                return [np.sqrt(numbers / count) for numbers in self.sums_of_squares]
            return [np.abs(numbers) / count for numbers in self.sums]
        if name == "fisher":
            return [numbers / count for numbers in self.sums_of_squares]
        each = {value: self.of_weight(name, value, count) for value in self.weights}
        return sums(self.groups, self.pieces, each)

    def of_weight(self, name: str, value: ir.Value, count: int) -> Tensor:
        """The score of each element of a tensor."""
        weight, squares = self.weights[value], self.squares[value]
        if name == "obd":
            return 0.5 * weight.square() * squares / count
        if name == "gblm":
            return weight.abs() * squares.sqrt() / (squares.sqrt().mean() + 1e-30)
        return (weight * self.mean[value] / count).abs()
