"""What a sweep costs beside as many prunes, and how far its points are from them.

    python tests/benchmarks/sharing.py [TASK ...] [--ratios 0.1:0.7] [--preset default] [--table FILE.md]

Each task's network is pruned to every ratio of its FLOPs with the task's calibration samples: once by `spa.sweep`, and
once ratio by ratio by `spa.prune`, in turn in one process. Seconds are wall time on one thread, without checks, writing
and timing of the results. KL (or relative L2) is that of the report, on samples held out; the two differ where losses
were measured at other shares of a group. The networks and samples are those of ../shared/eval beside the project.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

import spa  # noqa: E402
from spa.ratios import ratios_of  # noqa: E402
from tests.benchmarks.rows import commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

TASKS = ("fmnist_resnet", "fmnist_vit", "lite0")
MODELS = SHARED / "eval" / "models"
COLUMNS = ("task", "ratios", "one prune s", "all prunes s", "sweep s", "of which shared s", "sweep / prunes",
           "distance", "of the prunes", "of the sweep", "commit")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--ratios", type=ratios_of, default=ratios_of("0.1:0.7"))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if not MODELS.is_dir():
        sys.exit(f"no {MODELS}: set SPA_SHARED to the folder that holds eval")
    print(" | ".join(COLUMNS), flush=True)
    rows = []
    for task in arguments.tasks:
        rows.append(row(task, arguments.ratios, arguments.preset))
        print(" | ".join(rows[-1]), flush=True)
    if arguments.table:
        arguments.table.write_text(table(rows, arguments.preset), encoding="utf-8")


def row(task: str, ratios: tuple[float, ...], preset: str) -> list[str]:
    """The cells of one network."""
    model, samples = MODELS / f"{task}.onnx", calibration(task)
    given: dict[str, Any] = {"of": "flops", "data": samples, "preset": preset, "verify": False}
    start = time.perf_counter()
    swept = spa.sweep(model, ratios=ratios, seconds=0, **given)
    together = time.perf_counter() - start
    seconds, distances = [], []
    measure = "kl" if swept.points[0].figure("kl") is not None else "relative_l2"
    for ratio in ratios:
        start = time.perf_counter()
        alone = spa.prune(model, ratio=ratio, **given)
        seconds.append(time.perf_counter() - start)
        distances.append(max(figures[measure] for figures in alone.report.outputs.values()))
    ours = [point.figure(measure) or 0.0 for point in swept.points]
    apart = sum(seconds)
    times = [f"{value:.1f}" for value in (float(np.median(seconds)), apart, together, swept.shared_seconds)]
    figures = [" ".join(f"{value:.2g}" for value in values) for values in (distances, ours)]
    return [task, " ".join(map(str, ratios)), *times, f"{together / apart:.2f}", measure, *figures, commit()]


def calibration(task: str) -> dict[str, np.ndarray]:
    """The task's samples, which no metric is measured on."""
    find_tasks()
    import tasks  # beside the project

    return dict(tasks.TASKS[task].calibration())


def table(rows: list[list[str]], preset: str) -> str:
    """The table of a run."""
    lines = [
        f"`python tests/benchmarks/sharing.py`: {COLUMNS[4]} beside as many prunes; preset {preset}, one thread.", "",
        f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *(f"| {' | '.join(cells)} |" for cells in rows),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
