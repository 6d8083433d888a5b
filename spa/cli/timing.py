"""`spa bench` for a person: a table, and the ratio of two models in a sentence."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from spa.report import quantity

if TYPE_CHECKING:
    from spa.timing import BenchReport, Row


def print_bench(report: BenchReport, console: Console) -> None:
    """The times of all models, and for two of them how they compare."""
    table = Table(show_edge=False, box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for column in ("median ms", "middle half", "load s", "memory", "params", "flops"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(_short(row), f"{row.milliseconds:.3g}", f"{row.low:.3g} to {row.high:.3g}", *_costs(row))
    with console.capture() as captured:
        console.print(table)
    for line in (*captured.get().splitlines(), ""):
        console.file.write(f"{line.rstrip()}\n")
    console.print(_how(report), markup=False, soft_wrap=True)
    if report.comparison is not None:
        console.print(_sentence(report), markup=False, soft_wrap=True)


def _short(row: Row) -> str:
    return Path(row.name).name


def _costs(row: Row) -> list[str]:
    load = "-" if isnan(row.load_seconds) else f"{row.load_seconds:.2f}"
    memory = f"{quantity(row.peak_nbytes)}B" if row.peak_nbytes else "-"
    return [load, memory, *("-" if cost is None else quantity(cost) for cost in (row.params, row.flops))]


def _how(report: BenchReport) -> str:
    threads = (
        f"{report.threads} thread{'s' if report.threads > 1 else ''}" if report.threads else "a thread for each core"
    )
    shapes = dict.fromkeys(
        " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in inputs.items())
        for inputs in report.inputs.values()
    )
    left_out = f" ({report.disturbed} left out: the machine did something else)" if report.disturbed else ""
    return f"{report.rounds} runs of each in turn{left_out}; {report.provider}, {threads}; inputs {' | '.join(shapes)}"


def _sentence(report: BenchReport) -> str:
    assert report.comparison is not None
    first, second = map(_short, report.rows)
    comparison = report.comparison
    low, high = comparison.interval
    said = (
        f"{second} takes {comparison.ratio:.3f} of the time of {first} "
        f"(95 %: {low:.3f} to {high:.3f}): {comparison.verdict}"
    )
    dense, small = (row.flops for row in report.rows)
    if comparison.exponent is None or not dense or small is None:
        return said
    return (
        f"{said}; {small / dense:.3f} of the FLOPs, so an exponent of {comparison.exponent:.2f} "
        "(1: all that went is time)"
    )
