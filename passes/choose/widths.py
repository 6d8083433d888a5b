"""Keep widths that the hardware likes: multiples of a block, and groups that give them up to meet a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import gcd

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group
from spa.analysis.stored import NUMBERS
from spa.passes.choose.budget import AUTO
from spa.passes.choose.meeting import meet
from spa.passes.choose.problem import ROUNDING, Problem
from spa.passes.choose.processor import MATRICES, block
from spa.passes.choose.tracks import allowed_removals, run_length

_ROOM = 1.2
"""So much more than the budget aligned groups have to be able to give: at their ends, all would be destroyed."""
_SLACK = 0.15
"""Of a budget: so much more may go before steps are made finer."""
_EXCESS = 0.04
"""Of what is to stay: so much more may go where all groups lose equal shares, before multiples are given up."""
_OFF = 0.125
"""Of a group's units: how far from an equal share a multiple may be."""


def multiples(groups: Sequence[Group], align: int | str, *, device: int | None = None) -> tuple[int, ...]:
    """What the kept widths of each group are multiples of: a number as it is, or what the hardware likes.

    Args:
        device: channels that convolutions compute at once, where the model runs on another machine.
    """
    if not isinstance(align, str):
        return (int(align),) * len(groups)
    if device is not None:
        return tuple(device if _has_kernels(group) else min(device, MATRICES) for group in groups)
    return tuple(block(_type_of(group), kernels=_has_kernels(group)) for group in groups)


def _has_kernels(group: Group) -> bool:
    """Whether a group's units lie in a kernel of two axes: onnxruntime blocks no other (stored, of four axes)."""
    tensors = (piece.value.const_value for piece in group.slices)
    return any(tensor is not None and len(tensor.shape) == 4 for tensor in tensors)


def _type_of(group: Group) -> ir.DataType | None:
    """The type of most numbers along a group's units."""
    numbers: Counter[ir.DataType] = Counter()
    for piece in group.slices:
        tensor = piece.value.const_value
        if tensor is not None and tensor.dtype not in NUMBERS:
            numbers[tensor.dtype] += tensor.size
    return numbers.most_common(1)[0][0] if numbers else None


def search_aligned(problem: Problem, aligned: Sequence[int]) -> tuple[Problem, list[int] | None]:
    """A problem without multiples, with as many of them as its budget bears, and how many units of each track go.

    A group's multiple is halved, again and again, where the budget is met with little room otherwise, those that can
    give most then first; and where so much more would go than was asked for that finer steps are called for.
    """
    if problem.options.scope != "global":
        return _evenly(problem, aligned)
    chosen = list(_bearable(problem, aligned))
    stepped = _with(problem, chosen)
    counts = meet(stepped)
    while counts is not None and (over := _over(stepped, counts)) > _SLACK * stepped.options.ratio:
        number = _stepper(stepped, counts, chosen, over)
        if number is None:
            break
        chosen[number] //= 2
        stepped = _with(problem, chosen)
        counts = meet(stepped)
    if counts is None or _over(stepped, counts) <= _SLACK * stepped.options.ratio:
        return stepped, counts
    free = _with(problem, [1] * len(chosen))  # units are coarse themselves: multiples shall not add to that
    fewest = meet(free)
    return (free, fewest) if fewest is not None and _over(free, fewest) < _over(stepped, counts) else (stepped, counts)


def _over(problem: Problem, counts: Sequence[int]) -> float:
    return problem.share(counts, problem.options.of) - problem.options.ratio


def _stepper(problem: Problem, counts: Sequence[int], chosen: Sequence[int], over: float) -> int | None:
    """The group with the smallest steps that free what went too much, or where none do with the largest."""
    steps: dict[int, float] = {}
    for number, track, count, freed in zip(
        problem.candidates.active, problem.tracks, counts, problem.freed(), strict=True
    ):
        if count and track.step > 1 and chosen[number] > 1:
            steps[number] = track.step * float(freed)
    enough = {number: step for number, step in steps.items() if step >= over}
    if enough:
        return min(enough, key=lambda number: (enough[number], number))
    return max(steps, key=lambda number: (steps[number], -number), default=None)


def _evenly(problem: Problem, aligned: Sequence[int]) -> tuple[Problem, list[int] | None]:
    """The same where groups lose equal shares: multiples that are near enough to what each would lose without."""
    counts = meet(problem)
    if counts is None:
        return problem, None
    chosen = list(problem.terms.multiples)
    for number, track, count in zip(problem.candidates.active, problem.tracks, counts, strict=True):
        chosen[number] = _near(track.group, aligned[number], count)
    while (largest := max(chosen, default=1)) > 1:
        stepped = _with(problem, chosen)
        stepped_counts = meet(stepped) if stepped.may_suffice else None
        if stepped_counts is not None and _over(stepped, stepped_counts) <= _EXCESS * (1 - problem.options.ratio):
            return stepped, stepped_counts
        chosen = [multiple // 2 if multiple == largest else multiple for multiple in chosen]
    return problem, counts


def near_multiples(problem: Problem, aligned: Sequence[int]) -> Problem:
    """A problem with multiples that are near enough to an equal share of every group's units."""
    if problem.options.align != AUTO:
        return problem
    ratio = problem.options.ratio
    return _with(problem, [_near(group, multiple, ratio * group.size) for group, multiple in _pairs(problem, aligned)])


def _near(group: Group, multiple: int, wanted: float) -> int:
    """The largest halving of a multiple with which about as many units as wanted can go, and some where some are."""
    while multiple > 1:
        allowed = allowed_removals(group.size, least=1, step=multiple // gcd(multiple, run_length(group)))
        nearest = allowed[np.argmin(np.abs(allowed - wanted))]
        if abs(nearest - wanted) <= _OFF * group.size and (nearest or wanted < 0.5):
            break
        multiple //= 2
    return multiple


def _bearable(problem: Problem, aligned: Sequence[int]) -> Sequence[int]:
    """Multiples with which the budget can be met with room to choose."""
    of, most = problem.options.of, problem.share(problem.all_that_may, problem.options.of)
    wanted = min(_ROOM * problem.options.ratio, 0.5 * (problem.options.ratio + most)) - ROUNDING

    def bears(trial: Sequence[int]) -> bool:
        stepped = _with(problem, trial)
        return stepped.share(stepped.all_that_may, of) >= wanted

    chosen = list(aligned)
    while not bears(chosen) and max(chosen) > 1:
        level = max(chosen) // 2
        order = _most_first(problem, chosen, level)
        low, high = 0, len(order)  # so many lowered are too few, and enough where any number is
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if bears(_lowered(chosen, order[:middle], level)) else (middle, high)
        chosen = _lowered(chosen, order[:high], level)
        if not bears(chosen):
            chosen = [min(multiple, level) for multiple in chosen]
    return chosen


def _lowered(chosen: Sequence[int], numbers: Sequence[int], level: int) -> list[int]:
    """Multiples with those of some groups at a lower level."""
    return [level if number in set(numbers) else multiple for number, multiple in enumerate(chosen)]


def _pairs(problem: Problem, aligned: Sequence[int]) -> list[tuple[Group, int]]:
    return list(zip(problem.groups, aligned, strict=True))


def _with(problem: Problem, chosen: Sequence[int]) -> Problem:
    terms = replace(problem.terms, multiples=tuple(chosen))
    return Problem.of(problem.groups, problem.scores, problem.cost, terms)


def _most_first(problem: Problem, chosen: Sequence[int], level: int) -> list[int]:
    """The groups that could give more with a smaller multiple, by number, the one that could give most first."""
    before = {track.group.name: int(track.allowed[-1]) for track in _with(problem, chosen).tracks}
    lowered = _with(problem, [min(multiple, level) for multiple in chosen])
    number_of = {group.name: number for number, group in enumerate(problem.groups)}
    gains = {}
    for track, freed in zip(lowered.tracks, lowered.freed(), strict=True):
        more = int(track.allowed[-1]) - before.get(track.group.name, 0)
        number = number_of[track.group.name]
        if more > 0 and chosen[number] > level:
            gains[number] = more * float(freed)
    return sorted(gains, key=lambda number: (-gains[number], number))


def given_up(problem: Problem, aligned: Sequence[int], counts: Sequence[int]) -> list[str]:
    """Which groups are cut to other widths than multiples, in words."""
    if problem.options.align != AUTO:
        return []
    multiple = {group.name: multiple for group, multiple in _pairs(problem, aligned)}
    others = [
        f"{track.group.name} ({(track.group.size - count) * run_length(track.group)})"
        for track, count in zip(problem.tracks, counts, strict=True)
        if count and (track.group.size - count) * run_length(track.group) % multiple[track.group.name]
    ]
    if not others:
        return []
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    listed = f"{', '.join(others[:3])}{more}"
    return [f"widths that are no multiple of {max(aligned)}, which would hold the budget back: {listed}"]
