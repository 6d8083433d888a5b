"""Prune by as much as keeps a loss within a limit: ``spa.prune("net.onnx", max_loss=0.01)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from spa import runtime
from spa.clock import Clock, Progress, within
from spa.executor import Executor
from spa.judging import Jury, metric_of
from spa.largest import largest
from spa.limit import LOSSES, LimitReport, LimitTrial, loss_of
from spa.options import PruneOptions
from spa.result import PruneResult
from spa.shared import Shared
from spa.steps import Normal, Source, load_normal

SEARCHED = (0.1, 0.3, 0.6)
"""Ratios near which losses are measured where the share is searched for."""


def prune_within(
    prune: Callable[..., PruneResult],
    source: Source | Normal,
    options: PruneOptions,
    progress: Progress | None,
    executor: Executor,
) -> PruneResult:
    """Prune by as much as keeps the loss within the limit, and say how near it is.

    Args:
        prune: makes the result of one ratio.
        executor: what does the work.

    Raises:
        BudgetError: no share does; says the smallest loss that was reached.
    """
    limit = options.limit
    assert limit.max_loss is not None
    runtime.require()
    dense = load_normal(source)
    closed, clock = isinstance(source, Normal) and source.closed, Clock(progress)
    with clock.step("judge"):
        jury = Jury.of(dense, options, limit, outputs=limit.metric is None)
    shared = Shared(SEARCHED, executor=executor)
    measure, metrics = "", {}

    def made(ratio: float, *, verify: bool, final: bool) -> PruneResult:
        chosen = options.at(ratio)
        chosen = replace(chosen, run=replace(chosen.run, verify=verify))
        asked = {**options.asked(), "ratio": ratio}
        step = within(progress, f"ratio {ratio:.3g}: ")
        return prune(Normal(dense.clone(), closed=closed), chosen, step, shared, asked=asked, final=final)

    def attempt(ratio: float) -> tuple[float, None]:
        nonlocal measure
        trial = made(ratio, verify=False, final=False)
        if jury.metric is not None and jury.dense_metric is not None:
            measure, metrics[ratio] = jury.metric.name, metric_of(trial.model, jury.metric)
            return jury.metric.worse_by(jury.dense_metric, metrics[ratio]), None
        measure, loss = loss_of(jury.outputs(trial)[0], limit.distance)
        return loss, None

    best = largest(attempt, limit.max_loss)
    result = made(best.ratio, verify=options.run.verify and not options.run.dry_run, final=True)
    if jury.judge is not None:
        result.report.outputs, result.report.outputs_on = jury.outputs(result)
    trials = [LimitTrial(trial.ratio, trial.loss, metrics.get(trial.ratio), trial.said) for trial in best.trials]
    result.report.limit = LimitReport(
        limit.max_loss, LOSSES.get(measure, measure), best.ratio, best.loss, jury.said, trials, jury.dense_metric,
        metrics.get(best.ratio),
    )  # fmt: skip
    result.report.notes.insert(0, result.report.limit.in_words)
    return result
