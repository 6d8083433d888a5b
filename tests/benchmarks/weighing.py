"""How scores of weights count against what units free: as they are, from a floor on, or divided by it.

    python tests/benchmarks/weighing.py [TASK ...] [--ratios 0.03 0.1 0.2] [--rows FILE.jsonl] [--table FILE.md]

A loss on samples is divided by the FLOPs or the milliseconds that it buys. Norms are no losses: which way does least
damage is asked here. Models of ../shared/eval are pruned by weights alone, nothing is repaired, for FLOPs and for the
time of a made-up processor that computes sixteen channels at once (so that no clock decides); their outputs on
calibration samples are compared with the dense model's, as `defaults.py` does. The mean is that of the loss over the
loss of the way that is used, geometric.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import pipeline  # noqa: E402
from spa.analysis.cost import unit_costs  # noqa: E402
from spa.passes.choose.allocation import weighed  # noqa: E402
from spa.passes.choose.budget import Budget  # noqa: E402
from spa.passes.choose.importance import score_groups  # noqa: E402
from spa.passes.choose.selection import select  # noqa: E402
from spa.passes.latency.goal import BoundGoal, Goal  # noqa: E402
from spa.steps import Analysis  # noqa: E402
from tests.benchmarks import defaults  # noqa: E402
from tests.benchmarks.rows import Row, Rows, commit  # noqa: E402
from tests.benchmarks.zoo import find_tasks  # noqa: E402
from tests.latency import devices  # noqa: E402

TASKS = ("fmnist_resnet", "fmnist_vit", "crepe_tiny", "nsnet2", "lite0")
RATIOS = (0.03, 0.1, 0.2)
BLOCK = 16
Scores = Sequence[np.ndarray]


def divided(scores: Scores, freed: np.ndarray) -> list[np.ndarray]:
    return [score / max(float(cost), 1e-30) for score, cost in zip(scores, freed, strict=True)]


def energies(scores: Scores) -> list[np.ndarray]:
    """The share of its group's squares that each unit holds."""
    return [score**2 / max(float(np.sum(score**2)), 1e-30) for score in scores]


WAYS: dict[str, Callable[[Scores, np.ndarray], Scores]] = {
    "as they are": lambda scores, _: scores,
    "divided by the root": lambda scores, freed: divided(scores, np.sqrt(freed)),
    "divided": divided,
    "shares of squares": lambda scores, _: energies(scores),
    "shares of squares, divided": lambda scores, freed: divided(energies(scores), freed),
}
USED = "from a floor on (used)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    find_tasks()
    rows = Rows(arguments.rows, "task", "of", "ratio")
    questions = [
        {"task": task, "of": of, "ratio": ratio}
        for task in arguments.tasks for of in ("latency", "flops") for ratio in arguments.ratios
    ]  # fmt: skip
    for question in rows.left(questions):
        print(" | ".join(shown(rows.add(question | {"losses": losses(**question), "commit": commit()}))), flush=True)
    print(means(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


@lru_cache
def bound(task: str) -> tuple[Analysis, BoundGoal]:
    """A task's network, and what its widths cost on the made-up processor."""
    dense = defaults.dense(task)
    analysis = pipeline.analyse(dense.clone())
    profile = devices.profile(ir.to_proto(dense), time)
    return analysis, Goal(profile, 0.5, "half", None).bound(analysis.groups, analysis.coupling, analysis.cost)


def time(operator: str, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]) -> float:
    """Milliseconds: what a convolution makes is rounded up to the block, and each call takes two thousandths."""
    if operator == "Conv":
        made, *rest = inputs[1]
        return 2e-3 + 1e-6 * math.prod(outputs[0][2:]) * (-(-made // BLOCK) * BLOCK) * math.prod(rest)
    if operator in ("GRU", "LSTM"):
        return 2e-3 + 1e-6 * inputs[0][0] * (math.prod(inputs[1]) + math.prod(inputs[2]))
    if operator in ("Gemm", "MatMul") and len(inputs) > 1:
        return 2e-3 + 1e-6 * math.prod(inputs[0]) * inputs[1][-1]
    return 2e-3 + 1e-6 * (math.prod(outputs[0]) if outputs else 0)


def losses(task: str, of: str, ratio: float) -> dict[str, float]:
    """The distance from the dense model by each way."""
    analysis, goal = bound(task)
    importances = score_groups(analysis.groups, None)
    freed = unit_costs(analysis.groups, goal.cost, of)
    budget = Budget(of=of, ratio=ratio, align="auto" if of == "latency" else 1)
    ways = {USED: weighed(importances, analysis.groups, goal.cost, of)}
    ways |= {name: list(way(importances, freed)) for name, way in WAYS.items()}
    known: dict[str, float] = {}
    lost = {}
    for name, scores in ways.items():
        device = goal.device if of == "latency" else None
        plan = select(analysis.groups, scores, goal.cost, budget, device=device).plan
        key = str(sorted(plan.removed.items()))
        if key not in known:
            small = pipeline.analyse(defaults.dense(task).clone())
            pipeline.cut(small, plan)
            known[key] = defaults.distance(task, small.model)
        lost[name] = known[key]
    return lost


def shown(row: Row) -> list[str]:
    figures = [f"{row['losses'][name]:.3g}" for name in (USED, *WAYS)]
    return [row["task"], row["of"], f"{row['ratio']:g}", *figures, row["commit"]]


def means(rows: list[Row]) -> str:
    """The geometric mean of each way's loss over that of the way that is used, by measure."""
    lines = []
    for of in dict.fromkeys(row["of"] for row in rows):
        logs = {
            name: np.mean([math.log(row["losses"][name] / row["losses"][USED]) for row in rows if row["of"] == of])
            for name in WAYS
        }
        lines.append(f"of {of}: {', '.join(f'{name} {math.exp(mean):.2f}' for name, mean in logs.items())}")
    return "; ".join(lines)


def table(rows: list[Row]) -> str:
    head = ["task", "of", "ratio", USED, *WAYS, "commit"]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *map(shown, rows))]
    how = f"`python tests/benchmarks/weighing.py {' '.join(dict.fromkeys(row['task'] for row in rows))}`"
    return f"# Scores of weights against what units free\n\n{how}\n\n" + "\n".join(lines) + f"\n\n{means(rows)}\n"


if __name__ == "__main__":
    main()
