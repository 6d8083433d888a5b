"""The `spa` command. Results go to stdout, progress and messages to stderr.

Exit status: 0 done; 1 nothing to prune, budget not met, verification failed; 2 bad usage or unreadable model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import spa
from spa import pipeline, report
from spa.analysis.plan import Plan
from spa.cli import arguments
from spa.cli.progress import progress
from spa.errors import SpaError, UsageError
from spa.frontends import sources
from spa.frontends.files import onnx_file
from spa.notation.operation import registered
from spa.passes.choose.importance import (
    CRITERIA,
    DEFAULT_GATHER,
    DEFAULT_NORMALISE,
    DEFAULT_ROLES,
    GATHERS,
    NORMALISATIONS,
    ROLES,
)
from spa.passes.choose.selection import DEFAULT_SCOPE, SCOPES
from spa.passes.repair.compensate import PRESETS
from spa.repair import METHODS

app = typer.Typer(
    name="spa",
    help="Structurally prune any ONNX model: whole channels, heads and FFN units are removed, not zeroed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)


def _words(choices: Iterable[str]) -> str:
    *names, last = choices
    return f"{', '.join(names)} or {last}"


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Framework = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, package.module:factory, a .keras file, a Hugging Face folder or a .pt2 program.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write; default: beside the model.")
]
Input = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=1,3,224,224", help="An input's shape, for analysis, FLOPs and verification."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write the result unchecked.")]


@app.command()
def prune(
    model: Framework,
    ratio: Annotated[float, typer.Option(metavar="SHARE", help="The share to remove, between 0 and 1.")],
    of: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="Of the whole model's params, flops or bytes; or channels: the same share of every group.",
        ),
    ] = "params",
    output: Output = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SAMPLES",
            help="Calibration samples, by which to choose what goes and to refit what stays: an .npz keyed by input "
            "name, a folder of .npy, .npz or images, or module:function.",
        ),
    ] = None,
    data_free: Annotated[
        bool, typer.Option("--data-free", help="The same, with samples made up from the model alone.")
    ] = False,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help=f"With samples, how much work to put in: {_words(PRESETS)}.")
    ] = "default",
    image_mean: Annotated[
        str, typer.Option(metavar="R,G,B", help="Subtracted from images, whose values are 0 to 1.")
    ] = "0",
    image_std: Annotated[str, typer.Option(metavar="R,G,B", help="What images are divided by then.")] = "1",
    size: Annotated[
        str | None, typer.Option(metavar="H,W", help="Of images, where the model's input leaves it open.")
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"What a unit is scored by: {_words(CRITERIA)} [default: l2]; with samples {_words(METHODS)} "
            f"[default: {METHODS[0]}].",
        ),
    ] = None,
    gather: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"How a unit's tensors make one score: {_words(GATHERS)}. [default: {DEFAULT_GATHER}]"
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Which of them count: {_words(ROLES)}. [default: {DEFAULT_ROLES}]"),
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"What a group's scores are divided by: {_words(NORMALISATIONS)} (score). "
            f"[default: {DEFAULT_NORMALISE}]",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Whose units compete: {_words(SCOPES)}; local takes the same share of every group, isomorphic of "
            f"all groups of one kind and structure. [default: {DEFAULT_SCOPE}]",
        ),
    ] = None,
    align: Annotated[int, typer.Option(metavar="N", help="Kept widths are multiples of N where the group allows.")] = 1,
    min_keep: Annotated[
        float, typer.Option(metavar="SHARE", help="The share of its units that each group keeps at least.")
    ] = 0.1,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Kinds or groups that are off by default: width, head_dim."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Groups to leave alone, by group, kind, tensor or node; may be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Groups to prune, and no others; may be repeated.")
    ] = None,
    input_: Input = None,
    save_plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan as JSON; `spa apply` repeats it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the plan and write no model.")] = False,
    no_verify: NoVerify = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="List every group, not only the kinds.")] = False,
    json: Json = False,
) -> None:
    """Make a model smaller: same inputs and outputs, fewer channels, heads and FFN units."""
    target = output or arguments.beside(model, "pruned.onnx")
    onnx_only = {"--data": data, "--data-free": data_free, "--dry-run": dry_run, "--input": input_}
    back = _gives_back(model, output, [option for option, given in onnx_only.items() if given])
    if back is None and not dry_run:
        arguments.check_targets(target, save_plan)
    arguments.check_targets(save_plan, model)
    with progress(err) as step:
        if back is not None:
            _give_back(back, model, target, ratio=ratio, of=of, criterion=criterion, gather=gather, roles=roles,
                       normalise=normalise, scope=scope, align=align, min_keep=min_keep, include=include or (),
                       exclude=exclude or (), only=only or (), verify=not no_verify, json=json, verbose=verbose,
                       save_plan=save_plan)  # fmt: skip
            return
        found = _exported(model, step)
        result = pipeline.prune(
            found, ratio=ratio, of=of, criterion=criterion, gather=gather, roles=roles, normalise=normalise,
            scope=scope, align=align, min_keep=min_keep, include=include or (), exclude=exclude or (), only=only or (),
            inputs=arguments.shapes(input_), data=data, data_free=data_free, preset=preset,
            images=arguments.images(image_mean, image_std, size), verify=not no_verify, dry_run=dry_run, progress=step,
        )  # fmt: skip
        if save_plan is not None:
            onnx_file.check_target(save_plan, model=result.dense)
        if not dry_run:
            step("save")
            result.save(target)
    if save_plan is not None:
        onnx_file.save_text(result.plan.to_json(), save_plan, model=result.dense)
    _show(result, None if dry_run else target, json=json, verbose=verbose)


@app.command()
def export(
    source: Framework,
    output: Output = None,
    opset: Annotated[int | None, typer.Option(help="Of ONNX; the exporter's own default if left out.")] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="A language model takes and gives the keys and values of earlier tokens.")
    ] = False,
) -> None:
    """Write a framework's model as ONNX, checked against the framework."""
    target = output or arguments.beside(source, "onnx")
    options: dict[str, Any] = {} if opset is None else {"opset": opset}
    with progress(err) as step:
        step("export")
        model = sources.export(source, **options, **({"cache": True} if cache else {}))
        onnx_file.save(model, target)
    out.print(f"wrote {target}", markup=False, soft_wrap=True)


@app.command()
def normalize(model: Model, output: Output = None) -> None:
    """Write the graph that pruning starts from: the same function, folded, each node with constants of its own."""
    target = arguments.target(model, output, "normal")
    arguments.check_targets(target)
    with progress(err) as step:
        step("normalise")
        normal = pipeline.load_normal(model)
        onnx_file.save(normal, target)
    out.print(f"wrote {target}", markup=False, soft_wrap=True)


@app.command()
def groups(model: Model, input_: Input = None, json: Json = False) -> None:
    """List what could go, group by group, and what stays and why."""
    with progress(err) as step:
        step("couple")
        analysis = pipeline.analyse(pipeline.load_normal(model), inputs=arguments.shapes(input_))
    found = pipeline.report_on(analysis, Plan({}, {}))
    axes = report.frozen_axes(analysis.coupling)
    if json:
        typer.echo(report.inventory_json(found, axes))
        return
    report.print_inventory(found, axes, out)


@app.command()
def apply(
    model: Model,
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan that `spa prune --save-plan` wrote.", show_default=False)
    ],
    output: Output = None,
    input_: Input = None,
    no_verify: NoVerify = False,
    json: Json = False,
) -> None:
    """Prune by a saved plan; the same plan gives the same bytes."""
    target = arguments.target(model, output, "pruned")
    arguments.check_targets(target, plan)
    with progress(err) as step:
        step("apply")
        result = pipeline.apply_plan(
            model, arguments.read_plan(plan), inputs=arguments.shapes(input_), verify=not no_verify
        )
        result.save(target)
    _show(result, target, json=json)


@app.command()
def verify(
    dense: Annotated[Path, typer.Argument(metavar="DENSE", help="The model before.", show_default=False)],
    pruned: Annotated[Path, typer.Argument(metavar="PRUNED", help="The model after.", show_default=False)],
    plan: Annotated[
        Path, typer.Option(metavar="FILE", help="The plan that led from one to the other.", show_default=False)
    ],
    input_: Input = None,
    json: Json = False,
) -> None:
    """Check a pruned model against the dense model and the plan."""
    with progress(err) as step:
        step("verify")
        found = pipeline.verify_files(dense, pruned, arguments.read_plan(plan), inputs=arguments.shapes(input_))
    if json:
        typer.echo(found.to_json())
        return
    report.print_verdict(found, out)


@app.command()
def rule(
    operator: Annotated[
        str | None, typer.Argument(metavar="OPERATOR", help="An operator; all of them if left out.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print README's table of operators.")] = False,
) -> None:
    """Print what an operator's rule says."""
    rows = report.rule_rows(operator)
    if not rows:
        raise UsageError(f"no rule for operator {operator!r}; `spa rule` lists the {len(registered())} that have one")
    if markdown:
        typer.echo(report.rules_markdown(rows))
    else:
        report.print_rules(rows, out)


def _exported(source: Path, step: pipeline.Progress) -> Any:
    """A path to ONNX as it is; what a framework holds, exported."""
    if not sources.is_framework(source):
        return source
    step("export")
    return sources.export(source)


def _gives_back(source: Path, output: Path | None, onnx_only: list[str]) -> sources.Opened | None:
    """What is to come back as the framework's: a folder that goes into a folder, a .keras file into a .keras file.

    Args:
        onnx_only: options given that hold for results in ONNX alone.
    """
    if output is None or output.suffix == ".onnx" or not sources.is_framework(source):
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


def _give_back(
    opened: sources.Opened,
    source: Path,
    target: Path,
    *,
    json: bool,
    verbose: bool,
    save_plan: Path | None,
    **options: Any,
) -> None:
    """Prune a framework's model and write it as the framework does."""
    from spa.adapters import restore

    even = bool(getattr(opened.frontend, "EVEN", False))
    if even and options["scope"] is None:
        options["scope"] = "local"
    restored = restore.prune(opened.frontend, opened.model, opened.inputs, even=even, **options)
    opened.frontend.save(restored.source, target, like=source)
    if save_plan is not None:
        onnx_file.save_text(restored.result.plan.to_json(), save_plan)
    _show(restored.result, target, json=json, verbose=verbose)


def _show(result: pipeline.PruneResult, target: Path | None, *, json: bool, verbose: bool = False) -> None:
    if json:
        typer.echo(result.report.to_json())
        return
    report.print_report(result.report, out, all_groups=verbose)
    if target is None:
        out.print("dry run: nothing was written")
        return
    if not result.report.verified:
        out.print("not verified")
    out.print(f"wrote {target}", markup=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(spa.__version__)
        raise typer.Exit


def main(words: list[str] | None = None) -> Any:
    """Run the command; errors a user can cause are one line and an exit status, never a traceback."""
    try:
        app(args=words, prog_name="spa")
    except SpaError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted; nothing was written", markup=False)
        sys.exit(130)
