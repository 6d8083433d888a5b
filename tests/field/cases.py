"""The cases of ../shared/cases/build.py, beside the project, and what is asked of what is made of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from spa.pipeline import PruneResult, prune
from tests.benchmarks.zoo import SHARED

CASES = SHARED / "cases" / "build.py"


def case(name: str) -> onnx.ModelProto:
    if not CASES.exists():
        pytest.skip("the cases are not there: set SPA_SHARED to the folder that holds cases/")
    specification = importlib.util.spec_from_file_location("cases", CASES)
    assert specification is not None
    assert specification.loader is not None
    module: ModuleType = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made: onnx.ModelProto = getattr(module, name)()
    return made


def cut(model: onnx.ModelProto | ir.Model | Path, ratio: float, **options: Any) -> PruneResult:
    """A model that lost at least a share of its parameters, compared with the dense one."""
    result = prune(model, ratio=ratio, weights=not {"data", "data_free"} & options.keys(), **options)
    report = result.report
    assert report.verified
    assert report.difference is not None
    assert 1 - report.after["params"] / report.before["params"] >= ratio - 1e-9
    return result


def groups(result: PruneResult) -> list[str]:
    return [f"{group.name} {group.kind} {group.units}" for group in result.report.groups if group.off is None]


def removed(result: PruneResult) -> dict[str, int]:
    return {group.name: len(result.plan.removed.get(group.name, ())) for group in result.report.groups}


def run(model: onnx.ModelProto | ir.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, feed)[0]
    return answer
