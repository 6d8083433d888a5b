"""Accuracy of a pruned network after some epochs of training, with controls: what a choice of units is worth.

    python tests/benchmarks/recovery.py [--cuts 0.5 0.75 0.9] [--epochs 0 1 3 10] [--ways ours l2 ...] [--seeds 0]
        [--files NAME=FILE.onnx ...] [--trained NAME=EPOCHS ...]
        [--images 60000] [--rows FILE.jsonl] [--work FOLDER] [--table FILE.md]

fmnist_resnet, cut by a share of its FLOPs, then trained by labels (`distilled`: by the dense model's outputs) with
`spa.finetune` on training images of Fashion-MNIST, of which it holds one in six out; the 10,000 test images are
looked at once, for the row. Every number of epochs is a run of its own, with its own schedule of the learning rate.

| way | what goes |
|---|---|
| ours | chosen and refitted by spa with the task's 512 calibration samples |
| distilled | the same, then the dense model's outputs are learned, without labels |
| both | the same, then labels and the dense model's outputs are learned together |
| l2, taylor | by that criterion; taylor with the labels of 1,024 training images |
| random | units drawn at random, as many of each group as ours |
| uniform | the same share of every group, by l2 |
| NAME | what another tool left of it, in FILE.onnx with `{cut}` for the cut (`peers.py` makes some) |

A NAME of --trained is the file of a tool that trained the network itself, for so many epochs: it is measured as it is,
and has that one column.

Needs torch. Rows that FILE.jsonl has are not measured again; a run that was stopped goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import spa  # noqa: E402
from spa import pipeline  # noqa: E402
from spa.analysis.plan import Plan  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

TASK = "fmnist_resnet"
WAYS = ("ours", "distilled", "both", "l2", "taylor", "random", "uniform")
CUTS, EPOCHS = (0.5, 0.75, 0.9), (0, 1, 3, 10)
BATCH, RATE = 128, 2e-3
CELL = ("way", "cut", "epochs", "seed", "images")
SCORED = 1024
"""Images that taylor takes gradients of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cuts", type=float, nargs="*", default=CUTS)
    parser.add_argument("--epochs", type=int, nargs="*", default=EPOCHS)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--files", nargs="*", default=[])
    parser.add_argument("--trained", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rows", type=Path, default=Path("recovery.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("recovery"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(exist_ok=True)
    rows = Rows(arguments.rows, *CELL)
    files = dict(given.split("=", 1) for given in arguments.files)
    trained = {name: int(epochs) for name, epochs in (given.split("=", 1) for given in arguments.trained)}
    for epochs in arguments.epochs:
        for cut in arguments.cuts:
            for way in (*arguments.ways, *files):
                if way in files and not Path(files[way].format(cut=cut)).exists():
                    print(f"{way} at {cut:.0%}: no file, left out", file=sys.stderr)
                    continue
                if trained.get(way, epochs) != epochs:
                    continue
                for seed in arguments.seeds:
                    cell = {"way": way, "cut": cut, "epochs": epochs, "seed": seed, "images": arguments.images}
                    if cell not in rows:
                        row = measured(cell, arguments.work, files, tune=way not in trained)
                        print(json.dumps(rows.add(row)), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def measured(cell: dict[str, Any], work: Path, files: dict[str, str], *, tune: bool = True) -> dict[str, Any]:
    """A row: test accuracy, and what it took.

    Args:
        files: by the way's name, what other tools left of the network.
        tune: whether the epochs are still to be trained.
    """
    find_tasks()
    import harness
    import tasks

    start = time.perf_counter()
    dense = harness.dense_model(tasks.TASKS[TASK], SHARED / "eval")
    if cell["way"] in files:
        pruned = Path(files[cell["way"]].format(cut=cell["cut"]))
        report = {"removed": removed(dense, pruned)}
    else:
        pruned, report = small(cell, dense, work)
    path = pruned
    if cell["epochs"] and tune:
        import torch

        torch.set_num_threads(1)
        path = work / f"{name_of(cell)}.onnx"
        taught, labelled = cell["way"] in ("distilled", "both"), cell["way"] != "distilled"
        images, labels = training(cell["images"])
        tuned = spa.finetune(
            pruned, teacher=dense if taught else None, labels="labels" if labelled else None,
            data={"image": images} | ({"labels": labels} if labelled else {}),
            epochs=cell["epochs"], batch_size=BATCH, learning_rate=RATE, seed=cell["seed"],
            resume=work / f"{name_of(cell)}.pt",
        )  # fmt: skip
        tuned.save(path)
    scores = harness.evaluate(tasks.TASKS[TASK], path, threads=1)
    return cell | report | {
        "top1": scores["metrics"]["top1"], "se": scores["se"], "seconds": round(time.perf_counter() - start, 1),
        "batch": BATCH, "rate": RATE, "tree": commit(),
    }  # fmt: skip


def removed(dense: Path, pruned: Path) -> dict[str, float]:
    """The shares of parameters and FLOPs by which a file is smaller."""
    before, after = (pipeline.analyse(pipeline.load_normal(path)).cost for path in (dense, pruned))
    return {measure: round(1 - after.of(measure) / before.of(measure), 4) for measure in ("params", "flops")}


def name_of(cell: dict[str, Any]) -> str:
    return "-".join(str(cell[name]) for name in CELL)


def small(cell: dict[str, Any], dense: Path, work: Path) -> tuple[Path, dict[str, Any]]:
    """The pruned file of a way, made once, and how much smaller it is."""
    way = {"distilled": "ours", "both": "ours"}.get(cell["way"], cell["way"])
    seed = cell["seed"] if way == "random" else 0
    path, notes = (work / f"{way}-{cell['cut']}-{seed}.{ending}" for ending in ("onnx", "json"))
    if not notes.exists():
        result = pruned_by(way, cell["cut"], seed, dense)
        result.save(path)
        shares = {measure: round(result.report.removed_share(measure), 4) for measure in ("params", "flops")}
        notes.write_text(json.dumps({"removed": shares}))
    return path, json.loads(notes.read_text())


def pruned_by(way: str, cut: float, seed: int, dense: Path) -> Any:
    import tasks

    options: dict[str, Any] = {"ratio": cut, "of": "flops"}
    if way in ("ours", "random"):
        options["data"] = tasks.calibration(TASK)
    elif way == "taylor":
        images, labels = training(SCORED)
        options |= {"criterion": "taylor", "data": {"image": images, "labels": labels}}
    else:
        options |= {"weights": True} | ({"scope": "local"} if way == "uniform" else {})
    result = spa.prune(dense, **options)
    if way != "random":
        return result
    random = np.random.default_rng(seed)
    plan = result.plan
    drawn = {
        name: tuple(sorted(map(int, random.choice(plan.sizes[name], len(units), replace=False))))
        for name, units in plan.removed.items()
    }
    return spa.apply_plan(dense, Plan(drawn, plan.sizes))


def training(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images as the network takes them, the first so many, with their labels."""
    import tasks

    with np.load(SHARED / "eval" / "data" / "fmnist_train.npz") as archive:
        images, labels = archive["images"][:count], archive["labels"][:count].astype(np.int64)
    return tasks.fmnist_feed(images)["image"], labels


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each way, cut and number of images; a column for each number of epochs; seeds side by side."""
    epochs = sorted({row["epochs"] for row in rows})
    lines = [
        "`python tests/benchmarks/recovery.py`: top-1 on the 10,000 test images (standard error 0.003); dense 0.9268",
        "",
        f"| cut | way | params, FLOPs removed | images | {' | '.join(f'{n} epochs' for n in epochs)} | trees |",
        f"|--:|---|---|--:|{'--:|' * len(epochs)}---|",
    ]
    groups = dict.fromkeys((row["cut"], row["way"], row["images"]) for row in rows)
    ways = list(dict.fromkeys((*WAYS, *(row["way"] for row in rows))))
    for cut, way, images in sorted(groups, key=lambda group: (group[0], group[2], ways.index(group[1]))):
        mine = [row for row in rows if (row["cut"], row["way"], row["images"]) == (cut, way, images)]
        cells = []
        for count in epochs:
            scores = [f"{row['top1']:.4f}" for row in sorted(mine, key=lambda r: r["seed"]) if row["epochs"] == count]
            cells.append(", ".join(scores))
        removed = mine[0]["removed"]
        trees = ", ".join(sorted({row["tree"] for row in mine}))
        share = f"{removed['params']:.1%}, {removed['flops']:.1%}"
        lines.append(f"| {cut:.0%} | {way} | {share} | {images:,} | {' | '.join(cells)} | {trees} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
