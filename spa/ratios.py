"""The ratios of a sweep, and what is done with the models: ``SweepOptions(ratios="0.1:0.7", keep="models")``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from spa.errors import UsageError
from spa.fields import Options, about, is_number, number, options_of
from spa.passes.choose.budget import share

STEP = 0.1
"""Between the ratios of LOW:HIGH."""

MOST_RATIOS = 50


def ratios_of(text: str) -> tuple[float, ...]:
    """The ratios that a text says: 0.1:0.7 in steps of a tenth, 0.1:0.7:0.05 in others, 10%,30%,50% one by one.

    Raises:
        UsageError: the text is of none of these forms, or names too many.
    """
    expected = "expected LOW:HIGH, LOW:HIGH:STEP or a list, such as 0.1:0.7 or 10%,30%,50%"
    try:
        separator = ":" if ":" in text else ","
        shares = [share(part) for part in text.split(separator)]
    except UsageError:
        raise UsageError(f"{text!r}: {expected}") from None
    _check_percent(text, shares, separator)
    if separator == ",":
        return tuple(shares)
    low, high, *more = shares
    step = more[0] if more else STEP
    if len(more) > 1 or not 0 < step < 1 or not low < high:
        raise UsageError(f"{text!r}: {expected}")
    count = int((high - low) / step + 1e-9)
    if count >= MOST_RATIOS:
        raise UsageError(f"{text!r}: these are {count + 1} ratios, more than {MOST_RATIOS}: take larger steps")
    ratios = [round(low + step * number, 9) for number in range(count + 1)]
    return tuple(ratios if high - ratios[-1] < 1e-6 else [*ratios, high])


def _check_percent(text: str, shares: Sequence[float], separator: str) -> None:
    """UsageError where shares look like percent without a sign."""
    if any(each > 1 for each in shares):
        parts = [part.strip() for part in text.split(separator)]
        plain = [part.endswith("%") or each < 1 for part, each in zip(parts, shares, strict=True)]
        signed = [part if fits else f"{part}%" for part, fits in zip(parts, plain, strict=True)]
        fine = all(0 < each <= 1 for each in map(share, signed))
        meant = separator.join(signed) if fine else "shares below 1"
        raise UsageError(f"{text!r}: expected shares between 0 and 1; did you mean {meant}?")


def _are_ratios(value: Any) -> str | None:
    expected = "shares between 0 and 1, both excluded, each once"
    fine = (
        len(value) > 0 and len(set(value)) == len(value) and all(is_number(ratio) and 0 < ratio < 1 for ratio in value)
    )
    return None if fine else expected


def _is_time(value: Any) -> str | None:
    return None if is_number(value) and value >= 0 else "a number of seconds, 0 or more"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions(Options):
    """The ratios of a sweep, and what is done with each."""

    PANEL: ClassVar[str] = "The ratios, and what is kept and timed, such as --ratios 0.1:0.7 --keep models"

    ratios: Sequence[float] = field(
        metadata=about(
            "the shares to remove: LOW:HIGH in steps of 0.1, LOW:HIGH:STEP, or a list such as 10%,30%,50%",
            metavar="LOW:HIGH",
            parse=ratios_of,
            check=_are_ratios,
        )
    )
    keep: str | os.PathLike[str] | None = field(
        default=None, metadata=about("a folder that the models are written into", metavar="FOLDER")
    )
    seconds: float = field(
        default=10.0,
        metadata=about(
            "how long the models are timed side by side, about; 0: they are not", metavar="S", parse=number,
            check=_is_time,
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        given: Any = self.ratios
        if isinstance(given, str):
            object.__setattr__(self, "ratios", ratios_of(given))
        elif is_number(given):
            object.__setattr__(self, "ratios", (float(given),))
        else:
            object.__setattr__(self, "ratios", tuple(float(ratio) if is_number(ratio) else ratio for ratio in given))
        Options.__post_init__(self)

    @classmethod
    def taken_from(cls, given: Mapping[str, Any]) -> tuple[SweepOptions, dict[str, Any]]:
        """The options of a sweep among those that are `given` by name, and the others.

        Raises:
            UsageError: there are no ratios, or a value is not what was expected.
        """
        names = {option.name for option in options_of(cls)}
        mine = {name: value for name, value in given.items() if name in names and value is not None}
        if "ratios" not in mine:
            raise UsageError("ratios are missing: say which, such as 0.1:0.7 or 0.1,0.3,0.5")
        return cls(**mine), {name: value for name, value in given.items() if name not in names}

    def asked(self) -> dict[str, Any]:
        """What decides of the result, as JSON knows it."""
        return {"ratios": list(self.ratios), "seconds": self.seconds}
