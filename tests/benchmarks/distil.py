"""Distillation without labels after a repair: how far outputs are from the dense network's, before and after it.

    python tests/benchmarks/distil.py [TASK ...] [--cut 0.5] [--of layers] [--minutes 10] [--align 1]
        [--train biases ...] [--threads 1] [--rows FILE.jsonl] [--table FILE.md]

Each network loses a share of its FLOPs (of the parameters of its layers, as in repair.py) by spa with the task's
calibration samples, then learns the dense outputs on the same samples (`spa.finetune`, one sample in six held out).
Fidelity and metric are those of the task, on its test samples, which nothing else sees. Rows that FILE.jsonl has are
not measured again. Needs torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import spa  # noqa: E402
from tests.benchmarks.repair import share_of_layers  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

HEAD = (
    "task", "cut", "align", "minutes", "trained", "epochs", "fidelity", "repaired", "distilled", "metric", "dense",
    "repaired", "distilled", "tree",
)  # fmt: skip
TASKS = ("lite0", "nsnet2", "fmnist_vit", "crepe_tiny", "ocr_rec")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--cut", type=float, default=0.5)
    parser.add_argument("--of", choices=("flops", "layers"), default="flops")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--align", type=int, help="what widths are multiples of; by default what the processor likes")
    parser.add_argument("--train", nargs="*", default=[])
    parser.add_argument("--rows", type=Path, default=Path("distil.jsonl"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, "task", "cut", "minutes", "align", "train", "of", "threads")
    for task in arguments.tasks:
        names = ("cut", "minutes", "align", "train", "of", "threads")
        cell = {name: getattr(arguments, name) for name in names} | {"task": task}
        if cell not in rows:
            print(json.dumps(rows.add(cell | measured(**cell))), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def measured(
    task: str, cut: float, minutes: float, align: int | None, train: list[str], of: str, threads: int
) -> dict[str, Any]:
    """Of one network."""
    find_tasks()
    import harness
    import tasks
    import torch

    torch.set_num_threads(threads)
    dense = harness.dense_model(tasks.TASKS[task], SHARED / "eval")
    data = tasks.calibration(task)
    start = time.perf_counter()
    ratio, measure = (cut * share_of_layers(dense), "params") if of == "layers" else (cut, of)
    small = spa.prune(dense, ratio=ratio, of=measure, data=data, verify=False, align=align or "auto")
    between = time.perf_counter()
    tuned = spa.finetune(small.model, teacher=dense, data=data, minutes=minutes, train=train)
    end = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / f"{when}.onnx" for when in ("before", "after"))
        small.save(before)
        tuned.save(after)
        scores = scored(task, dense, before, after)
    report = tuned.report
    return scores | {
        "held_out": [report.before, report.after], "epochs": report.epochs, "trained": round(report.trained, 4),
        "seconds": [round(between - start, 1), round(end - between, 1)], "tree": commit(),
    }  # fmt: skip


def scored(task: str, dense: Path, before: Path, after: Path) -> dict[str, Any]:
    """Fidelity and metric of a task, with what they are called, before and after a training, and of the dense model."""
    import harness
    import tasks

    scores: dict[str, Any] = {}
    for when, path in (("before", before), ("after", after)):
        row = harness.evaluate(tasks.TASKS[task], path, reference=dense, threads=1)
        metric, fidelity = (next(iter(row[name])) for name in ("metrics", "fidelity"))
        scores |= {"metric": metric, "fidelity": fidelity, "dense": row["reference"]["metrics"][metric]}
        scores |= {when: row["fidelity"][fidelity], f"{metric} {when}": row["metrics"][metric]}
    return scores


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each network."""
    lines = [
        "`python tests/benchmarks/distil.py`: test samples; repair alone, then distillation without labels", "",
        f"| {' | '.join(HEAD)} |",
        "|---|--:|--:|--:|--:|--:|---|--:|--:|---|--:|--:|--:|---|",
    ]  # fmt: skip
    for row in rows:
        metric = row["metric"]
        cells = [
            row["task"], f"{row['cut']:.0%}{' of the layers' * (row['of'] == 'layers')}",
            str(row.get("align") or "auto"), f"{row['minutes']:g}",
            f"{row['trained']:.1%}", str(row["epochs"]), row["fidelity"],
            f"{row['before']:.4g}", f"{row['after']:.4g}", metric, f"{row['dense']:.4f}",
            f"{row[f'{metric} before']:.4f}", f"{row[f'{metric} after']:.4f}", row["tree"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
