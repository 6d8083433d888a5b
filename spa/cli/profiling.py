"""`spa profile`: what the parts of a model cost on a device, here or by a file that another machine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from spa.cli import arguments
from spa.cli.app import RESULT, command
from spa.cli.arguments import PIPE, Feed, Input, Provider, Quiet, Source, Threads
from spa.cli.console import err, out, say
from spa.cli.progress import progress
from spa.frontends.files import onnx_file
from spa.ondevice import SECONDS
from spa.record import Profile

_LONGEST = 8
"""Units that are listed."""


@command
def profile(
    model: Source,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Where the profile goes; - is standard output (default: beside the model).",
            rich_help_panel=RESULT,
        ),
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.zip",
            help="Time nothing here, but write a file that another machine times with Python, numpy and onnxruntime "
            "alone: python3 FILE.zip -o device.json.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="PLACE",
            help="The cluster that the node to be timed is of: ray://HOST:PORT.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --on, the node that is timed: its name or address, or a resource that it has.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    threads: Threads = None,
    provider: Provider = None,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="How long all runs take, about.", rich_help_panel=RESULT)
    ] = SECONDS,
    input_: Input = None,
    feed: Feed = None,
    quiet: Quiet = False,
) -> None:
    """Time what each part of a model costs at a dozen widths, for `spa prune --of latency --profile`.

    spa profile net.onnx --threads 1 -o device.json

    spa profile net.onnx --job job.zip

    spa profile net.onnx --on ray://head:10001 --node board
    """
    arguments.check_source(model)
    arguments.check_together(
        output=(job is not None and output is not None, "with --job, whose -o says where the profile goes"),
        threads=(job is not None and threads is not None, "with --job: give it to the job"),
        provider=(job is not None and provider is not None, "with --job: give it to the job"),
        on=(job is not None and on is not None, "with --job, which another machine runs by itself"),
        node=(on is None and node is not None, "without --on"),
    )
    target = job or output or arguments.beside(model, "profile.json")
    arguments.check_targets(target, model)
    from spa import profiling

    shapes, feeds = arguments.shapes(input_), arguments.feeds(feed)
    with progress(err, quiet=quiet) as step:
        source = arguments.opened(model, step)
        step("profile")
        if job is not None:
            profiling.write_job(source, job, inputs=shapes, feeds=feeds, progress=step)
        else:
            measured = profiling.profile(
                source, threads=threads, provider=provider, seconds=seconds, inputs=shapes, feeds=feeds,
                on=on, node=node, progress=step,
            )  # fmt: skip
            errors = profiling.errors_of(measured, source, inputs=shapes)
    if job is not None:
        say(f"wrote {job}; on the device: python3 {job.name} -o device.json", quiet=quiet)
        return
    if target == PIPE:
        typer.echo(measured.to_json(), nl=False)
        return
    onnx_file.save_text(measured.to_json(), target)
    if not quiet:
        _show(measured, errors)
    say(f"wrote {target}", quiet=quiet)


def _show(profile: Profile, errors: np.ndarray) -> None:
    """The longest units, and how well times are foretold."""
    dense = profile.variants[0]
    scale = dense.milliseconds / max(sum(unit.milliseconds for unit in dense.units), 1e-9)
    table = Table(show_edge=False, box=None, pad_edge=False)
    table.add_column("unit", overflow="fold")
    table.add_column("operator")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for unit in sorted(dense.units, key=lambda unit: -unit.milliseconds)[:_LONGEST]:
        taken = scale * unit.milliseconds
        table.add_row(unit.name, unit.operator, f"{taken:.3g}", f"{taken / dense.milliseconds:.1%}")
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        out.file.write(f"{line.rstrip()}\n")
    more = len(dense.units) - _LONGEST
    foot = f"and {more} more units; " if more > 0 else ""
    out.print(
        f"{foot}{dense.milliseconds:.4g} ms in all on {profile.device.in_words}, as the median of runs\n"
        f"{len(profile.variants)} settings of widths; the time of one, foretold from the others, is "
        f"{np.median(np.abs(errors)):.1%} off (median), {np.max(np.abs(errors)):.1%} at most",
        markup=False,
        soft_wrap=True,
    )
