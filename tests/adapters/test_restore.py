"""What stands between pruning and frameworks; the frontends' own tests show the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spa import pipeline
from spa.adapters import restore
from spa.analysis.plan import Plan
from spa.errors import UsageError
from spa.options import PruneOptions
from tests import models

NO_FRONTEND: Any = None


@pytest.mark.parametrize("samples", [{"data": {"x": np.ones((4, 8))}, "preset": "fast"}, {"data_free": True}])
def test_with_samples_sizes_are_found_without_them_first(samples: dict[str, object]) -> None:
    options = PruneOptions.of(ratio=0.3, of="flops", criterion="spa", **samples)
    rehearsal, whole = restore._rehearsed(options)
    assert rehearsal == PruneOptions.of(ratio=0.3, of="flops", weights=True)
    assert whole is options


def test_without_samples_there_is_one_trial() -> None:
    options = PruneOptions.of(ratio=0.3, criterion="l1")
    assert restore._rehearsed(options) == [options]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"data_free": True, "preset": "slow"}, "preset 'slow'"), ({"even": True, "scope": "global"}, "scope 'global'")],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_traced(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        restore.prune(NO_FRONTEND, None, None, ratio=0.3, **options)


def test_a_plan_made_with_repair_is_level_where_its_sizes_are() -> None:
    analysis = pipeline.analyse(pipeline.load_normal(models.residual_cnn()))
    first, second, *_ = analysis.groups
    plan = replace(Plan.of(analysis.groups, {first.name: [1], second.name: [3, 0]}), repair="spa, 8 samples")
    assert restore._level(analysis, plan, "params") is None
