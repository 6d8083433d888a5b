"""Floors of models that are pruned again and again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from spa import pipeline
from spa.errors import BudgetError, NothingToPrune
from spa.passes.choose.first import KEY, first_widths
from tests import models

TEXT = "(float[n,16] x) => (float[n,8] y) { a=MatMul(x,u) b=Relu(a) c=MatMul(b,v) d=Relu(c) y=MatMul(d,w) }"
WEIGHTS = {"u": (16, 64), "v": (64, 48), "w": (48, 8)}


def again(model: object, times: int, **options: object) -> tuple[ir.Model, dict[str, int]]:
    """Pruned until nothing goes any more, and how wide its groups are then."""
    for _ in range(times):
        proto = model if not isinstance(model, ir.Model) else ir.to_proto(model)
        try:
            model = pipeline.prune(proto, ratio=0.3, verify=False, **options).model  # type: ignore[arg-type]
        except (BudgetError, NothingToPrune):
            break
    assert isinstance(model, ir.Model)
    return model, {group.name: group.size for group in pipeline.analyse(model.clone()).groups}


@pytest.mark.parametrize("min_keep", [0.25, 0.5])
@pytest.mark.parametrize("align", ["auto", 1])
def test_the_least_that_stays_is_a_share_of_the_first_widths(min_keep: float, align: object) -> None:
    model, widths = again(models.build(TEXT, WEIGHTS), 12, min_keep=min_keep, align=align, criterion="l2")
    assert widths["u:1"] >= min_keep * 64
    assert widths["v:1"] >= min_keep * 48
    assert first_widths(model) == {"u:1": 64, "v:1": 48}
    assert min(widths["u:1"] / 64, widths["v:1"] / 48) < 1.5 * min_keep


def test_samples_keep_to_the_first_widths_too() -> None:
    x = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float32)
    model, widths = again(models.build(TEXT, WEIGHTS), 6, min_keep=0.5, align=1, data={"x": x}, preset="fast")
    assert widths["u:1"] >= 32
    assert widths["v:1"] >= 24
    assert KEY in model.metadata_props


def test_a_note_that_is_none_of_ours_is_no_note() -> None:
    for text in ("nonsense", "[1, 2]", '{"u:1": "wide"}'):
        proto = models.build(TEXT, WEIGHTS)
        entry = proto.metadata_props.add()
        entry.key, entry.value = KEY, text
        assert pipeline.prune(proto, ratio=0.3, verify=False, criterion="l2").plan.removed


def test_a_plan_that_is_applied_notes_the_same() -> None:
    proto = models.build(TEXT, WEIGHTS)
    result = pipeline.prune(proto, ratio=0.3, verify=False, criterion="l2")
    applied = pipeline.apply_plan(proto, result.plan, verify=False)
    assert applied.model.metadata_props[KEY] == result.model.metadata_props[KEY]
