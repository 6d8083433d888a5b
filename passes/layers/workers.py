"""Many linear-algebra problems at once, a thread each, with one thread inside each of them.

Numpy and scipy bring a BLAS each, and each BLAS its own threads, which wait for work by spinning: beside each other, or
beside another program, they spend most of the processor on that. One thread a problem has no such contention, and
problems enough there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKING_NBYTES = 1 << 31
"""Of matrices that all workers together may hold."""

MATRICES = 6
"""Square matrices that a problem holds while it is solved: Gram, cross-moment, inverse, and copies on the way."""


def one_thread_each() -> AbstractContextManager[object]:
    """Inside, linear algebra uses no threads of its own."""
    import scipy.linalg  # noqa: F401 - a BLAS that is loaded later would not be held to it

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def at_once(width: int, threads: int | None = None) -> int:
    """How many problems of a width are worked on at once: one a core, as long as they fit into memory."""
    cores = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    return max(1, min(cores, WORKING_NBYTES // (MATRICES * 8 * max(width, 1) ** 2)))


def each(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> list[Result]:
    """`function` of every item, in the items' order; the first error is raised."""
    if workers < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
