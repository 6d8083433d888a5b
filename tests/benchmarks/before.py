"""Pruning before training: accuracy of a network that was cut at initialisation, with the controls of the literature.

    python tests/benchmarks/before.py [--cuts 0.9] [--ways snip uniform ...] [--seeds 0 1 2] [--epochs 10]
        [--images 60000] [--rows FILE.jsonl] [--table FILE.md]

fmnist_resnet with weights drawn anew loses a share of its parameters, then learns the labels of Fashion-MNIST
(`spa.train`); the 10,000 test images are looked at once, for the row. A seed draws weights, units and order.

| way | what goes |
|---|---|
| snip, grasp, crop, synflow | by that criterion; the first three with the labels of 1,024 training images |
| spa | what the readers of a unit lose on these images, refitted: our allocation at initialisation |
| uniform | the same share of every group, by l2 |
| random | units drawn at random, of all groups |
| shuffled | as many of each group as snip chose, drawn at random |
| dense | nothing |

Needs torch. Rows that FILE.jsonl has are not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import spa  # noqa: E402
from spa import gradients, pipeline  # noqa: E402
from tests.benchmarks.recovery import TASK, training  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

CONTROLS = {"uniform": "l2", "random": "l2", "shuffled": "snip"}
"""And the criterion whose choice each is held against."""

WAYS = ("snip", "grasp", "crop", "synflow", "spa", *CONTROLS, "dense")
CELL = ("way", "cut", "epochs", "images", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cuts", type=float, nargs="*", default=[0.5, 0.75, 0.9])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rows", type=Path, default=Path("before.jsonl"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, *CELL)
    for seed in arguments.seeds:
        for cut in arguments.cuts:
            for way in arguments.ways:
                cell = {"way": way, "cut": cut if way != "dense" else 0.0, "epochs": arguments.epochs,
                        "images": arguments.images, "seed": seed}  # fmt: skip
                if cell not in rows:
                    print(json.dumps(rows.add(measured(cell))), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """A row: test accuracy, what went, and what it took."""
    find_tasks()
    import harness
    import tasks
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    analysis = pipeline.analyse(pipeline.load_normal(harness.dense_model(tasks.TASKS[TASK], SHARED / "eval")))
    gradients.restart(analysis.coupling, seed=cell["seed"])
    way, images = cell["way"], training(cell["images"])
    options: dict[str, Any] = {} if way == "dense" else {"prune": CONTROLS.get(way, way), "ratio": cell["cut"]}
    options |= {"control": way} if way in CONTROLS else {}
    trained = spa.train(
        analysis.model, data=dict(zip(("image", "labels"), images, strict=True)), epochs=cell["epochs"],
        seed=cell["seed"], **options,
    )  # fmt: skip
    before, after = analysis.cost, pipeline.analyse(pipeline.load_normal(trained.model)).cost
    with tempfile.TemporaryDirectory() as folder:
        trained.save(path := Path(folder) / "trained.onnx")
        scores = harness.evaluate(tasks.TASKS[TASK], path, threads=1)
    removed = {name: round(1 - after.of(name) / before.of(name), 4) for name in ("params", "flops")}
    return cell | {
        "removed": removed, "top1": scores["metrics"]["top1"], "seconds": round(time.perf_counter() - start, 1),
        "tree": commit(),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each cut and way: mean and standard error over the seeds."""
    lines = [
        "`python tests/benchmarks/before.py`: top-1 on the 10,000 test images, mean and standard error over seeds", "",
        "| cut | way | params, FLOPs removed | images | epochs | seeds | top-1 | error | trees |",
        "|--:|---|---|--:|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    groups = dict.fromkeys((row["cut"], row["way"], row["images"], row["epochs"]) for row in rows)
    for cut, way, images, epochs in sorted(groups, key=lambda g: (g[0], g[2], g[3], WAYS.index(g[1]))):
        mine = [r for r in rows if (r["cut"], r["way"], r["images"], r["epochs"]) == (cut, way, images, epochs)]
        top1 = np.array([row["top1"] for row in mine])
        error = f"{top1.std(ddof=1) / len(top1) ** 0.5:.4f}" if len(top1) > 1 else ""
        shares = ", ".join(f"{np.mean([row['removed'][name] for row in mine]):.1%}" for name in ("params", "flops"))
        trees = ", ".join(sorted({row["tree"] for row in mine}))
        lines.append(
            f"| {cut:.0%} | {way} | {shares} | {images:,} | {epochs} | {len(mine)} | {top1.mean():.4f} | {error} "
            f"| {trees} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
