"""Which defaults of `spa prune` damage real models least: criterion, gathering, roles, normalisation, scope.

    python tests/benchmarks/defaults.py [--tasks fmnist_resnet ...] [--first] [--rows FILE.jsonl] [--table FILE.md]

Six pretrained models are pruned by weights alone, nothing is repaired, and their outputs on unlabelled calibration
samples (never the test samples) are compared with the dense model's: KL divergence or relative L2.  Coarse to
fine: first normalisation and scope, then gathering and roles for the best two of these, then criteria for the
best three of these, on one budget; last the best settings and the first guess on six budgets.  A
setting's loss is the geometric mean, over models and budgets, of its distance relative to the smallest that any
setting of its round reached there: 1 is best everywhere.  With --rows a run that was stopped goes on where it was.
The tasks are looked for in ../shared/eval beside the project; `SPA_SHARED` names another place for ../shared.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import spa  # noqa: E402
from spa import pipeline  # noqa: E402
from spa.errors import BudgetError  # noqa: E402
from spa.passes.choose.budget import SCOPES  # noqa: E402
from spa.passes.choose.importance import CRITERIA, GATHERS, NORMALISATIONS, ROLES, Scoring, score_groups  # noqa: E402
from spa.passes.choose.selection import select  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

SAMPLES = {"fmnist_resnet": 128, "fmnist_vit": 128, "lite0": 12, "ocr_rec": 8, "crepe_tiny": 128, "nsnet2": 8}
"""Calibration samples of each task, evenly spaced."""
BRITTLE = {"lite0": 0.2, "ocr_rec": 0.2}
"""Models that a tenth destroys whatever is chosen: their ratios are this much smaller."""
SCREENING = (("params", 0.1),)
CONFIRMING = tuple(itertools.product(("params", "flops"), (0.05, 0.1, 0.2)))


class Setting(NamedTuple):
    """One way to choose units."""

    criterion: str = "l2"
    gather: str = "l2"
    roles: str = "both"
    normalise: str = "mean"
    scope: str = "global"

    def __str__(self) -> str:
        shown = self._replace(normalise="-") if self.scope == "local" else self
        return " ".join(shown)


class Budget(NamedTuple):
    """A task and what its model loses."""

    task: str
    of: str
    ratio: float


def budget_of(task: str, of: str, ratio: float) -> Budget:
    return Budget(task, of, round(ratio * BRITTLE.get(task, 1.0), 6))


Losses = dict[tuple[Setting, Budget], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=SAMPLES, default=list(SAMPLES), help="models; by default all six")
    parser.add_argument("--first", action="store_true", help="stop after the first round")
    parser.add_argument("--rows", type=Path, help="keep each measurement here, and use those that are there")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    find_tasks()
    bench = Bench(arguments.rows)
    first = Setting()
    text = ""

    def round_of(title: str, settings: Iterable[Setting], budgets: Iterable[tuple[str, float]]) -> list[Setting]:
        nonlocal text
        settings = list(dict.fromkeys(settings))
        losses = bench.measure(settings, [budget_of(task, *b) for task in arguments.tasks for b in budgets])
        ranked, lines = ranking(settings, losses)
        text += f"## {title}\n\n{lines}\n"
        print(f"{title}\n{lines}", flush=True)
        return ranked

    best = round_of("Normalisation and scope", scopes(first), SCREENING)
    if arguments.first:
        return
    better = [s._replace(gather=g, roles=r) for s in best[:2] for g, r in itertools.product(GATHERS, ROLES)]
    best = round_of("Gathering and roles", better, SCREENING)
    better = [s._replace(criterion=c) for s in best[:3] for c in CRITERIA]
    better += [s._replace(criterion=c, normalise="none") for s in best[:3] for c in ("lamp", "bn_scale", "random")]
    best = round_of("Criteria", better, SCREENING)
    round_of("Confirmation", [*best[:6], first, Setting(criterion="random", scope="local")], CONFIRMING)
    if arguments.table:
        arguments.table.write_text(f"`python tests/benchmarks/defaults.py`\n\n{legend()}\n{text}")


def scopes(setting: Setting) -> list[Setting]:
    """Every normalisation and scope; with the scope local, the normalisation changes nothing."""
    pairs = itertools.product(NORMALISATIONS, [scope for scope in SCOPES if scope != "local"])
    return [*(setting._replace(normalise=n, scope=s) for n, s in pairs), setting._replace(scope="local")]


# ------------------------------------------------------------------------------------------------- measuring
class Bench:
    """Measures settings, each once."""

    def __init__(self, rows: Path | None) -> None:
        find_tasks()
        self.rows = rows
        self.known: Losses = {}
        self.of_plan: dict[tuple[str, str], float] = {}
        if rows is not None and rows.exists():
            for line in rows.read_text().splitlines():
                setting, budget, loss = json.loads(line)
                self.known[Setting(*setting), Budget(*budget)] = loss

    def measure(self, settings: Iterable[Setting], budgets: Iterable[Budget]) -> Losses:
        """The distance from the dense model for each setting and budget; infinite where a budget cannot be met."""
        losses: Losses = {}
        for key in itertools.product(settings, budgets):
            if key not in self.known:
                self.known[key] = self.loss(*key)
                if self.rows is not None:
                    with self.rows.open("a") as file:
                        file.write(json.dumps([*key, self.known[key]]) + "\n")
            losses[key] = self.known[key]
        return losses

    def loss(self, setting: Setting, budget: Budget) -> float:
        analysis = pipeline.analyse(dense(budget.task).clone())
        scoring = Scoring(gather=setting.gather, roles=setting.roles, normalise=setting.normalise)
        scores = score_groups(analysis.groups, setting.criterion, scoring)
        share = spa.Budget(ratio=budget.ratio, of=budget.of, scope=setting.scope)
        try:
            plan = select(analysis.groups, scores, analysis.cost, share).plan
        except BudgetError:
            return float("inf")
        name = hashlib.sha256(plan.to_json().encode()).hexdigest()
        if (budget.task, name) not in self.of_plan:
            pipeline.cut(analysis, plan)
            self.of_plan[budget.task, name] = distance(budget.task, analysis.model)
        return self.of_plan[budget.task, name]


@lru_cache
def dense(task: str) -> ir.Model:
    import tasks

    return pipeline.load_normal(SHARED / "eval" / "models" / tasks.TASKS[task].model)


@lru_cache
def samples(task: str) -> dict[str, np.ndarray]:
    """Calibration samples, evenly spaced."""
    import tasks

    everything = tasks.calibration(task)
    return {name: array[:: len(array) // SAMPLES[task]][: SAMPLES[task]] for name, array in everything.items()}


@lru_cache
def expected(task: str) -> list[np.ndarray]:
    return outputs(dense(task), samples(task))


def outputs(model: ir.Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feed)


def distance(task: str, model: ir.Model) -> float:
    """The task's own fidelity measure between the dense and the pruned model, the mean over samples."""
    import tasks

    _, compare = tasks.TASKS[task].fidelity
    return float(np.mean(compare(expected(task), outputs(model, samples(task)), None)))


# -------------------------------------------------------------------------------------------------- printing
def ranking(settings: list[Setting], losses: Losses) -> tuple[list[Setting], str]:
    """The settings, best first, and a table of them."""
    budgets = list(dict.fromkeys(budget for _, budget in losses))
    logs = np.array([[relative(setting, budget, settings, losses) for budget in budgets] for setting in settings])
    order = np.argsort(logs.mean(axis=1), kind="stable")
    tasks = list(SAMPLES)
    columns = ("criterion gather roles normalise scope", "loss", *tasks, "not met")
    lines = [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 1)]
    for at in order:
        mine = [np.exp(logs[at, [b.task == task for b in budgets]].mean()) for task in tasks]
        missed = sum(not np.isfinite(losses[settings[at], budget]) for budget in budgets)
        cells = [str(settings[at]), *(f"{value:.2f}" for value in (np.exp(logs[at].mean()), *mine)), str(missed)]
        lines.append(f"| {' | '.join(cells)} |")
    return [settings[at] for at in order], "\n".join(lines) + "\n"


def relative(setting: Setting, budget: Budget, settings: list[Setting], losses: Losses) -> float:
    """log(loss / smallest loss of the round); a budget that is not met counts as the worst of the round."""
    row = [losses[other, budget] for other in settings]
    finite = [loss for loss in row if np.isfinite(loss)]
    if not finite:
        return 0.0
    mine = losses[setting, budget]
    return float(np.log(max(mine if np.isfinite(mine) else max(finite), 1e-9) / max(min(finite), 1e-9)))


def legend() -> str:
    counts = ", ".join(f"{task} {count}" for task, count in SAMPLES.items())
    screening, confirming = (", ".join(f"{ratio:g} of {of}" for of, ratio in b) for b in (SCREENING, CONFIRMING))
    return (
        f"Calibration samples: {counts}. Budget: {screening}; in the last round {confirming}; a fifth of that for "
        f"{' and '.join(BRITTLE)}, which a tenth destroys whatever is chosen.\n"
        "Loss: geometric mean of the distance from the dense model's outputs relative to the best of the round.\n"
    )


if __name__ == "__main__":
    main()
