"""The `spa` command. Results go to stdout, progress and messages to stderr.

Exit status: 0 done; 1 nothing to prune, budget not met, verification failed or, in `spa verify`, not all compared;
2 bad usage or unreadable model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import spa
from spa import pipeline, report
from spa.analysis.plan import Plan
from spa.cli import arguments
from spa.cli.progress import progress
from spa.cli.timing import print_bench
from spa.errors import SpaError, UsageError
from spa.feeds import Feeds
from spa.feeds import parse as parse_feeds
from spa.frontends import sources
from spa.frontends.files import onnx_file
from spa.gradients.options import FinetuneOptions
from spa.notation.operation import registered
from spa.options import PARTS, input_shapes

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
Feed = Annotated[
    list[str] | None,
    typer.Option(
        "--feed",
        metavar="NAME=VALUES",
        help="What an input is given when outputs are compared: numbers (1,2,3), ones, zeros, range:N (whole numbers "
        "below N), or a file .npy or .npz; FILE.npz alone holds inputs by name; may be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write the result unchecked.")]


@app.command()
@arguments.takes_options(*PARTS.values())
def prune(
    model: Framework,
    output: Output = None,
    save_plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan as JSON; `spa apply` repeats it.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="List every group, not only the kinds.")] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Make a model smaller: same inputs and outputs, fewer channels, heads and FFN units."""
    given = arguments.values(options, *PARTS.values())
    target = output or arguments.beside(model, "pruned.onnx")
    onnx_only = {
        "data": "--data", "data_free": "--data-free", "dry_run": "--dry-run", "inputs": "--input", "feeds": "--feed"
    }  # fmt: skip
    back = _gives_back(model, output, [flag for name, flag in onnx_only.items() if name in given])
    dry_run = given.get("dry_run", False)
    if back is None and not dry_run:
        arguments.check_targets(target, save_plan)
    arguments.check_targets(save_plan, model)
    with progress(err) as step:
        if back is not None:
            _give_back(back, model, target, given, json=json, verbose=verbose, save_plan=save_plan)
            return
        result = pipeline.prune(_exported(model, step), progress=step, **given)
        if save_plan is not None:
            onnx_file.check_target(save_plan, model=result.dense)
        if not dry_run:
            step("save")
            result.save(target)
    if save_plan is not None:
        onnx_file.save_text(result.plan.to_json(), save_plan, model=result.dense)
    _show(result, None if dry_run else target, json=json, verbose=verbose)


@app.command()
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="ONNX files to time side by side.", show_default=False)
    ],
    threads: Annotated[int | None, typer.Option(metavar="N", help="Inside an operator; default: one a core.")] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="onnxruntime's name of a device, such as CPUExecutionProvider.")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="How long all runs together take, about.")] = 10.0,
    input_: Input = None,
    feed: Feed = None,
    json: Json = False,
) -> None:
    """Time files side by side: medians of runs in turn, and for two files their ratio."""
    with progress(err) as step:
        step("bench")
        found = spa.bench(
            models, threads=threads, provider=provider, seconds=seconds, inputs=_shapes(input_), feeds=_feeds(feed),
            progress=step,
        )  # fmt: skip
    if json:
        typer.echo(found.to_json())
    else:
        print_bench(found, out)


@app.command()
@arguments.takes_options(FinetuneOptions)
def finetune(
    model: Model,
    teacher: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="The dense model, whose outputs are learned.")
    ] = None,
    output: Output = None,
    **options: Any,
) -> None:
    """Train a pruned model to answer as the dense one does, without labels unless they are given."""
    given = arguments.values(options, FinetuneOptions)
    target = arguments.target(model, output, "tuned")
    arguments.check_targets(target, model, teacher)
    with progress(err) as step:
        step("finetune")
        result = spa.finetune(model, teacher=teacher, progress=step, **given)
        step("save")
        result.save(target)
    report_ = result.report
    out.print(
        f"loss on samples held out: {report_.before:.4g} -> {report_.after:.4g} after {report_.epochs} epochs, "
        f"{report_.trained:.1%} of the parameters trained; onnxruntime computes what torch does",
        markup=False,
        soft_wrap=True,
    )
    out.print(f"wrote {target}", markup=False, soft_wrap=True)


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
        analysis = pipeline.analyse(pipeline.load_normal(model), inputs=_shapes(input_))
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
    feed: Feed = None,
    no_verify: NoVerify = False,
    json: Json = False,
) -> None:
    """Prune by a saved plan; the same plan gives the same bytes."""
    target = arguments.target(model, output, "pruned")
    arguments.check_targets(target, plan)
    with progress(err) as step:
        step("apply")
        result = pipeline.apply_plan(
            model, arguments.read_plan(plan), inputs=_shapes(input_), feeds=_feeds(feed), verify=not no_verify
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
    feed: Feed = None,
    json: Json = False,
) -> None:
    """Check a pruned model against the dense model and the plan."""
    with progress(err) as step:
        step("verify")
        found = pipeline.verify_files(
            dense, pruned, arguments.read_plan(plan), inputs=_shapes(input_), feeds=_feeds(feed)
        )
    if json:
        typer.echo(found.to_json())
    else:
        report.print_verdict(found, out)
    if not found.verified:
        raise typer.Exit(1)


@app.command()
def rule(
    operator: Annotated[
        str | None, typer.Argument(metavar="OPERATOR", help="An operator; all of them if left out.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print README's table of operators.")] = False,
) -> None:
    """Print the rules that nodes of an operator get."""
    rows = report.rule_rows(operator)
    if not rows:
        raise UsageError(f"no rule for operator {operator!r}; `spa rule` lists the {len(registered())} that have one")
    if markdown:
        typer.echo(report.rules_markdown(rows))
    else:
        report.print_rules(rows, out, whole=operator is not None)


def _shapes(items: list[str] | None) -> dict[str, list[int]]:
    try:
        return input_shapes(items or ())
    except UsageError as error:
        raise UsageError(f"--input {error}") from error


def _feeds(items: list[str] | None) -> Feeds:
    try:
        return parse_feeds(items or ())
    except UsageError as error:
        raise UsageError(f"--feed {error}") from error


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
    options: Mapping[str, Any],
    *,
    json: bool,
    verbose: bool,
    save_plan: Path | None,
) -> None:
    """Prune a framework's model and write it as the framework does."""
    from spa.adapters import restore

    even = bool(getattr(opened.frontend, "EVEN", False))
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
    if result.report.status == report.NOT_CHECKED:
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
