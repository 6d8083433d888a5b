"""The errors that SPA raises. A message is complete: the command line shows it alone, without a traceback."""

from __future__ import annotations

from typing import Any, ClassVar


class SpaError(Exception):
    """Base of everything a user can cause; ``exit_code`` is what the command line exits with."""

    exit_code: ClassVar[int] = 1


class UsageError(SpaError):
    """An option or argument cannot be used as given."""

    exit_code = 2


class ModelError(SpaError):
    """A model or plan cannot be read, or is not valid."""

    exit_code = 2


class NoInputError(UsageError):
    """No input of this kind can be made up, so the model cannot be run without one that is given."""


class DataError(UsageError):
    """Calibration data does not fit the model."""


class TeacherError(DataError):
    """What a teacher answers on these samples cannot be learned."""


class MissingExtra(UsageError):
    """An optional library is not installed; the message names the extra that brings it."""


class NothingToPrune(SpaError):
    """Nothing in the graph may be removed; the message says what holds it.

    Attributes:
        by_option: whether an option left groups out.
    """

    def __init__(self, message: str, *, by_option: bool = False) -> None:
        super().__init__(message)
        self.by_option = by_option


class BudgetError(SpaError):
    """The budget cannot be met; the message says what could be reached and what holds it back.

    Attributes:
        most: the plan that goes furthest (`spa.Plan`), where one was found.
        held: what holds the rest, in words.
    """

    def __init__(self, message: str, *, most: Any = None, held: str = "") -> None:
        super().__init__(message)
        self.most = most
        self.held = held


class ClusterError(SpaError):
    """A cluster is not there, has other versions or lost what it was given; or no node has the memory for a piece."""


class VerificationError(SpaError):
    """The pruned model is not valid, or does not compute what the plan says it must."""
