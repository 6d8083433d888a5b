"""Resolve the arguments of a command: models, targets, plans. Each is refused in a line that names it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spa.analysis.plan import Plan
from spa.cli.app import RESULT
from spa.clock import Progress
from spa.errors import ModelError, UsageError
from spa.feeds import Feeds
from spa.feeds import parse as parse_feeds
from spa.frontends import sources
from spa.frontends.addresses import hub_hint, refuse_address
from spa.frontends.files import folder, onnx_file
from spa.options import PruneOptions, input_shapes

PIPE = Path("-")
"""Standard input for a model or a plan, standard output for a result."""

SOURCE = (
    "An ONNX file, package.module:factory, a .keras file, a folder (Hugging Face, onnxruntime-genai, optimum) or a "
    ".pt2 program; - is standard input."
)
_MODEL = "Model, such as net.onnx or my_package.models:build"

Source = Annotated[Path, typer.Argument(metavar="MODEL", help=SOURCE, show_default=False, rich_help_panel=_MODEL)]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Where to write, a folder for a folder; - is standard output (default: beside the model).",
        rich_help_panel=RESULT,
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=1,3,224,224",
        help="The shape of an input, where open axes are not enough; may be repeated.",
        rich_help_panel=RESULT,
    ),
]
Feed = Annotated[
    list[str] | None,
    typer.Option(
        "--feed",
        metavar="NAME=VALUES",
        help="What an input is given when outputs are compared: numbers (1,2,3), ones, zeros, range:N (whole numbers "
        "below N), or a file .npy or .npz; FILE.npz alone holds inputs by name; may be repeated.",
        rich_help_panel=RESULT,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="Inside an operator (default: one a core).", rich_help_panel=RESULT),
]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="onnxruntime's name of a device, such as CPUExecutionProvider.",
        rich_help_panel=RESULT,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, as spa/schema.json says, not tables.", rich_help_panel=RESULT),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.", rich_help_panel=RESULT)]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write the result unchecked.", rich_help_panel=RESULT)]


def check_source(source: Path) -> None:
    """Refuse a source that is not there, before any work.

    Raises:
        UsageError: it is an address of the net.
        ModelError: there is no such file; says where else it may be.
    """
    if source == PIPE or sources.is_framework(source):
        return
    refuse_address(source)
    if source.is_dir():
        folder.graph_of(source)
    if not os.path.lexists(source):
        raise ModelError(f"cannot read {str(source)!r}: No such file or directory{hub_hint(source)}")


def opened(source: Path, step: Progress, options: PruneOptions | None = None) -> Any:
    """What the pipeline takes: a path to ONNX as it is, standard input read, what a framework holds exported.

    Args:
        options: whose samples are tried on what a framework holds, before it is exported.
    """
    if source == PIPE:
        return onnx_file.load_stream(sys.stdin.buffer)
    if not sources.is_framework(source):
        return source
    from spa.adapters.early import check_samples

    step("export")

    def tried(held: sources.Opened) -> None:
        if options is not None:
            check_samples(held.frontend, held.model, held.inputs, options)

    return sources.export(source, before=tried)


def beside(source: Path, ending: str) -> Path:
    """Where a result goes by default: beside a file; else into the working directory."""
    if source == PIPE:
        return PIPE
    if not source.exists() and sources.is_framework(source):
        return Path(f"{str(source).partition(':')[2]}.{ending}")
    if source.is_dir():
        whole = source.resolve()
        return (source.parent if source.name else whole.parent) / f"{whole.name}.{ending}"
    return source.parent / f"{source.stem}.{ending}"


def result_beside(source: Path, word: str) -> Path:
    """Where what is made of a model goes by default: beside it, of a folder a folder."""
    return beside(source, word if folder.is_onnx_folder(source) else f"{word}.onnx")


def check_targets(target: Path | None, *others: Path | None, like: Path | None = None) -> None:
    """Refuse a target that cannot be written, or that is another file of the command, before any work.

    Args:
        like: the source of what is written: a folder becomes a folder.
    """
    if target is None or target == PIPE:
        return
    if any(other is not None and target.resolve() == other.resolve() for other in others):
        raise UsageError(f"cannot write {str(target)!r}: the command reads or writes it already; choose another name")
    if like is not None and folder.holds(like, target):
        folder.check_target(target, like)
    else:
        if not target.suffix and not target.exists():  # the shell's slash behind a folder's name is lost
            raise UsageError(f"--output {str(target)!r}: expected a name that ends in .onnx, such as {target}.onnx")
        onnx_file.check_target(target)


def write(model: Any, target: Path) -> None:
    """Write a model to a file or, where it came from one, a folder, whole or not at all; or to standard output."""
    if target != PIPE:
        onnx_file.save(model, target)
        return
    sys.stdout.buffer.write(onnx_file.to_bytes(model))
    sys.stdout.buffer.flush()


def checkpoint(target: Path, options: PruneOptions) -> Path | None:
    """The folder in which a repair keeps what it has found until the target is written; None: there is no repair."""
    if options.run.checkpoint is not None:
        return Path(options.run.checkpoint)
    return target.with_name(f"{target.name}.unfinished") if options.decided_by in ("samples", "best") else None


def forget(kept: Path | None) -> None:
    """Remove what a repair kept."""
    if kept is not None and kept.is_dir():
        from spa.passes.repair.journal import clear

        clear(kept)


def named(target: Path) -> str:
    """A target in words."""
    return "standard output" if target == PIPE else str(target)


def shapes(items: list[str] | None) -> dict[str, list[int]]:
    """The shapes of inputs, each NAME=SIZES."""
    try:
        return input_shapes(items or ())
    except UsageError as error:
        raise UsageError(f"--input {error}") from error


def feeds(items: list[str] | None) -> Feeds:
    """What inputs are given, each NAME=VALUES or a file."""
    try:
        return parse_feeds(items or ())
    except UsageError as error:
        raise UsageError(f"--feed {error}") from error


def read_plan(path: Path) -> Plan:
    """The plan in a file, or on standard input."""
    try:
        return Plan.from_json(sys.stdin.read() if path == PIPE else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: it is no text") from error
    except ModelError as error:
        raise ModelError(f"{str(path)!r}: {error}") from error


def check_together(**exclusive: tuple[bool, str]) -> None:
    """Refuse options that have no effect beside others.

    Args:
        exclusive: the flag, with whether it was given in vain, and why.
    """
    for flag, (vain, why) in exclusive.items():
        if vain:
            raise UsageError(f"--{flag.replace('_', '-')} has no effect {why}: leave one of them out")
