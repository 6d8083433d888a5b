"""How the scores of weights are put together: ``Scoring(gather="mean", roles="producers")``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from spa.fields import Options, about
from spa.passes.choose.importance.gather import GATHERS, NORMALISATIONS, ROLES

DEFAULT_GATHER = "sum"
DEFAULT_ROLES = "both"
DEFAULT_NORMALISE = "max"
"""The least damaging of those tried on six pretrained models: tests/benchmarks/defaults.py and its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring(Options):
    """How a unit's tensors make one score, and the scores of groups become comparable.

    Raises:
        UsageError: there is no such way to gather or to normalise, or there are no such roles.
    """

    PANEL: ClassVar[str] = "Scores and learning, such as --gather mean, or --labels classes"

    gather: str | None = field(
        default=None,
        metadata=about(
            "how a unit's tensors make one score",
            metavar="NAME",
            choices=GATHERS,
            unset=DEFAULT_GATHER,
            needs=("weights",),
        ),
    )
    roles: str | None = field(
        default=None,
        metadata=about(
            "which tensors of a unit count",
            metavar="NAME",
            choices=ROLES,
            unset=DEFAULT_ROLES,
            needs=("weights", "gradients"),
        ),
    )
    normalise: str | None = field(
        default=None,
        metadata=about(
            "what a group's scores are divided by",
            metavar="NAME",
            choices=NORMALISATIONS,
            unset=f"{DEFAULT_NORMALISE}; none where a criterion's scores have a scale of their own",
            needs=("weights", "gradients"),
        ),
    )
