"""What stands between pruning and frameworks; the frontends' own tests show the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spa import pipeline
from spa.adapters import restore
from spa.analysis.plan import Plan
from spa.errors import UsageError
from tests import models


@pytest.mark.parametrize("samples", [{"data": {"x": np.ones((4, 8))}, "preset": "fast"}, {"data_free": True}])
def test_with_samples_sizes_are_found_without_them_first(samples: dict[str, object]) -> None:
    options = {"of": "params", "criterion": "spa", **samples}
    rehearsal, whole = restore._rehearsed(options)
    assert rehearsal == {"of": "params"}
    assert whole is options


def test_without_samples_there_is_one_trial() -> None:
    assert restore._rehearsed({"of": "params", "criterion": "l1"}) == [{"of": "params", "criterion": "l1"}]


def test_options_that_do_not_fit_are_refused_before_anything_is_tried() -> None:
    for options in ({"data": {"x": np.ones((4, 8))}, "criterion": "l1"}, {"data_free": True, "preset": "slow"}):
        with pytest.raises(UsageError, match=r"criterion 'l1'|preset 'slow'"):
            restore._rehearsed(options)


def test_a_plan_made_with_repair_is_level_where_its_sizes_are() -> None:
    analysis = pipeline.analyse(pipeline.load_normal(models.residual_cnn()))
    first, second = analysis.groups
    plan = replace(Plan.of(analysis.groups, {first.name: [1], second.name: [3, 0]}), repair="spa, 8 samples")
    assert restore._level(analysis, plan, "params") is None
