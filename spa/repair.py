"""Pruning with calibration samples: read or make them, choose what goes by its effect, refit what stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from spa.errors import UsageError
from spa.fields import Options, about, any_of
from spa.frontends.samples import ImageOptions, read_samples
from spa.passes.choose.importance import CRITERIA, DEFAULT_CRITERION, Criterion, check_criterion
from spa.passes.repair.settings import OURS, PRESETS
from spa.passes.samples.calibrate import Calibration, Given, check_samples
from spa.passes.samples.datafree import make_samples
from spa.passes.secondorder import BASELINES

METHODS = (OURS, *BASELINES)
"""Criteria that need samples."""

Samples = Given | str | os.PathLike[str]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOptions(Options):
    """What decides what goes: weights alone, or samples; and how much work goes into refitting by these.

    Raises:
        UsageError: there is no such preset or criterion, or two options do not fit together.
    """

    criterion: str | Criterion | None = field(
        default=None,
        metadata=about(
            f"what a unit is scored by: {any_of(CRITERIA)}; with samples {any_of(METHODS)}",
            metavar="NAME",
            unset=f"{DEFAULT_CRITERION}, with samples {OURS}",
        ),
    )
    data: Samples | None = field(
        default=None,
        metadata=about(
            "calibration samples, by which to choose what goes and to refit what stays: arrays by input name, an "
            "iterable of samples or batches, an .npz keyed by input name, a folder of .npy, .npz or images, or "
            "module:function",
            metavar="SAMPLES",
        ),
    )
    data_free: bool = field(default=False, metadata=about("the same, with samples made up from the model alone"))
    preset: str = field(
        default="default",
        metadata=about("how much work to put in", metavar="NAME", choices=tuple(PRESETS), needs="samples"),
    )
    images: ImageOptions | None = field(
        default=None, metadata=about("how images become samples", needs="samples", parts=ImageOptions)
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.data is not None and self.data_free:
            raise UsageError("data and data-free exclude each other: give samples, or let them be made up")
        if self.has_samples:
            self._check_method()
        elif self.criterion in METHODS:
            raise UsageError(f"criterion {self.criterion!r} needs samples: give calibration data, or ask for data-free")
        elif isinstance(self.criterion, str):
            check_criterion(self.criterion)

    def _check_method(self) -> None:
        if self.criterion is not None and self.criterion not in METHODS:
            hint = "; it scores weights alone, so leave the data out" if self.criterion in CRITERIA else ""
            raise UsageError(f"criterion {self.criterion!r} with data: expected one of {', '.join(METHODS)}{hint}")

    @property
    def has_samples(self) -> bool:
        """Whether samples decide, and not weights alone."""
        return self.data is not None or self.data_free

    @property
    def method(self) -> str:
        """With samples, which way: ours, or a published one."""
        return self.criterion if isinstance(self.criterion, str) else OURS


def calibration(
    options: RepairOptions, model: ir.Model, inputs: Mapping[str, Sequence[int]] | None, progress: Progress
) -> Calibration:
    """Calibration samples for a normalised model, read or made up.

    Raises:
        DataError: they do not fit the model, or none could be made.
    """
    preset = PRESETS[options.preset]
    if options.data is None:
        most = preset.samples or 1024
        return make_samples(model, most=most, widest=preset.widest, inputs=inputs, progress=progress)
    given: Any = options.data
    if isinstance(given, (str, os.PathLike)):
        given = read_samples(given, _declared(model), images=options.images, most=preset.samples)
    return check_samples(given, model)


def _declared(model: ir.Model) -> dict[str, list[int | None]]:
    """The shape of each input that a user gives, None for an open axis."""
    return {
        str(value.name): [size if isinstance(size, int) else None for size in value.shape or ()]
        for value in model.graph.inputs
        if not value.is_initializer()
    }
