"""Split samples into those that a repair is fitted to, those that choose its damping, and those that it never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spa.passes.secondorder import is_held_out

LEAST = 12
"""Batches of which one can be spared for the report alone."""

MANY = 960
"""Samples of which one in twice as many is enough for it."""


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers of batches. Of twelve, 2 and 5 judge, 11 is unseen, and the others are fitted.

    Attributes:
        fitted: what weights are fitted to.
        judging: held out while dampings and cuts are chosen; fitted in the end, where other batches are unseen.
        unseen: what the figures of a report are measured on: no fit and no choice has seen them. Of fewer than twelve
            batches one is held out only, which judges and reports, and is not fitted; a single one is all there is.
    """

    fitted: Sequence[int]
    judging: Sequence[int]
    unseen: Sequence[int]

    @classmethod
    def of(cls, count: int, samples: int = 0) -> Split:
        """The split of so many batches, of so many samples in all: of many, fewer do for a report."""
        if count == 1:
            return cls([0], [], [0])
        numbers = range(count)
        if count < LEAST:
            judging = unseen = [number for number in numbers if is_held_out(number, every=min(6, count))]
        else:
            unseen = [number for number in numbers if number % (2 * LEAST if samples >= MANY else LEAST) == LEAST - 1]
            judging = [number for number in numbers if is_held_out(number) and number not in unseen]
            judging = sorted({2, *judging}) if len(judging) < 2 else judging
        return cls([number for number in numbers if number not in {*judging, *unseen}], judging, unseen)

    @property
    def judges(self) -> Sequence[int]:
        """The batches that cuts are judged by: those held out for it, where there are any."""
        return self.judging or self.unseen

    @property
    def pools(self) -> bool:
        """Whether what judged is fitted too in the end."""
        return not set(self.judging) & set(self.unseen)

    @property
    def seen(self) -> list[int]:
        """The batches that are fitted or judge, ascending."""
        return sorted({*self.fitted, *self.judging})

    def beside(self, more: Sequence[int]) -> Split:
        """With more batches that are fitted, and never judge."""
        return Split([*self.fitted, *more], self.judging, self.unseen) if more else self

    def only(self, numbers: Sequence[int]) -> Split:
        """Of those that are seen, some."""
        some = set(numbers)
        fitted, judging = ([n for n in those if n in some] for those in (self.fitted, self.judging))
        return Split(fitted, judging, self.unseen)

    def thinned(self, most: int | None) -> Split:
        """At most so many of those that are seen, evenly chosen."""
        seen = self.seen
        return self.only(seen[:: -(-len(seen) // (most or len(seen)))])
