"""Times of graphs as they come in and in the form that pruning writes: what is not cut must not get slower.

    python tests/benchmarks/normal.py [PATTERN ...] [--seconds 2] [--rows FILE.jsonl] [--table FILE.md]

Each graph of the zoo is filled with seeded weights, normalised, and both run by turns on one thread, on the processor's
own clock. A ratio counts as slower beyond `SLOWER`; such rows are timed once more, for four times as long.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import sys
import tempfile
from pathlib import Path

import onnx

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks.rows import Row, Rows, answer, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, filled, manifest  # noqa: E402

SLOWER = 1.05
TIMEOUT = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rows", type=Path, default=Path("normal.jsonl"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.seconds)))
        return
    names = [n for n in sorted(manifest()) if any(fnmatch.fnmatch(n, p) for p in arguments.patterns)]
    rows = Rows(arguments.rows, "graph")
    for question in rows.left({"graph": name} for name in names):
        words = ["--one", question["graph"], "--seconds", str(arguments.seconds)]
        row, why = answer(__file__, words, timeout=TIMEOUT)
        row = rows.add(question | ({"why": why} if row is None else row) | {"commit": commit()})
        print(json.dumps(row), flush=True)
    print(table(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def one(name: str, seconds: float) -> Row:
    """Milliseconds of the graph as it is, and the ratio of the normal form's to it."""
    import onnx_ir as ir

    import spa
    from spa.passes.normalize.normalize import normalize

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{form}.onnx" for form in ("given", "normal")]
        onnx.save(filled(SHARED / "graphs" / name), files[0])
        ir.save(normalize(ir.load(files[0])), files[1])
        inputs = {k: v["run_shape"] for k, v in manifest()[name]["inputs"].items() if v.get("run_shape") is not None}
        report = spa.bench(files, threads=1, seconds=seconds, inputs=inputs)
        if report.comparison is not None and report.comparison.interval[0] > SLOWER:
            report = spa.bench(files, threads=1, seconds=4 * seconds, inputs=inputs)
    assert report.comparison is not None
    low, high = report.comparison.interval
    return {
        "ms": round(report.rows[0].milliseconds, 3), "ratio": round(report.comparison.ratio, 3),
        "interval": [round(low, 3), round(high, 3)],
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """The slower ones, and a summary of all."""
    timed = [row for row in rows if "ratio" in row]
    slower = sorted((row for row in timed if row["interval"][0] > SLOWER), key=lambda row: -row["ratio"])
    faster = sum(row["interval"][1] < 1 / SLOWER for row in timed)
    median = statistics.median(row["ratio"] for row in timed)
    said = (
        f"`python tests/benchmarks/normal.py`: {len(timed)} graphs timed, {len(rows) - len(timed)} not; the "
        f"normal form takes {median:.3f} of the time (median); {len(slower)} are slower by more than {SLOWER - 1:.0%}, "
        f"{faster} faster"
    )
    lines = [
        said,
        "",
        "| graph | ms | normal form | 95 % | commit |",
        "|---|--:|--:|---|---|",
        *(
            f"| {row['graph']} | {row['ms']:.3g} | x{row['ratio']:.2f} | {row['interval'][0]:.2f} to "
            f"{row['interval'][1]:.2f} | {row['commit']} |"
            for row in slower
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
