"""A detector of text that no task of ../shared/eval has, given nothing but a ratio: how far its maps move on pages.

    python tests/benchmarks/text_detector.py DETECTOR.onnx [--cuts 0.2 0.3 0.5] [--rows FILE.jsonl] [--table FILE.md]

The file is PP-OCRv4's detector, ch_PP-OCRv4_det_infer.onnx of the package rapidocr-onnxruntime 1.4.4 (2.3 million
parameters), or another that takes standardised pictures of any size and gives one map. It loses a share of its FLOPs by
default and with `--weights`; relative L2 of the map over the rendered pages of ../shared/eval's task craft, cut to
multiples of 32. Seconds are those of the prune with its checks.
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
from spa import runtime  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402
from tests.benchmarks.zoo import find_tasks  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {"default": {}, "weights": {"weights": True}}
COLUMNS = ("model", "cut", "way", "relative_l2", "said", "seconds", "repair", "commit")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("detector", type=Path)
    parser.add_argument("--cuts", type=float, nargs="*", default=[0.2, 0.3, 0.5])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, "model", "cut", "way")
    for cut in arguments.cuts:
        for way in WAYS:
            question = {"model": arguments.detector.name, "cut": cut, "way": way}
            if question not in rows:
                print(json.dumps(rows.add(question | measured(arguments.detector, cut, way))), flush=True)
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def measured(detector: Path, cut: float, way: str) -> dict[str, Any]:
    """A row: how far the map is from the dense one, on pages and as the report says."""
    start = time.perf_counter()
    result = spa.prune(detector, ratio=cut, of="flops", **WAYS[way])
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        result.save(small := Path(folder) / "small.onnx")
        sessions = [runtime.session(path, optimize=True) for path in (detector, small)]
        (name,) = (value.name for value in sessions[0].get_inputs())
        error, sums, squares, count = 0.0, 0.0, 0.0, 0
        for page in pages():
            dense, pruned = (next(iter(runtime.run(session, {name: page}).values())) for session in sessions)
            error += float(np.sum((pruned - dense) ** 2, dtype=np.float64))
            sums, squares = sums + float(dense.sum(dtype=np.float64)), squares + float(np.sum(dense.astype(float) ** 2))
            count += dense.size
    said = [round(off["relative_l2"], 4) for off in result.report.outputs.values()]
    return {
        "relative_l2": round((error / (squares - sums**2 / count)) ** 0.5, 4), "said": max(said, default=None),
        "seconds": round(seconds, 1), "repair": result.plan.repair, "commit": commit(),
    }  # fmt: skip


def pages() -> list[np.ndarray]:
    """The task's pages, (1, 3, height, width)."""
    find_tasks()
    import tasks

    whole = [next(iter(feed.values())) for feed, _ in tasks.TASKS["craft"].batches()]
    return [page[..., : page.shape[2] // 32 * 32, : page.shape[3] // 32 * 32] for page in whole]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each row."""
    lines = [
        "`python tests/benchmarks/text_detector.py ch_PP-OCRv4_det_infer.onnx`: relative L2 of the map on pages",
        "",
    ]
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
