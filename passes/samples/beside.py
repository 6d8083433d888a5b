"""Take labels, which are no input of the model, from the samples that they lie beside."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from spa.errors import DataError
from spa.feeds import LABELS


def apart(
    data: Any, inputs: Collection[str], *, labels: str | None = None, everything: bool = False
) -> tuple[Any, dict[str, np.ndarray]]:
    """Samples without their labels, and the labels by name.

    Args:
        inputs: names that the model takes.
        labels: the entry that holds labels; by default "labels", where there is one and no input of that name.
        everything: take every entry that is no input for one that lies beside.

    Raises:
        DataError: there is no such entry.
    """
    if everything and isinstance(data, Mapping):
        beside = {name: np.asarray(array) for name, array in data.items() if name not in inputs}
        return {name: array for name, array in data.items() if name in inputs}, beside
    if labels is None:
        present = isinstance(data, Mapping) and LABELS in data and LABELS not in inputs
        labels = LABELS if present else None
    if labels is None:
        return data, {}
    if not isinstance(data, Mapping) or labels not in data:
        known = ", ".join(map(repr, data)) if isinstance(data, Mapping) else "samples without names"
        raise DataError(f"labels: expected an entry {labels!r} in the data, found {known}")
    return {name: array for name, array in data.items() if name != labels}, {labels: np.asarray(data[labels])}
