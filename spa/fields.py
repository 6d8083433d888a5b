"""An option, described once: the field of a dataclass that says its name, meaning, default, check and flag.

Everything else follows from the field: the option of `spa prune` with its help, the keyword of `spa.prune` and of the
frontends' `prune` with its line in the docstring, and the check. To add an option, add a field to the class of the step
that reads it, here a whole number that `spa prune --patience 3` and ``spa.prune(model, patience=3)`` then take::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Budget(Options):
        patience: int = field(
            default=1, metadata=about("how many times to try again", metavar="N", check=at_least(1))
        )

| class | in | what it says |
|---|---|---|
| `Budget` | spa/passes/choose/budget.py | how much goes, of what, and from where |
| `Scoring` | spa/passes/choose/importance/scoring.py | what a unit is scored by |
| `RepairOptions` | spa/repair.py | samples, and the work that goes into choosing and refitting by them |
| `ImageOptions` | spa/frontends/samples.py | how images become samples |
| `TextOptions` | spa/frontends/texts.py | how texts become samples |
| `LearningOptions` | spa/gradients/options.py | criteria from gradients, fine-tuning, steps, controls |
| `RunOptions` | spa/options.py | shapes to analyse with, checks, dry run |

`spa.options.PruneOptions` puts them together and checks what two of them say of each other.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, ClassVar, TypeVar, get_type_hints

import numpy as np

from spa.errors import UsageError

_WIDTH = 116

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class About:
    """What a field says of its option.

    Attributes:
        meaning: a clause without a capital or a full stop, before the choices.
        more: a clause behind the choices.
        metavar: what the command line's help calls the value.
        choices: the words that it may be; empty: any.
        check: what was expected, in words, where a value is refused; None where it is good.
        parse: the value that a text of the command line stands for; raises UsageError, whose message begins with the
            text.
        repeated: whether the flag may be given several times; `parse` gets a list of texts then.
        flag: of the command line, where it is not the name with dashes.
        negated: of a truth value that is true by default, and which the flag turns off: what the flag means.
        unset: what holds where the value is None, in words.
        needs: what has to decide for this option to have an effect, of samples, weights and gradients; empty: any.
        parts: the class of a value that is made of options itself, which are flags of their own.
    """

    meaning: str
    more: str = ""
    metavar: str = ""
    choices: Collection[str] = ()
    check: Callable[[Any], str | None] | None = None
    parse: Callable[[Any], Any] | None = None
    repeated: bool = False
    flag: str = ""
    negated: str = ""
    unset: str = ""
    needs: Collection[str] = ()
    parts: type[Options] | None = None

    @property
    def sentence(self) -> str:
        """The meaning with what may be chosen."""
        chosen = f": {any_of(self.choices)}" if self.choices else ""
        return f"{self.meaning}{chosen}{'; ' if self.more else ''}{self.more}"


def about(meaning: str, **more: Any) -> Mapping[str, About]:
    """The metadata of an option's field; the keywords are the attributes of `About`."""
    return {"option": About(meaning, **more)}


@dataclass(frozen=True, slots=True)
class Option:
    """A field of a class of options.

    Attributes:
        default: `dataclasses.MISSING` where the option has to be given.
    """

    name: str
    type: Any
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """On the command line."""
        return self.about.flag or f"--{self.name.replace('_', '-')}"

    @property
    def keyword_default(self) -> Any:
        """What a signature shows: nothing where it has to be given, None where something else may say it."""
        if self.default is dataclasses.MISSING:
            return inspect.Parameter.empty
        return None if self.default != self.default else self.default

    @property
    def many(self) -> bool:
        """Whether it holds any number of texts."""
        return isinstance(self.default, tuple) and not self.default

    def refuse(self, value: Any) -> None:
        """Raise UsageError where a value is not what was expected."""
        choices = self.about.choices
        if choices and value not in choices:
            raise UsageError(
                f"{self.name} {value!r}: expected one of {', '.join(choices)}{did_you_mean(value, choices)}"
            )
        expected = None if self.about.check is None else self.about.check(value)
        if expected is not None:
            shown = f"{value:g}" if isinstance(value, (int, float)) else repr(value)
            flag = f" ({self.flag})" if self.about.flag else ""
            raise UsageError(f"{self.name}{flag} {shown}: expected {expected}")


class Options:
    """Base of the classes of options: every field is checked when an object is made.

    Raises:
        UsageError: a value is not what its field expects; names the option, the value and what is expected.
    """

    __slots__ = ()
    PANEL: ClassVar[str] = ""
    """The title of these options in the command line's help, with an example."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            value = getattr(self, option.name)
            if option.many:
                value = (value,) if isinstance(value, str) else tuple(value)
                object.__setattr__(self, option.name, value)
            if value is not None or option.default is not None:
                option.refuse(value)

    def given(self) -> Iterator[Option]:
        """The options that are not as they are by default."""
        for option in options_of(type(self)):
            value = getattr(self, option.name)
            if value is not option.default and not (
                isinstance(value, (str, int, float, tuple)) and value == option.default
            ):
                yield option


def options_of(kind: type[Options]) -> list[Option]:
    """The options of a class, in order."""
    if kind not in _KNOWN:
        hints = get_type_hints(kind, localns=_names(kind))
        _KNOWN[kind] = [
            Option(field.name, hints[field.name], _default(field), field.metadata["option"])
            for field in dataclasses.fields(kind)
            if "option" in field.metadata
        ]
    return _KNOWN[kind]


_KNOWN: dict[type[Options], list[Option]] = {}


def _names(kind: type) -> dict[str, Any]:
    return dict(vars(inspect.getmodule(kind) or inspect))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


# ------------------------------------------------------------------------------------------------------- checks
def between(low: float, high: float, *, what: str) -> Callable[[Any], str | None]:
    """A check that a number lies between two others, both included."""
    return lambda value: None if is_number(value) and low <= value <= high else what


def at_least(low: int, *, what: str) -> Callable[[Any], str | None]:
    """A check that a whole number is not below another."""
    return lambda value: None if is_number(value) and value == int(value) and value >= low else what


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and isfinite(value)


def number(text: str) -> float:
    """A number of the command line; whole ones are whole.

    Raises:
        UsageError: the text is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{text!r}: expected a number") from None
    return int(value) if isfinite(value) and value == int(value) else value


def function_of(text: str) -> Callable[..., Any]:
    """The function that module:function names; modules in the working directory are found too.

    Raises:
        UsageError: there is no such module or function, or it cannot be called; says which.
    """
    module, _, name = text.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a script in the working directory, as python -m finds it
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(str(error)) from error
    if not callable(function):
        raise UsageError(f"expected a function, found {type(function).__name__}")
    return function


# -------------------------------------------------------------------------------------------------------- words
def any_of(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *names, last = words
    return f"{', '.join(names)} or {last}" if names else last


def did_you_mean(word: Any, known: Collection[str]) -> str:
    """A question about the known word that is closest, with a semicolon before it; or nothing."""
    close = get_close_matches(str(word), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def takes_options(*kinds: type[Options]) -> Callable[[Function], Function]:
    """A decorator for a function of ``**options``: help() shows each option as a keyword, with meaning and default.

    In the docstring, a line for each follows the line ``options: ...``.
    """
    known = [option for kind in kinds for option in options_of(kind)]

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        before = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.keyword_default,
                annotation=option.type,
            )
            for option in known
        ]
        taken = {parameter.name for parameter in before}
        parameters = [*before, *(keyword for keyword in keywords if keyword.name not in taken)]
        parameters.sort(key=lambda parameter: parameter.kind)
        vars(function)["__signature__"] = signature.replace(parameters=parameters)
        function.__doc__ = _documented(function.__doc__ or "", known)
        return function

    return decorate


def _documented(text: str, known: Iterable[Option]) -> str:
    lines = inspect.cleandoc(text).split("\n")
    at = next((n for n, line in enumerate(lines) if line.strip().startswith("options:")), None)
    if at is None:
        return text
    rows = []
    for option in known:
        default = f" (default: {option.about.unset or option.default})"
        required = option.default is dataclasses.MISSING or (option.default in (None, ()) and not option.about.unset)
        row = f"{option.name}: {option.about.sentence}{'' if required else default}."
        rows += textwrap.wrap(row, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False)
    return "\n".join([*lines[: at + 1], *rows, *lines[at + 1 :]])
