"""Points of a sweep on the workers of a cluster, each a piece of work: what all of them share was found out before."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from spa.errors import SpaError
from spa.executor import Shared as Lying
from spa.options import PruneOptions
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.twins import Laid, Parcel, lay, opened, packed, read
from spa.pipeline import prune_shared
from spa.result import PruneResult
from spa.shared import Shared


@dataclass(frozen=True, slots=True)
class _Task:
    """One ratio.

    Attributes:
        common: the dense model, and with it options and what is known, packed.
    """

    common: Lying[tuple[Laid, Parcel]]
    ratio: float


def others(
    dense: ir.Model,
    options: PruneOptions,
    shared: Shared,
    ratios: Sequence[float],
    told: Callable[[int], None],
) -> list[PruneResult | SpaError] | None:
    """The results of further ratios, or why there is none of one; None: they are to be made in this process.

    Args:
        dense: normalised; not changed.
        shared: with ratios that were made before.
        told: called with the number that are done.
    """
    executor, known = shared.executor, dict(shared.known)
    sessions = [entry.session for entry in known.values() if isinstance(entry, Groundwork)]
    if executor is None or not executor.remote or not sessions or any(session.twins is None for session in sessions):
        return None
    try:
        parcel = packed((options, tuple(shared.ratios), known), sessions)
    except (pickle.PicklingError, TypeError, AttributeError):  # a generator as data, a lambda as criterion
        return None
    common = executor.share((lay(dense), parcel))
    nbytes = 4 * sum(
        value.const_value.nbytes for value in dense.graph.initializers.values() if value.const_value is not None
    )
    tasks = [_Task(common, ratio) for ratio in ratios]
    results = executor.map(point, tasks, nbytes=nbytes, what="a ratio of the sweep", told=told)
    return [made if isinstance(made, SpaError) else _result(*made, dense) for made in results]


def point(task: _Task) -> SpaError | tuple[Laid, Any, Any]:
    """The model, the plan and the report of a ratio; or why there is none."""
    laid, parcel = task.common.get()
    options, ratios, known = opened(parcel)
    budget = replace(options.budget, ratio=task.ratio)
    try:
        result = prune_shared(read(laid), replace(options, budget=budget), Shared(ratios, known=known), progress=None)
    except SpaError as error:
        return error
    return lay(result.model), result.plan, result.report


def _result(laid: Laid, plan: Any, report: Any, dense: ir.Model) -> PruneResult:
    return PruneResult(read(laid), plan, report, dense, dense)
