"""Pruning with calibration samples: read or make them, choose what goes by its effect, refit what stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from spa.errors import UsageError
from spa.frontends.samples import ImageOptions, read_samples
from spa.passes.choose.importance import CRITERIA
from spa.passes.repair.compensate import OURS, PRESETS, Compensation, compensate
from spa.passes.samples.calibrate import Calibration, Given, check_samples
from spa.passes.samples.datafree import make_samples
from spa.passes.secondorder import BASELINES

METHODS = (OURS, *BASELINES)
"""Criteria that need samples."""

Samples = Given | str | os.PathLike[str]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How a model is pruned with samples.

    Attributes:
        data: samples, or where they are: see `spa.frontends.samples.read_samples` and `check_samples`.
        free: whether samples are made up instead.
        method: spa, or a published way from `spa.passes.secondorder.BASELINES`.
        preset: fast, default or best.
        images: how images become samples.
    """

    data: Samples | None
    free: bool
    method: str
    preset: str
    images: ImageOptions | None = None

    @classmethod
    def of(
        cls, data: Samples | None, free: bool, criterion: str | None, preset: str, images: ImageOptions | None
    ) -> RepairOptions | None:
        """Options that fit together; None: there are no samples, and weights alone decide.

        Raises:
            UsageError: they do not.
        """
        if data is None and not free:
            if criterion in METHODS:
                raise UsageError(f"criterion {criterion!r} needs samples: give calibration data, or ask for data-free")
            return None
        if data is not None and free:
            raise UsageError("data and data-free exclude each other: give samples, or let them be made up")
        method = criterion or OURS
        if method not in METHODS:
            hint = " it scores weights alone, so leave the data out" if method in CRITERIA else ""
            raise UsageError(f"criterion {method!r} with data: expected one of {', '.join(METHODS)};{hint}".rstrip(";"))
        if preset not in PRESETS:
            raise UsageError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
        return cls(data, free, method, preset, images)

    def samples(self, model: ir.Model, inputs: Mapping[str, Sequence[int]] | None, progress: Progress) -> Calibration:
        """Calibration samples for a normalised model.

        Raises:
            DataError: they do not fit the model, or none could be made.
        """
        preset = PRESETS[self.preset]
        if self.data is None:
            most = preset.samples or 1024
            return make_samples(model, most=most, widest=preset.widest, inputs=inputs, progress=progress)
        given: Any = self.data
        if isinstance(given, (str, os.PathLike)):
            given = read_samples(given, _declared(model), images=self.images, most=preset.samples)
        return check_samples(given, model)

    def run(self, model: ir.Model, data: Calibration, **options: Any) -> Compensation:
        """Choose and refit; the options are those of `spa.passes.repair.compensate.compensate`."""
        return compensate(model, data, method=self.method, preset=self.preset, made_up=self.free, **options)


def _declared(model: ir.Model) -> dict[str, list[int | None]]:
    """The shape of each input that a user gives, None for an open axis."""
    return {
        str(value.name): [size if isinstance(size, int) else None for size in value.shape or ()]
        for value in model.graph.inputs
        if not value.is_initializer()
    }
