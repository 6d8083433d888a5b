"""Every graph of the zoo as a torch module: its outputs beside onnxruntime's, and whether gradients reach its weights.

    python tests/benchmarks/gradients.py [PATTERN ...] [--rows FILE.jsonl] [--table FILE.md]

Needs torch. Rows that FILE.jsonl has are not measured again, so that a run that was stopped goes on. A row: the largest
difference of an output from onnxruntime's, relative to the output's largest value; how many parameters a gradient
reaches from the mean square of all outputs; seconds of building, forward and backward on one thread. Graphs that draw
random numbers cannot be compared, and onnxruntime does not run every graph: such rows say so. The graphs are looked for
in ../shared beside the project; `SPA_SHARED` names another place.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import runtime  # noqa: E402
from spa.errors import SpaError  # noqa: E402
from spa.frontends.files import onnx_file  # noqa: E402
from tests.benchmarks import zoo  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402

CLOSE, CLOSE_IN_HALF = 1e-4, 2e-2
SMALL = 2
"""Random whole numbers stay below this, so that they index any table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--rows", type=Path, default=Path("gradients.jsonl"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    names = [name for name in sorted(zoo.manifest()) if any(fnmatch.fnmatch(name, p) for p in arguments.patterns)]
    known = Rows(arguments.rows, "graph")
    for question in known.left({"graph": name} for name in names):
        cells = [*row_of(question["graph"]), commit()]
        known.add(question | {"cells": cells})
        print(" | ".join(cells), flush=True)
    rows = [known.known[known.key({"graph": name})]["cells"] for name in names]
    close = sum(is_close(row[1], half="fp16" in row[0]) for row in rows)
    compared = sum(row[1][:1].isdigit() or row[1] in ("inf", "nan") for row in rows)
    failed = sum(row[1].startswith("torch:") for row in rows)
    limits = f"{CLOSE:g} (half precision: {CLOSE_IN_HALF:g})"
    line = f"{close} of {compared + failed} graphs that onnxruntime runs agree to {limits}; {len(rows)} in all"
    print(line)
    if arguments.table:
        head = "| graph | difference | gradients | seconds | commit |\n|---|--:|--:|--:|---|\n"
        lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        arguments.table.write_text(f"`python tests/benchmarks/gradients.py`\n\n{line}\n\n{head}{lines}")


def is_close(difference: str, *, half: bool) -> bool:
    return difference[:1].isdigit() and float(difference) <= (CLOSE_IN_HALF if half else CLOSE)


def row_of(name: str) -> tuple[str, str, str, str]:
    """(graph, difference or why there is none, parameters reached, seconds)."""
    import torch

    from spa.gradients.module import torch_module

    torch.set_num_threads(1)
    entry = zoo.manifest()[name]
    if any(operator.startswith("Random") for operator in entry["ops"]):
        return name, "draws random numbers", "", ""
    model = onnx_file.load(zoo.filled(zoo.SHARED / "graphs" / name))
    try:
        feeds, expected = reference(model, entry)
    except SpaError as error:
        return name, f"onnxruntime: {str(error)[:100]}", "", ""
    start = time.perf_counter()
    try:
        module = torch_module(model)
        made = module.outputs(feeds)
        floats = [x for x in made.values() if isinstance(x, torch.Tensor) and x.requires_grad]
        if floats:
            sum(x.float().square().mean() for x in floats).backward()
    except SpaError as error:
        return name, f"torch: {str(error)[:100]}", "", ""
    seconds = time.perf_counter() - start
    parameters = list(module.parameters())
    reached = sum(parameter.grad is not None for parameter in parameters)
    worst = max((difference(expected[key], made[key]) for key in expected), default=0.0)
    return name, f"{worst:.1e}", f"{reached}/{len(parameters)}", f"{seconds:.1f}"


def reference(model: Any, entry: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Feeds, and what onnxruntime makes of them."""
    shapes = {k: v["run_shape"] for k, v in entry["inputs"].items() if v.get("run_shape") is not None}
    session = runtime.session(model, optimize=False)
    feeds = dict(runtime.random_feeds(session, shapes=shapes, seed=0, high=dict.fromkeys(shapes, SMALL)))
    for key, value in entry["inputs"].items():
        if key in feeds and value.get("values") in ("ones", "zeros"):
            feeds[key] = getattr(np, value["values"])(feeds[key].shape, feeds[key].dtype)
    return feeds, dict(runtime.run(session, feeds))


def difference(expected: Any, made: Any) -> float:
    """The largest difference, relative to the largest finite value; for integers the share that differs."""
    if not isinstance(expected, np.ndarray):
        return 0.0
    actual = made.detach().float().numpy() if made.is_floating_point() else made.numpy()
    if actual.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind not in "fV":
        return float(np.mean(actual != expected)) if actual.size else 0.0
    wide = expected.astype(np.float64)
    there = np.isfinite(wide)
    scale = float(np.abs(wide[there]).max(initial=0.0)) or 1.0
    return float(np.abs(np.where(there, wide - actual, 0.0)).max(initial=0.0)) / scale


if __name__ == "__main__":
    main()
