"""Flags from options: what a field of `spa.fields` says becomes an option of the command, and its text a value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING
from typing import Annotated, Any

import typer

from spa.errors import UsageError
from spa.fields import Option, Options, options_of


def takes_options(*kinds: type[Options], without: Collection[str] = ()) -> Callable[[Any], Any]:
    """A decorator for a command that takes ``**options``: a flag for each option of some classes, a panel a class.

    The command gets those that were given, as texts; `values` makes of them what the classes take.

    Args:
        without: names of options that it does not take.
    """

    def decorate(command: Any) -> Any:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = [
            _flag(name, option, kind.PANEL) for kind in kinds for name, option in _flat(kind) if name not in without
        ]
        positional = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        keywords = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        command.__signature__ = signature.replace(parameters=[*positional, *flags, *keywords])
        return command

    return decorate


def _flat(kind: type[Options], prefix: str = "") -> Iterator[tuple[str, Option]]:
    """The options of a class with unique names; those that are made of options as these."""
    for option in options_of(kind):
        if option.about.parts is not None:
            yield from _flat(option.about.parts, f"{option.name}_")
        else:
            yield f"{prefix}{option.name}", option


def _flag(name: str, option: Option, panel: str) -> inspect.Parameter:
    about = option.about
    several = option.many or about.repeated
    annotation: Any = list[str] | None if several else str | None
    default: Any = None
    if isinstance(option.default, bool):
        annotation, default = bool, False
    elif option.type in (int, int | None) and about.parse is None:
        annotation = int | None
    elif option.default is MISSING:
        annotation, default = str, inspect.Parameter.empty
    words = typer.Option(
        option.flag,
        metavar=about.metavar or None,
        help=_help(option, several=several),
        show_default=False,
        rich_help_panel=panel or None,
        autocompletion=_completion(option),
    )
    described = Annotated[annotation, words]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=described)


def _help(option: Option, *, several: bool) -> str:
    about = option.about
    text = about.negated or about.sentence
    known = about.unset or option.default
    shown = isinstance(known, (str, int, float)) and not isinstance(known, bool)
    default = f" (default: {known})" if shown else ""
    return f"{text[0].upper()}{text[1:]}{'; may be repeated' if several else ''}{default}."


def _completion(option: Option) -> Callable[[str], list[str]] | None:
    if not option.about.choices:
        return None
    choices = list(option.about.choices)
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def values(given: Mapping[str, Any], *kinds: type[Options]) -> dict[str, Any]:
    """What the words of a command stand for, by option; only those that were given.

    Raises:
        UsageError: a word is not what its option expects; names the flag.
    """
    chosen: dict[str, Any] = {}
    for kind in kinds:
        for option in options_of(kind):
            if option.about.parts is not None:
                inner = {
                    sub.name: given[f"{option.name}_{sub.name}"]
                    for sub in options_of(option.about.parts)
                    if given.get(f"{option.name}_{sub.name}") is not None
                }
                if inner:
                    chosen[option.name] = option.about.parts(**values(inner, option.about.parts))
            elif (value := given.get(option.name)) is not None and value is not False and value != []:
                chosen[option.name] = _value(option, value)
    return chosen


def _value(option: Option, text: Any) -> Any:
    if option.about.negated:
        return False
    if option.about.parse is None:
        return text
    try:
        return option.about.parse(text)
    except UsageError as error:
        raise UsageError(f"{option.flag} {error}") from error
