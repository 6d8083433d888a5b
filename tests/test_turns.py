"""Runs by turns: which count, how long they go on, and what they say of two models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from spa import ondevice, runtime, turns
from spa.turns import LEAST_ROUNDS, PATIENCE, by_turns, ratio_of, undisturbed


@pytest.mark.parametrize(
    ("times", "ratio"),
    [
        ([[2.0, 1.0], [0.0, 1.0], [2.0, 0.0]], 0.5),  # 1 / 2, 1 / 1 and 1 / 2: the shortest seen is 1
        ([[0.0, 0.0], [0.0, 0.0]], 1.0),
    ],
)
def test_runs_too_short_for_the_clock(times: list[list[float]], ratio: float) -> None:
    actual, (low, high) = ratio_of(np.array(times))
    assert actual == ratio
    assert low <= actual <= high
    assert ondevice.calm(np.array(times)).all()


TIMES = np.array([[4.0, 2.0]] * 3 + [[6.0, 4.0]] * 6 + [[4.0, 3.0], [4.2, 2.1]])
"""Three quiet rounds, six in which both models were slowed, one in which the second was, and a quiet one."""


def test_rounds_count_in_which_no_model_was_slowed() -> None:
    assert np.flatnonzero(ondevice.calm(TIMES)).tolist() == [0, 1, 2, 10]
    assert ratio_of(TIMES)[0] > 0.6
    assert ratio_of(TIMES[ondevice.calm(TIMES)])[0] == 0.5


def test_where_all_were_slowed_the_least_slowed_count() -> None:
    """That the first model has once run in 3 says that nothing here ran on a quiet machine."""
    assert not ondevice.calm(TIMES, 3.0, least=0).any()
    assert np.flatnonzero(ondevice.calm(TIMES, 3.0, least=4)).tolist() == [0, 1, 2, 10]
    assert ondevice.calm(TIMES, 5.0, least=0).sum() == 4, "what is seen now is nearer than what was once seen"


@pytest.fixture(autouse=True)
def _impatient() -> None:
    """Here runs are as long as for users."""


class Machine:
    """A clock that runs of models move: by their own time, and by as much more while the machine does other work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: range = range(0)) -> None:
        self.now, self.slow = 0.0, slow
        self.runs: list[float] = []
        monkeypatch.setattr(runtime, "run", self.run)
        monkeypatch.setattr("spa.turns.time.perf_counter", lambda: self.now)

    def run(self, session: float, _feeds: Mapping[str, np.ndarray]) -> None:
        self.runs.append(session)
        self.now += session * (1.5 if len(self.runs) in self.slow else 1.0)


def test_a_short_run_follows_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    short, long = 0.5 * ondevice.SHORT, 2 * ondevice.SHORT
    times = by_turns([short, long], [{}, {}], 0.0, clock=lambda: machine.now)
    assert len(times) == LEAST_ROUNDS
    assert np.allclose(times, [[short, long]] * LEAST_ROUNDS)
    rounds = turns.WARM_UP + LEAST_ROUNDS
    assert machine.runs.count(long) == rounds
    assert machine.runs.count(short) == 2 * rounds - 1, "that it is short, its first run tells"


def test_disturbed_runs_go_on_until_enough_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slow=range(60))
    times = undisturbed([0.2, 0.1], [{}, {}], 2.0, lambda: machine.now, fast=0.2)
    assert len(times) >= LEAST_ROUNDS
    assert ratio_of(times)[0] == pytest.approx(0.5)
    assert np.allclose(times, [0.2, 0.1])


def test_a_machine_that_is_never_quiet_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, slow=range(10**6))
    times = undisturbed([0.2, 0.1], [{}, {}], 1.0, lambda: machine.now, fast=0.2)
    assert len(times) == LEAST_ROUNDS
    assert ratio_of(times)[0] == pytest.approx(0.5)
    assert machine.now == pytest.approx(PATIENCE * 0.45 * (turns.WARM_UP + LEAST_ROUNDS))
