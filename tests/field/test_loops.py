"""Groups that only the bodies of loops read: nothing in there is refitted, yet they can go, with samples as without."""

from __future__ import annotations

from typing import Any

import pytest

from tests import models
from tests.field.cases import cut, removed


@pytest.mark.parametrize("options", [{}, {"data_free": True, "preset": "fast"}], ids=["weights", "samples"])
@pytest.mark.parametrize(
    ("model", "group"),
    [(models.rounds, "inner:1"), (models.collected_rounds, "w0:1"), (models.scanned, "w0:1")],
    ids=["in a body", "collected", "scanned"],
)
def test_what_only_loops_read_can_go(model: Any, group: str, options: dict[str, Any]) -> None:
    result = cut(model(), 0.1, only=[group], **options)
    assert removed(result)[group] >= 1
