"""What does the pieces of work of a prune, as `--on` says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spa.executor import Executor, Threads


@contextmanager
def executing(on: str | None) -> Iterator[Executor]:
    """Threads of this process, or the workers that `on` names, until the block ends.

    Raises:
        MissingExtra: ray is not installed.
        ClusterError: the cluster is not there, or has other versions than this process.
    """
    if on is None:
        yield Threads()
        return
    from spa.onray import connected  # which few prunes need

    with connected(on) as executor:
        yield executor
