"""Every graph of the zoo pruned by weights alone, and what verification says of it; `zoo.py` asks an oracle besides.

    python tests/benchmarks/verdicts.py [PATTERN ...] [--ratio 0.3] [--rows FILE] [--seconds 470] [--table FILE.md]

The smallest graphs come first; each is filled with seeded weights and pruned in a process forked for it. Rows that are
in the file already are not measured again, so that a run may be stopped and gone on with. The graphs are looked for in
../shared beside the project; `SPA_SHARED` names another place.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from queue import Empty
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks import zoo  # noqa: E402
from tests.benchmarks.rows import commit  # noqa: E402

TIMEOUT = 120
BEFORE = Path(__file__).parent / "zoo_params.md"
COLUMNS = ("graph", "commit", "params", "verdict", "difference", "seconds", "missing, or why not")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin with no graph after that")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if not (zoo.SHARED / "graphs" / "manifest.json").exists():
        sys.exit(f"no zoo at {zoo.SHARED.name}/graphs: set SPA_SHARED to the folder that holds graphs/ and tools/")
    entries = zoo.manifest()
    names = [name for name in entries if any(fnmatch.fnmatch(name, pattern) for pattern in arguments.patterns)]
    lines = arguments.rows.read_text().splitlines() if arguments.rows and arguments.rows.exists() else []
    rows = {row["graph"]: row for row in map(json.loads, lines)}
    stop = time.monotonic() + arguments.seconds
    for name in sorted(names, key=lambda name: (entries[name]["params"], name)):
        if name in rows or time.monotonic() > stop:
            continue
        rows[name] = measured(name, arguments.ratio)
        print(" | ".join(cells(rows[name])), flush=True)
        if arguments.rows:
            with arguments.rows.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
    done = [rows[name] for name in sorted(names) if name in rows]
    print(summary(done, len(names)))
    if arguments.table:
        arguments.table.write_text(table(done, len(names), arguments))


def measured(name: str, ratio: float) -> dict[str, Any]:
    """The row of a graph, from a process of its own."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(row(name, ratio)))
    process.start()
    try:
        result: dict[str, Any] = queue.get(timeout=TIMEOUT)
    except Empty:
        result = {"status": "failed", "reason": f"no result in {TIMEOUT} s"}
    process.kill()
    process.join()
    return {"graph": name, "commit": commit(), **result}


def row(name: str, ratio: float) -> dict[str, Any]:
    from spa import pipeline
    from spa.errors import NothingToPrune, SpaError

    entry = zoo.manifest()[name]
    inputs = {key: value["run_shape"] for key, value in entry["inputs"].items() if value.get("run_shape") is not None}
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        zoo.fill(str(zoo.SHARED / "graphs" / name), str(dense))
        start = time.perf_counter()
        try:
            result = pipeline.prune(dense, ratio=ratio, align=1, inputs=inputs, weights=True)
        except NothingToPrune as error:
            return {"status": "nothing to prune", "reason": str(error)[:200]}
        except SpaError as error:
            return {"status": type(error).__name__, "reason": str(error)[:200]}
        except Exception as error:  # noqa: BLE001 - what no user should see
            return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:200]}
    report = result.report
    return {
        "status": report.status,
        "removed": round(report.removed_share("params"), 4),
        "difference": report.difference,
        "seconds": round(time.perf_counter() - start, 1),
        "reason": "; ".join(report.missing)[:200],
        "resized": len(report.resized),
    }


def cells(entry: dict[str, Any]) -> list[str]:
    removed = f"{entry['removed']:.1%}" if "removed" in entry else ""
    difference = "" if entry.get("difference") is None else f"{entry['difference']:.0e}"
    seconds = str(entry.get("seconds", ""))
    return [entry["graph"], entry["commit"], removed, entry["status"], difference, seconds, entry["reason"]]


def summary(rows: Sequence[dict[str, Any]], total: int) -> str:
    """Counts, and the graphs that were pruned when `zoo_params.md` was written and are not now."""
    counts = ", ".join(f"{count} {status}" for status, count in Counter(row["status"] for row in rows).most_common())
    worked = {
        line.split("|")[1].strip()
        for line in BEFORE.read_text().splitlines()
        if line.startswith("| ") and line.split("|")[6].strip().endswith("%")
    }
    pruned = {row["graph"] for row in rows if "removed" in row}
    lost = [row["graph"] for row in rows if row["graph"] in worked and row["graph"] not in pruned]
    gained = [row["graph"] for row in rows if row["graph"] not in worked and row["graph"] in pruned]
    return (
        f"{len(rows)} of {total} graphs: {counts}\n"
        f"pruned before and not now: {', '.join(lost) or 'none'}; now and not before: {', '.join(gained) or 'none'}"
    )


def table(rows: Sequence[dict[str, Any]], total: int, arguments: argparse.Namespace) -> str:
    patterns = "" if arguments.patterns == ["*"] else " ".join(arguments.patterns) + " "
    lines = [
        f"`python tests/benchmarks/verdicts.py {patterns}--ratio {arguments.ratio}`, with `align=1, weights=True`",
        "",
    ]
    lines += [f"- {line}" for line in summary(rows, total).splitlines()]
    lines += ["", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
