"""The `spa` command. Results go to stdout, progress and messages to stderr.

Exit status: 0 done; 1 nothing to prune, budget not met, verification failed; 2 bad usage or unreadable model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import spa
from spa import pipeline, report
from spa.errors import ModelError, SpaError, UsageError
from spa.frontends import onnx_file, sources
from spa.operation import registered
from spa.plan import Plan

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

Model = Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)]
Framework = Annotated[
    Path,
    typer.Argument(
        help="An ONNX file, package.module:factory, a .keras file, a Hugging Face folder or a .pt2 program.",
        show_default=False,
    ),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; default: beside the model.")]
Input = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=1,3,224,224", help="An input's shape, for analysis, FLOPs and verification."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write the result unchecked.")]


@app.command()
def prune(
    model: Framework,
    ratio: Annotated[float, typer.Option(help="The share to remove, between 0 and 1.")],
    of: Annotated[
        str, typer.Option(help="Of what: params, flops, bytes, or channels (the same share of every group).")
    ] = "params",
    output: Output = None,
    criterion: Annotated[str, typer.Option(help="How units are scored.")] = "l2",
    gather: Annotated[str | None, typer.Option(help="Over a unit's weights: sum, mean, max or l2.")] = None,
    roles: Annotated[str | None, typer.Option(help="Which weights count: producers, consumers or both.")] = None,
    normalise: Annotated[
        str | None, typer.Option(help="Scores within a group: none, mean, max, sum or standard.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Who competes: global, local (same share everywhere) or isomorphic.")
    ] = None,
    align: Annotated[int, typer.Option(help="Kept widths are multiples of this where the group allows.")] = 1,
    min_keep: Annotated[float, typer.Option(help="The share of each group that stays at least.")] = 0.1,
    include: Annotated[
        list[str] | None, typer.Option(help="Kinds or groups that are off by default (width, head_dim).")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Patterns of groups, tensors or nodes to leave alone.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Patterns of groups, tensors or nodes to prune, nothing else.")
    ] = None,
    input_: Input = None,
    save_plan: Annotated[Path | None, typer.Option(help="Write the plan as JSON; `spa apply` repeats it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the plan and write no model.")] = False,
    no_verify: NoVerify = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="List every group.")] = False,
    json: Json = False,
) -> None:
    """Remove a share of a model: fewer channels, heads, FFN units; same inputs and outputs."""
    target = output or _beside(model, "pruned.onnx")
    back = _gives_back(model, output)
    with _progress() as step:
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
            inputs=_shapes(input_), verify=not no_verify, dry_run=dry_run, progress=step,
        )  # fmt: skip
        if not dry_run:
            step("save")
            result.save(target)
    if save_plan is not None:
        _write_text(save_plan, result.plan.to_json())
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
    target = output or _beside(source, "onnx")
    options: dict[str, Any] = {} if opset is None else {"opset": opset}
    with _progress() as step:
        step("export")
        model = sources.export(source, **options, **({"cache": True} if cache else {}))
        onnx_file.save(model, target)
    err.print(f"wrote {target}", markup=False)


@app.command()
def normalize(model: Model, output: Output = None) -> None:
    """Write the graph that the coupling sees: the same function, folded and with constants of each node's own."""
    target = output or model.with_name(f"{model.stem}.normal.onnx")
    with _progress() as step:
        step("normalise")
        normal = pipeline.load_normal(model)
        onnx_file.save(normal, target)
    err.print(f"wrote {target}")


@app.command()
def groups(model: Model, input_: Input = None, json: Json = False) -> None:
    """List what could go: groups of coupled units, their sizes and kinds; and what stays and why."""
    with _progress() as step:
        step("couple")
        analysis = pipeline.analyse(pipeline.load_normal(model), inputs=_shapes(input_))
    found = pipeline.report_on(analysis, Plan({}, {}))
    if json:
        typer.echo(found.to_json())
        return
    report.print_groups(found.groups, out, all_groups=True)
    report.print_frozen(found.frozen, out, most=20)


@app.command()
def apply(
    model: Model,
    plan: Annotated[Path, typer.Argument(help="A plan that `spa prune --save-plan` wrote.", show_default=False)],
    output: Output = None,
    input_: Input = None,
    no_verify: NoVerify = False,
    json: Json = False,
) -> None:
    """Prune a model by a saved plan; the same plan gives the same bytes."""
    target = output or model.with_name(f"{model.stem}.pruned.onnx")
    with _progress() as step:
        step("apply")
        result = pipeline.apply_plan(model, _read_plan(plan), inputs=_shapes(input_), verify=not no_verify)
        result.save(target)
    _show(result, target, json=json)


@app.command()
def verify(
    dense: Annotated[Path, typer.Argument(help="The model before.", show_default=False)],
    pruned: Annotated[Path, typer.Argument(help="The model after.", show_default=False)],
    plan: Annotated[Path, typer.Option(help="The plan that led from one to the other.", show_default=False)],
    input_: Input = None,
    json: Json = False,
) -> None:
    """Check a pruned model against the dense one with what the plan removed read as zero."""
    with _progress() as step:
        step("verify")
        found = pipeline.verify_files(dense, pruned, _read_plan(plan), inputs=_shapes(input_))
    if json:
        typer.echo(found.to_json())
        return
    report.print_verdict(found, out)


@app.command()
def rule(
    operator: Annotated[str | None, typer.Argument(help="An operator; all of them if left out.")] = None,
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


def _beside(source: Path, ending: str) -> Path:
    """Where a result goes by default: beside a file; for package.module:factory, into the working directory."""
    if not source.exists() and sources.is_framework(source):
        return Path(f"{str(source).partition(':')[2]}.{ending}")
    return source.with_name(f"{source.stem}.{ending}")


def _exported(source: Path, step: Callable[[str], None]) -> Any:
    """A path to ONNX as it is; what a framework holds, exported."""
    if not sources.is_framework(source):
        return source
    step("export")
    return sources.export(source)


def _gives_back(source: Path, output: Path | None) -> sources.Opened | None:
    """What is to come back as the framework's: a folder that goes into a folder, a .keras file into a .keras file."""
    if output is None or output.suffix == ".onnx" or not sources.is_framework(source):
        return None
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
    from spa import restore

    even = bool(getattr(opened.frontend, "EVEN", False))
    if even and options["scope"] is None:
        options["scope"] = "local"
    restored = restore.prune(opened.frontend, opened.model, opened.inputs, even=even, **options)
    opened.frontend.save(restored.source, target, like=source)
    if save_plan is not None:
        _write_text(save_plan, restored.result.plan.to_json())
    _show(restored.result, target, json=json, verbose=verbose)


def _show(result: pipeline.PruneResult, target: Path | None, *, json: bool, verbose: bool = False) -> None:
    if json:
        typer.echo(result.report.to_json())
        return
    report.print_report(result.report, out, all_groups=verbose)
    if target is not None:
        out.print(f"wrote {target}", markup=False)


def _shapes(items: list[str] | None) -> dict[str, list[int]]:
    shapes = {}
    for item in items or ():
        name, equals, text = item.rpartition("=")
        try:
            shapes[name] = [int(size) for size in text.split(",") if size]
        except ValueError:
            equals = ""
        if not equals or not name or any(size < 1 for size in shapes[name]):
            raise UsageError(f"--input {item!r}: expected NAME=SIZES such as pixels=1,3,224,224")
    return shapes


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: {error}") from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner on stderr that says which step is running; nothing where stderr is no terminal."""
    with err.status("load", spinner="dots") as status:
        yield lambda step: status.update(step)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(spa.__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; errors a user can cause are one line and an exit status, never a traceback."""
    try:
        app(args=arguments, prog_name="spa")
    except SpaError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted; nothing was written", markup=False)
        sys.exit(130)


if __name__ == "__main__":
    main()
