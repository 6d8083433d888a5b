"""A selection to be made: groups on their way down, what they free, and what bounds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spa.analysis.cost import EXACT, Cost, Step, Term, unit_costs
from spa.analysis.group import Group
from spa.notation.dims import Factor, leaves
from spa.passes.choose.budget import AUTO, CHANNELS, Budget
from spa.passes.choose.candidates import Candidates, find_candidates
from spa.passes.choose.tracks import Track, find_tracks, masks_of

ROUNDING = 1e-9
"""Of a share."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a selection has to keep to: `spa.passes.choose.selection.select` says what each is.

    Attributes:
        multiples: for each group what kept widths are multiples of.
    """

    budget: Budget
    unread: frozenset[str]
    norms: bool
    multiples: tuple[int, ...]
    whole: Mapping[str, float] | None = None
    first: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """A selection to be made: what does not depend on how far it goes."""

    groups: Sequence[Group]
    scores: Sequence[np.ndarray]
    cost: Cost
    terms: Terms
    candidates: Candidates
    tracks: Sequence[Track]
    dense: Mapping[str, float]
    condensed: Cost

    @classmethod
    def of(cls, groups: Sequence[Group], scores: Sequence[np.ndarray], cost: Cost, terms: Terms) -> Problem:
        options = terms.budget

        def tracks_of(numbers: Sequence[int], *, aligned: bool = True) -> list[Track]:
            chosen = [groups[number] for number in numbers]
            mine = [scores[number] for number in numbers]
            multiples = [terms.multiples[number] if aligned else 1 for number in numbers]
            return find_tracks(
                chosen, mine, min_keep=options.min_keep, multiples=multiples, first=terms.first,
                widths=options.widths, kept=options.kept,
            )  # fmt: skip

        def reaches(number: int) -> bool:
            (track,) = tracks_of([number], aligned=options.align != AUTO)  # what yields decides no nest
            return track.nearest(options.ratio * track.group.size) >= 0.5 * options.ratio * track.group.size

        candidates = find_candidates(
            groups, include=options.include, exclude=options.exclude, only=options.only, unread=terms.unread,
            norms=terms.norms, reaches=reaches,
        )  # fmt: skip
        tracks = tracks_of(candidates.active)
        dense = terms.whole or {name: cost.before(name) for name in cost.terms}
        return cls(groups, scores, cost, terms, candidates, tracks, dense, condensed_cost(cost, tracks))

    @property
    def options(self) -> Budget:
        return self.terms.budget

    @property
    def all_that_may(self) -> list[int]:
        return [int(track.allowed[-1]) for track in self.tracks]

    @property
    def may_suffice(self) -> bool:
        """Whether all that may go meets the budget; a share of the groups that take part needs groups."""
        if self.options.of == CHANNELS or not self.dense.get(self.options.of):
            return bool(self.tracks)
        return self.share(self.all_that_may, self.options.of) >= self.options.ratio - ROUNDING

    def freed(self) -> np.ndarray:
        """(tracks,) the share of what the budget counts that one unit of each track frees while all others stay."""
        if self.options.of == CHANNELS:
            return np.ones(len(self.tracks))
        return (
            unit_costs([track.group for track in self.tracks], self.condensed, self.options.of)
            / self.dense[self.options.of]
        )

    def share(self, counts: Sequence[int], measure: str) -> float:
        """What goes when each group loses its first `counts` units."""
        if measure == CHANNELS:
            return sum(counts) / max(1, sum(track.group.size for track in self.tracks))
        whole = self.dense[measure]
        return 1 - self.condensed.of(measure, masks_of(self.tracks, counts)) / whole if whole else 0.0


def condensed_cost(cost: Cost, tracks: Sequence[Track]) -> Cost:
    """The same cost as a function of the tracks alone, in fewer terms: what cannot change becomes a weight."""
    free = {leaf for track in tracks for leaf in track.group.leaves}
    changes: dict[Factor, bool] = {}
    terms = {}
    for measure, summands in cost.terms.items():
        weights: dict[tuple[tuple[Factor, ...], tuple[Step, ...]], float] = {}
        for term in summands:
            weight = term.weight
            dims: list[Factor] = []
            steps: list[Step] = []
            for dim, step in zip(term.dims, term.steps or (EXACT,) * len(term.dims), strict=True):
                root = dim.root
                if root not in changes:
                    changes[root] = not free.isdisjoint(leaves(root))
                if changes[root]:
                    dims.append(root)
                    steps += [step] if term.steps else []
                else:
                    weight *= step(root.size)
            key = tuple(dims), tuple(steps)
            weights[key] = weights.get(key, 0.0) + weight
        terms[measure] = [Term(weight, *key) for key, weight in weights.items()]
    return Cost(terms)
