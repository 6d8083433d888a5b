"""What a model loses at equal time: cut for time, and cut for FLOPs with widths of the hardware and without.

    python tests/benchmarks/equal_time.py [TASK ...] [--share 0.6] [--rows FILE.jsonl] [--table FILE.md]

Each task of ../shared/eval is pruned with its calibration samples on one thread: once for a share of the dense time
(`of="latency"`), and for FLOPs with `align=16` and `align=1` at two ratios each. The time of every result is measured
beside the dense model; the loss of the plans for FLOPs at the time of the plan for latency is read off the line through
their two points, in the logarithm of the loss. Where neither is so fast, what the faster one loses is less than a plan
of that time would, and the ratio is at most what the row says; where both are faster, there is no ratio.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import pipeline, profiling  # noqa: E402
from spa.record import Profile  # noqa: E402
from tests.benchmarks.latency import measured  # noqa: E402
from tests.benchmarks.rows import Row, Rows, answer, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED  # noqa: E402

TASKS = ("lite0", "fmnist_resnet", "ocr_rec")
RATIOS = {"16": (0.0, 0.06), "1": (0.15, 0.3)}
"""How much more of the FLOPs goes than of the time, in the two plans for FLOPs: what no time comes of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--share", type=float, default=0.65)
    parser.add_argument("--rows", type=Path, default=Path("equal_time.jsonl"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*json.loads(arguments.one))))
        return
    rows = Rows(arguments.rows, "task", "plan")
    sys.path.insert(0, str(SHARED / "eval"))
    for task in arguments.tasks:
        for plan in plans(arguments.share):
            if {"task": task, "plan": plan} in rows:
                continue
            row, why = answer(__file__, ["--one", json.dumps([task, plan])])
            if row is None:
                print(task, plan, why, file=sys.stderr)
                continue
            print(json.dumps(rows.add(row)), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def plans(share: float) -> list[Row]:
    """What is asked for: time, and FLOPs with two aligns at two ratios each."""
    flops = [
        {"of": "flops", "align": int(align), "ratio": round(1 - share + more, 3)}
        for align, found in RATIOS.items()
        for more in found
    ]
    return [{"of": "latency", "ratio": round(1 - share, 3)}, *flops]


def one(task: str, plan: Row) -> Row:
    """The time and the loss of one plan."""
    sys.path.insert(0, str(SHARED / "eval"))
    import harness
    import tasks

    dense = harness.dense_model(tasks.TASKS[task], SHARED / "eval")
    samples = tasks.calibration(task)
    shapes = {name: (1, *array.shape[1:]) for name, array in samples.items()}
    profile = _profile(task, dense, shapes)
    options = {**plan, "data": samples, **({"profile": profile} if plan["of"] == "latency" else {})}
    start = time.perf_counter()
    result = pipeline.prune(dense, verify=False, **options)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        result.save(path)
        row = harness.evaluate(tasks.TASKS[task], path, reference=dense, threads=1)
    metric = next(iter(row["metrics"]))
    return {
        "task": task, "plan": plan, "time": measured(pipeline.load_normal(dense), result.model, profile),
        "loss": next(iter(row["fidelity"].values())), "metric": row["metrics"][metric],
        "dense": row["reference"]["metrics"][metric], "seconds": seconds, "commit": commit(),
        "flops": result.report.removed_share("flops"),
    }  # fmt: skip


def _profile(task: str, dense: Path, shapes: Any) -> Profile:
    """The task's profile on one thread, taken once."""
    path = Path(tempfile.gettempdir()) / f"equal_time.{task}.json"
    if path.exists():
        return Profile.from_json(path.read_text())
    found = profiling.profile(dense, threads=1, inputs=shapes)
    path.write_text(found.to_json())
    return found


def at_time(rows: list[Row], when: float) -> tuple[float, bool] | None:
    """The loss of plans for FLOPs at a time, and whether it is known only that it is no less; None: all are faster."""
    known = sorted(rows, key=lambda row: row["time"])
    if not known or known[-1]["time"] < when:
        return None
    if known[0]["time"] >= when:
        return known[0]["loss"], known[0]["time"] > when
    first, second = known[0], known[-1]
    share = (when - first["time"]) / (second["time"] - first["time"])
    return first["loss"] ** (1 - share) * second["loss"] ** share, False


def table(rows: list[Row]) -> str:
    lines = [
        "| task | plan | time x | loss | metric (dense) | FLOPs gone | loss of FLOPs plans at this time | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios: dict[int, list[float]] = {16: [], 1: []}
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        for row in mine:
            said = []
            if row["plan"]["of"] == "latency":
                for align, found in ratios.items():
                    others = [other for other in mine if other["plan"].get("align") == align]
                    there = at_time(others, row["time"])
                    if there is not None:
                        loss, bound = there
                        if not bound:
                            found.append(row["loss"] / loss)
                        how = "at most" if bound else "ratio"
                        said.append(f"align {align}: {loss:.4g} ({how} {row['loss'] / loss:.2f})")
            plan = " ".join(f"{key}={value}" for key, value in row["plan"].items())
            lines.append(
                f"| {task} | {plan} | {row['time']:.3f} | {row['loss']:.4g} | {row['metric']:.4g} ({row['dense']:.4g}) "
                f"| {row['flops']:.1%} | {'; '.join(said)} | {row['commit']} |"
            )
    means = [
        f"against align {align}: geometric mean {math.exp(sum(map(math.log, found)) / len(found)):.2f} of {len(found)}"
        for align, found in ratios.items()
        if found
    ]
    body = "\n".join(lines)
    summary = "; ".join(means) or "no plan for FLOPs was as fast as the plan for latency: there are bounds alone"
    return f"# Loss at equal time\n\n`python tests/benchmarks/equal_time.py`\n\n{body}\n\n{summary}\n"


if __name__ == "__main__":
    main()
