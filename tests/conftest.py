"""What all tests share."""

from __future__ import annotations

import hypothesis
import pytest

# No deadline: machines that run several jobs at once stall for seconds. No database: CI starts from nothing.
hypothesis.settings.register_profile("spa", deadline=None, database=None, max_examples=60)
hypothesis.settings.load_profile("spa")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside others: nobody waits for a machine that does nothing else."""
    monkeypatch.setattr("spa.turns.LONGEST", 1)
    monkeypatch.setattr("spa.turns.PATIENCE", 1)
    monkeypatch.setattr("spa.latency.SECONDS", 0.3)
