"""Times asked for and times measured: networks at 70, 50 and 35 % of the dense time, on one thread and two.

    python tests/benchmarks/latency.py [MODEL ...] [--threads 1 2] [--shares 0.7 0.5 0.35] [--elsewhere]
        [--rows FILE.jsonl] [--table FILE.md]

Each network is profiled once for each number of threads (`spa.profile`); `spa.prune(of="latency", weights=True)` then
meets each share with that profile. A cell's time is measured again afterwards, by runs of the dense and the smaller
file by turns; a share below the floor of a network is no cell. How well times are foretold by themselves is measured at
settings of widths that are drawn anew (`unseen`). With `--elsewhere` a profile is read from its JSON as that of another
device, on which nothing can be timed: what it foretells decides alone, and the time is measured afterwards. Weights are
random, which no time depends on. Graphs are looked for in ../shared/graphs beside the project; the detector and BERT
are built.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import ondevice, pipeline, profiling, runtime  # noqa: E402
from spa.errors import BudgetError  # noqa: E402
from spa.passes.choose.widths import multiples  # noqa: E402
from spa.passes.latency.goal import Goal  # noqa: E402
from spa.passes.latency.variants import Settings, plan_of  # noqa: E402
from spa.record import Profile  # noqa: E402
from spa.timing import feeds_of  # noqa: E402
from spa.turns import ratio_of, undisturbed  # noqa: E402
from tests.benchmarks import zoo  # noqa: E402
from tests.benchmarks.aligned import GRAPHS as NINE  # noqa: E402
from tests.benchmarks.rows import Row, Rows, commit  # noqa: E402

GRAPHS = {
    **NINE,
    "swin_t": "swin_t.dynamo.onnx",
    "bert_6": "",
    "yolov8n": "",
}
ELSEWHERE = ", as elsewhere"
UNSEEN = 5
"""Settings drawn anew to see how well times are foretold."""
WINDOWS = 3
COLUMNS = (
    "model", "threads", "share", "dense ms", "foretold", "measured", "off", "rounds", "profile s", "whole s",
    "unseen, median", "unseen, worst", "commit",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(GRAPHS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.35])
    parser.add_argument("--unseen", type=int, default=UNSEEN)
    parser.add_argument("--elsewhere", action="store_true")
    parser.add_argument("--rows", type=Path, default=Path("latency.jsonl"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, "model", "threads", "share")
    for name in arguments.models:
        for threads in arguments.threads:
            called = name + ELSEWHERE * arguments.elsewhere
            questions = [{"model": called, "threads": threads, "share": share} for share in arguments.shares]
            left = [question["share"] for question in rows.left(questions)]
            for row in cells(name, threads, left, arguments.unseen, arguments.elsewhere) if left else ():
                print(" | ".join(shown(rows.add(row | {"model": called}))), flush=True)
    print(summary(rows.all))
    if arguments.table:
        arguments.table.write_text(table(rows.all))


def graph(name: str) -> ir.Model:
    """A network with random weights; the detector is built where no graph of it is at hand."""
    path = zoo.SHARED / "graphs" / GRAPHS[name]
    if name == "yolov8n":
        from tests.benchmarks.detector import detector

        return ir.from_proto(detector())
    if name == "bert_6":
        from tests.benchmarks.detector import bert

        return ir.from_proto(bert())
    return zoo.filled(path)


def cells(name: str, threads: int, shares: list[float], unseen: int, elsewhere: bool = False) -> Iterator[Row]:
    """The rows of one network on so many threads.

    Args:
        elsewhere: the profile is taken for that of another device.
    """
    dense = graph(name)
    start = time.perf_counter()
    profile = profiling.profile(dense, threads=threads)
    seconds = time.perf_counter() - start
    if elsewhere:
        device = replace(profile.device, processor="another device")
        profile = Profile.from_json(replace(profile, device=device).to_json())
    errors = unseen_errors(dense, profile, unseen)
    for share in shares:
        row: Row = {
            "model": name, "threads": threads, "share": share, "profile": seconds, "dense": profile.milliseconds,
            "unseen": errors, "commit": commit(),
        }  # fmt: skip
        start = time.perf_counter()
        try:
            result = pipeline.prune(
                dense, of="latency", ratio=1 - share, profile=profile, weights=True, verify=False, criterion="l2"
            )
        except BudgetError as error:
            yield {**row, "refused": str(error).rpartition("; ")[2], "whole": time.perf_counter() - start}
            continue
        latency = result.report.latency
        assert latency is not None
        row["whole"] = time.perf_counter() - start
        row["foretold"] = latency.rounds[-1].foretold
        row["first"] = latency.rounds[0].measured and latency.rounds[0].measured / latency.rounds[0].foretold - 1
        row["rounds"] = len(latency.rounds)
        row["tried"] = [(tried.foretold, tried.measured) for tried in latency.rounds]
        row["measured"] = measured(dense, result.model, profile)
        yield row


def measured(dense: ir.Model, small: ir.Model, profile: Profile) -> float:
    """The time of a smaller model over that of the dense one, by runs in turn: the median of `WINDOWS` measurements."""
    device = profile.device
    sessions = [
        runtime.session(model, optimize=True, providers=[device.provider], threads=device.threads, spin=True)
        for model in (pipeline.load_normal(dense), small)
    ]
    inputs = dict(feeds_of(pipeline.load_normal(dense), profile.model["inputs"], None))
    feeds = [ondevice.fed(session, inputs) for session in sessions]
    clock = ondevice.clock_of(device.provider, device.threads)
    fast = 1e-3 * profile.milliseconds
    ratios = [ratio_of(undisturbed(sessions, feeds, 2.0, clock, fast=fast))[0] for _ in range(WINDOWS)]
    return statistics.median(ratios)


def unseen_errors(dense: ir.Model, profile: Profile, count: int) -> list[float]:
    """How far the foretold share of the dense time is from the measured one, at settings drawn anew."""
    analysis = pipeline.analyse(pipeline.load_normal(dense))
    bound = Goal(profile, 1.0, "", None).bound(analysis.groups, analysis.coupling, analysis.cost)
    settings = Settings.of(analysis.groups, multiples(analysis.groups, "auto"), count=count + 1, seed=99)
    errors = []
    for removed in settings.removed[1:]:
        plan = plan_of(analysis.groups, removed)
        small = pipeline.analyse(pipeline.load_normal(dense))
        pipeline.cut(small, plan)
        errors.append(bound.foretold(plan) / measured(dense, small.model, profile) - 1)
    return errors


def off(row: Row) -> float:
    """How far a cell's time is from what was asked for."""
    return float(row["measured"] / row["share"] - 1)


def shown(row: Row) -> list[str]:
    head = [row["model"], str(row["threads"]), f"{row['share']:.0%}", f"{row['dense']:.3g}"]
    errors = np.abs(row["unseen"] or [np.nan])
    tail = [
        f"{row['profile']:.0f}", f"{row['whole']:.0f}", f"{np.median(errors):.1%}", f"{np.max(errors):.1%}",
        row["commit"],
    ]  # fmt: skip
    if "refused" in row:
        return [*head, row["refused"], "", "", "", *tail]
    middle = [f"{row['foretold']:.3f}", f"{row['measured']:.3f}", f"{off(row):+.1%}", str(row["rounds"])]
    return [*head, *middle, *tail]


def summary(rows: list[Row]) -> str:
    """How many cells were met, and how far the rest is."""
    offs = [abs(off(row)) for row in rows if "measured" in row]
    errors = np.abs(
        [error for row in {(r["model"], r["threads"]): r for r in rows}.values() for error in row["unseen"]]
    )
    if not offs:
        return "no cell"
    within = sum(deviation <= 0.05 for deviation in offs) / len(offs)
    refused = sum("refused" in row for row in rows)
    return (
        f"{len(offs)} cells, {within:.0%} within 5 %, worst {max(offs):.1%}, median {statistics.median(offs):.1%}; "
        f"{refused} below the floor; foretold at unseen widths: median {np.median(errors):.1%} off, 95th percentile "
        f"{np.quantile(errors, 0.95):.1%}"
    )


def table(rows: list[Row]) -> str:
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS), *(" | ".join(shown(row)) for row in rows)]
    body = "\n".join(f"| {line} |" for line in lines)
    how = "`python tests/benchmarks/latency.py`; off: measured over asked for."
    return f"# Times asked for and times measured\n\n{how}\n\n{body}\n\n{summary(rows)}\n"


if __name__ == "__main__":
    main()
