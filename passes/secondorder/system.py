"""The quadratic problem of one distinct input as units leave it: exact downdates of its inverse and its optimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spa.passes.secondorder.damping import VARIANCE_FLOOR, ridge
from spa.passes.secondorder.linalg import Array, Indices, inverse, solve
from spa.passes.secondorder.pool import Blocks, Pool, blocks, traces
from spa.passes.secondorder.problem import Consumer, NormalEquations, importance, normal_equations

PANEL = 512

Mask = npt.NDArray[np.bool_]


class System:
    """Loss of all consumers of one input as a function of the units that are kept.

    With Ht = H + Lambda, Gt = G + Lambda A (Lambda the damping, A the anchor) and rows S of the kept units,

        W_S = Ht_SS^-1 Gt_S        L(S) = -tr(F Gt_S^T Ht_SS^-1 Gt_S)                                                (2)

    Consumers of one input share Ht: their Gt stand side by side, each times sqrt(alpha) R with F = R R^T, so that (2)
    and all that follows from it is a plain trace. When there are more outputs than rows, outputs are rotated into the
    row space of Gt, which changes no trace.

    Rows N that belong to no unit always stay. What they are at their best is known for any weights of the others, so
    that what is left of Ht, Gt and of all that follows is of the rows with units alone: DenseNet's layers read the 32
    units of a group among a thousand rows.

        W_N = P - K W    K = Ht_NN^-1 Ht_NB    P = Ht_NN^-1 Gt_N    Ht <- Ht_BB - Ht_BN K    Gt <- Gt_B - Ht_BN P

    Attributes:
        unit_of_row: unit of each row that has one, (d,), d at most the width of the input.
        explained: N and B, rows of the input, with K (n, d) and P (n, m); None: every row has a unit.
        rows: which of the d the arrays below hold, a superset of S, (r,).
        unit: unit of each of these rows, (r,).
        fitted: of each consumer alpha, and the mean of its outputs in the moments that are fitted; `mean` of the input.
        inverse: Ht_SS^-1 embedded in (r, r); rows and columns outside S are zero.
        weight: W_S embedded in (r, m).
    """

    def __init__(
        self, consumers: Sequence[Consumer], damping: float, known: Sequence[NormalEquations] | None = None
    ) -> None:
        first = consumers[0]
        self.consumers, self.damping = consumers, damping
        targets = []
        self.fitted: list[tuple[float, Array]] = []
        for at, consumer in enumerate(consumers):
            equations = normal_equations(consumer) if known is None else known[at]
            self.gram, self.ridge = equations.gram, ridge(equations.gram, damping)
            self.fitted.append((importance(consumer, equations), equations.output_mean))
            self.mean = equations.mean
            target = equations.target + self.ridge[:, None] * consumer.anchored
            targets.append(consumer.weigh(target) * np.sqrt(self.fitted[-1][0]))
        if known is not None:
            self.gram = self.gram.copy()  # they may be asked for again
        variance = np.diagonal(self.gram).copy()
        self.gram[np.diag_indices_from(self.gram)] += self.ridge
        self.target: Array = np.hstack(targets)
        self.rotation = self._rotated()
        staying, leaving = np.flatnonzero(first.unit_of_row < 0), np.flatnonzero(first.unit_of_row >= 0)
        self.unit_of_row = first.unit_of_row[leaving]
        self.dead: Mask = variance[leaving] <= VARIANCE_FLOOR * variance.mean()
        """Rows that do not vary, (d,)."""
        self.explained: Explained | None = None
        if len(staying):
            self.explained = self._explain(staying, leaving)
        self.target = np.ascontiguousarray(self.target)

    def _rotated(self) -> Array | None:
        """Rotate outputs into the row space of Gt, and say how, where there are more of them than rows."""
        if self.target.shape[1] <= self.target.shape[0]:
            return None
        rotation, triangle = np.linalg.qr(self.target.T)
        self.target = triangle.T
        return np.asarray(rotation)

    def _explain(self, staying: Indices, leaving: Indices) -> Explained:
        """Leave out the rows that always stay, as what the others make them."""
        cross = self.gram[np.ix_(staying, leaving)]
        solved = solve(self.gram[np.ix_(staying, staying)], np.hstack([cross, self.target[staying]]))
        slope, offset = solved[:, : len(leaving)], solved[:, len(leaving) :]
        loss = -float(np.vdot(self.target[staying], offset))
        unexplained = self.gram[np.ix_(leaving, leaving)] - cross.T @ slope
        self.gram = 0.5 * (unexplained + unexplained.T)
        self.target = self.target[leaving] - cross.T @ offset
        rotation = self._rotated()
        if rotation is not None:
            offset = offset @ rotation
            self.rotation = rotation if self.rotation is None else self.rotation @ rotation
        return Explained(staying, leaving, slope, offset, loss)

    def factorise(self, kept: Mask) -> None:
        """Start anew, by a Cholesky factorisation, from the units (units,) that are kept."""
        self.rows = np.flatnonzero(kept[self.unit_of_row])
        self.unit = self.unit_of_row[self.rows]
        self.blocks = blocks(self.unit)
        self.inverse = inverse(self.gram[np.ix_(self.rows, self.rows)])
        self.weight = self.inverse @ self.target[self.rows]

    def compact(self, kept: Mask) -> None:
        """Drop from the arrays what units (units,) that are gone have left there; all else stays as it is."""
        stay = np.flatnonzero(kept[self.unit])
        if len(stay) == len(self.rows):
            return
        self.rows, self.unit = self.rows[stay], self.unit[stay]
        self.blocks = blocks(self.unit)
        self.inverse, self.weight = self.inverse[np.ix_(stay, stay)], self.weight[stay]

    def admit(self, units: Indices) -> None:
        """Let units back in, exactly: Z as in (5), E = Ht_BS Ht_SS^-1, and

        W_B = Z^-1 (Gt_B - Ht_BS W_S)    W_S -= E^T W_B    Ht^-1 = [[Ht_SS^-1 + E^T Z^-1 E, -E^T Z^-1], [-Z^-1 E, Z^-1]]

        Only while the rows held are those of S; the arrays that were held stay as they are.
        """
        at = np.flatnonzero(np.isin(self.unit_of_row, units))
        cross = self.gram[np.ix_(at, self.rows)]
        explained = cross @ self.inverse
        block = inverse(self.gram[np.ix_(at, at)] - explained @ cross.T)
        new = block @ (self.target[at] - cross @ self.weight)
        lines = block @ explained
        held = len(self.rows)
        whole = np.empty((held + len(at), held + len(at)))
        whole[:held, :held] = self.inverse
        subtract_product(whole[:held, :held], -explained, lines)
        whole[:held, held:], whole[held:, :held], whole[held:, held:] = -lines.T, -lines, block
        self.inverse, self.weight = whole, np.concatenate([self.weight - explained.T @ new, new])
        self.rows = np.concatenate([self.rows, at])
        self.unit = self.unit_of_row[self.rows]
        self.blocks = blocks(self.unit)

    def held(self) -> tuple[Indices, Indices, list[Blocks], Array, Array]:
        """What `back_to` takes; `remove` changes the arrays in it, and nothing else does."""
        return self.rows, self.unit, self.blocks, self.inverse, self.weight

    def back_to(self, held: tuple[Indices, Indices, list[Blocks], Array, Array]) -> None:
        """Be as `held` was given."""
        self.rows, self.unit, self.blocks, self.inverse, self.weight = held

    def saliency(self, kept: Mask) -> Array:
        """Loss that removing each kept unit alone would cause, (units,); zero for the others:

        s(j) = sum_c alpha_c tr(F_c W_c,B^T [(Ht_c,SS^-1)_BB]^-1 W_c,B), B the rows of unit j                       (3)
        """
        scores = np.zeros(len(kept))
        for block in self.blocks:
            live = kept[block.units]
            units, at = block.units[live], block.positions[live]
            weights = self.weight[at]
            grams = weights @ weights.transpose(0, 2, 1)
            scores[units] = traces(self.inverse[at[:, :, None], at[:, None, :]], grams)
        return scores

    def loss(self) -> float:
        """(2) of the units that are left."""
        alone = 0.0 if self.explained is None else self.explained.loss
        return alone - float(np.vdot(self.target[self.rows], self.weight))

    def gains(self, outside: Indices) -> Array:
        """Loss that letting each of the units ``outside`` back in alone would save, one for each:

        gain(j) = tr(g^T Z^-1 g), g = Gt_B - Ht_BS W_S, Z = Ht_BB - Ht_BS Ht_SS^-1 Ht_SB                            (5)

        Only right after `factorise` or `compact`, when the rows held are those of S.
        """
        gains = np.zeros(int(outside.max()) + 1)
        at = np.flatnonzero(np.isin(self.unit_of_row, outside))
        cross = self.gram[np.ix_(at, self.rows)]
        residual = self.target[at] - cross @ self.weight
        explained = cross @ self.inverse
        for block in blocks(self.unit_of_row[at]):
            inner = block.positions
            rows = at[inner]
            own = self.gram[rows[:, :, None], rows[:, None, :]]
            unexplained = own - explained[inner] @ cross[inner].transpose(0, 2, 1)
            pulls = residual[inner]
            gains[block.units] = traces(unexplained, pulls @ pulls.transpose(0, 2, 1))
        return np.asarray(gains[outside])

    def pool(self, units: Indices) -> Pool:
        """Candidates, to be removed one after another without touching the rest."""
        at = np.flatnonzero(np.isin(self.unit, units))
        weight = self.weight[at]
        return Pool(self.inverse[np.ix_(at, at)], weight @ weight.T, self.unit[at])

    def remove(self, units: Indices) -> None:
        """Remove units, exactly: with B all of their rows,

        W -= Ht^-1[:, B] (Ht^-1_BB)^-1 W_B        Ht^-1 -= Ht^-1[:, B] (Ht^-1_BB)^-1 Ht^-1[B, :]                    (4)
        """
        at = np.flatnonzero(np.isin(self.unit, units))
        if not len(at):
            return
        lines = self.inverse[at]
        step = solve(lines[:, at], lines)
        subtract_product(self.weight, step, self.weight[at])
        subtract_product(self.inverse, step, lines)
        self.weight[at] = 0.0
        self.inverse[at] = 0.0
        self.inverse[:, at] = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """Rows N that always stay, whose weights are P - K W for weights W of the rows B that may go, see `System`.

    Attributes:
        staying, leaving: N, (n,), and B, (d,).
        slope, offset: K, (n, d), and P, (n, m).
        loss: (2) of these rows alone.
    """

    staying: Indices
    leaving: Indices
    slope: Array
    offset: Array
    loss: float

    def carried(self, rows: Array) -> Array:
        """Rows (d', ...) of the input as rows (d, ...) of W: v_B - K^T v_N."""
        return np.asarray(rows[self.leaving] - self.slope.T @ rows[self.staying])


class HeldOut:
    """Error of a system's current weights on held-out moments, biases fitted on the others; a constant is left out."""

    def __init__(self, system: System) -> None:
        self.system = system
        targets: list[Array] = []
        gaps: list[Array] = []
        for consumer, (alpha, output_mean) in zip(system.consumers, system.fitted, strict=True):
            held, scale = normal_equations(consumer, consumer.judge), np.sqrt(alpha)
            targets.append(consumer.weigh(held.target) * scale)
            gaps.append(consumer.weigh(held.output_mean - output_mean) * scale)
        target, gap = np.hstack(targets), np.concatenate(gaps)
        self.gram, self.mean_gap = held.gram, held.mean - system.mean
        # What lies outside the row space that the system's outputs were rotated into no weights can reach: a constant.
        rotation = system.rotation
        self.target: Array = target if rotation is None else target @ rotation
        self.output_gap: Array = gap if rotation is None else gap @ rotation
        explained = system.explained
        if explained is not None:
            staying, offset = explained.staying, explained.offset
            self.target = explained.carried(self.target - self.gram[:, staying] @ offset)
            self.output_gap = self.output_gap - self.mean_gap[staying] @ offset
            self.gram = explained.carried(explained.carried(self.gram).T)
            self.mean_gap = explained.carried(self.mean_gap)

    def loss(self) -> float:
        """tr(W^T H W) - 2 tr(W^T G) + ||gap of means||^2 of the rows that are left."""
        rows, weight = self.system.rows, self.system.weight
        offset = self.output_gap - self.mean_gap[rows] @ weight
        quadratic = self.gram[np.ix_(rows, rows)] @ weight - 2.0 * self.target[rows]
        return float(np.vdot(weight, quadratic) + offset @ offset)


def subtract_product(matrix: Array, left: Array, right: Array) -> None:
    """matrix -= left.T @ right, a panel of rows at a time, without a temporary array of the size of the matrix."""
    for start in range(0, len(matrix), PANEL):
        matrix[start : start + PANEL] -= left[:, start : start + PANEL].T @ right


def by_input(consumers: Sequence[Consumer]) -> list[list[Consumer]]:
    """Consumers, those of one input together: the same moments with the same units."""
    groups: dict[tuple[int, int, bytes, bool], list[Consumer]] = {}
    for consumer in consumers:
        key = (id(consumer.moments), id(consumer.held_out), consumer.unit_of_row.tobytes(), consumer.free_bias)
        groups.setdefault(key, []).append(consumer)
    return list(groups.values())
