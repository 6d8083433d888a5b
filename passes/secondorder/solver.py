"""The least-squares problem of one consumer: its normal equations, its refit, and when not to trust the refit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spa.passes.secondorder.linalg import Array, Indices, solve
from spa.passes.secondorder.moments import Moments

DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)
MAX_GROWTH = 10.0

VARIANCE_FLOOR = 1e-10
"""A row whose variance is below this share of the mean variance does not vary, but for rounding."""

STYLE = "diag"


@dataclass(frozen=True, slots=True, eq=False)
class Consumer:
    """A mixing layer y = W0^T x + b0 that reads units about to be removed, and what is known of its input.

    Attributes:
        moments: of the input of width d' in the pruned and d in the dense network, which may be the same.
        weight: W0, dense weights, (d, m).
        unit_of_row: unit to which a row of the pruned input belongs, (d',); -1: the row always stays.
        bias: b0, dense bias, (m,); None: zero.
        anchor: weights that the pruned network has now, (d', m), towards which damping pulls; None: W0.
        held_out: moments of samples that no fit sees.
        output_weight: F, positive semi-definite weight of output errors, (m, m), or its diagonal, (m,); None: identity. F
            changes which units are chosen and what a loss is, never a refit: every output has its own weights.
        alpha: weight of this consumer's loss beside that of others; None: 1 / energy.
        energy: tr(F Cov y) of the dense outputs; None: from the moments, exact for symmetric ones without drift, otherwise
            that of the anchored layer.
        drift: beta, share of the drift r in ``moments`` that the outputs should make up for.
        free_bias: whether a bias may be added; if not, b0 stays and moments are taken about zero.
    """

    moments: Moments
    weight: Array
    unit_of_row: Indices
    bias: Array | None = None
    anchor: Array | None = None
    held_out: Moments | None = None
    output_weight: Array | None = None
    alpha: float | None = None
    energy: float | None = None
    drift: float = 0.0
    free_bias: bool = True

    def __post_init__(self) -> None:
        width = self.moments.width
        dense_width = self.moments.dense_width or width
        outputs = self.weight.shape[-1]
        for what, array, shapes in (
            ("weight", self.weight, [(dense_width, outputs)]),
            ("unit_of_row", self.unit_of_row, [(width,)]),
            ("bias", self.bias, [(outputs,)]),
            ("anchor", self.anchor, [(width, outputs)]),
            ("output_weight", self.output_weight, [(outputs,), (outputs, outputs)]),
        ):
            if array is not None and array.shape not in shapes:
                raise ValueError(f"{what} of shape {shapes[0]} expected, found {array.shape}")
        if self.anchor is None and dense_width != width:
            raise ValueError(f"an anchor of shape {(width, outputs)} is needed: {dense_width} dense rows, {width} pruned ones")
        held_out = self.held_out
        if held_out is not None and (held_out.width, held_out.dense_width) != (width, self.moments.dense_width):
            raise ValueError("held-out moments must have the widths of the moments")

    @property
    def anchored(self) -> Array:
        """Weights towards which damping pulls, (d', m)."""
        return np.asarray(self.weight if self.anchor is None else self.anchor, np.float64)

    @property
    def dense_bias(self) -> Array:
        """b0, (m,)."""
        return np.zeros(self.weight.shape[1]) if self.bias is None else np.asarray(self.bias, np.float64)

    def weigh(self, outputs: Array) -> Array:
        """Columns (..., m) of output errors times R with F = R R^T, so that their plain square is weighted by F."""
        if self.output_weight is None:
            return outputs
        if self.output_weight.ndim == 1:
            return outputs * np.sqrt(np.maximum(self.output_weight, 0.0))
        values, vectors = np.linalg.eigh(self.output_weight)
        return np.asarray(outputs @ (vectors * np.sqrt(np.maximum(values, 0.0))))

    def kept_rows(self, kept_units: Indices) -> Indices:
        """Rows (of the d') that stay when ``kept_units`` stay, ascending."""
        return np.flatnonzero((self.unit_of_row < 0) | np.isin(self.unit_of_row, kept_units))


@dataclass(frozen=True, slots=True, eq=False)
class NormalEquations:
    """Quadratic form of one consumer's squared error, E ||y - W^T xh - b||^2 with the best b for each W.

    = tr(W^T H W) - 2 tr(W^T G) + tr Cov y, with H = Cov xh, G = C W0 + beta D and E y = W0^T mu0 + b0 + beta E r. That the
    bias is free is the same as centring: moments about zero with a column of ones give the same W and b. With a fixed bias,
    H = E xh xh^T and G = E xh (y - b0)^T.

    Attributes:
        gram: H, (d', d').
        target: G, (d', m).
        mean: mu, (d',); zero with a fixed bias.
        output_mean: mean that W^T xh + b has to have, (m,); with a fixed bias b0 itself.
    """

    gram: Array
    target: Array
    mean: Array
    output_mean: Array

    def restrict(self, rows: Indices) -> NormalEquations:
        """The same with only ``rows`` of the input left."""
        if len(rows) == len(self.gram):
            return self
        return NormalEquations(self.gram[np.ix_(rows, rows)], self.target[rows], self.mean[rows], self.output_mean)

    def bias(self, weight: Array) -> Array:
        """b = E y - W^T mu, (m,)."""
        return np.asarray(self.output_mean - self.mean @ weight)


def normal_equations(consumer: Consumer, moments: Moments | None = None) -> NormalEquations:
    """Normal equations of a consumer on its moments, or on others such as the held-out ones."""
    moments = consumer.moments if moments is None else moments
    dense = np.asarray(consumer.weight, np.float64)
    gram, mean = moments.gram, moments.mean
    target = np.asarray((gram if moments.symmetric else moments.cross) @ dense)
    output_mean = moments.dense_mean @ dense
    if consumer.drift:
        target += consumer.drift * moments.drift_cross
        output_mean = output_mean + consumer.drift * moments.drift_mean
    if consumer.free_bias:
        return NormalEquations(gram, target, mean, output_mean + consumer.dense_bias)
    gram += np.outer(mean, mean)
    target += np.outer(mean, output_mean)
    return NormalEquations(gram, target, np.zeros_like(mean), consumer.dense_bias)


def ridge(gram: Array, damping: float) -> Array:
    """Diagonal Lambda (d,) of damping: ``damping`` times the row's own variance."""
    diagonal = np.diagonal(gram)
    mean = float(diagonal.mean())
    if mean <= 0.0:
        return np.full(len(diagonal), damping)
    if STYLE == "mean":
        return np.full(len(diagonal), damping * mean)
    if STYLE == "mix":
        return damping * np.sqrt(np.maximum(diagonal, VARIANCE_FLOOR * mean) * mean)
    return np.asarray(damping * np.maximum(diagonal, 1e-6 * mean))


def energy(consumer: Consumer, equations: NormalEquations) -> float:
    """tr(F Cov y) of the dense outputs, or the nearest that is known, see `Consumer`."""
    if consumer.energy is not None:
        return consumer.energy
    anchored = consumer.weigh(consumer.anchored)
    return float(np.vdot(anchored, equations.gram @ anchored))


def importance(consumer: Consumer, equations: NormalEquations) -> float:
    """alpha, weight of the consumer's loss: 1 / energy unless it is given; 1 for outputs that do not vary."""
    if consumer.alpha is not None:
        return consumer.alpha
    total = energy(consumer, equations)
    return 1.0 / total if total > 0.0 else 1.0


def squared_error(consumer: Consumer, equations: NormalEquations, weight: Array, bias: Array) -> float:
    """Mean squared output error weighted by F, less tr(F Cov y), of a layer W (d', m), b (m,) on the equations' moments:

    tr(F W^T H W) - 2 tr(F W^T G) + (E y - W^T mu - b)^T F (E y - W^T mu - b)

    Equations restricted to the rows of W judge a pruned layer; equations of held-out moments judge it fairly.
    """
    weighed, target = consumer.weigh(weight), consumer.weigh(equations.target)
    offset = consumer.weigh(equations.bias(weight) - bias)
    return float(np.vdot(weighed, equations.gram @ weighed - 2.0 * target) + offset @ offset)


def default_damping(consumer: Consumer) -> float:
    """d' / N between 0.01 and 1: what held-out moments were found to choose, on average, where there are none."""
    moments = consumer.moments
    return float(np.clip(moments.width / max(moments.effective_count, 1.0), 1e-2, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Refit:
    """Weights of a consumer on its kept rows.

    Attributes:
        rows: kept rows of the input, (k,).
        weight: W_S, (k, m).
        bias: (m,).
        damping: of the refit; None: there was none, the weights are the anchor's and only the bias was corrected.
        reason: why there was no refit; empty if there was.
        loss: share of the output variance lost on the moments, tr(F Cov(y - W_S^T xh)) / energy.
        held_out_loss: the same on the held-out moments, by weights that did not see them; None without them.
    """

    rows: Indices
    weight: Array
    bias: Array
    damping: float | None
    reason: str
    loss: float
    held_out_loss: float | None

    @property
    def accepted(self) -> bool:
        """Whether the weights are a least-squares solution."""
        return self.damping is not None


def refit(consumer: Consumer, kept_rows: Indices, *, dampings: Sequence[float] | None = None) -> Refit:
    """Best weights on the rows that are kept, and bias:

    W_S = (H_SS + Lambda_S)^-1 (G_S + Lambda_S A_S),    b = E y - W_S^T mu_S                                                (1)

    solved for W_S - A_S, so that whatever regularises pulls towards the anchor A, also with fewer samples than rows, with
    rows that do not vary, and with no variance at all. The damping of smallest held-out error is taken, and the solution is
    then computed anew on all moments, the held-out ones included. Without held-out moments the first damping that passes
    the growth guard is taken.

    A refit is refused, and the anchor returned with a corrected bias and the reason, when its largest weight has grown more
    than ten-fold, or when none is better on held-out moments than correcting the bias alone.

    Args:
        consumer: the problem.
        kept_rows: S, see `Consumer.kept_rows`.
        dampings: to choose from; None: `DAMPINGS`, or `default_damping` and then stronger ones without held-out moments.

    Raises:
        DataError: moments without rows.
    """
    moments, reason, held_out_loss = consumer.moments, "", None
    if consumer.held_out is None:
        tried = list(dampings or (default_damping(consumer) * factor for factor in (1.0, 10.0, 100.0)))
    else:
        tried = list(dampings or DAMPINGS)
        plain, *losses = held_out_losses(consumer, kept_rows, tried)
        held_out_loss = min(plain, *losses)
        if held_out_loss < plain:
            tried = [tried[losses.index(held_out_loss)]]
        else:
            tried, reason = [], "no refit is better on held-out samples than correcting the bias alone"
        moments = moments.copy()
        moments.merge(consumer.held_out)
    full = normal_equations(consumer, moments)
    equations = full.restrict(kept_rows)
    chosen, weight = None, consumer.anchored[kept_rows]
    for damping in tried:
        solution = _solution(equations, weight, ridge(full.gram, damping)[kept_rows])
        if not _grown(consumer, solution):
            chosen, weight, reason = damping, solution, ""
            break
        reason = f"the largest weight would grow more than {MAX_GROWTH:g}-fold"
    bias = equations.bias(weight)
    loss = _share(squared_error(consumer, equations, weight, bias), energy(consumer, full))
    return Refit(kept_rows, weight, bias, chosen, reason, loss, held_out_loss)


def held_out_losses(consumer: Consumer, kept_rows: Indices, dampings: Sequence[float]) -> list[float]:
    """Share of the held-out output variance lost by the anchor with a corrected bias, and by the refit of each damping.

    Infinite for a refit that does not pass the growth guard.
    """
    full, held = normal_equations(consumer), normal_equations(consumer, consumer.held_out)
    equations, judge = full.restrict(kept_rows), held.restrict(kept_rows)
    anchor = consumer.anchored[kept_rows]
    solutions = [_solution(equations, anchor, ridge(full.gram, damping)[kept_rows]) for damping in dampings]
    total = energy(consumer, held)
    return [
        np.inf
        if _grown(consumer, weight)
        else _share(squared_error(consumer, judge, weight, equations.bias(weight)), total)
        for weight in (anchor, *solutions)
    ]


def choose_damping(consumers: Sequence[Consumer], kept_units: Indices) -> float:
    """Of `DAMPINGS`, the one with the smallest held-out loss of consumers of one input, were these units kept."""
    losses = np.zeros(len(DAMPINGS))
    for consumer in consumers:
        scale = 1.0
        if consumer.alpha is not None:
            scale = consumer.alpha * energy(consumer, normal_equations(consumer, consumer.held_out))
        losses += scale * np.array(held_out_losses(consumer, consumer.kept_rows(kept_units), DAMPINGS)[1:])
    return DAMPINGS[len(DAMPINGS) - 1 - int(np.argmin(losses[::-1]))]


def _solution(equations: NormalEquations, anchor: Array, damping: Array) -> Array:
    damped = equations.gram.copy()
    damped[np.diag_indices_from(damped)] += damping
    return anchor + solve(damped, equations.target - equations.gram @ anchor)


def _grown(consumer: Consumer, weight: Array) -> bool:
    largest = float(np.abs(weight).max(initial=0.0))
    return not largest <= MAX_GROWTH * float(np.abs(consumer.anchored).max(initial=0.0))


def _share(error: float, total: float) -> float:
    """Share of the output variance in an error that `squared_error` has taken it off."""
    return (error + total) / total if total > 0.0 else 0.0
