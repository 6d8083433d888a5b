"""`spa prune` and `spa apply`: a smaller model, by a share or by a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from spa import document, pipeline, report
from spa.cli import arguments, flags
from spa.cli.app import RESULT, command
from spa.cli.arguments import PIPE, Feed, Input, Json, NoVerify, Output, Quiet, Source
from spa.cli.console import err, out, say
from spa.cli.paging import Page, check_page, measured, write_page
from spa.cli.progress import progress
from spa.errors import UsageError
from spa.frontends import sources
from spa.frontends.files import folder, onnx_file
from spa.options import PARTS, PruneOptions

_ONNX_ONLY = {"dry_run": "--dry-run", "inputs": "--input", "feeds": "--feed"}
"""Options that hold for results in ONNX alone, by name."""


@command
@flags.takes_options(*PARTS.values())
def prune(
    model: Source,
    *,
    output: Output = None,
    save_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the plan as JSON; `spa apply` repeats it.", rich_help_panel=RESULT),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="List every group, not only the kinds.", rich_help_panel=RESULT),
    ] = False,
    page: Page = None,
    quiet: Quiet = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Make a model smaller: same inputs and outputs, fewer channels, heads and FFN units.

    spa prune net.onnx --ratio 30%

    spa prune net.onnx --ratio 30% --of flops --data samples.npz -o small.onnx
    """
    given = flags.values(options, *PARTS.values())
    chosen = PruneOptions.of(**given)  # refused before anything is read
    arguments.check_source(model)
    target = output or arguments.result_beside(model, "pruned")
    dry_run = "dry_run" in given
    arguments.check_together(
        output=(dry_run and output is not None, "with --dry-run, which writes no model"),
        no_verify=(dry_run and "verify" in given, "with --dry-run, which makes nothing to be checked"),
        verbose=(verbose and (json or quiet), "with --json or --quiet"),
        quiet=(quiet and json, "with --json, which prints one object"),
        json=(json and target == PIPE and not dry_run, "where the model goes to standard output"),
    )
    back = _gives_back(model, output, [flag for name, flag in _ONNX_ONLY.items() if name in given])
    if back is not None and model.is_dir():
        folder.check_target(target, model)
    if back is None and not dry_run:
        arguments.check_targets(target, save_plan, like=model)
    arguments.check_targets(save_plan, model)
    arguments.check_targets(page, model, save_plan, None if dry_run else target)
    check_page(page)
    with progress(err, quiet=quiet) as step:
        if back is not None:
            result = _give_back(back, model, target, given)
        else:
            kept = None if dry_run or target == PIPE else arguments.checkpoint(target, chosen)
            if kept is not None:
                given["checkpoint"] = kept
            result = pipeline.prune(arguments.opened(model, step, chosen), progress=step, **given)
            if save_plan is not None:
                onnx_file.check_target(save_plan, model=result.dense)
            if not dry_run:
                step("save")
                arguments.write(result.model, target)
                arguments.forget(kept)
    if save_plan is not None:
        onnx_file.save_text(result.plan.to_json(), save_plan, model=None if back else result.dense)
    paths = {"source": model, "output": None if dry_run else target, "plan": save_plan}
    data = document.of_result(result, paths)
    if page is not None:
        with progress(err, quiet=quiet) as step:
            step("bench")
            data |= {} if dry_run else measured(result, given, step)
        write_page(page, data, paths)
    _show(result, data, paths, json=json, verbose=verbose, quiet=quiet)
    if page is not None and not json:
        say(f"wrote {page}", quiet=quiet, beside=target == PIPE)


@command
def apply(
    model: Source,
    plan: Annotated[
        Path,
        typer.Argument(metavar="PLAN", help="A plan that `spa prune --save-plan` wrote; - is standard input."),
    ],
    *,
    output: Output = None,
    input_: Input = None,
    feed: Feed = None,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Prune by a saved plan; the same plan gives the same bytes.

    spa apply net.onnx plan.json -o small.onnx
    """
    arguments.check_source(model)
    target = output or arguments.result_beside(model, "pruned")
    arguments.check_together(
        plan=(model == plan == PIPE, "from standard input beside a model from there"),
        json=(json and target == PIPE, "where the model goes to standard output"),
    )
    arguments.check_targets(target, plan, like=model)
    with progress(err, quiet=quiet) as step:
        read = arguments.read_plan(plan)
        source = arguments.opened(model, step)
        step("apply")
        result = pipeline.apply_plan(
            source, read, inputs=arguments.shapes(input_), feeds=arguments.feeds(feed), verify=not no_verify
        )
        arguments.write(result.model, target)
    paths = {"source": model, "output": target, "plan": plan}
    _show(result, document.of_result(result, paths), paths, json=json, quiet=quiet)


def _gives_back(source: Path, output: Path | None, onnx_only: list[str]) -> sources.Opened | None:
    """What is to come back as the framework's: a folder that goes into a folder, a .keras file into a .keras file.

    Args:
        onnx_only: options given that hold for results in ONNX alone.
    """
    if output in (None, PIPE) or output.suffix == ".onnx" or not sources.is_framework(source):
        return None
    if onnx_only:
        raise UsageError(
            f"{', '.join(onnx_only)}: this gives ONNX, not {str(output)!r}; leave it out, or give --output a name that "
            "ends in .onnx"
        )
    if (source.is_dir() and not output.suffix) or (source.suffix == output.suffix == ".keras"):
        return sources.open_source(source)
    raise UsageError(
        f"--output {str(output)!r}: expected a name that ends in .onnx; a folder may go into a folder, "
        "a .keras file into another"
    )


def _give_back(opened: sources.Opened, source: Path, target: Path, options: Mapping[str, Any]) -> pipeline.PruneResult:
    """Prune a framework's model and write it as the framework does."""
    from spa.adapters import restore

    even = bool(getattr(opened.frontend, "EVEN", False))
    restored = restore.prune(opened.frontend, opened.model, opened.inputs, even=even, **options)
    if source.is_dir():
        with folder.staged(target, source) as place:
            opened.frontend.save(restored.source, place, like=source)
    else:
        opened.frontend.save(restored.source, target, like=source)
    return restored.result


def _show(
    result: pipeline.PruneResult, data: Mapping[str, Any], paths: Mapping[str, Path | None], *, json: bool, quiet: bool,
    verbose: bool = False,
) -> None:  # fmt: skip
    if json:
        typer.echo(document.text(data))
        return
    target = paths["output"]
    beside = target == PIPE
    if not quiet:
        report.print_report(result.report, err if beside else out, all_groups=verbose)
    if target is None:
        say("dry run: nothing was written", quiet=quiet)
        return
    if result.report.status == report.NOT_CHECKED:
        say("not verified", quiet=quiet, beside=beside)
    say(f"wrote {arguments.named(target)}", quiet=quiet, beside=beside)
