"""Linear algebra keeps to one thread, whichever BLAS does it."""

from __future__ import annotations

import os
import subprocess
import sys

from threadpoolctl import threadpool_info

from spa.passes.layers.workers import one_thread_each


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
