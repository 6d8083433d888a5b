"""How much each unit matters: criteria, and how their numbers are gathered.

A criterion is a function of all groups and a `Context`; it returns for each group an array (units,), and
what is higher is kept.  One that needs data brings them along itself (an object that can be called).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from spa.analysis.group import Group
from spa.errors import ModelError, UsageError
from spa.passes.choose.importance.gather import GATHERS, NORMALISATIONS, ROLES, Context, Criterion, Tensors, normalised
from spa.passes.choose.importance.weights import bn_scale, fpgm, l1, l2, lamp, random

__all__ = [
    "CRITERIA",
    "GATHERS",
    "NORMALISATIONS",
    "ROLES",
    "Context",
    "Criterion",
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
DEFAULT_GATHER = "sum"
DEFAULT_ROLES = "both"
DEFAULT_NORMALISE = "max"
"""The least damaging of those tried on six pretrained models: tests/benchmarks/defaults.py and its table."""

SELF_SCALED = frozenset({"lamp", "bn_scale", "random"})
"""Criteria whose numbers can be compared between groups as they are: not normalised unless asked for."""


def score_groups(
    groups: Sequence[Group],
    criterion: str | Criterion = DEFAULT_CRITERION,
    *,
    gather: str | None = None,
    roles: str | None = None,
    normalise: str | None = None,
    notes: list[str] | None = None,
) -> list[np.ndarray]:
    """Score the units of all groups; what is higher is kept.

    Args:
        criterion: a name from `CRITERIA`, or a criterion; l2 unless told.
        gather: how the numbers of a unit's tensors become one: sum (unless told), mean, max or l2.
        roles: which tensors count: producers, consumers or both (unless told).
        normalise: by what the scores of a group are divided: none, mean, max (unless told), sum, or standard
            (score). Criteria that need no scale (`SELF_SCALED`) are not divided unless asked for.
        notes: filled with what a user should know of the scores.

    Returns:
        For each group an array (units,) of finite float64.

    Raises:
        UsageError: there is no such criterion or option.
        ModelError: a tensor that is scored holds NaN or infinite values.
    """
    function = CRITERIA[_one_of("criterion", criterion, tuple(CRITERIA))] if isinstance(criterion, str) else criterion
    unscaled = "none" if criterion in SELF_SCALED or not isinstance(criterion, str) else DEFAULT_NORMALISE
    how = _one_of("normalise", normalise or unscaled, NORMALISATIONS)
    context = Context(
        Tensors(groups),
        gather=_one_of("gather", gather or DEFAULT_GATHER, GATHERS),
        roles=_one_of("roles", roles or DEFAULT_ROLES, ROLES),
        notes=[] if notes is None else notes,
    )
    scores = [np.asarray(found, np.float64) for found in function(groups, context)]
    for group, found in zip(groups, scores, strict=True):
        if found.shape != (group.size,):
            raise ValueError(f"{criterion}: expected {group.size} scores for group {group.name!r}, found {found.shape}")
        if not np.isfinite(found).all():
            raise ModelError(f"{criterion}: the scores of group {group.name!r} are not finite")
    return [normalised(found, how) for found in scores]


def _one_of(option: str, found: str, choices: Sequence[str]) -> str:
    if found in choices:
        return found
    close = get_close_matches(found, choices, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"{option} {found!r}: expected one of {', '.join(choices)}{hint}")
