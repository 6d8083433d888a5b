"""How much each unit matters: criteria, and how their numbers are gathered.

A criterion is a function of all groups and a `Context`; it returns for each group an array (units,), and
what is higher is kept.  One that needs data brings them along itself (an object that can be called).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spa.analysis.group import Group
from spa.errors import ModelError, UsageError
from spa.fields import did_you_mean
from spa.passes.choose.importance.gather import GATHERS, NORMALISATIONS, ROLES, Context, Criterion, Tensors, normalised
from spa.passes.choose.importance.scoring import DEFAULT_GATHER, DEFAULT_NORMALISE, DEFAULT_ROLES, Scoring
from spa.passes.choose.importance.weights import bn_scale, fpgm, l1, l2, lamp, random

__all__ = [
    "CRITERIA",
    "GATHERS",
    "NORMALISATIONS",
    "ROLES",
    "Context",
    "Criterion",
    "Scoring",
    "Tensors",
    "random",
    "score_groups",
]

CRITERIA: Mapping[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "fpgm": fpgm,
    "lamp": lamp,
    "bn_scale": bn_scale,
    "random": random(),
}

DEFAULT_CRITERION = "l2"

SELF_SCALED = frozenset({"lamp", "bn_scale", "random"})
"""Criteria whose numbers can be compared between groups as they are: not normalised unless asked for."""


def score_groups(
    groups: Sequence[Group],
    criterion: str | Criterion | None = None,
    scoring: Scoring | None = None,
    *,
    notes: list[str] | None = None,
) -> list[np.ndarray]:
    """Score the units of all groups; what is higher is kept.

    Args:
        criterion: a name from `CRITERIA`, or a criterion; l2 unless told.
        scoring: how its numbers are put together. Criteria that need no scale (`SELF_SCALED`) are not divided unless
            asked for.
        notes: filled with what a user should know of the scores.

    Returns:
        For each group an array (units,) of finite float64.

    Raises:
        UsageError: there is no such criterion.
        ModelError: a tensor that is scored holds NaN or infinite values.
    """
    scoring = scoring or Scoring()
    criterion = criterion or DEFAULT_CRITERION
    if isinstance(criterion, str):
        check_criterion(criterion)
    function = CRITERIA[criterion] if isinstance(criterion, str) else criterion
    unscaled = "none" if criterion in SELF_SCALED or not isinstance(criterion, str) else DEFAULT_NORMALISE
    context = Context(
        Tensors(groups),
        gather=scoring.gather or DEFAULT_GATHER,
        roles=scoring.roles or DEFAULT_ROLES,
        notes=[] if notes is None else notes,
    )
    scores = [np.asarray(found, np.float64) for found in function(groups, context)]
    for group, found in zip(groups, scores, strict=True):
        if found.shape != (group.size,):
            raise ValueError(f"{criterion}: expected {group.size} scores for group {group.name!r}, found {found.shape}")
        if not np.isfinite(found).all():
            raise ModelError(f"{criterion}: the scores of group {group.name!r} are not finite")
    return [normalised(found, scoring.normalise or unscaled) for found in scores]


def check_criterion(name: str) -> None:
    """Raise UsageError where no criterion has that name."""
    if name not in CRITERIA:
        raise UsageError(f"criterion {name!r}: expected one of {', '.join(CRITERIA)}{did_you_mean(name, CRITERIA)}")
