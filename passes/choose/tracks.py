"""How each group may shrink: the order in which its units would leave, and how many of them may."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd

import numpy as np

from spa.analysis.group import Group, Slice
from spa.notation.dims import Factor

_ROUNDING = 1e-9  # shares of whole numbers may miss one by this much


@dataclass(frozen=True, slots=True)
class Track:
    """One group on its way down.

    Attributes:
        order: (units that may leave,) the first to go first; ties by unit.
        step: the group keeps a multiple of this many units, or all.
        allowed: how many units may leave, ascending from 0.
    """

    group: Group
    order: np.ndarray
    step: int
    allowed: np.ndarray

    def nearest(self, count: float) -> int:
        """The allowed number closest to `count`; of two, the larger."""
        distances = np.round(np.abs(self.allowed - count), 6)
        return int(self.allowed[distances == distances.min()][-1])

    def masks(self, count: int) -> Iterator[tuple[Factor, np.ndarray]]:
        """Each leaf of the group that shrinks when `count` units leave, and which of its indices stay."""
        if not count:
            return
        keep = np.ones(self.group.size, bool)
        keep[self.order[:count]] = False
        for leaf in self.group.leaves:
            start = self.group.offsets[leaf]
            part = keep[start : start + leaf.size]
            if not part.all():
                yield leaf, part


def find_tracks(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    *,
    min_keep: float = 0.0,
    multiples: Sequence[int] | None = None,
    first: Mapping[str, int] | None = None,
    widths: Mapping[str, Sequence[int]] | None = None,
    kept: Mapping[str, Sequence[int]] | None = None,
) -> list[Track]:
    """The track of each group.

    Something of every axis stays, of constants and of what is computed: the best unit of each factor that stands alone,
    and the best position of an axis that consists of pieces.

    Args:
        scores: for each group (units,), the smallest leave first.
        min_keep: the share of its units that a group keeps at least.
        first: by group, the units that it had before it was ever cut: `min_keep` is a share of those.
        widths: of groups that may keep some numbers of units only, these, by name; besides, all may stay.
        kept: by group, units that stay.
        multiples: for each group what its kept widths are a multiple of, or all of it stays; one unless told.
    """
    tracks = []
    multiples, staying = multiples or [1] * len(groups), _stay(groups, scores, kept or {})
    for group, score, stay, multiple in zip(groups, scores, staying, multiples, strict=True):
        order = np.argsort(score, kind="stable")
        order = order[~stay[order]]
        before = max(group.size, (first or {}).get(group.name, 0))
        least = max(ceil(min_keep * before - _ROUNDING), int(stay.sum()), group.least)
        if not group.least:  # one unit, which goes or stays
            least, multiple = 0, 1
        step = 1 if multiple == 1 else multiple // gcd(multiple, run_length(group))
        allowed = allowed_removals(group.size, least=least, step=step)
        if widths and group.name in widths:
            allowed = allowed[np.isin(group.size - allowed, [*widths[group.name], group.size])]
        tracks.append(Track(group, order, step, allowed))
    return tracks


def allowed_removals(size: int, *, least: int, step: int = 1) -> np.ndarray:
    """How many of `size` units may leave when at least `least` stay, in a multiple of `step`; ascending from 0."""
    if not least:
        return np.arange(size + 1)
    smallest = min(ceil(max(least, step) / step) * step, size)
    kept = np.arange(smallest, size, step)[::-1]
    return np.concatenate([[0], size - kept])


def run_length(group: Group) -> int:
    """The width of a unit: how many positions in a row it takes of what makes it (a head: its head_dim).

    The largest of the tensors that make the units counts: a mask or a bias has one number for each head.
    """
    makers = [piece for piece in group.slices if piece.producer] or list(group.slices)
    most = max((_numbers(piece) for piece in makers), default=0)
    width = 0
    for piece in makers:
        if _numbers(piece) == most:
            ends = np.flatnonzero(piece.unit_of[1:] != piece.unit_of[:-1])
            ends = np.concatenate([ends, [piece.unit_of.size - 1]])
            runs = np.diff(ends, prepend=-1)[piece.unit_of[ends] >= 0]
            width = gcd(width, *runs.tolist())
    return max(width, 1)


def _numbers(piece: Slice) -> int:
    tensor = piece.value.const_value
    return 0 if tensor is None else int(tensor.size)


def _stay(
    groups: Sequence[Group], scores: Sequence[np.ndarray], asked: Mapping[str, Sequence[int]]
) -> list[np.ndarray]:
    """For each group, (units,) whether a unit stays: it was asked to, or a factor or an axis would be empty."""
    kept = [np.isin(np.arange(group.size), list(asked.get(group.name, ()))) for group in groups]
    for group, score, mine in zip(groups, scores, kept, strict=True):
        for leaf in group.leaves:
            start = group.offsets[leaf]
            if leaf.size > 1 and leaf not in group.loose and not mine[start : start + leaf.size].any():
                mine[start + int(np.argmax(score[start : start + leaf.size]))] = True
    # factors of one position and pieces of an axis may go, but not all of those that an axis is made of
    for held in _thin_axes(groups).values():
        safe = np.all([(unit_of < 0) | kept[number][unit_of] for number, unit_of in held], axis=0)
        if safe.any():
            continue
        worth = np.min([np.where(unit_of < 0, np.inf, scores[number][unit_of]) for number, unit_of in held], axis=0)
        best = int(np.argmax(worth))
        for number, unit_of in held:
            if unit_of[best] >= 0:
                kept[number][unit_of[best]] = True
    return kept


def _thin_axes(groups: Sequence[Group]) -> dict[Factor, list[tuple[int, np.ndarray]]]:
    """(group number, unit of each position) for the axes that the groups together could leave empty."""
    axes: dict[Factor, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for dim, unit_of in group.thin:
            axes[dim].append((number, unit_of))
    return axes


def masks_of(tracks: Sequence[Track], counts: Sequence[int]) -> dict[Factor, np.ndarray]:
    """Which indices of each leaf stay when each group loses its first `counts` units."""
    return {leaf: mask for track, count in zip(tracks, counts, strict=True) for leaf, mask in track.masks(count)}


# ---------------------------------------------------------------------------------------------------- scopes
@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of all groups in one order.

    Attributes:
        track: (steps,) the number of the track that goes on.
        count: (steps,) how many units of its group are gone after that.
        when: (steps,) ascending: what they go by, as a mean over the units that leave.
    """

    track: np.ndarray
    count: np.ndarray
    when: np.ndarray

    def without(self, track: int, start: int) -> Schedule:
        """The same without the steps of one track, from one step on."""
        stays = (self.track != track) | (np.arange(len(self.track)) < start)
        return Schedule(self.track[stays], self.count[stays], self.when[stays])

    def counts(self, steps: int, tracks: int) -> list[int]:
        """How many units of each track's group are gone after the first `steps`."""
        gone = np.zeros(tracks, np.int64)
        gone[self.track[:steps]] = self.count[:steps]  # of several the last, the largest, stays
        counts: list[int] = gone.tolist()
        return counts


def schedule(tracks: Sequence[Track], scores: Sequence[np.ndarray], scope: str) -> Schedule:
    """The order in which groups shrink.

    global: by score, several units at once by their mean.  local: by the share of its group that is gone by then.
    isomorphic: by the share of its family, inside which units go by score.  Ties by the order of groups, then of units.

    Args:
        scores: for each track's group, (units,).
    """
    leaving = [track.order[: track.allowed[-1]] for track in tracks]
    when = [score[order] for score, order in zip(scores, leaving, strict=True)]
    if scope != "global":
        families: dict[object, list[int]] = defaultdict(list)
        for number, track in enumerate(tracks):
            families[number if scope == "local" else family_of(track.group)].append(number)
        for members in families.values():
            units = sum(tracks[number].group.size for number in members)
            for number, ranks in zip(members, _ranks([when[number] for number in members]), strict=True):
                when[number] = (ranks + 0.5) / units
    counts = [track.allowed[1:] for track in tracks]
    reached = np.concatenate([_means(times, track.allowed) for times, track in zip(when, tracks, strict=True)])
    order = np.argsort(reached, kind="stable")
    owner = np.repeat(np.arange(len(tracks)), [len(count) for count in counts])
    return Schedule(owner[order], np.concatenate(counts)[order], reached[order])


def _means(times: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(steps,) means of (units,) ascending numbers over the units of each step."""
    steps = np.diff(allowed)
    if np.all(steps == 1):
        return times[: len(steps)]
    sums = np.concatenate([[0.0], np.cumsum(times)])
    return np.maximum.accumulate(np.diff(sums[allowed]) / steps) if len(steps) else times[:0]


def family_of(group: Group) -> object:
    """What groups of the same kind and structure share: the roles, ranks and axes of their slices."""
    roles = sorted((p.producer, p.consumer, len(p.value.shape or ()), p.axis) for p in group.slices)
    return group.kind, tuple(roles)


def _ranks(keys: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The rank of each key among all; each array is ascending, ties keep the order of arrays and elements."""
    order = np.argsort(np.concatenate(keys), kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return np.split(ranks, np.cumsum([len(key) for key in keys])[:-1])
