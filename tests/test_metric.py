from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from spa.errors import UsageError
from spa.metric import Metric
from tests import models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(models.residual_cnn(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def size(path: str) -> int:
    return Path(path).stat().st_size


def inputs_of(session) -> float:
    return len(session.get_inputs())


def annotated(runs: onnx.ModelProto | InferenceSession) -> float:  # type: ignore[name-defined] # noqa: F821
    return float(hasattr(runs, "get_outputs"))


def test_a_function_of_a_path_gets_the_path(path: Path) -> None:
    assert Metric(size).of(path) == path.stat().st_size
    assert not Metric(size).takes_session


@pytest.mark.parametrize("function", [inputs_of, annotated])
def test_a_function_of_a_session_gets_one(path: Path, function: Any) -> None:
    assert Metric(function).of(path) == 1.0


@pytest.mark.parametrize("value", [0.5, 3, np.float32(0.25), np.array(2.0)])
def test_numbers_of_all_kinds_are_taken(path: Path, value: Any) -> None:
    assert Metric(lambda _: value).of(path) == float(value)


@pytest.mark.parametrize("value", [None, "0.9", True, float("nan"), float("inf"), [1, 2], {"top1": 0.9}])
def test_what_is_no_finite_number_is_refused_by_name(path: Path, value: Any) -> None:
    def accuracy(_: str) -> Any:
        return value

    with pytest.raises(UsageError, match=r"metric accuracy, called with the path of net\.onnx: expected a finite"):
        Metric(accuracy).of(path)


def test_a_metric_that_raises_says_what_it_was_called_with(path: Path) -> None:
    def broken(session: Any) -> float:
        return float(session.no_such_method())

    with pytest.raises(UsageError, match=r"metric broken, called with a session of net\.onnx, raised AttributeError"):
        Metric(broken).of(path)


def test_worse_is_lower_unless_lower_is_better() -> None:
    assert Metric(size).worse_by(0.9, 0.85) == pytest.approx(0.05)
    assert Metric(size, rises=False).worse_by(20.0, 21.5) == pytest.approx(1.5)
