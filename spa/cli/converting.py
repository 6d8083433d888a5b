"""`spa export` and `spa normalize`: a model as ONNX, and the graph that pruning starts from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spa import pipeline
from spa.cli import arguments
from spa.cli.app import RESULT, command
from spa.cli.arguments import PIPE, Output, Quiet, Source
from spa.cli.console import err, say
from spa.cli.progress import progress
from spa.errors import UsageError
from spa.frontends import sources


@command
def export(
    source: Source,
    *,
    output: Output = None,
    opset: Annotated[
        int | None, typer.Option(help="Of ONNX (default: the exporter's own).", rich_help_panel=RESULT)
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache",
            help="A language model takes and gives the keys and values of earlier tokens.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a framework's model as ONNX, checked against the framework.

    spa export my_package.models:build -o net.onnx
    """
    if source == PIPE or source.suffix == ".onnx":
        raise UsageError(f"{str(source)!r}: this is ONNX already; export takes what a framework holds")
    target = output or arguments.beside(source, "onnx")
    arguments.check_targets(target)
    options: dict[str, Any] = {} if opset is None else {"opset": opset}
    if cache:
        options["cache"] = True
    with progress(err, quiet=quiet) as step:
        step("export")
        model = sources.export(source, **options)
        arguments.write(model, target)
    say(f"wrote {arguments.named(target)}", quiet=quiet, beside=target == PIPE)


@command
def normalize(model: Source, *, output: Output = None, quiet: Quiet = False) -> None:
    """Write the graph that pruning starts from: the same function, folded, each node with constants of its own.

    spa normalize net.onnx
    """
    arguments.check_source(model)
    target = output or arguments.beside(model, "normal.onnx")
    arguments.check_targets(target)
    with progress(err, quiet=quiet) as step:
        source = arguments.opened(model, step)
        step("normalise")
        arguments.write(pipeline.load_normal(source), target)
    say(f"wrote {arguments.named(target)}", quiet=quiet, beside=target == PIPE)
