"""Options of the decision: weights alone, or samples, and how much work goes into refitting by these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from spa.errors import UsageError
from spa.feeds import Bounds, Given
from spa.fields import Options, about, any_of, did_you_mean, function_of
from spa.frontends.samples import ImageOptions
from spa.frontends.texts import TextOptions, check_readings
from spa.gradients.options import CRITERIA as GRADIENTS
from spa.gradients.spending import spend_in
from spa.passes.choose.importance import CRITERIA, DEFAULT_CRITERION, Criterion
from spa.presets import METHODS, OURS, PRESETS

BUILTIN = "builtin"
"""As data: what ships with the tool, and made-up samples."""

KNOWN = (*CRITERIA, *METHODS, *GRADIENTS)
"""Every criterion that has a name."""

Samples = Given | str | os.PathLike[str]


def ranges_of(items: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The least and the largest number of inputs, each NAME=LOW:HIGH such as images=0:255.

    Raises:
        UsageError: an item is not of that form.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for item in items:
        name, equals, text = item.rpartition("=")
        try:
            low, high = (float(part) for part in text.split(":"))
        except ValueError:
            equals = ""
        if not equals or not name or not -np.inf < low < high < np.inf:
            raise UsageError(f"{item!r}: expected NAME=LOW:HIGH such as images=0:255")
        ranges[name] = low, high
    return ranges


def _is_criterion(value: Any) -> str | None:
    return None if isinstance(value, str) or callable(value) else "a name, or a function of groups and a context"


def named_criterion(text: str) -> str | Criterion:
    """A criterion by name, or the function that module:function names.

    Raises:
        UsageError: there is no such module or function, or it cannot be called.
    """
    if ":" not in text:
        return text
    try:
        return function_of(text)
    except UsageError as error:
        raise UsageError(f"{text!r}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOptions(Options):
    """What decides what goes: weights alone, or samples; and how much work goes into refitting by these.

    Raises:
        UsageError: there is no such preset or criterion, or two options do not fit together.
    """

    PANEL: ClassVar[str] = "What decides, such as --criterion l1, or --data samples.npz --preset best"

    criterion: str | Criterion | None = field(
        default=None,
        metadata=about(
            f"what a unit is scored by: {any_of(CRITERIA)}, or module:function; with samples {any_of(METHODS)}; by "
            f"gradients {any_of(GRADIENTS)}",
            metavar="NAME",
            parse=named_criterion,
            unset=f"{DEFAULT_CRITERION}, with samples {OURS}",
            check=_is_criterion,
        ),
    )
    data: Samples | None = field(
        default=None,
        metadata=about(
            "calibration samples, by which to choose what goes and to refit what stays: arrays by input name, an "
            "iterable of samples or batches, an .npz keyed by input name, a folder of .npy, .npz or images, texts "
            "(.txt, .jsonl, a folder of them, a list of str), or "
            f"module:function; {BUILTIN}: photographs and lines of text that ship with the tool, and made-up samples",
            metavar="SAMPLES",
            unset=f"{BUILTIN}, where it does better than weights alone",
        ),
    )
    data_free: bool = field(default=False, metadata=about("the same, with samples made up from the model alone"))
    weights: bool = field(
        default=False, metadata=about("cut by weights alone, at once, and change none of those that stay")
    )
    input_ranges: Bounds | None = field(
        default=None,
        metadata=about(
            "the least and the largest number that inputs take, for samples that are made up",
            metavar="NAME=0:255",
            flag="--input-range",
            parse=ranges_of,
            repeated=True,
            needs=("samples", "gradients"),
        ),
    )
    preset: str = field(
        default="default",
        metadata=about("how much work to put in", metavar="NAME", choices=tuple(PRESETS), needs=("samples",)),
    )
    search: str | None = field(
        default=None,
        metadata=about(
            "search for a better allocation: a time such as 5m, or plans such as 200r; it is kept where the outputs "
            "lose less by it",
            metavar="5m",
            check=spend_in("smhr"),
            needs=("samples",),
        ),
    )
    images: ImageOptions | None = field(
        default=None, metadata=about("how images become samples", needs=("samples", "gradients"), parts=ImageOptions)
    )

    texts: TextOptions | None = field(
        default=None, metadata=about("how texts become samples", needs=("samples", "gradients"), parts=TextOptions)
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.data is not None and self.data_free:
            raise UsageError("data and data-free exclude each other: give samples, or let them be made up")
        if self.search is not None and self.method != OURS:
            raise UsageError(f"search needs losses of outputs, which {self.method} does not measure: leave one out")
        if self.weights and (self.criterion in METHODS or self.by_gradients):
            raise UsageError(f"criterion {self.criterion!r} needs samples: leave weights out")
        if self.input_ranges and self.data is not None and not self.is_builtin:
            raise UsageError("input ranges are for samples that are made up: leave them out with data")
        check_readings(None if self.own_samples else self.data, self.images, self.texts)
        if isinstance(self.criterion, str) and self.criterion not in KNOWN:
            raise UsageError(
                f"criterion {self.criterion!r}: expected one of {', '.join(KNOWN)}{did_you_mean(self.criterion, KNOWN)}"
            )

    @property
    def has_samples(self) -> bool:
        """Whether samples are asked for."""
        return self.data is not None or self.data_free

    @property
    def by_weights(self) -> bool:
        """Whether weights alone are asked for."""
        named = self.criterion is not None and self.criterion not in METHODS
        return self.weights or (named and not self.by_gradients)

    @property
    def by_gradients(self) -> bool:
        """Whether gradients are asked for."""
        return isinstance(self.criterion, str) and self.criterion in GRADIENTS

    @property
    def is_builtin(self) -> bool:
        """Whether what ships with the tool is asked for."""
        return isinstance(self.data, str) and self.data == BUILTIN

    @property
    def own_samples(self) -> bool:
        """Whether samples are the tool's own, not given."""
        return self.data is None or self.is_builtin

    @property
    def method(self) -> str:
        """With samples, which way: ours, or a published one."""
        return self.criterion if isinstance(self.criterion, str) else OURS
