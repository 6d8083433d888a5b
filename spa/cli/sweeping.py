"""`spa sweep`: one model at several ratios, in a table, a file or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import spa
from spa import document
from spa.cli import arguments, flags
from spa.cli.app import RESULT, command
from spa.cli.arguments import PIPE, Json, Quiet, Source
from spa.cli.console import err, out, say
from spa.cli.paging import Page, check_page, write_page
from spa.cli.progress import progress
from spa.fields import Options
from spa.frontends.files import onnx_file
from spa.limit import LOSSES, LimitOptions
from spa.options import PARTS
from spa.ratios import SweepOptions
from spa.report.grid import add_row, new_table, print_table

if TYPE_CHECKING:
    from spa.points import SweepReport

_PARTS = [kind for kind in PARTS.values() if kind is not LimitOptions]
_KINDS: tuple[type[Options], ...] = (SweepOptions, *_PARTS, LimitOptions)
_VAIN = {"ratio", "target", "max_loss", "distance", "dry_run"}


@command
@flags.takes_options(*_KINDS, without=_VAIN)
def sweep(
    model: Source,
    *,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV.", rich_help_panel=RESULT)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw it: a name that ends in .svg or .png.", rich_help_panel=RESULT
        ),
    ] = None,
    page: Page = None,
    quiet: Quiet = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Prune to several ratios and compare: what goes, time, distance from the dense model, and a metric of yours.

    spa sweep net.onnx --ratios 0.1:0.7 --of flops --data samples.npz --plot sweep.svg
    """
    given = flags.values(options, *_KINDS)
    arguments.check_source(model)
    arguments.check_together(quiet=(quiet and json, "with --json, which prints one object"))
    for target in (csv, plot, page):
        arguments.check_targets(target, model, *(other for other in (csv, plot, page) if other is not target))
    if plot is not None:
        from spa.pages import pictures

        pictures.check(plot)
    check_page(page)
    with progress(err, quiet=quiet) as step:
        source = arguments.opened(model, step)
        report = spa.sweep(source, progress=step, **given)
    paths = {"source": model, "csv": csv, "plot": plot, "page": page}
    data = document.of_sweep(report, paths)
    data["source"] = "standard input" if model == PIPE else str(model)
    if csv is not None:
        onnx_file.save_text(report.to_csv(), csv)
    if plot is not None:
        report.save_plot(plot)
    write_page(page, data, {"source": model})
    if json:
        typer.echo(document.text(data))
        return
    if not quiet:
        print_sweep(report)
    for target in (csv, plot, page):
        if target is not None:
            say(f"wrote {target}", quiet=quiet)


def print_sweep(report: SweepReport) -> None:
    """A row for the dense model and for each ratio."""
    metric = report.metric
    columns = ["ratio >", "params >", "flops >"]
    columns += ["ms >", "of dense >"] if report.timing else []
    columns += [f"{title} >" for title in (*LOSSES.values(), "same first")] if report.outputs_on else []
    columns += [f"{metric} >"] if metric else []
    table = new_table(*columns, "file" if any(point.file for point in report.points) else "")
    for row in report.rows():
        if row["said"]:
            continue
        cells = [f"{row['ratio']:g}" if row["ratio"] else "dense", _share(row["params"]), _share(row["flops"])]
        cells += [_number(row["milliseconds"]), _number(row["time"])] if report.timing else []
        figures = [_number(row["kl"]), _number(row["relative_l2"]), _share(row["top1"])]
        cells += figures if report.outputs_on else []
        cells += [_number(row["metric"])] if metric else []
        add_row(table, *cells, row["file"] or "")
    on = f"; outputs on {report.outputs_on}" if report.outputs_on else ""
    print_table(table, out, foot=f"params, flops: share removed{on}")
    for point in report.points:
        if point.said:
            say(f"ratio {point.ratio:g}: {point.said}")
    for note in report.notes:
        say(f"note: {note}")
    shared = f", of which {report.shared_seconds:.0f} s for what all ratios share" if report.shared_seconds >= 1 else ""
    say(f"{len(report.made)} of {len(report.points)} ratios in {report.seconds:.0f} s{shared}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
