"""Refitting one consumer in closed form: how strongly to damp, and when not to trust the refit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spa.executor import Threads
from spa.passes.secondorder.damping import DAMPINGS, default_damping, ridge
from spa.passes.secondorder.linalg import Array, Indices, solve
from spa.passes.secondorder.mixing import mixed
from spa.passes.secondorder.moments import Moments
from spa.passes.secondorder.problem import (
    Consumer,
    NormalEquations,
    energy,
    normal_equations,
    parted,
    pooled,
    share,
    shrinkage,
    squared_error,
)

__all__ = [
    "MAX_GROWTH",
    "MOST_WIDENED",
    "Consumer",
    "Refit",
    "choose_damping",
    "held_out_losses",
    "judged",
    "refit",
    "widened",
]

MAX_GROWTH = 10.0

WORKING_MATRICES = 3
"""Of the size of a Gram matrix, beside it while a damping is tried: damped, scaled, factorised."""

MOST_WIDENED = 1.5
"""By which a standard deviation counts as shrunk at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Refit:
    """Weights of a consumer on its kept rows.

    Attributes:
        rows: kept rows of the input, (k,).
        weight: W_S, (k, m).
        bias: (m,).
        damping: of the refit; None: the weights are no least-squares solution.
        reason: why a refit was refused, so that the weights are the anchor's and only the bias is new; else empty.
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


def refit(
    consumer: Consumer,
    kept_rows: Indices,
    *,
    dampings: Sequence[float] | None = None,
    pool: bool = True,
    spread: float = 0.0,
    threads: int | None = 1,
) -> Refit:
    """Best weights on the rows that are kept, and bias:

    W_S = (H_SS + Lambda_S)^-1 (G_S + Lambda_S A_S),    b = E y - W_S^T mu_S                                         (1)

    solved for W_S - A_S, so that whatever regularises pulls towards the anchor A, also with fewer samples than rows,
    with rows that do not vary, and with no variance at all. The damping of smallest held-out error is taken, and the
    solution is then computed anew on all moments, the held-out ones included. Without held-out moments the first
    damping that passes the growth guard is taken. With fewer samples than rows, symmetric targets are tried too: the
    asymmetric ones then fit noise.

    A refit is refused, and the anchor returned with a corrected bias and the reason, when its largest weight has grown
    more than ten-fold, or when none is better on held-out moments than correcting the bias alone.

    Args:
        consumer: the problem.
        kept_rows: S, see `Consumer.kept_rows`.
        dampings: to choose from; None: `DAMPINGS`, or without held-out moments `default_damping` and stronger ones.
        pool: whether the held-out moments are fitted in the end; not where the weights are judged by them.
        spread: how far outputs get the variance back that the fit takes from them, see `widened`.
        threads: how many dampings are tried at once; None: one a core.

    Raises:
        DataError: moments without rows.
    """
    reason, held_out_loss, symmetric = "", None, False
    if consumer.judge is None:
        tried = list(dampings or (default_damping(consumer) * factor for factor in (1.0, 10.0, 100.0)))
    else:
        tried = list(dampings or DAMPINGS)
        plain, *losses = held_out_losses(consumer, kept_rows, tried, threads=threads)
        if not consumer.moments.symmetric and consumer.moments.effective_count < len(kept_rows):
            _, *others = held_out_losses(consumer, kept_rows, tried, symmetric=True, threads=threads)
            symmetric = min(others) < min(losses)
            losses = others if symmetric else losses
        held_out_loss = min(plain, *losses)
        better = sorted((loss, at) for at, loss in enumerate(losses) if loss < plain)
        tried = [tried[at] for _, at in better[: None if _is_mixed(consumer) else 1]]
        if not tried:
            reason = "no refit is better on held-out samples than correcting the bias alone"
    parts = _Parts(consumer, pooled(consumer) if pool else consumer.moments, kept_rows, spread)
    for damping in tried:
        fitted = parts.fitted(damping, symmetric=symmetric)
        if fitted is not None:
            return Refit(kept_rows, *fitted[:2], damping, "", fitted[2], held_out_loss)
        reason = f"the largest weight would grow more than {MAX_GROWTH:g}-fold"
    anchored = parts.fitted(None)
    assert anchored is not None
    return Refit(kept_rows, *anchored[:2], None, reason, anchored[2], held_out_loss)


class _Parts:
    """The parts of a consumer, which are fitted one by one; the normal equations of a single one are made once."""

    def __init__(self, consumer: Consumer, moments: Moments, kept_rows: Indices, spread: float) -> None:
        self.consumer, self.moments, self.kept_rows, self.spread = consumer, moments, kept_rows, spread
        self.consumers = list(parted(consumer))
        self.known: tuple[NormalEquations, NormalEquations] | None = None

    def equations(self, at: int) -> tuple[NormalEquations, NormalEquations]:
        """Those of a part, of all rows and of those that are kept."""
        if self.known is not None:
            return self.known
        full = normal_equations(self.consumers[at], self.moments)
        equations = full, full.restrict(self.kept_rows)
        if len(self.consumers) == 1:
            self.known = equations
        return equations

    def fitted(self, damping: float | None, *, symmetric: bool = False) -> tuple[Array, Array, float] | None:
        """W_S, b and the loss; of the anchor without a damping. None: a part does not pass the growth guard."""
        rows, outputs = self.kept_rows, self.consumer.weight.shape[1]
        weights, biases, error, total, done = np.empty((len(rows), outputs)), np.empty(outputs), 0.0, 0.0, 0
        for at, part in enumerate(self.consumers):
            full, equations = self.equations(at)
            weight = part.anchored[rows]
            if damping is not None:
                fit = normal_equations(part, self.moments, symmetric=True).restrict(rows) if symmetric else equations
                weight = _solution(fit.gram, _right(fit, weight), weight, ridge(full.gram, damping)[rows])
                if _grown(self.consumer, weight):
                    return None
            if self.spread and part.free_bias and part.output_weight is None and len(rows) < len(full.gram):
                weight = widened(weight, shrinkage(part, full, rows, weight), self.spread)
            bias, columns = equations.bias(weight), slice(done, done + weight.shape[1])
            weights[:, columns], biases[columns], done = weight, bias, columns.stop
            error += squared_error(part, equations, weight, bias)
            total += energy(part, full) if self.consumer.energy is None else 0.0
        loss = share(error, total if self.consumer.energy is None else self.consumer.energy)
        return weights, biases, loss


def widened(weight: Array, shrunk: Array, spread: float) -> Array:
    """W (k, m) with each output times (sigma / sigma_hat)^spread, of which `shrunk` (m,) is the base.

    A least-squares fit gives up what it cannot explain: sigma_hat^2 = sigma^2 less the residual. Layer after layer,
    activations shrink towards their means. With 1, variances are what they were, as re-estimated batch normalisation
    makes them, and the residual counts twice; half-way does best on unseen samples.
    """
    return np.asarray(weight * np.clip(shrunk, 1.0, MOST_WIDENED) ** spread)


def judged(consumer: Consumer, kept_rows: Indices, weight: Array, bias: Array) -> Refit:
    """Weights (k, m) and bias (m,) that came from elsewhere, with their loss on all moments."""
    full = normal_equations(consumer, pooled(consumer))
    error = squared_error(consumer, full.restrict(kept_rows), weight, bias)
    return Refit(kept_rows, weight, bias, None, "", share(error, energy(consumer, full)), None)


def held_out_losses(
    consumer: Consumer,
    kept_rows: Indices,
    dampings: Sequence[float],
    *,
    symmetric: bool = False,
    threads: int | None = 1,
) -> list[float]:
    """Share of the held-out output variance lost by the anchor with a corrected bias, and by the refit of each damping.

    Infinite for a refit that does not pass the growth guard. Refits to symmetric targets are judged by the dense
    network's outputs as well. Of a consumer of many outputs random mixtures are fitted and judged, which no guard sees.
    """
    errors, total, few = np.zeros(1 + len(dampings)), 0.0, mixed(consumer)
    guard = consumer if few is consumer else None
    for part in parted(few):
        more, held_energy = _held_out_errors(guard, part, kept_rows, dampings, symmetric, threads)
        errors += more
        total += held_energy
    if few.energy is not None:
        total = few.energy
    return [np.inf if error == np.inf else share(float(error), total) for error in errors]


def _is_mixed(consumer: Consumer) -> bool:
    """Whether the growth guard has not seen the refits that were judged."""
    return mixed(consumer) is not consumer


def _held_out_errors(
    guarded: Consumer | None,
    part: Consumer,
    kept_rows: Indices,
    dampings: Sequence[float],
    symmetric: bool,
    threads: int | None,
) -> tuple[list[float], float]:
    """Of a part of a consumer: what its anchor and the refit of each damping are off by, and the energy of outputs.

    Args:
        guarded: whose largest weight the guard goes by; None: there is none.
    """
    full, held = normal_equations(part), normal_equations(part, part.judge)
    equations, judge = full.restrict(kept_rows), held.restrict(kept_rows)
    anchor = part.anchored[kept_rows]
    fitted = normal_equations(part, symmetric=True).restrict(kept_rows) if symmetric else equations
    right = _right(fitted, anchor)

    def error(damping: float | None) -> float:
        weight = anchor
        if damping is not None:
            weight = _solution(fitted.gram, right, anchor, ridge(full.gram, damping)[kept_rows])
        if guarded is not None and _grown(guarded, weight):
            return np.inf
        return squared_error(part, judge, weight, equations.bias(weight))

    nbytes = WORKING_MATRICES * fitted.gram.nbytes
    return Threads(threads).map(error, [None, *dampings], nbytes=nbytes), energy(part, held)


def choose_damping(consumers: Sequence[Consumer], kept_units: Indices) -> float:
    """Of `DAMPINGS`, the one with the smallest held-out loss of consumers of one input, were these units kept."""
    losses = np.zeros(len(DAMPINGS))
    for consumer in consumers:
        scale = 1.0
        if consumer.alpha is not None:
            scale = consumer.alpha * energy(consumer, normal_equations(consumer, consumer.judge))
        losses += scale * np.array(held_out_losses(consumer, consumer.kept_rows(kept_units), DAMPINGS)[1:])
    return DAMPINGS[len(DAMPINGS) - 1 - int(np.argmin(losses[::-1]))]


def _right(equations: NormalEquations, anchor: Array) -> Array:
    """G - H A, what a fit has to add to the anchor for."""
    return np.asarray(equations.target - equations.gram @ anchor)


def _solution(gram: Array, right: Array, anchor: Array, damping: Array) -> Array:
    """A + (H + Lambda)^-1 (G - H A)."""
    if not right.any():  # symmetric targets with all rows kept: the anchor is the answer
        return anchor
    damped = gram.copy()
    damped[np.diag_indices_from(damped)] += damping
    return anchor + solve(damped, right)


def _grown(consumer: Consumer, weight: Array) -> bool:
    return not _largest(weight) <= MAX_GROWTH * _largest(consumer.anchored)


def _largest(weight: Array) -> float:
    """max |w|, without a copy."""
    return float(np.maximum(weight.max(initial=0.0), -weight.min(initial=0.0)))
