"""Labels and states that do not fit, and labels as other tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra torch is not installed")

import spa
from spa.errors import DataError
from tests.gradients.test_finetune import SAMPLES, network, pruned


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.array(["a", "b"] * 48), "<U1"),
        (np.zeros(96, np.float32), "float32 of shape (16,)"),
        (np.full(96, -1), "int64 of shape (16,), -1 to -1"),
        (np.full(96, 4), "4 to 4"),
        (np.zeros((96, 2), int), "(16, 2)"),
    ],
)
def test_labels_that_do_not_fit_say_so(labels: np.ndarray, found: str) -> None:
    with pytest.raises(DataError, match=r"expected classes, whole numbers of shape \(16,\) from 0 up") as raised:
        spa.finetune(pruned(), data={"x": SAMPLES, "labels": labels}, labels="labels", epochs=1, batch_size=16)
    assert found in str(raised.value)


def test_labels_in_a_column_in_one_hot_rows_and_labels_to_ignore() -> None:
    labels = (SAMPLES[:, 0] > 0).astype(np.uint16)
    options: dict[str, Any] = {"labels": "labels", "epochs": 2}
    forms = (labels, labels[:, None], np.eye(4, dtype=np.uint8)[labels])
    plain, column, rows = (spa.finetune(pruned(), data={"x": SAMPLES, "labels": each}, **options) for each in forms)
    assert plain.report.history == column.report.history
    assert rows.report.before == pytest.approx(plain.report.before, rel=1e-5)
    some = np.where(np.arange(96) % 3 == 0, -100, labels.astype(np.int64))
    assert spa.finetune(pruned(), data={"x": SAMPLES, "labels": some}, **options).report.before > 0


@pytest.mark.parametrize("content", [b"", b"{}", b"not a state", b"PK\x03\x04"])
def test_a_state_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    state.write_bytes(content)
    with pytest.raises(DataError, match="no state of this model's fine-tuning; remove it to start"):
        spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=1, resume=state)
