"""Which units go: joint structured Optimal Brain Surgeon over several consumers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spa.errors import BudgetError
from spa.passes.secondorder.damping import default_damping, few_rows
from spa.passes.secondorder.linalg import Array, Indices
from spa.passes.secondorder.problem import Consumer, NormalEquations, normal_equations
from spa.passes.secondorder.solver import choose_damping
from spa.passes.secondorder.system import HeldOut, Mask, System, by_input

POOL = 4
"""Candidates looked at closely for each unit that a round removes."""

REFRESHES, ANEW = 8, 2
"""How often arrays are made smaller until all units are removed, and one in how many times by a factorisation."""


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """Outcome of `remove_units`.

    Attributes:
        order: units in the order in which the greedy pass removed them, (n,).
        loss: cumulative loss e(s) after s = 0 ... n removals, (n + 1,): sum over consumers of alpha_c times the growth
            of the damped squared output error over that of the optimum with all units. With alpha = 1 / energy each
            consumer counts the share of its output variance that is lost.
        kept: units kept in the end, swaps included, ascending.
        swapped: units that swaps brought back.
        final_loss: loss of ``kept``; at most ``loss[-1]``, up to rounding.
        dampings: damping used for each consumer, in the order of the consumers.
        held_out_levels: numbers of removals at which ``held_out_loss`` is known, (k,); empty without held-out moments.
        held_out_loss: growth of the error on held-out moments there, (k,).
    """

    order: Indices
    loss: Array
    kept: Indices
    swapped: int
    final_loss: float
    dampings: tuple[float, ...]
    held_out_levels: Indices
    held_out_loss: Array


def remove_units(
    consumers: Sequence[Consumer],
    *,
    units: int,
    remove: int,
    removable: npt.ArrayLike | None = None,
    min_keep: int = 1,
    damping: float | None = None,
    rounds: int = 64,
    swap_rounds: int = 4,
    judged: bool = True,
) -> Removal:
    """Remove units of one group so that all of its consumers, refitted, lose as little as possible.

    Optimal Brain Surgeon (Hassibi and Stork 1993) on blocks of rows (OBC, Frantar and Alistarh 2022; ZipLM, Kurtic et
    al. 2023), summed over the consumers of a unit, on centred moments, and started from the optimum W* = Ht^-1 Gt of
    the current targets, without which the saliency (3) is wrong whenever G != H W0 (asymmetric calibration).

    A round removes max(1, remove / rounds) units. All units are scored by (3); the best candidates, four for each unit
    that is to go, are then removed one by one with exact downdates among themselves, so that of two duplicates only one
    goes; what was chosen leaves the whole system in one block downdate (4). After every eighth of the units what was
    removed is dropped from the arrays, and after every fourth the inverse is computed anew, which ends rounding drift.
    Units whose rows do not vary in any input go first. Time O(d^3) and memory O(d^2) for each distinct input.

    Args:
        consumers: all mixing layers that read the units; those with the same moments share one inverse.
        units: number of units of the group; `Consumer.unit_of_row` holds numbers below it.
        remove: how many to remove; the curves go up to there.
        removable: mask of units that may go, (units,); None: all.
        min_keep: units that have to stay, at least.
        damping: None: chosen per input, see `choose_damping`.
        rounds: more are slower and closer to one by one.
        swap_rounds: rounds of `swap` at the end.
        judged: whether the loss on held-out moments is asked for; they choose dampings in any case.

    Raises:
        BudgetError: fewer units than ``remove`` may go.
        DataError: moments without rows.
        ValueError: a row belongs to a unit that does not exist.
    """
    if any(int(consumer.unit_of_row.max(initial=-1)) >= units for consumer in consumers):
        raise ValueError(f"unit_of_row must stay below the number of units, {units}")
    free: Mask = np.ones(units, np.bool_) if removable is None else np.array(removable, np.bool_)
    limit = min(int(free.sum()), units - min_keep)
    if not 0 <= remove <= limit:
        raise BudgetError(
            f"{remove} of {units} units to go, {max(limit, 0)} can: {free.sum()} are removable, {min_keep} must stay"
        )
    systems = _systems(consumers, free, remove, damping)
    order, losses, held_out, kept = _greedy(systems, free, remove, rounds, judged=judged)
    final, swapped, gained = swap(systems, kept, free, rounds=swap_rounds)
    chosen = {id(consumer): system.damping for system in systems for consumer in system.consumers}
    growth = np.array(list(held_out.values()))
    return Removal(
        order=np.array(order, np.intp),
        loss=np.concatenate([[0.0], np.cumsum(losses)]),
        kept=np.flatnonzero(final),
        swapped=swapped,
        final_loss=float(sum(losses)) - gained,
        dampings=tuple(chosen[id(consumer)] for consumer in consumers),
        held_out_levels=np.array(list(held_out), np.intp),
        held_out_loss=growth - growth[0] if len(growth) else growth,
    )


def _greedy(
    systems: Sequence[System], free: Mask, remove: int, rounds: int, *, judged: bool
) -> tuple[list[int], list[float], dict[int, float], Mask]:
    """Units in order of removal, the loss of each, held-out errors by number of removals, and the mask of kept ones."""
    judges = [HeldOut(system) for system in systems if judged and system.consumers[0].judge is not None]
    kept = np.ones(len(free), np.bool_)
    dead = free & _dead(systems, len(free))
    order: list[int] = []
    losses: list[float] = []
    held_out: dict[int, float] = {}
    refreshed, times = -len(free), 0
    while len(order) < remove:
        if len(order) - refreshed >= max(1, len(free) // REFRESHES):
            refreshed = len(order)
            for system in systems:
                if times % ANEW:
                    system.compact(kept)
                else:
                    system.factorise(kept)
            times += 1
            if judges:
                held_out[refreshed] = sum(judge.loss() for judge in judges)
        candidates = np.flatnonzero(dead & kept if np.any(dead & kept) else free & kept)
        count = min(max(1, remove // rounds), remove - len(order), len(candidates))
        gone, lost = cut(systems, kept, candidates, count)
        order += gone
        losses += lost
    if judges and remove:
        held_out[remove] = sum(judge.loss() for judge in judges)
    return order, losses, held_out, kept


def cut(systems: Sequence[System], kept: Mask, candidates: Indices, count: int) -> tuple[list[int], list[float]]:
    """Remove ``count`` of the candidates from the systems and from ``kept``; return them and what each cost."""
    scores = sum(system.saliency(kept) for system in systems) + np.zeros(len(kept))
    near = candidates[np.argsort(scores[candidates], kind="stable")[: POOL * count if count > 1 else 1]]
    pools = [system.pool(near) for system in systems]
    gone: list[int] = []
    lost: list[float] = []
    left = np.full(len(kept), np.inf)
    left[near] = 0.0
    for _ in range(count):
        scores = sum(pool.saliency(len(kept)) for pool in pools) + left
        unit = int(np.argmin(scores))
        gone.append(unit)
        lost.append(float(scores[unit]))
        left[unit] = np.inf
        for pool in pools:
            pool.remove(unit)
    for system in systems:
        system.remove(np.array(gone))
    kept[gone] = False
    return gone, lost


def swap(systems: Sequence[System], kept: Mask, free: Mask, *, rounds: int) -> tuple[Mask, int, float]:
    """Exchange removed units for kept ones as long as the loss falls.

    A round lets the units of largest re-entry gain (5) back in and removes as many again, one by one as `cut` does; it
    counts only if the exact loss (2) has fallen, otherwise the next round tries a quarter of the units.

    Args:
        systems: as the kept units leave them.

    Returns:
        The mask of kept units, how many of them had been removed, and the fall of the loss.
    """
    first, best = kept, kept.copy()
    gained, count = 0.0, max(1, int((~kept & free).sum()) // 16)
    for _ in range(rounds):
        outside = np.flatnonzero(free & ~best)
        if not len(outside) or not count:
            break
        for system in systems:
            system.compact(best)
        before = sum(system.loss() for system in systems)
        gains = sum(system.gains(outside) for system in systems) + np.zeros(len(outside))
        back = outside[np.argsort(-gains, kind="stable")[:count]]
        trial = best.copy()
        trial[back] = True
        held = [system.held() for system in systems]
        for system in systems:
            system.admit(back)
        cut(systems, trial, np.flatnonzero(free & trial), len(back))
        fall = before - sum(system.loss() for system in systems)
        if fall > 1e-9 * abs(before):
            best, gained = trial, gained + fall
        else:
            count //= 4
            for system, arrays in zip(systems, held, strict=True):
                system.back_to(arrays)
    return best, int((best & ~first).sum()), gained


def _systems(consumers: Sequence[Consumer], free: Mask, remove: int, damping: float | None) -> list[System]:
    """One system for each distinct input, damped as asked, or as held-out moments ask for; by default of `few_rows`.

    They are asked about a first guess of the cut, of at most half of the units: with all rows present and dense targets
    every damping gives the dense weights.
    """
    inputs = by_input(consumers)
    choosing = [group[0].judge is not None and not few_rows(group[0].unit_of_row) for group in inputs]
    if damping is not None or not any(choosing):
        return [System(group, default_damping(group[0]) if damping is None else damping) for group in inputs]
    known = [[normal_equations(consumer) for consumer in group] for group in inputs]
    kept = _first_guess(inputs, known, free, remove)
    chosen = [
        choose_damping(group, kept) if chooses else default_damping(group[0])
        for group, chooses in zip(inputs, choosing, strict=True)
    ]
    return [System(group, value, made) for group, value, made in zip(inputs, chosen, known, strict=True)]


def _first_guess(
    inputs: Sequence[Sequence[Consumer]], known: Sequence[Sequence[NormalEquations]], free: Mask, remove: int
) -> Indices:
    """Units that may be kept: by their scores while all are there, at least half of them."""
    kept = np.ones(len(free), np.bool_)
    scores = np.where(free, 0.0, np.inf)
    for group, made in zip(inputs, known, strict=True):
        system = System(group, default_damping(group[0]), made)
        system.factorise(kept)
        scores += system.saliency(kept)
    kept[np.argsort(scores, kind="stable")[: min(remove, int(free.sum()) // 2)]] = False
    return np.flatnonzero(kept)


def _dead(systems: Sequence[System], units: int) -> Mask:
    """Units (units,) without a row that varies."""
    dead = np.ones(units, np.bool_)
    for system in systems:
        dead[system.unit_of_row[~system.dead]] = False
    return dead
