"""What a search for a better allocation brings: the loss with it over that without.

    python tests/benchmarks/search.py [TASK ...] [--cuts 0.3 0.5] [--search 100r] [--align auto] [--rows FILE.jsonl]

Each task of ../shared/eval is pruned with its calibration samples, once without and once with `search`; the loss is
the task's fidelity on its test samples, which neither has seen.
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

from tests.benchmarks.rows import Row, Rows, answer, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

TASKS = ("fmnist_resnet", "fmnist_vit", "crepe_tiny", "nsnet2", "lite0", "ocr_rec")
CELL = ("task", "cut", "search", "align")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--cuts", type=float, nargs="*", default=[0.3, 0.5])
    parser.add_argument("--search", default="100r")
    parser.add_argument("--align", default="auto")
    parser.add_argument("--rows", type=Path, default=Path("search.jsonl"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(json.loads(arguments.one))))
        return
    rows = Rows(arguments.rows, *CELL)
    cells = (
        {"task": task, "cut": cut, "search": how, "align": arguments.align}
        for task in arguments.tasks
        for cut in arguments.cuts
        for how in (None, arguments.search)
    )
    for cell in rows.left(cells):
        row, why = answer(__file__, ["--one", json.dumps(cell)])
        if row is None:
            print(cell, why, file=sys.stderr)
            continue
        print(json.dumps(rows.add(row)), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def one(cell: Row) -> Row:
    """The loss of one prune."""
    find_tasks()
    import harness
    import tasks

    import spa

    task = tasks.TASKS[cell["task"]]
    dense = harness.dense_model(task, SHARED / "eval")
    align = cell["align"] if cell["align"] == "auto" else int(cell["align"])
    options: dict[str, Any] = {"of": "flops", "ratio": cell["cut"], "align": align, "search": cell["search"]}
    start = time.perf_counter()
    result = spa.prune(dense, data=tasks.calibration(cell["task"]), verify=False, **options)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        result.save(path)
        row = harness.evaluate(task, path, reference=dense, threads=1)
    metric = next(iter(row["metrics"]))
    return cell | {
        "loss": next(iter(row["fidelity"].values())), "metric": row["metrics"][metric], "seconds": round(seconds, 1),
        "note": next((note for note in result.report.notes if note.startswith("searched ")), ""), "commit": commit(),
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """A line for each search, beside what was pruned without."""
    lines = [
        "`python tests/benchmarks/search.py`: losses on test samples; seconds on a machine that did other work",
        "",
        "| task | cut | align | loss | with search | ratio | metric | with search | seconds | what was said | commit |",
        "|---|--:|---|--:|--:|--:|--:|--:|---|---|---|",
    ]
    for row in rows:
        plain = [r for r in rows if r["search"] is None and all(r[k] == row[k] for k in ("task", "cut", "align"))]
        if row["search"] is None or not plain:
            continue
        (before,) = plain
        lines.append(
            f"| {row['task']} | {row['cut']:.0%} | {row['align']} | {before['loss']:.4g} | {row['loss']:.4g} | "
            f"{row['loss'] / before['loss']:.2f} | {before['metric']:.4g} | {row['metric']:.4g} | "
            f"{before['seconds']:.0f}, {row['seconds']:.0f} | {row['note']} | {row['commit']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
