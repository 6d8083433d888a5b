"""`spa heads`: what each head of a model does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import spa
from spa import document
from spa.cli import arguments
from spa.cli.app import command
from spa.cli.arguments import Input, Json, Quiet, Source
from spa.cli.console import err, out, say
from spa.cli.paging import Page, check_page, write_page
from spa.cli.progress import progress
from spa.report.grid import add_row, new_table, print_table

if TYPE_CHECKING:
    from spa.attending import HeadsReport
    from spa.passes.heads.experts import Load

SHOWN = 64
"""Heads of a table: those of the highest retrieval scores, or the first."""


@command
def heads(
    model: Source,
    *,
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Texts, or samples as `spa prune` takes them.", show_default=False),
    ] = None,
    no_importance: Annotated[
        bool, typer.Option("--no-importance", help="Leave out what the readers of heads lose without them.")
    ] = False,
    input_: Input = None,
    page: Page = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """List what each head looks at: the first token, the one before, and what was said before; and experts' loads.

    spa heads llama-onnx --data texts.jsonl
    """
    arguments.check_source(model)
    arguments.check_targets(page, model)
    check_page(page)
    with progress(err, quiet=quiet or json) as step:
        report = spa.heads(
            arguments.opened(model, step), data=data, inputs=arguments.shapes(input_), importance=not no_importance,
            progress=step,
        )  # fmt: skip
    paths = {"source": model}
    made = document.of_heads(report, paths)
    write_page(page, made, paths)
    if json:
        typer.echo(document.text(made))
        return
    print_heads(report)
    if page is not None:
        say(f"wrote {page}", quiet=quiet)


def print_heads(report: HeadsReport) -> None:
    """The tables a person reads."""
    table = new_table(
        "attention", "head >", "to first >", "to previous >", "entropy >", "retrieval >", "importance >", "unit"
    )
    ranked = sorted(report.rows, key=lambda row: -(row.retrieval or 0.0))
    kept = ranked[:SHOWN] if len(ranked) > SHOWN else list(report.rows)
    for row in kept:
        numbers = (row.first, row.previous, row.entropy, row.retrieval, row.importance)
        unit = "" if row.group is None else f"{row.unit} of {row.group}"
        add_row(table, row.attention, row.head, *("" if n is None else f"{n:.3f}" for n in numbers), unit)
    left = len(ranked) - len(kept)
    more = f"; {left} heads with lower retrieval scores are left out: --json has all" if left else ""
    print_table(table, out, foot=f"means over queries; entropy in nats; retrieval: {RETRIEVAL}{more}")
    if report.experts:
        print_experts(report.experts)
    for note in report.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)


def print_experts(loads: Sequence[Load]) -> None:
    """The table of experts."""
    table = new_table("choice of experts", "expert >", "load >", "reap >", "largest >", "")
    for load in loads:
        for number, share in enumerate(load.shares):
            remark = "super expert" if number in load.outliers else ""
            told = f"{share:.1%}", f"{load.reap[number]:.3g}", f"{load.peaks[number]:.3g}", remark
            add_row(table, load.choice if not number else "", number, *told)
    foot = "load: of all that were chosen on the samples; reap: the mean norm of what it adds to a token, gate included"
    foot += "; largest: the largest number of that"
    if any(load.together > 1 for load in loads):
        foot += "; where groups are chosen first, a row is all experts of a group, or of a place in every group"
    print_table(table, out, foot=foot)


RETRIEVAL = "attention to what followed the same token before"
