"""Samples that a framework's model does not run on, refused before it is exported: that takes long."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from spa.errors import DataError, SpaError
from spa.given import calibration
from spa.options import PruneOptions


def check_samples(frontend: Any, source: Any, inputs: Any, options: PruneOptions) -> None:
    """Run a framework's model on the first samples that were given, where its frontend knows what inputs it takes.

    Args:
        frontend: one that has `signature` and `run`; others are not asked.

    Raises:
        DataError: samples do not fit the model, or it does not run on them.
    """
    data = options.repair.data
    can_be_read_twice = isinstance(data, (str, os.PathLike, Mapping, np.ndarray)) and not options.repair.is_builtin
    if not can_be_read_twice or not hasattr(frontend, "signature"):
        return
    signature = frontend.signature(source, inputs)
    first = calibration(options.repair, signature).first(2).batches(2)[0]
    sizes: dict[str, tuple[int, str]] = {}
    for value in signature.graph.inputs:
        for axis, size in zip(value.shape, first[value.name].shape, strict=True):
            other, name = sizes.setdefault(str(axis), (size, value.name))
            if not isinstance(axis, int) and other != size:
                raise DataError(f"calibration data: {axis} is {other} in input {name!r} and {size} in {value.name!r}")
    try:
        frontend.run(source, first)
    except SpaError:
        raise
    except Exception as error:  # whatever a framework raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in first.items())
        raise DataError(f"calibration data: the model does not run on these samples ({shapes}): {reason}") from error
