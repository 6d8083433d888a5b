"""Parse how much work a training or a measurement may take: `Spend.of("5m").seconds == 300`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spa.errors import UsageError
from spa.fields import any_of

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "e": "epochs", "r": "runs"}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Spend:
    """How much work goes into something, as a number with its unit: 90s, 5m, 2h, 3e (epochs) or 2000r (runs)."""

    amount: float
    unit: str

    @classmethod
    def of(cls, text: str) -> Spend:
        """What a text such as 5m stands for.

        Raises:
            UsageError: it is not of that form.
        """
        unit = text.strip()[-1:].lower()
        try:
            amount = float(text.strip()[:-1])
        except ValueError:
            amount = 0.0
        if unit not in UNITS or not 0 < amount < float("inf") or (unit in "er" and amount != int(amount)):
            raise UsageError(f"{text!r}: expected a number with its unit, such as {', '.join(_examples())}")
        return cls(amount, unit)

    @property
    def seconds(self) -> float | None:
        """Of time; None: it is told in another unit."""
        return self.amount * _SECONDS[self.unit] if self.unit in _SECONDS else None

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"


def _examples() -> list[str]:
    return [f"{example} ({UNITS[example[-1]]})" for example in ("90s", "5m", "2h", "3e", "2000r")]


def spend_in(units: str) -> Callable[[Any], str | None]:
    """A check that a text is a `Spend` in one of some units."""

    def check(value: Any) -> str | None:
        expected = any_of(e for e in _examples() if e.partition(" ")[0][-1] in units)
        try:
            return None if Spend.of(value).unit in units else expected
        except (UsageError, TypeError, AttributeError):
            return expected

    return check
