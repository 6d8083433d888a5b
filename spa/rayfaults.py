"""What Ray raises where work is lost or does not fit, as errors of ours in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spa.errors import ClusterError, SpaError

STOPPED = "its worker was stopped, as its node ran out of memory"
ENOUGH = "give the cluster a node with more memory, or shorter rows (preset fast)"
LOGS = "begin again, or look into the logs of its node, /tmp/ray/session_latest/logs"


@contextmanager
def in_one_line(failed: Any, address: str, what: str = "work", nbytes: int = 0) -> Iterator[None]:
    """Raise what ray raises as errors of ours; errors of ours on workers, and those of the work, as they are.

    Args:
        failed: `ray.exceptions`.
        address: of the cluster.
        what: is done, in words.
        nbytes: of memory that it needs; 0: not known.

    Raises:
        ClusterError: something was lost, or did not fit into memory.
    """
    try:
        yield
    except failed.RayTaskError as error:
        if isinstance(error.cause, SpaError):
            raise error.cause from None
        if isinstance(error.cause, MemoryError):
            raise _too_large(what, nbytes, str(error.cause)) from error
        raise
    except failed.OutOfMemoryError as error:
        raise _too_large(what, nbytes, STOPPED) from error
    except (failed.RayError, ConnectionError) as error:
        raise ClusterError(f"{what} was lost on the cluster at {address}: {one_line(error)}; {LOGS}") from error


def _too_large(what: str, nbytes: int, why: str) -> ClusterError:
    needs = f", which needs about {size_of(nbytes)}," if nbytes else ""
    return ClusterError(f"{what}{needs} did not fit into the memory of a node: {why}; {ENOUGH}")


def size_of(nbytes: int) -> str:
    """Bytes in words."""
    return f"{nbytes / 1e9:.3g} GB"


def one_line(error: BaseException) -> str:
    """The first line of what an error says, and the last where the first announces it."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {more[-1]}"[:300] if more and first.endswith(":") else first[:300]
