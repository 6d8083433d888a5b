"""`spa bench`, `spa finetune` and `spa train`: how fast files are, and training them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import spa
from spa import document
from spa.cli import arguments, flags
from spa.cli.app import RESULT, command
from spa.cli.arguments import PIPE, Feed, Input, Json, Output, Provider, Quiet, Threads
from spa.cli.console import err, out, say
from spa.cli.paging import Page, check_page, write_page
from spa.cli.progress import progress
from spa.cli.timing import print_bench
from spa.errors import UsageError
from spa.frontends.files import onnx_file
from spa.gradients.options import FinetuneOptions, TrainOptions


@command
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="ONNX files to time side by side.", show_default=False)
    ],
    *,
    threads: Threads = None,
    provider: Provider = None,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="How long all runs together take, about.", rich_help_panel=RESULT)
    ] = 10.0,
    input_: Input = None,
    feed: Feed = None,
    page: Page = None,
    json: Json = False,
) -> None:
    """Time files side by side: medians of runs in turn, and for two files their ratio.

    spa bench net.onnx net.pruned.onnx
    """
    for model in models:
        arguments.check_source(model)
    arguments.check_targets(page, *models)
    check_page(page)
    with progress(err) as step:
        step("bench")
        timing = spa.bench(
            models, threads=threads, provider=provider, seconds=seconds, inputs=arguments.shapes(input_),
            feeds=arguments.feeds(feed), progress=step,
        )  # fmt: skip
    paths: dict[str, Path | None] = {f"model_{number}": path for number, path in enumerate(models, 1)}
    data = document.of_timing(timing, paths)
    write_page(page, data, paths)
    if json:
        typer.echo(document.text(data))
        return
    print_bench(timing, out)
    if page is not None:
        say(f"wrote {page}")


@command
@flags.takes_options(FinetuneOptions)
def finetune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A pruned ONNX file.", show_default=False)],
    *,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The dense model, whose outputs are learned.", rich_help_panel=RESULT),
    ] = None,
    output: Output = None,
    page: Page = None,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Train a pruned model to answer as the dense one does, without labels unless they are given.

    spa finetune net.pruned.onnx --teacher net.onnx --data samples.npz
    """
    given = flags.values(options, FinetuneOptions)
    arguments.check_source(model)
    target = output or arguments.result_beside(model, "tuned")
    arguments.check_targets(target, model, teacher, like=model)
    arguments.check_targets(page, model, teacher, target)
    check_page(page)
    with progress(err, quiet=quiet) as step:
        source = arguments.opened(model, step)
        step("finetune")
        result = spa.finetune(source, teacher=teacher, progress=step, **given)
        step("save")
        arguments.write(result.model, target)
    learned = result.report
    beside = target == PIPE
    paths = {"source": model, "teacher": teacher, "output": None if beside else target}
    write_page(page, document.of_training(learned, paths), paths)
    say(
        f"{learned.sentence}, {learned.trained:.1%} of the parameters trained; onnxruntime computes what torch does",
        quiet=quiet,
        beside=beside,
    )
    _say_perplexity(learned.perplexity, quiet=quiet, beside=beside)
    say(f"wrote {arguments.named(target)}", quiet=quiet, beside=beside)
    if page is not None:
        say(f"wrote {page}", quiet=quiet, beside=beside)


def _say_perplexity(perplexity: object | None, *, quiet: bool, beside: bool) -> None:
    if perplexity is not None:
        say(f"perplexity {perplexity}", quiet=quiet, beside=beside)


@command
@flags.takes_options(TrainOptions)
def train(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An ONNX file with the weights to begin with.", show_default=False)
    ],
    *,
    output: Output = None,
    save_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what was cut before as a plan.", rich_help_panel=RESULT),
    ] = None,
    page: Page = None,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Train a graph by labels, from the weights that it has; cut it before, or make it sparse on the way.

    spa train init.onnx --data labelled.npz --epochs 10 --prune snip --ratio 50%
    """
    given = flags.values(options, TrainOptions)
    asked = TrainOptions(**given)  # refused before anything is read
    if save_plan is not None and asked.prune is None:
        raise UsageError("--save-plan has no effect without --prune, which makes a plan: leave one of them out")
    arguments.check_source(model)
    target = output or arguments.result_beside(model, "trained")
    arguments.check_targets(target, model, save_plan, like=model)
    arguments.check_targets(save_plan, model)
    arguments.check_targets(page, model, save_plan, target)
    check_page(page)
    with progress(err, quiet=quiet) as step:
        result = spa.train(arguments.opened(model, step), progress=step, **given)
        step("save")
        arguments.write(result.model, target)
    if save_plan is not None and result.plan is not None:
        onnx_file.save_text(result.plan.to_json(), save_plan)
    learned, beside = result.report, target == PIPE
    paths = {"source": model, "plan": save_plan, "output": None if beside else target}
    write_page(page, document.of_training(learned, paths), paths)
    for note in result.notes:
        say(f"note: {note}", quiet=quiet, beside=beside)
    say(
        f"{learned.sentence}; onnxruntime computes what torch does",
        quiet=quiet,
        beside=beside,
    )
    _say_perplexity(learned.perplexity, quiet=quiet, beside=beside)
    say(f"wrote {arguments.named(target)}", quiet=quiet, beside=beside)
    if page is not None:
        say(f"wrote {page}", quiet=quiet, beside=beside)
