"""Samples that a prune was given: read from where they are, and checked against a model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spa.passes.samples.calibrate import Calibration
from spa.presets import PRESETS
from spa.repair import RepairOptions
from spa.supplied import Reading, checked


def calibration(options: RepairOptions, model: ir.Model, *, labels: str | None = None) -> Calibration:
    """Calibration samples for a normalised model; labels are left out.

    Args:
        labels: as of `given_samples`.

    Raises:
        DataError: they do not fit the model.
    """
    return given_samples(options, model, labels=labels)[0]


def given_samples(
    options: RepairOptions, model: ir.Model, *, labels: str | None = None, everything: bool = False
) -> tuple[Calibration, dict[str, np.ndarray]]:
    """Samples for a normalised model, and what lies beside them, by name.

    Args:
        labels: the entry that holds labels; by default "labels", where there is one.
        everything: whether every entry that is no input lies beside.

    Raises:
        DataError: they cannot be read, or do not fit the model.
    """
    reading = Reading(images=options.images, texts=options.texts, most=PRESETS[options.preset].samples)
    return checked(options.data, model, reading, labels=labels, everything=everything)
