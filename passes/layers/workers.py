"""Many linear-algebra problems at once, a thread each, with one thread inside each of them.

Numpy and scipy bring a BLAS each, and each BLAS its own threads, which wait for work by spinning: beside each other, or
beside another program, they spend most of the processor on that. One thread a problem has no such contention, and
problems enough there are (`spa.executor`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

MATRICES = 6
"""Square matrices that a problem holds while it is solved: Gram, cross-moment, inverse, and copies on the way."""


def one_thread_each() -> AbstractContextManager[object]:
    """Inside, linear algebra uses no threads of its own."""
    import scipy.linalg  # noqa: F401 - a BLAS that is loaded later would not be held to it

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def working_nbytes(width: int) -> int:
    """Of memory that a problem of a width needs while it is solved."""
    return MATRICES * 8 * max(width, 1) ** 2
