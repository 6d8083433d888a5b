"""Where pieces of work are done: in threads of this process, or on the workers of a cluster (`spa.onray`).

    with executing("ray") as executor:                     # spa.executing; None: threads of this process
        squares = executor.map(square, range(100))         # in the items' order
        total = executor.reduce(square, range(100), plus)  # in fixed pairs, however many workers there are

A function that goes to workers is one of a module, and its items are small and can be pickled. What many pieces read is
shared: one copy a node, which all of its workers map.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value", covariant=True)

Told = Callable[[int], None]
"""Called with the number of pieces that are done."""

WORKING_NBYTES = 1 << 31
"""Of memory that all threads of this process together may use for their pieces."""

_piece = threading.local()
"""Of a thread that works on a piece beside others: `beside` is true."""

PLACE = re.compile(r"ray|ray://[^:/\s]+:\d+")


class Shared(Protocol[Value]):
    """A value of which every node has one copy."""

    def get(self) -> Value:
        """The value, on whichever node this is called."""


class Executor(Protocol):
    """What does pieces of work.

    Attributes:
        remote: pieces leave this process.
    """

    @property
    def remote(self) -> bool: ...

    def share(self, value: Result) -> Shared[Result]:
        """Lay a value where every piece can get it."""

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        nbytes: int = 0,
        what: str = "a piece of work",
        told: Told | None = None,
    ) -> list[Result]:
        """`function` of every item, in the items' order.

        Args:
            items: taken one by one, not long before their turn.
            nbytes: of memory that a piece needs.
            what: a piece is, in words, for messages.

        Raises:
            ClusterError: a piece needs more memory than there is, or was lost again and again.
        """

    def reduce(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        join: Callable[[Result, Result], Result],
        *,
        nbytes: int = 0,
        what: str = "a piece of work",
        told: Told | None = None,
    ) -> Result:
        """The results of `map`, at least one, joined in pairs of neighbours as `in_pairs` does."""
        return in_pairs(self.map(function, items, nbytes=nbytes, what=what, told=told), join)


def in_pairs(results: Iterable[Result], join: Callable[[Result, Result], Result]) -> Result:
    """Neighbours joined, then neighbours of what that gives, until one is left: a tree that depends on the number of
    results alone, so that rounding does too.

    Args:
        results: at least one; taken one by one, so that as many wait as the tree has levels.
    """
    waiting: list[tuple[int, Result]] = []  # branches, and the number of results in each, a power of two
    for result in results:
        size, branch = 1, result
        while waiting and waiting[-1][0] == size:
            size, branch = 2 * size, join(waiting.pop()[1], branch)
        waiting.append((size, branch))
    _, last = waiting.pop()
    while waiting:
        last = join(waiting.pop()[1], last)
    return last


def branches(items: Sequence[Item], workers: int, most: int) -> list[Sequence[Item]]:
    """Neighbours together: each part is a branch of the tree of `in_pairs`, and the parts joined give that tree.

    Parts are as large as they may be without keeping any of the workers longer than single items would.

    Args:
        most: items of a part.
    """
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power < 2 * len(items)]

    def longest(size: int) -> int:
        parts = -(-len(items) // size)
        return -(-parts // workers) * size

    size = min(sizes, key=lambda size: (longest(size), -size), default=1)
    return [items[at : at + size] for at in range(0, len(items), size)]


@dataclass(frozen=True, slots=True)
class _Here(Generic[Value]):
    value: Value

    def get(self) -> Value:
        return self.value


@dataclass(frozen=True, slots=True)
class Threads(Executor):
    """Threads of this process: of pieces within a piece that others are beside, one after another.

    Attributes:
        count: at most so many; None: one a core.
    """

    count: int | None = None
    remote = False

    def at_once(self, nbytes: int) -> int:
        """How many pieces that need so much memory are worked on at once."""
        if getattr(_piece, "beside", False):
            return 1
        cores = self.count or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        return max(1, min(cores or 1, WORKING_NBYTES // max(nbytes, 1)))

    def share(self, value: Result) -> Shared[Result]:
        """The value itself."""
        return _Here(value)

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        nbytes: int = 0,
        what: str = "",  # noqa: ARG002
        told: Told | None = None,
    ) -> list[Result]:
        """As `Executor.map`; the first error is raised."""
        results: list[Result] = []

        def take(done: Iterable[Result]) -> list[Result]:
            for result in done:
                results.append(result)
                if told is not None:
                    told(len(results))
            return results

        threads, waiting = self.at_once(nbytes), iter(items)
        first = list(islice(waiting, 2))
        if threads < 2 or len(first) < 2:
            return take(map(function, chain(first, waiting)))
        with ThreadPoolExecutor(threads, initializer=_is_beside_others) as pool:
            return take(pool.map(function, chain(first, waiting)))


def _is_beside_others() -> None:
    _piece.beside = True


def is_place(value: Any) -> str | None:
    """None for ray and ray://HOST:PORT; else what was expected."""
    known = isinstance(value, str) and PLACE.fullmatch(value)
    return None if known else "ray (workers on this machine), or ray://HOST:PORT of a cluster's head"
