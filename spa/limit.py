"""Options of a limit in place of a share, ``LimitOptions(max_loss=0.01)``, and the report of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from spa.errors import UsageError
from spa.fields import Options, about, function_of, is_number, number
from spa.metric import Metric
from spa.passes.choose.budget import Budget
from spa.repair import Samples

LOSSES = {"kl": "KL", "relative_l2": "relative L2"}
"""What can be limited, beside a metric: figures of `spa.passes.repair.difference`, and what people call them."""


def _is_loss(value: Any) -> str | None:
    return None if is_number(value) and value > 0 else "a number above 0"


def _is_function(value: Any) -> str | None:
    return None if callable(value) else "a function of a path or of a session"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions(Options):
    """As much goes as keeps a loss within a limit.

    Raises:
        UsageError: two options do not fit together.
    """

    PANEL: ClassVar[str] = Budget.PANEL

    max_loss: float | None = field(
        default=None,
        metadata=about(
            "remove as much as keeps the loss within this, instead of a share",
            metavar="LOSS",
            parse=number,
            check=_is_loss,
            more="the loss is the KL divergence where an output gives probabilities or may give logits, else relative "
            "L2; or what a metric falls by",
        ),
    )
    distance: str | None = field(
        default=None,
        metadata=about(
            "which distance from the dense model's outputs is limited, in the place of the one above",
            metavar="NAME",
            choices=tuple(LOSSES),
        ),
    )
    metric: Any = field(
        default=None,
        metadata=about(
            "a metric of your own: module:function, called with the path of an ONNX file, or with an onnxruntime "
            "session where its argument is called session",
            metavar="NAME",
            parse=function_of,
            check=_is_function,
        ),
    )
    lower_is_better: bool = field(
        default=False, metadata=about("the metric falls as a model gets better, as an error or a perplexity does")
    )
    held_out: Samples | None = field(
        default=None,
        metadata=about(
            "samples that judge how far outputs move, and that nothing is fitted to; as data takes them",
            metavar="SAMPLES",
            unset="a share of the data",
        ),
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.lower_is_better and self.metric is None:
            raise UsageError("lower_is_better has no effect without a metric: give one, or leave it out")
        if self.distance is not None and self.metric is not None:
            raise UsageError("distance and metric exclude each other: a metric is what is limited")

    @property
    def judged_by(self) -> Metric | None:
        """The user's metric."""
        return None if self.metric is None else Metric(self.metric, rises=not self.lower_is_better)


@dataclass(frozen=True, slots=True)
class LimitTrial:
    """A ratio that was tried: its loss, and the metric if there is one; None and why where it cannot be met."""

    ratio: float
    loss: float | None
    metric: float | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class LimitReport:
    """What was found to go within a limit.

    Attributes:
        measure: what was limited: KL, relative L2, or the metric's name.
        on: what it was measured on; empty for a metric, which knows itself.
        metric_before, metric_after: of the dense and of the pruned model.
        trials: the ratios that were tried, in order.
    """

    max_loss: float
    measure: str
    ratio: float
    loss: float
    on: str
    trials: Sequence[LimitTrial] = ()
    metric_before: float | None = None
    metric_after: float | None = None

    @property
    def in_words(self) -> str:
        """The limit, how near it is, and what lies beyond."""
        of = "fall of " if self.metric_before is not None else ""
        figures = ""
        if self.metric_before is not None and self.metric_after is not None:
            figures = f" ({self.metric_before:.4g} dense, {self.metric_after:.4g} pruned)"
        beyond = [trial for trial in self.trials if trial.ratio > self.ratio]
        nearest = min(beyond, key=lambda trial: trial.ratio, default=None)
        more = "" if nearest is None else f"; at ratio {nearest.ratio:.3g} {_beyond(nearest)}"
        on = f", on {self.on}" if self.on else ""
        return (
            f"largest share within the limit: ratio {self.ratio:.3g}, {of}{self.measure} {self.loss:.3g} of at most "
            f"{self.max_loss:g}{figures}{on}{more}; {len(self.trials)} ratios tried"
        )


def _beyond(trial: LimitTrial) -> str:
    return "nothing can be made" if trial.loss is None else f"it is {trial.loss:.3g}"


def loss_of(outputs: Mapping[str, Mapping[str, float]], distance: str | None) -> tuple[str, float]:
    """The figure that is limited, by name, and its value: of the output that is furthest off.

    Args:
        distance: which; by default kl, where an output has it.

    Raises:
        UsageError: no output has that figure, or none was compared.
    """
    if not outputs:
        raise UsageError("max_loss: no output was compared, so no loss can be limited; give a metric")
    chosen = distance or ("kl" if any("kl" in figures for figures in outputs.values()) else "relative_l2")
    values = [figures[chosen] for figures in outputs.values() if chosen in figures]
    if not values:
        raise UsageError(
            f"distance {chosen!r}: no output gives probabilities or may give logits; limit relative_l2, or a metric"
        )
    return chosen, max(values)
