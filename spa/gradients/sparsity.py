"""Masks that are learned: what makes whole units small during training, as one mechanism.

| name | what it adds to the loss | source |
|---|---|---|
| gates | the share of units whose gate is open; a gate multiplies what reads the unit | Louizos et al. 2018 |
| lasso | the mean Euclidean norm of units, all their weights together | Wen et al. 2016 |
| scales | the mean size of the scales of normalisations | Network Slimming, Liu et al. 2017 |

With gates, weights are multiplied by their units' gates in the end, so that closed units hold zeros and criteria of
weights find them: ``spa prune trained.onnx --criterion l2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from spa.analysis.group import Group
from spa.gradients.module import GraphModule
from spa.gradients.subsets import is_scale

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Of the hard-concrete distribution: beta, gamma and zeta of Louizos et al. 2018, section 4.1."""

OPEN = 2.2
"""Of log alpha at the start: nine of ten gates are open."""

GATE_RATE = 10.0
"""The learning rate of gates, in that of weights: there is one number for each unit, and it has far to go."""


class Sparsity:
    """What is added to training.

    Attributes:
        name: gates, lasso or scales.
        strength: what the penalty is multiplied with.
        gates: log alpha of each unit, by group; empty unless gates are learned.
    """

    def __init__(self, name: str, strength: float, module: GraphModule, groups: Sequence[Group], seed: int) -> None:
        self.name, self.strength = name, strength
        held = {str(value.name): tensor for value, tensor in module.stored_parameters()}
        values = {str(value.name): value for value, _ in module.stored_parameters()}
        self.values, self.parameters = values, held
        self.scales = [tensor for value, tensor in module.stored_parameters() if is_scale(value)]
        device = next((tensor.device for tensor in held.values()), torch.device("cpu"))
        self.pieces = [
            [
                (str(piece.value.name), piece.axis, torch.from_numpy(piece.unit_of).to(device), piece.consumer)
                for piece in group.slices
                if str(piece.value.name) in held
            ]
            for group in groups
        ]
        self.units = [group.size for group in groups]
        self.gates = [
            torch.full((size,), OPEN, device=device, requires_grad=True) for size in self.units if name == "gates"
        ]
        self.generator = torch.Generator().manual_seed(seed)

    def trained(self) -> list[dict[str, Any]]:
        """What the optimiser gets besides the weights."""
        return [{"params": self.gates, "weight_decay": 0.0, "times": GATE_RATE}] if self.gates else []

    def instead(self, *, training: bool) -> dict[ir.Value, Tensor]:
        """The weights that are read in the place of those that are stored: multiplied by their units' gates."""
        gated: dict[str, Tensor] = {}
        for alpha, pieces in zip(self.gates, self.pieces, strict=False):
            gate = self._drawn(alpha) if training else _middle(alpha)
            readers = [piece for piece in pieces if piece[3]] or pieces
            for name, axis, unit_of, _ in readers:
                weight = gated.get(name, self.parameters[name])
                along = torch.where(unit_of >= 0, gate[unit_of.clamp(min=0)], 1.0)
                gated[name] = weight * along.reshape([-1 if at == axis else 1 for at in range(weight.ndim)])
        return {self.values[name]: tensor for name, tensor in gated.items()}

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        if self.name == "gates":
            shut = TEMPERATURE * log(-LOW / HIGH)
            return self.strength * torch.cat([torch.sigmoid(alpha - shut) for alpha in self.gates]).mean()
        if self.name == "scales":
            return self.strength * torch.cat([scale.reshape(-1).abs() for scale in self.scales]).mean()
        norms = [self._norms(size, pieces) for size, pieces in zip(self.units, self.pieces, strict=True) if pieces]
        return self.strength * torch.cat(norms).mean()

    def settle(self) -> None:
        """Multiply the stored weights by their gates, which then are all open."""
        with torch.no_grad():
            for value, tensor in self.instead(training=False).items():
                self.parameters[str(value.name)].copy_(tensor)
        self.gates = []

    def state(self) -> list[Tensor]:
        """A copy of the gates."""
        return [alpha.detach().clone() for alpha in self.gates]

    def load(self, state: Sequence[Tensor]) -> None:
        """Put gates back."""
        with torch.no_grad():
            for alpha, kept in zip(self.gates, state, strict=True):
                alpha.copy_(kept)

    def _drawn(self, alpha: Tensor) -> Tensor:
        u = torch.rand(alpha.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6).to(alpha.device)
        s = torch.sigmoid((u.log() - (1 - u).log() + alpha) / TEMPERATURE)
        return (s * (HIGH - LOW) + LOW).clamp(0.0, 1.0)

    def _norms(self, size: int, pieces: Sequence[tuple[str, int, Tensor, bool]]) -> Tensor:
        """(units,) the norm of all weights of a unit."""
        total = torch.zeros(size, device=self.parameters[pieces[0][0]].device)
        for name, axis, unit_of, _ in pieces:
            squares = self.parameters[name].float().square()
            others = [at for at in range(squares.ndim) if at != axis]
            squares = squares.sum(others) if others else squares
            total = total.index_add(0, unit_of[unit_of >= 0], squares[unit_of >= 0])
        return (total + 1e-12).sqrt()


def _middle(alpha: Tensor) -> Tensor:
    """The gate without chance."""
    return (torch.sigmoid(alpha) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)
