"""Ratios of a sweep that are made on workers are those that are made here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa import sweeping
from spa.executor import Threads
from spa.passes.repair import twins
from tests import models
from tests.elsewhere import Elsewhere

SAMPLES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


class Counted(Elsewhere):
    """Says which functions were called for how many items."""

    def __init__(self) -> None:
        self.called: list[tuple[str, int]] = []

    def map(self, function: Any, items: Any, **how: Any) -> list[Any]:
        items = list(items)
        self.called.append((getattr(function, "__name__", ""), len(items)))
        return super().map(function, items, **how)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(models.residual_cnn(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    executor = Counted()

    @contextmanager
    def executing(on: str | None) -> Iterator[Any]:
        yield Threads() if on is None else executor

    monkeypatch.setattr(sweeping, "executing", executing)
    twins._TWINS.clear()
    return executor


def test_points_are_those_of_this_process(net: Path, counted: Counted, tmp_path: Path) -> None:
    given: dict[str, Any] = {"ratios": "0.2:0.4", "data": SAMPLES, "preset": "fast", "seconds": 0}
    local = spa.sweep(net, keep=tmp_path / "here", **given)
    assert not counted.called
    there = spa.sweep(net, keep=tmp_path / "there", on="ray", **given)
    assert ("point", 2) in counted.called
    for near, far in zip(local.points, there.points, strict=True):
        assert (near.ratio, near.removed, near.decided_by, near.notes) == (
            far.ratio, far.removed, far.decided_by, far.notes,
        )  # fmt: skip
        assert far.figure("relative_l2") == pytest.approx(near.figure("relative_l2"), rel=1e-2)
        files = [onnx.load(str(point.file)) for point in (near, far)]
        sizes, others = ([list(tensor.dims) for tensor in file.graph.initializer] for file in files)
        assert sizes == others


def test_a_ratio_that_cannot_be_met_says_so(net: Path, counted: Counted) -> None:
    report = spa.sweep(net, ratios=(0.2, 0.3, 0.99), data=SAMPLES, preset="fast", seconds=0, on="ray")
    assert ("point", 2) in counted.called
    assert [bool(point.said) for point in report.points] == [False, False, True]


def test_what_cannot_be_sent_is_made_here(net: Path, counted: Counted) -> None:
    batches = (SAMPLES[at : at + 16] for at in range(0, 64, 16))  # a generator
    report = spa.sweep(net, ratios="0.2:0.3", data=batches, preset="fast", seconds=0, on="ray")
    assert len(report.made) == 2
    assert "point" not in dict(counted.called)
