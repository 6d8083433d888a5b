"""Training vectors alone against training every weight: what each recovers after a cut, its time and its memory.

    python tests/benchmarks/perp.py [TASK ...] [--cut 0.5] [--ways ours l2] [--epochs 10] [--rows FILE.jsonl]
        [--table FILE.md]

Each network loses a share of its FLOPs, by spa with the task's calibration samples (`ours`) or by l2, then learns with
`spa.finetune` on one thread: every weight, or biases, norms and scales (PERP, Zimmer et al. 2023). fmnist_resnet learns
the labels of 20,000 training images, the others the dense outputs on their calibration samples. Memory is what the
learning takes beyond what the process held before. Fidelity and metric are the task's, on its test samples; recovered:
of the fidelity that is lost after the cut. Needs torch and Linux.
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
from tests.benchmarks.distil import scored  # noqa: E402
from tests.benchmarks.recovery import TASK, training  # noqa: E402
from tests.benchmarks.rows import Rows, answer, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

TASKS = (TASK, "fmnist_vit", "lite0", "ocr_rec", "crepe_tiny")
WAYS = ("ours", "l2")
VECTORS = ("biases", "norms", "scales")
CELL = ("task", "cut", "way", "epochs", "train")
IMAGES = 20_000
HEAD = (
    "task", "cut", "by", "epochs", "fidelity", "cut", "all", "vectors", "metric: dense, cut, all, vectors",
    "recovered, vectors / all", "trained", "time", "memory", "trees",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--cut", type=float, default=0.5)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=Path, default=Path("perp.jsonl"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--learn", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.learn:
        print(json.dumps(learned(**json.loads(arguments.learn))))
        return
    rows = Rows(arguments.rows, *CELL)
    for task in arguments.tasks:
        for way in arguments.ways:
            for train in ((), VECTORS):
                cell = {"task": task, "cut": arguments.cut, "way": way, "epochs": arguments.epochs, "train": [*train]}
                if cell not in rows:
                    print(json.dumps(rows.add(cell | measured(**cell))), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def measured(task: str, cut: float, way: str, epochs: int, train: list[str]) -> dict[str, Any]:
    """A row: fidelity and metric before and after, and what the learning took."""
    find_tasks()
    import harness
    import tasks

    dense = harness.dense_model(tasks.TASKS[task], SHARED / "eval")
    chosen: dict[str, Any] = {"data": tasks.calibration(task)} if way == "ours" else {"weights": True}
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / f"{when}.onnx" for when in ("before", "after"))
        spa.prune(dense, ratio=cut, of="flops", verify=False, **chosen).save(before)
        asked = {"task": task, "before": str(before), "after": str(after), "epochs": epochs, "train": train}
        took, failed = answer(__file__, ["--learn", json.dumps(asked)])
        if failed:
            sys.exit(f"{task} by {way}: {failed}")
        scores = scored(task, dense, before, after)
    return scores | took | {"tree": commit()}


def learned(task: str, before: str, after: str, epochs: int, train: list[str]) -> dict[str, Any]:
    """Train a file in this process: seconds, MB at the most beyond what it held, and what was trained."""
    find_tasks()
    import harness
    import tasks
    import torch

    from spa.gradients import placing  # noqa: F401  (loads what a training needs)

    torch.set_num_threads(1)
    given: dict[str, Any] = {"teacher": harness.dense_model(tasks.TASKS[task], SHARED / "eval")}
    given |= {"data": tasks.calibration(task)}
    if task == TASK:
        images, labels = training(IMAGES)
        given = {"data": {"image": images, "labels": labels}, "labels": "labels", "batch_size": 128}
    held, start = _memory("VmRSS", restart=True), time.perf_counter()
    tuned = spa.finetune(before, epochs=epochs, train=train, alone=True, **given)
    took = {"seconds": round(time.perf_counter() - start, 1), "mb": _memory("VmHWM") - held}
    tuned.save(after)
    return took | {"trained": round(tuned.report.trained, 5), "rate": tuned.report.learning_rate}


def _memory(name: str, *, restart: bool = False) -> int:
    """MB of an entry of this process's status; `restart`: the peak counts from here."""
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) // 1024


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each network and cut: vectors beside all weights."""
    lines = [
        "`python tests/benchmarks/perp.py`: test samples; every weight, then biases, norms and scales alone", "",
        f"| {' | '.join(HEAD)} |",
        "|---|--:|---|--:|---|--:|--:|--:|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    whole = {json.dumps([row[name] for name in CELL[:-1]]): row for row in rows if not row["train"]}
    for part in rows:
        full = whole.get(json.dumps([part[name] for name in CELL[:-1]]))
        if full is None or not part["train"]:
            continue
        gains = [row["before"] - row["after"] for row in (full, part)]
        metric = part["metric"]
        metrics = (part["dense"], part[f"{metric} before"], full[f"{metric} after"], part[f"{metric} after"])
        cells = [
            part["task"], f"{part['cut']:.0%}", part["way"], str(part["epochs"]), part["fidelity"],
            *(f"{number:.4g}" for number in (part["before"], full["after"], part["after"])),
            f"{metric}: {', '.join(f'{number:.4f}' for number in metrics)}",
            f"{gains[1] / gains[0]:.2f}" if gains[0] > 0 else "nothing to recover", f"{part['trained']:.2%}",
            f"{part['seconds'] / full['seconds']:.2f}", f"{part['mb'] / max(full['mb'], 1):.2f}",
            ", ".join(sorted({full["tree"], part["tree"]})),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
