"""Published ways to choose units and to repair their consumers, on the same moments, for fair tables.

All of these score every unit once and remove the lowest. Each is our own reimplementation from its source. Where
held-out moments exist they are added to the others: no method sees less data than ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spa.errors import BudgetError
from spa.passes.secondorder.experts import EXPERT_SCORES, Routed
from spa.passes.secondorder.linalg import Array, Indices, inverse, solve
from spa.passes.secondorder.problem import Consumer, normal_equations, pooled
from spa.passes.secondorder.solver import Refit, judged, refit
from spa.passes.secondorder.system import System, by_input
from spa.presets import OF_EXPERTS, PUBLISHED

OBS_DAMPING = 1e-2
"""Share of the mean diagonal, as in the code of OBC, ZipLM and their successors."""


def magnitude(consumers: Sequence[Consumer], units: int) -> Array:
    """sqrt(sum_c ||W_c,B||_F^2), (units,): length of the weights that read a unit."""
    return np.sqrt(_gather(consumers, units, lambda consumer: np.sum(consumer.anchored**2, axis=1)))


def wanda_sp(consumers: Sequence[Consumer], units: int) -> Array:
    """sum_c sum_B sqrt(E x_r^2) sum_m |W_rm|, (units,): Wanda (Sun et al. 2023), structured as by An et al. 2024."""

    def rows(consumer: Consumer) -> Array:
        moments = pooled(consumer)
        power = np.sqrt(moments.variance + moments.mean**2)
        return np.asarray(power * np.abs(consumer.anchored).sum(axis=1))

    return _gather(consumers, units, rows)


def fluctuation(consumers: Sequence[Consumer], units: int) -> Array:
    """sum_c sum_B Var x_r ||W_r||^2, (units,): the score of FLAP (An et al. 2024)."""
    return _gather(consumers, units, lambda consumer: pooled(consumer).variance * np.sum(consumer.anchored**2, axis=1))


def activation(consumers: Sequence[Consumer], units: int) -> Array:
    """sqrt(max_c sum_B E x_r^2), (units,): how large units are where they are read.

    The ranking of heads and neurons of Minitron (Muralidharan et al., Compact Language Models via Pruning and Knowledge
    Distillation, 2024, section 2.2), its activations gathered by their L2 norm over all rows.
    """
    scores = np.zeros(units)
    for consumer in consumers:
        scores = np.maximum(scores, _gather([consumer], units, lambda each: np.diagonal(_second_moment(each))))
    return np.sqrt(scores)


def amp(consumers: Sequence[Consumer], units: int) -> Array:
    """sqrt(sum_c E ||x_B W_B||^2), (units,): how large units are once projected onto the weights that read them.

    After AMP (Mugnaini et al., Efficient LLMs with AMP: Attention Heads and MLP Pruning, 2025), which projects inputs
    onto weights; the norm and the sum over readers are ours.
    """
    scores = np.zeros(units)
    for consumer in consumers:
        second, weight = _second_moment(consumer), consumer.anchored
        order = np.argsort(consumer.unit_of_row, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(consumer.unit_of_row[order])) + 1):
            unit = int(consumer.unit_of_row[rows[0]])
            if unit >= 0:
                scores[unit] += float(np.sum((second[np.ix_(rows, rows)] @ weight[rows]) * weight[rows]))
    return np.sqrt(np.maximum(scores, 0.0))


def obspa(consumers: Sequence[Consumer], units: int) -> Array:
    """sum_c sum_B sum_m W_rm^2 / [H^-1]_rr, (units,): OBS saliency of every weight, gathered over the group.

    OBSPA of SPA (arXiv 2403.18955): layer-wise Hessian H = E x x^T about zero, damped; each weight as if it went alone.
    """

    def rows(consumer: Consumer) -> Array:
        return np.asarray(np.sum(consumer.anchored**2, axis=1) / np.diagonal(inverse(_hessian(consumer))))

    return _gather(consumers, units, rows)


def one_shot_obs(consumers: Sequence[Consumer], units: int) -> Array:
    """sum_c tr(W_B^T [(Ht^-1)_BB]^-1 W_B), (units,): block OBC (Frantar and Alistarh 2022), all present."""
    scores = np.zeros(units)
    kept = np.ones(units, np.bool_)
    for group in by_input([replace(consumer, moments=pooled(consumer), held_out=None) for consumer in consumers]):
        system = System(group, OBS_DAMPING)
        system.factorise(kept)
        scores += system.saliency(kept)
    return scores


def keep_weights(consumer: Consumer, kept_rows: Indices) -> Refit:
    """No repair at all."""
    return judged(consumer, kept_rows, consumer.anchored[kept_rows], consumer.dense_bias)


def correct_bias(consumer: Consumer, kept_rows: Indices) -> Refit:
    """b += W_P^T mu_P, P the removed rows: the outputs keep their means (FLAP, An et al. 2024)."""
    equations = normal_equations(consumer, pooled(consumer)).restrict(kept_rows)
    weight = consumer.anchored[kept_rows]
    return judged(consumer, kept_rows, weight, equations.bias(weight))


def obs_update(consumer: Consumer, kept_rows: Indices) -> Refit:
    """W -= H^-1[:, P] (H^-1_PP)^-1 W_P, P the removed rows: OBS (Hassibi and Stork 1993), as in OBSPA.

    H is about zero, the targets come from the same input, and the bias stays.
    """
    weight = consumer.anchored
    removed = np.setdiff1d(np.arange(len(weight)), kept_rows)
    lines = inverse(_hessian(consumer))[removed]
    updated = weight - lines.T @ solve(lines[:, removed], weight[removed])
    return judged(consumer, kept_rows, updated[kept_rows], consumer.dense_bias)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A score (units,), higher is kept, and a repair of each consumer.

    Attributes:
        batch_norm: whether batch normalisations are re-estimated at the end.
        experts: whole experts are what it scores, by what they add to tokens, and no other units.
    """

    score: Callable[[Sequence[Consumer], int], Array]
    repair: Callable[[Consumer, Indices], Refit]
    batch_norm: bool = False
    experts: Callable[[Routed], Array] | None = None


BASELINES: Mapping[str, Baseline] = {
    "magnitude": Baseline(magnitude, keep_weights),
    "l2+refit": Baseline(magnitude, refit),
    "wanda-sp": Baseline(wanda_sp, keep_weights),
    "activation": Baseline(activation, keep_weights),
    "amp": Baseline(amp, keep_weights),
    "flap": Baseline(fluctuation, correct_bias),
    "obspa": Baseline(obspa, obs_update, batch_norm=True),
    "one-shot-obs": Baseline(one_shot_obs, refit),
}
assert tuple(BASELINES) == PUBLISHED
EXPERTS: Mapping[str, Baseline] = {
    name: Baseline(magnitude, keep_weights, experts=score) for name, score in EXPERT_SCORES.items()
}
"""Those that score whole experts alone."""

assert tuple(EXPERTS) == OF_EXPERTS
WAYS: Mapping[str, Baseline] = {**BASELINES, **EXPERTS}
"""All published ways, by name."""


def prune(
    baseline: Baseline,
    consumers: Sequence[Consumer],
    *,
    units: int,
    remove: int,
    removable: npt.ArrayLike | None = None,
) -> tuple[Indices, list[Refit]]:
    """Units kept, ascending, and the repaired consumers, in their order.

    Raises:
        BudgetError: fewer units than ``remove`` may go.
        DataError: moments without rows.
    """
    free = np.flatnonzero(np.ones(units, np.bool_) if removable is None else removable)
    if not 0 <= remove <= len(free):
        raise BudgetError(f"{remove} of {units} units were to go; {len(free)} are removable")
    scores = baseline.score(consumers, units)
    gone = free[np.argsort(scores[free], kind="stable")[:remove]]
    kept = np.setdiff1d(np.arange(units), gone)
    return kept, [baseline.repair(consumer, consumer.kept_rows(kept)) for consumer in consumers]


def _gather(consumers: Sequence[Consumer], units: int, score_rows: Callable[[Consumer], Array]) -> Array:
    """Sum of scores of rows (d',) over the rows of each unit and over consumers, (units,)."""
    scores = np.zeros(units)
    for consumer in consumers:
        rows = consumer.unit_of_row >= 0
        np.add.at(scores, consumer.unit_of_row[rows], score_rows(consumer)[rows])
    return scores


def _second_moment(consumer: Consumer) -> Array:
    """E x x^T."""
    moments = pooled(consumer)
    return np.asarray(moments.gram + np.outer(moments.mean, moments.mean))


def _hessian(consumer: Consumer) -> Array:
    """E x x^T with `OBS_DAMPING` times its mean on the diagonal."""
    hessian = _second_moment(consumer)
    mean = float(np.diagonal(hessian).mean())
    hessian[np.diag_indices_from(hessian)] += OBS_DAMPING * (mean if mean > 0.0 else 1.0)
    return hessian
