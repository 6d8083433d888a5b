"""Score units by a criterion, named or of your own; the units with the lowest scores go.

A criterion is a function of all groups and a `Context`; it returns for each group an array (units,). A criterion that
needs data brings them along itself (an object that can be called). A criterion of your own::

    def spread(groups: Sequence[Group], context: Context) -> list[np.ndarray]:
        return [context.gathered(group, lambda piece, units: context.norms(piece, units, power=2)) for group in groups]

    spa.prune("net.onnx", ratio=0.3, criterion=spread)        # in Python
    spa prune net.onnx --ratio 30% --criterion my_module:spread  # at the command line
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spa.analysis.group import Group
from spa.errors import ModelError, UsageError
from spa.fields import did_you_mean
from spa.passes.choose.importance.gather import GATHERS, NORMALISATIONS, ROLES, Context, Criterion, Tensors, normalised
from spa.passes.choose.importance.scoring import DEFAULT_GATHER, DEFAULT_NORMALISE, DEFAULT_ROLES, Scoring
from spa.passes.choose.importance.weights import CRITERIA, is_self_scaled, random

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

DEFAULT_CRITERION = "l2"


def score_groups(
    groups: Sequence[Group],
    criterion: str | Criterion | None = None,
    scoring: Scoring | None = None,
    *,
    notes: list[str] | None = None,
) -> list[np.ndarray]:
    """Score the units of all groups; what is higher is kept.

    Args:
        groups: of one model, whose units are scored.
        criterion: a name from `CRITERIA`, or a criterion; l2 unless told.
        scoring: how its numbers are put together. Scores of criteria of your own, and of those whose scores have a
            scale of their own (lamp, bn_scale, random), are not divided unless asked for.
        notes: filled with what a user should know of the scores.

    Returns:
        For each group an array (units,) of finite float64.

    Raises:
        UsageError: there is no such criterion, or it returns something else than an array (units,) for each group.
        ModelError: a score is not finite, or a tensor that is scored holds NaN or infinite values.
    """
    scoring = scoring or Scoring()
    criterion = criterion or DEFAULT_CRITERION
    if isinstance(criterion, str):
        check_criterion(criterion)
    function = CRITERIA[criterion] if isinstance(criterion, str) else criterion
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__qualname__", type(criterion).__qualname__)
    unscaled = "none" if not isinstance(criterion, str) or is_self_scaled(criterion) else DEFAULT_NORMALISE
    context = Context(
        Tensors(groups),
        gather=scoring.gather or DEFAULT_GATHER,
        roles=scoring.roles or DEFAULT_ROLES,
        notes=[] if notes is None else notes,
    )
    scores = _checked(function(groups, context), groups, name)
    how = scoring.normalise or unscaled
    depth = [number for number, group in enumerate(groups) if group.branch is not None]
    together = normalised(np.concatenate([scores[number] for number in depth]), how) if depth else np.zeros(0)
    scaled = [normalised(each, how) for each in scores]
    for at, number in enumerate(depth):  # the residual branches compete with each other, one unit each
        scaled[number] = together[at : at + 1]
    return scaled


def _checked(scores: Sequence[np.ndarray], groups: Sequence[Group], name: str) -> list[np.ndarray]:
    """What a criterion returned, as float64, if it is what was asked for.

    Raises:
        UsageError: it is not an array (units,) of numbers for each group.
        ModelError: a score is not finite.
    """
    try:
        arrays = [np.asarray(array, np.float64) for array in scores]
    except (TypeError, ValueError) as error:
        raise UsageError(f"criterion {name}: expected an array of numbers for each group ({error})") from error
    if len(arrays) != len(groups):
        raise UsageError(f"criterion {name}: expected an array for each of {len(groups)} groups, found {len(arrays)}")
    for group, array in zip(groups, arrays, strict=True):
        if array.shape != (group.size,):
            raise UsageError(
                f"criterion {name}: expected scores of shape ({group.size},) for group {group.name!r}, "
                f"found {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ModelError(f"criterion {name}: the scores of group {group.name!r} are not finite")
    return arrays


def check_criterion(name: str) -> None:
    """Raise UsageError where no criterion has that name."""
    if name not in CRITERIA:
        raise UsageError(f"criterion {name!r}: expected one of {', '.join(CRITERIA)}{did_you_mean(name, CRITERIA)}")
