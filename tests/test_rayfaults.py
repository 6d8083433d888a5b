"""Errors of a cluster in one line, whatever Ray says; without ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spa.errors import ClusterError, DataError
from spa.rayfaults import in_one_line, one_line


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("long traceback")
        self.cause = cause


class OutOfMemoryError(RayError):
    pass


FAILED = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, OutOfMemoryError=OutOfMemoryError)
PLACE = "ray://10.0.0.1:10001"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RayTaskError(DataError("sample 1 holds no numbers")), DataError, r"^sample 1 holds no numbers$"),
        (RayTaskError(ZeroDivisionError("division by zero")), RayTaskError, "long traceback"),
        (
            RayTaskError(MemoryError("Unable to allocate 70 GiB")),
            ClusterError,
            r"^the moments, which needs about 0\.5 GB, did not fit .*: Unable to allocate 70 GiB; give the cluster",
        ),
        (
            OutOfMemoryError("1 worker(s) were killed\nand more"),
            ClusterError,
            r"did not fit into the memory of a node: its worker was stopped, as its node ran out of memory; give",
        ),
        (
            ConnectionError("Client is shutting down."),
            ClusterError,
            r"^the moments was lost on the cluster at ray://10\.0\.0\.1:10001: Client is shutting down\.; begin again",
        ),
        (RayError("The worker died:\n  pid 3\n  Socket closed"), ClusterError, "The worker died: Socket closed; begin"),
        (ClusterError("no node 'board'"), ClusterError, r"^no node 'board'$"),
        (KeyError("x"), KeyError, "x"),
    ],
)
def test_what_ray_raises(error: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as raised, in_one_line(FAILED, PLACE, "the moments", 500_000_000):
        raise error
    if kind is ClusterError:
        assert "\n" not in str(raised.value)


def test_what_needs_unknown_memory_says_none() -> None:
    with pytest.raises(ClusterError, match=r"^work did not fit into the memory"), in_one_line(FAILED, PLACE):
        raise OutOfMemoryError("no")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "OSError"),
        ("one\ntwo", "one"),
        ("why:\n\n it \nthat", "why: that"),
        ("only:", "only:"),
        (400 * "x", 300 * "x"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(OSError(text)) == line
