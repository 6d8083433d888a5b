"""A fixed budget of random graphs, and by name each that a long run (tests/random_graphs.py) ever found wrong."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import random_graphs

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime")

SEEDS = 1 << 30

# What was wrong, and the seed that showed it.
FOUND: dict[str, int] = {
    "zeros in front of an axis that a cut leaves none of": 7669,
    "a computed axis that only factors of one index make up": 4667,
    "a computed axis of products of such factors, from two groups": 4787,
    "a computed axis of such factors that a cut took from a longer one": 6181,
}


@settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.integers(0, SEEDS))
def test_theorem(seed: int) -> None:
    """Valid, same shapes, exact, as large as foretold, the same in two steps; see `random_graphs.check`."""
    random_graphs.check(random_graphs.random_model(seed), seed)


def test_budget_is_not_idle() -> None:
    """Most graphs lose something and are compared: a check that never cuts would show nothing."""
    outcomes = [random_graphs.check(random_graphs.random_model(seed), seed) for seed in range(12)]
    assert sum(outcome.removed > 0 for outcome in outcomes) >= 7
    assert sum(outcome.exact and outcome.compared for outcome in outcomes) >= 7


@pytest.mark.parametrize("name", FOUND)
def test_found_wrong_once(name: str) -> None:
    random_graphs.check(random_graphs.random_model(FOUND[name]), FOUND[name])
