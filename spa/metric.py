"""The user's own metric of a model: a function of its path, or of a session that runs it, that gives a number.

    def accuracy(path): ...             # of the ONNX file: torch, onnxruntime, a simulator, anything
    def accuracy(session): ...          # of an onnxruntime.InferenceSession, by the name of the argument or its type

`--metric my_module:accuracy` names it at the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from spa import runtime
from spa.errors import SpaError, UsageError

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of models.

    Attributes:
        function: the user's, of one argument.
        rises: whether more is better.
    """

    function: Function
    rises: bool = True

    @property
    def name(self) -> str:
        """What reports call it."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def takes_session(self) -> bool:
        """Whether the function wants a session, and not a path: its argument is called so, or is annotated so."""
        try:
            first = next(iter(inspect.signature(self.function).parameters.values()), None)
        except (TypeError, ValueError):  # some builtins have no signature
            return False
        return first is not None and (first.name == "session" or "InferenceSession" in str(first.annotation))

    def of(self, path: Path) -> float:
        """The metric of a model in a file.

        Raises:
            UsageError: the function raises, or gives something else than a finite number; says which and for which
                file.
        """
        given = runtime.session(path, optimize=True) if self.takes_session else str(path)
        what = "a session" if self.takes_session else "the path"
        try:
            value = self.function(given)
        except SpaError:
            raise
        except Exception as error:
            raise UsageError(
                f"metric {self.name}, called with {what} of {path.name}, raised {type(error).__name__} ({error})"
            ) from error
        number = _number(value)
        if number is None or not isfinite(number):
            shown = repr(value) if len(repr(value)) < 80 else type(value).__name__
            raise UsageError(
                f"metric {self.name}, called with {what} of {path.name}: expected a finite number, found {shown}"
            )
        return number

    def worse_by(self, dense: float, pruned: float) -> float:
        """How much worse a model is than the dense one; below zero where it is better."""
        return dense - pruned if self.rises else pruned - dense


def _number(value: Any) -> float | None:
    """What is a number: of Python, numpy or a framework's array of one element."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
