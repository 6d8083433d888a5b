"""The `spa` command. Results go to stdout, progress and messages to stderr.

Exit status: 0 done; 1 nothing to prune, budget not met, verification failed or, in `spa verify`, not all compared;
2 bad usage or unreadable model; 130 interrupted. With --json an error is one JSON object on stdout besides.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

import spa
from spa import document
from spa.cli.console import err
from spa.errors import SpaError, UsageError
from spa.options import RunOptions

Function = TypeVar("Function", bound=Callable[..., Any])

INTERRUPTED = 130
RESULT = RunOptions.PANEL
_QUIET = ("onnx_ir", "onnxscript", "spa")
"""Loggers of which nothing reaches the user: what matters is in the report or the error."""


def _without_types(options: list[Any]) -> list[Any]:
    """Parameters whose switches, which take no value, say no type of one."""
    for option in options:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
    return options


class Commands(TyperGroup):
    """All commands."""

    def get_params(self, ctx: Any) -> Any:
        """The options of `spa` itself."""
        return _without_types(super().get_params(ctx))


app = typer.Typer(
    name="spa",
    cls=Commands,
    help="Structurally prune any ONNX model: whole channels, heads and FFN units are removed, not zeroed. "
    "Start with: spa prune model.onnx --ratio 30%",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Command(TyperCommand):
    """A command whose --help stands in the panel of results."""

    def get_params(self, ctx: Any) -> Any:
        """The arguments and options."""
        return _without_types(super().get_params(ctx))

    def get_help_option(self, ctx: Any) -> Any:
        """The option, told where it belongs."""
        option = super().get_help_option(ctx)
        if option is not None:
            vars(option)["rich_help_panel"] = RESULT
        return option


def command(function: Function) -> Function:
    """Make a function a command of `spa`."""
    return app.command(cls=Command)(function)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(spa.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


_MISUSE: type[Exception] = next(
    kind for kind in reversed(typer.BadParameter.__mro__) if hasattr(kind, "format_message")
)
"""What typer raises where a command is called wrongly: click's exception, or by version its own."""


def main(words: list[str] | None = None) -> None:
    """Run the command; errors a user can cause are one line and an exit status, never a traceback."""
    words = sys.argv[1:] if words is None else words
    try:
        code = app(args=words, prog_name="spa", standalone_mode=False)
    except SpaError as error:
        code = _refused(error, error.exit_code, words)
    except typer.Abort:
        code = INTERRUPTED
    except _MISUSE as error:
        code = _refused(UsageError(_misuse(error)), 2, words)
    if code == INTERRUPTED:
        err.print("interrupted; nothing was written", markup=False)
    sys.exit(code if isinstance(code, int) else 0)


def _misuse(error: Any) -> str:
    """What typer refuses, in one line, and where the help is."""
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context is not None else message


def _refused(error: SpaError, exit_code: int, words: list[str]) -> int:
    err.print(f"error: {error}", markup=False, soft_wrap=True)
    if "--json" in words:
        typer.echo(document.text(document.of_error(error, exit_code)))
    return exit_code
