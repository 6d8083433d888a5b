"""`spa groups`, `spa verify` and `spa rule`: what could go, whether a result is right, what is known of operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spa import document, pipeline, report
from spa.analysis.plan import Plan
from spa.cli import arguments
from spa.cli.app import RESULT, command
from spa.cli.arguments import PIPE, SOURCE, Feed, Input, Json, Quiet, Source
from spa.cli.console import err, out
from spa.cli.progress import progress
from spa.errors import UsageError
from spa.fields import did_you_mean
from spa.notation.operation import registered


@command
def groups(model: Source, *, input_: Input = None, json: Json = False) -> None:
    """List what could go, group by group, and what stays and why.

    spa groups net.onnx
    """
    arguments.check_source(model)
    with progress(err) as step:
        source = arguments.opened(model, step)
        step("couple")
        analysis = pipeline.analyse(pipeline.load_normal(source), inputs=arguments.shapes(input_))
    inventory = pipeline.report_on(analysis, Plan({}, {}))
    axes = report.frozen_axes(analysis.coupling)
    if json:
        typer.echo(document.text(document.of_inventory(inventory, axes, {"source": model})))
        return
    report.print_inventory(inventory, axes, out)


@command
def verify(
    dense: Annotated[Path, typer.Argument(metavar="DENSE", help=f"The model before. {SOURCE}", show_default=False)],
    pruned: Annotated[
        Path, typer.Argument(metavar="PRUNED", help="The model after; the same kinds.", show_default=False)
    ],
    *,
    plan: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The plan that led from one to the other; - is standard input.",
            show_default=False,
            rich_help_panel=RESULT,
        ),
    ],
    input_: Input = None,
    feed: Feed = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Check a pruned model against the dense model and the plan.

    spa verify net.onnx net.pruned.onnx --plan plan.json
    """
    if [dense, pruned, plan].count(PIPE) > 1:
        raise UsageError("standard input can be one of DENSE, PRUNED and --plan: give files for the others")
    arguments.check_source(dense)
    arguments.check_source(pruned)
    with progress(err, quiet=quiet) as step:
        read = arguments.read_plan(plan)
        before, after = arguments.opened(dense, step), arguments.opened(pruned, step)
        from spa.written import verify_files

        step("verify")
        verdict = verify_files(before, after, read, inputs=arguments.shapes(input_), feeds=arguments.feeds(feed))
    if json:
        paths = {"dense": dense, "pruned": pruned, "plan": plan}
        typer.echo(document.text(document.of_verdict(verdict, paths)))
    elif not quiet:
        report.print_verdict(verdict, out)
    if not verdict.verified:
        raise typer.Exit(1)


@command
def rule(
    operator: Annotated[
        str | None, typer.Argument(metavar="OPERATOR", help="An operator; all of them if left out.")
    ] = None,
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print README's table of operators.", rich_help_panel=RESULT)
    ] = False,
) -> None:
    """Print the rules that nodes of an operator get.

    spa rule Conv
    """
    rows = report.rule_rows(operator)
    if not rows:
        known = sorted({name for _, name in registered()})
        raise UsageError(
            f"no rule for operator {operator!r}; `spa rule` lists the {len(registered())} that have one"
            f"{did_you_mean(operator, known)}"
        )
    if markdown:
        typer.echo(report.rules_markdown(rows))
    else:
        report.print_rules(rows, out, whole=operator is not None)
