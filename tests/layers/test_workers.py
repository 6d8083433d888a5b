"""Many problems at once give what one after another gives."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from spa.passes.layers.workers import WORKING_NBYTES, at_once, each, one_thread_each


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    assert each(lambda number: number * number, range(20), workers=workers) == [n * n for n in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_is_raised(workers: int) -> None:
    def fail(number: int) -> int:
        if number >= 3:
            raise ValueError(str(number))
        return number

    with pytest.raises(ValueError, match="3"):
        each(fail, range(6), workers=workers)


def test_wide_problems_leave_room() -> None:
    assert at_once(10, threads=4) == 4
    assert at_once(int(np.sqrt(WORKING_NBYTES)), threads=4) == 1


def test_every_blas_keeps_to_one_thread_also_the_one_that_a_solve_loads() -> None:
    program = """
import numpy as np
from threadpoolctl import threadpool_info
from spa.passes.secondorder.linalg import solve
from spa.passes.layers.workers import one_thread_each
with one_thread_each():
    solve(np.eye(4), np.ones((4, 1)))
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
assert pools and all(pool["num_threads"] == 1 for pool in pools), pools
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_linear_algebra_keeps_to_one_thread() -> None:
    with one_thread_each():
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
