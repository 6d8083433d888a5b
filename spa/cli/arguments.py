"""What the words of a command stand for: sizes, numbers, targets, plans. Each is refused in a line that names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any

import typer

from spa.analysis.plan import Plan
from spa.errors import ModelError, UsageError
from spa.fields import Option, Options, options_of
from spa.frontends import sources
from spa.frontends.files import onnx_file


def beside(source: Path, ending: str) -> Path:
    """Where a result goes by default: beside a file; for package.module:factory, into the working directory."""
    if not source.exists() and sources.is_framework(source):
        return Path(f"{str(source).partition(':')[2]}.{ending}")
    return source.parent / f"{source.stem}.{ending}"


def target(model: Path, output: Path | None, word: str) -> Path:
    """Where a result goes: as told, or beside the model under another word."""
    return output or model.parent / f"{model.stem}.{word}.onnx"


def check_targets(target: Path | None, *others: Path | None) -> None:
    """Refuse a target that cannot be written, or that is another file of the command, before any work."""
    if target is None:
        return
    if any(other is not None and target.resolve() == other.resolve() for other in others):
        raise UsageError(f"cannot write {str(target)!r}: the command reads or writes it already; choose another name")
    onnx_file.check_target(target)


def takes_options(*kinds: type[Options]) -> Callable[[Any], Any]:
    """A decorator for a command that takes ``**options``: a flag for each option of some classes.

    The command gets those that were given, as texts; `values` makes of them what the classes take.
    """

    def decorate(command: Any) -> Any:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = [_flag(name, option) for kind in kinds for name, option in _flat(kind)]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = signature.replace(parameters=[*parameters, *flags])
        return command

    return decorate


def _flat(kind: type[Options], prefix: str = "") -> Iterator[tuple[str, Option]]:
    """The options of a class with unique names; those that are made of options as these."""
    for option in options_of(kind):
        if option.about.parts is not None:
            yield from _flat(option.about.parts, f"{option.name}_")
        else:
            yield f"{prefix}{option.name}", option


def _flag(name: str, option: Option) -> inspect.Parameter:
    about = option.about
    several = option.many or about.repeated
    annotation: Any = list[str] | None if several else str | None
    default: Any = None
    if isinstance(option.default, bool):
        annotation, default = bool, False
    elif option.type is int:
        annotation = int | None
    elif option.default is MISSING:
        annotation, default = str, inspect.Parameter.empty
    words = typer.Option(
        option.flag,
        metavar=about.metavar or None,
        help=_help(option, several=several),
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, words]
    )


def _help(option: Option, *, several: bool) -> str:
    about = option.about
    text = about.negated or about.sentence
    known = about.unset or option.default
    shown = isinstance(known, (str, int, float)) and not isinstance(known, bool)
    return (
        f"{text[0].upper()}{text[1:]}{'; may be repeated' if several else ''}.{f' [default: {known}]' if shown else ''}"
    )


def values(given: Mapping[str, Any], *kinds: type[Options]) -> dict[str, Any]:
    """What the words of a command stand for, by option; only those that were given.

    Raises:
        UsageError: a word is not what its option expects; names the flag.
    """
    found: dict[str, Any] = {}
    for kind in kinds:
        for option in options_of(kind):
            if option.about.parts is not None:
                inner = {
                    sub.name: given[f"{option.name}_{sub.name}"]
                    for sub in options_of(option.about.parts)
                    if given.get(f"{option.name}_{sub.name}") is not None
                }
                if inner:
                    found[option.name] = option.about.parts(**values(inner, option.about.parts))
            elif (value := given.get(option.name)) is not None and value is not False and value != []:
                found[option.name] = _value(option, value)
    return found


def _value(option: Option, text: Any) -> Any:
    if option.about.negated:
        return False
    if option.about.parse is None:
        return text
    try:
        return option.about.parse(text)
    except UsageError as error:
        raise UsageError(f"{option.flag} {error}") from error


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: it is no text") from error
    except ModelError as error:
        raise ModelError(f"{str(path)!r}: {error}") from error
