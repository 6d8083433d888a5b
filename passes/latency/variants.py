"""Choose the widths that are timed: the dense model, and settings in which every group takes each part of its range
once.

A Latin hypercube (McKay, Beckman, Conover 1979): in setting k of n, group g keeps a share from the stratum p_g(k) of
its range, p_g a random order. All of these go along with one order to a degree (Iman, Conover 1982), so that there are
settings with hardly anything gone and settings with nearly all gone, as there are plans. So a dozen models show every
fused unit at a dozen pairs of widths, all at once, as parts of the model that they are going to be parts of. Groups
that are off unless included stay whole in every other setting: plans leave them alone, and what is beside them is to be
known best at their whole width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.analysis.stored import NUMBERS
from spa.passes.choose.tracks import Track, find_tracks

COUNT = 13
"""Settings, the dense model included."""
LEAST = 0.2
"""Of its units, that a group keeps at least."""


def spread(group: Group) -> np.ndarray:
    """(units,) scores by which the first units to leave, however many, lie evenly among all: van der Corput's order."""
    bits = max(1, (group.size - 1).bit_length())
    numbers = np.arange(group.size)
    scores = np.zeros(group.size)
    for bit in range(bits):
        scores += ((numbers >> bit) & 1) / 2.0 ** (bit + 1)
    return scores


def tracks_of(groups: Sequence[Group], multiples: Sequence[int]) -> list[Track]:
    """How the groups shrink where times are taken."""
    return find_tracks(groups, [spread(group) for group in groups], min_keep=LEAST, multiples=multiples)


def has_numbers(group: Group) -> bool:
    """Whether some stored tensor of parameters is cut with a group."""
    tensors = (piece.value.const_value for piece in group.slices)
    return any(tensor is not None and tensor.dtype not in NUMBERS for tensor in tensors)


@dataclass(frozen=True, slots=True)
class Settings:
    """Widths to be timed.

    Attributes:
        removed: for each setting, how many units of each group are gone, by name; the first removes none.
    """

    removed: Sequence[Mapping[str, int]]

    @classmethod
    def of(cls, groups: Sequence[Group], multiples: Sequence[int], *, count: int = COUNT, seed: int = 0) -> Settings:
        """Settings for some groups.

        Args:
            multiples: for each group what kept widths are multiples of.
        """
        rng = np.random.default_rng(seed)
        settings: list[dict[str, int]] = [{} for _ in range(count)]
        levels = rng.permutation(count - 1)
        for track in tracks_of(groups, multiples):
            strata = np.argsort(np.argsort(levels + rng.permutation(count - 1)))
            if track.allowed[-1] == 0 or not has_numbers(track.group) or track.group.branch is not None:
                continue
            shares = (strata + rng.random(count - 1)) / (count - 1)
            for number, (setting, share) in enumerate(zip(settings[1:], shares, strict=True)):
                removed = track.nearest(share * float(track.allowed[-1]))
                if removed and (track.group.off is None or number % 2):
                    setting[track.group.name] = removed
        return cls(settings)


def plan_of(groups: Sequence[Group], removed: Mapping[str, int]) -> Plan:
    """The plan in which so many units of each group are gone."""
    tracks = tracks_of(groups, [1] * len(groups))
    return Plan.of(groups, {t.group.name: t.order[: removed.get(t.group.name, 0)].tolist() for t in tracks})
