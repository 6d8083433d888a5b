"""What fine-tuning can be asked for; read without torch, so that the command line's help needs none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from spa.errors import UsageError
from spa.fields import Options, about, at_least, is_number, number

SUBSETS = ("biases", "norms", "scales")
"""Vectors that are added; that a normalisation scales and shifts by; that something is multiplied with."""


def _positive(value: Any) -> str | None:
    return None if is_number(value) and value > 0 else "a number above 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions(Options):
    """What is learned from what, and for how long.

    Raises:
        UsageError: an option is out of range, or two do not fit together.
    """

    PANEL: ClassVar[str] = "What is learned, such as --data samples.npz --epochs 3"

    data: Any = field(
        metadata=about("samples: arrays by input name, an .npz, a folder, or module:function", metavar="SAMPLES")
    )
    labels: str | None = field(
        default=None,
        metadata=about("the entry of the data that holds labels, learned by cross-entropy", metavar="NAME"),
    )
    loss: Any = field(
        default=None,
        metadata=about(
            "a loss of your own: module:function, called with the outputs and the batch by name", metavar="NAME"
        ),
    )
    epochs: int | None = field(
        default=None,
        metadata=about(
            "times that every sample is seen", metavar="N", parse=number, check=at_least(1, what="1 or more")
        ),
    )
    minutes: float | None = field(
        default=None, metadata=about("how long to learn, instead of epochs", metavar="M", parse=number, check=_positive)
    )
    train: Sequence[str] = field(
        default=(),
        metadata=about("train these alone: biases, norms, scales", metavar="NAME", repeated=True),
    )
    learning_rate: float = field(
        default=1e-3, metadata=about("of AdamW", metavar="RATE", parse=number, check=_positive)
    )
    batch_size: int = field(
        default=32, metadata=about("samples of a step", metavar="N", parse=number, check=at_least(1, what="1 or more"))
    )
    seed: int = field(default=0, metadata=about("of the order of samples", metavar="N"))
    resume: str | os.PathLike[str] | None = field(
        default=None,
        metadata=about("a file that keeps the state after every epoch; where it exists, go on from it", metavar="FILE"),
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.epochs is not None and self.minutes is not None:
            raise UsageError("epochs and minutes exclude each other: give one of them")
        if self.labels is not None and self.loss is not None:
            raise UsageError("labels and loss exclude each other: a loss of your own gets the whole batch")
        for name in self.train:
            if name not in SUBSETS:
                raise UsageError(f"train {name!r}: expected one of {', '.join(SUBSETS)}")
