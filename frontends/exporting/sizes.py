"""Find the numbers beside a framework's arrays that are sizes, and what they become when arrays shrink.

A number such as ``num_heads = 12`` is the size of a part of some array's axis. Which one is found by value, must be the
same for all objects of a class, and is tried out by whoever asks: a choice has several readings where values coincide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spa.frontends.exporting.exported import Parts, RebuildError

Place = tuple[str, tuple[int, int, int]]
"""An array, named from the object on, and a part of one of its axes."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One object with numbers of its own.

    Attributes:
        path: where it stands; the names of its arrays begin with it.
        kind: what objects of the same code share.
        numbers: its integers and tuples of integers, by attribute.
        read: attributes that computing the outputs reads.
    """

    path: str
    kind: Hashable
    numbers: Mapping[str, int | Sequence[int]]
    read: frozenset[str]


@dataclass(frozen=True, slots=True)
class Choice:
    """One attribute of all objects of a kind, or one element of a tuple.

    Attributes:
        readings: what the attribute may become, the likeliest first: new values by path of the object.
    """

    kind: Hashable
    attribute: str
    element: int | None
    readings: tuple[Mapping[str, int], ...]


def find_choices(holders: Sequence[Holder], parts: Mapping[str, Parts]) -> list[Choice]:
    """The numbers that may have to change, each with its readings."""
    kinds: dict[Hashable, list[Holder]] = defaultdict(list)
    for holder in holders:
        kinds[holder.kind].append(holder)
    choices = []
    for kind, alike in kinds.items():
        below = {holder.path: list(_below(holder.path, parts)) for holder in alike}
        for attribute, element in dict.fromkeys(key for holder in alike for key in _numbers(holder)):
            numbers = {h.path: _numbers(h).get((attribute, element)) for h in alike}
            read = any(attribute in holder.read for holder in alike)
            choices += [
                Choice(kind, attribute, element, readings)
                for readings in _readings(numbers, below)
                if read or len(readings) == 1  # what nothing reads is set only where there is no doubt
            ]
    return choices


def _numbers(holder: Holder) -> dict[tuple[str, int | None], int]:
    numbers: dict[tuple[str, int | None], int] = {}
    for name, number in holder.numbers.items():
        elements = [(None, number)] if isinstance(number, int) else enumerate(number)
        numbers.update({(name, at): each for at, each in elements})
    return {key: number for key, number in numbers.items() if number > 1}


def _below(path: str, parts: Mapping[str, Parts]) -> Iterator[tuple[Place, tuple[int, int]]]:
    """The parts of the arrays under a path, nearest arrays first."""
    start = f"{path}." if path else ""
    names = sorted((name for name in parts if name.startswith(start)), key=lambda name: name.count("."))
    for name in names:
        for place, sizes in parts[name].items():
            yield (name.removeprefix(start), place), sizes


def _readings(
    values: Mapping[str, int | None], below: Mapping[str, list[tuple[Place, tuple[int, int]]]]
) -> Iterator[tuple[Mapping[str, int], ...]]:
    """For all objects together, or where no place suits all of them, for each."""
    options = {
        path: {place: new for place, (old, new) in below[path] if old == value}
        for path, value in values.items()
        if value is not None
    }
    options = {path: places for path, places in options.items() if places}
    if not options:
        return
    shared = set.intersection(*(set(places) for places in options.values()))
    groups = [list(options)] if shared else [[path] for path in options]
    for paths in groups:
        places = [place for place in options[paths[0]] if not shared or place in shared]
        candidates = [{path: options[path][place] for path in paths} for place in places]
        unchanged: dict[str, Any] = {path: values[path] for path in paths}
        changed = [each for each in candidates if each != unchanged]
        if not changed:
            continue
        distinct = list({tuple(sorted(each.items())): each for each in changed}.values())
        yield (*distinct, unchanged) if unchanged in candidates else tuple(distinct)


def search(choices: Sequence[Choice], outcome: Callable[[Mapping[int, int]], float], *, limit: float) -> None:
    """Find a reading of each choice that works: the likeliest of all, then others, one at a time while that helps.

    Args:
        outcome: how far off a model is with these readings, by number of the choice; infinite where it does not work.
        limit: what is near enough. The last call of `outcome` was one that is.

    Raises:
        RebuildError: no reading works.
    """
    taken = dict.fromkeys(range(len(choices)), 0)
    best = outcome(taken)
    while best > limit:
        for number, reading in ((n, r) for n, choice in enumerate(choices) for r in range(len(choice.readings))):
            if reading == taken[number]:
                continue
            score = outcome({**taken, number: reading})
            if score < best:
                taken[number], best = reading, score
                break
        else:
            raise RebuildError("the framework's model does not compute the same with these sizes")
