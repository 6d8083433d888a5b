"""Whole branches beside widths.

    python tests/benchmarks/depth.py fmnist_vit --cuts 0.3 --rows depth.jsonl --table depth.md
    python tests/benchmarks/depth.py fmnist_resnet smollm2 --of latency --cuts 0.35 --rows depth.jsonl
    python tests/benchmarks/depth.py smollm2 --of params --cuts 0.2 0.3 --rows depth.jsonl

The same share of a network's FLOPs, of its layers' parameters, or of its time on one thread, goes by widths alone, by
branches and widths in one choice, by branches alone with what comes behind refitted, and by the same branches taken out
and nothing else. The time of each result is measured by turns with the dense network's, where a share of it was asked
for: the profile is taken once and kept among temporary files, so that one foretells all ways. Networks, samples,
metrics: ../shared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import pipeline  # noqa: E402
from spa.analysis.group import DEPTH  # noqa: E402
from spa.analysis.plan import Plan  # noqa: E402
from tests.benchmarks.equal_time import profile_of  # noqa: E402
from tests.benchmarks.latency import measured  # noqa: E402
from tests.benchmarks.repair import share_of_layers  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {
    "widths": {},
    "widths and branches": {"include": [DEPTH]},
    "branches": {"include": [DEPTH], "only": [DEPTH]},
    "branches, not refitted": {"include": [DEPTH], "only": [DEPTH]},
}


def main() -> None:
    """Measure what is not in the rows, and print the table."""
    parser = argparse.ArgumentParser(
        prog="depth.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=["fmnist_vit", "fmnist_resnet"])
    parser.add_argument("--cuts", nargs="*", type=float, default=[0.3, 0.5])
    parser.add_argument(
        "--of", choices=["flops", "params", "latency"], default="flops", help="what the cuts are shares of"
    )
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    find_tasks()
    rows = Rows(arguments.rows, "task", "cut", "way", "of")
    for task in arguments.tasks:
        for cut in arguments.cuts:
            for way in arguments.ways:
                question = {"task": task, "cut": cut, "way": way}
                question |= {} if arguments.of == "flops" else {"of": arguments.of}
                if question not in rows:
                    rows.add(question | row_of(task, cut, way, arguments.of))
    said = table(rows.all)
    sys.stdout.write(said)
    if arguments.table is not None:
        arguments.table.write_text(said)


def row_of(task: str, cut: float, way: str, of: str) -> dict[str, Any]:
    """One network, cut one way."""
    import harness
    import tasks

    dense, samples = harness.dense_model(tasks.TASKS[task], SHARED / "eval"), tasks.calibration(task)
    options: dict[str, Any] = {"ratio": cut, "of": of, "data": samples, "verify": False}
    if of == "params":
        options["ratio"] = cut * share_of_layers(dense)
    if of == "latency":
        profile = profile_of(task, dense, {name: (1, *array.shape[1:]) for name, array in samples.items()})
        options |= {"profile": profile, "threads": 1}
    start = time.perf_counter()
    result = pipeline.prune(dense, **options, **WAYS[way])
    seconds = time.perf_counter() - start
    report = result.report
    if way.endswith("not refitted"):
        result = pipeline.apply_plan(dense, Plan(result.plan.removed, result.plan.sizes))
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "pruned.onnx")
        row = harness.evaluate(tasks.TASKS[task], Path(folder) / "pruned.onnx", reference=dense)
    (metric, value), (measure, loss) = next(iter(row["metrics"].items())), next(iter(row["fidelity"].items()))
    branches = sum(name.endswith(":branch") for name in result.plan.removed)
    timed = of == "latency"
    timing = {"time": round(measured(pipeline.load_normal(dense), result.model, profile), 4)} if timed else {}
    return timing | {
        "gone": round(report.removed_share("flops" if of == "latency" else of), 4), "branches": branches,
        "metric": metric, "value": round(value, 4), "measure": measure, "loss": float(f"{loss:.4g}"),
        "seconds": round(seconds), "commit": commit(),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = ["| network | asked | gone | time x | way | branches | metric | fidelity | s | commit |"]
    head.append("|---" * 10 + "|")
    lines = [
        f"| {row['task']} | {row['cut']:.0%} of {row.get('of', 'flops')} | {row['gone']:.1%} | {row.get('time', '')} | "
        f"{row['way']} | {row['branches']} | "
        f"{row['metric']} {row['value']} | {row['measure']} {row['loss']} | {row['seconds']} | {row['commit']} |"
        for row in rows
    ]
    return "\n".join([*head, *lines]) + "\n"


if __name__ == "__main__":
    main()
