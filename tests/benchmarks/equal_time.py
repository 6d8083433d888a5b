"""What a model loses at equal time: cut for time, and cut for FLOPs with widths of the hardware and without.

    python tests/benchmarks/equal_time.py [TASK ...] [--share 0.6] [--rows FILE.jsonl] [--table FILE.md]

Each task of ../shared/eval is pruned with its calibration samples on one thread: once for a share of the dense time
(`of="latency"`), and for FLOPs with `align=16` and `align=1`, at ratios that come nearer to the time of the first plan
until one is faster and one is not, at most four each. The time of every result is measured beside the dense model; the
loss of the plans for FLOPs at the time of the plan for latency is read off the line through the two next to it, in the
logarithm of the loss. Where none is so fast, what the fastest loses is less than a plan of that time would, and the
ratio is at most what the row says; where all are faster, there is no ratio.
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
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

TASKS = ("lite0", "fmnist_resnet", "fmnist_vit", "crepe_tiny", "nsnet2", "ocr_rec")
FIRST = {16: 0.03, 1: 0.2}
"""By align, how much more of the FLOPs goes than of the time in the first plan for FLOPs: what no time comes of."""
MOST = 4
"""Plans for FLOPs with one align."""
LARGEST, STEP = 0.9, 0.02
"""Ratios, and how far they lie apart at least."""


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
    find_tasks()
    for task in arguments.tasks:
        fast = answered(rows, task, {"of": "latency", "ratio": round(1 - arguments.share, 3)})
        if fast is None:
            continue
        for align in FIRST:
            mine = [row for row in rows.all if row["task"] == task and row["plan"].get("align") == align]
            while (ratio := next_ratio(mine, fast["time"], align)) is not None:
                row = answered(rows, task, {"of": "flops", "align": align, "ratio": ratio})
                if row is None:
                    break
                mine.append(row)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def answered(rows: Rows, task: str, plan: Row) -> Row | None:
    """The row of a plan, measured in a process of its own where it is not known; None: nothing came of it."""
    known = rows.get({"task": task, "plan": plan})
    if known is not None:
        return known
    row, why = answer(__file__, ["--one", json.dumps([task, plan])])
    if row is None:
        print(task, plan, why, file=sys.stderr)
        return None
    print(json.dumps(rows.add(row)), flush=True)
    return row


def next_ratio(rows: list[Row], when: float, align: int) -> float | None:
    """The share of the FLOPs by which a plan comes nearer to a time; None: enough is known."""
    if not rows:
        return round(1 - when + FIRST[align], 3)
    slower, faster = ([row for row in rows if (row["time"] > when) == after] for after in (True, False))
    if len(rows) >= MOST or (slower and faster):
        return None
    nearest = min(rows, key=lambda row: abs(row["time"] - when))
    ratio, aim = nearest["plan"]["ratio"], when * (0.98 if slower else 1.02)  # to its other side
    exponent = min(max(math.log(nearest["time"]) / math.log(1 - ratio), 0.3), 2.0)
    there = 1 - aim ** (1 / exponent)
    there = max(there, ratio + STEP) if slower else min(there, ratio - STEP)
    there = round(min(max(there, STEP), LARGEST), 3)
    return None if any(row["plan"]["ratio"] == there for row in rows) else there


def one(task: str, plan: Row) -> Row:
    """The time and the loss of one plan."""
    find_tasks()
    import harness
    import tasks

    dense = harness.dense_model(tasks.TASKS[task], SHARED / "eval")
    samples = tasks.calibration(task)
    shapes = {name: (1, *array.shape[1:]) for name, array in samples.items()}
    profile = profile_of(task, dense, shapes)
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


def profile_of(task: str, dense: Path, shapes: Any) -> Profile:
    """The profile of a task's network on one thread, taken once."""
    path = Path(tempfile.gettempdir()) / f"equal_time.{task}.json"
    if path.exists():
        return Profile.from_json(path.read_text())
    profile = profiling.profile(dense, threads=1, inputs=shapes)
    path.write_text(profile.to_json())
    return profile


def at_time(rows: list[Row], when: float) -> tuple[float, bool] | None:
    """The loss of plans for FLOPs at a time, and whether it is known only that it is no less; None: all are faster."""
    known = sorted(rows, key=lambda row: row["time"])
    if not known or known[-1]["time"] < when:
        return None
    if known[0]["time"] >= when:
        return known[0]["loss"], known[0]["time"] > when
    first = max((row for row in known if row["time"] < when), key=lambda row: row["time"])
    second = min((row for row in known if row["time"] >= when), key=lambda row: row["time"])
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
                for align, quotients in ratios.items():
                    others = [other for other in mine if other["plan"].get("align") == align]
                    there = at_time(others, row["time"])
                    if there is not None:
                        loss, bound = there
                        if not bound:
                            quotients.append(row["loss"] / loss)
                        how = "at most" if bound else "ratio"
                        said.append(f"align {align}: {loss:.4g} ({how} {row['loss'] / loss:.2f})")
            plan = " ".join(f"{key}={value}" for key, value in row["plan"].items())
            lines.append(
                f"| {task} | {plan} | {row['time']:.3f} | {row['loss']:.4g} | {row['metric']:.4g} ({row['dense']:.4g}) "
                f"| {row['flops']:.1%} | {'; '.join(said)} | {row['commit']} |"
            )
    means = [
        f"against align {align}: geometric mean {math.exp(sum(map(math.log, quotients)) / len(quotients)):.2f} "
        f"of {len(quotients)}"
        for align, quotients in ratios.items()
        if quotients
    ]
    body = "\n".join(lines)
    summary = "; ".join(means) or "no plan for FLOPs was as fast as the plan for latency: there are bounds alone"
    return f"# Loss at equal time\n\n`python tests/benchmarks/equal_time.py`\n\n{body}\n\n{summary}\n"


if __name__ == "__main__":
    main()
