"""Numbers and names as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

LOSSES = {"kl": "KL", "relative_l2": "relative L2"}
FIGURES = {"kl": "KL divergence, nats", "relative_l2": "relative L2", "top1": "same first choice"}


def measure_of(of: str) -> str:
    """The measure that a share of something is told in: of channels, that of parameters."""
    return of if of in ("params", "flops", "bytes", "latency") else "params"


def removed_share(point: Mapping[str, Any], of: str) -> float | None:
    """The share of a measure that went at a point of a sweep: of latency what was measured, None where nothing was."""
    if of == "latency":
        return None if point["time"] is None else 1 - float(point["time"])
    share: float | None = point["removed"].get(of)
    return share


def quantity(number: float | None) -> str:
    """1234567 -> 1.23 M."""
    if number is None:
        return "–"
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g} {letter}"
    return f"{number:.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    """0.305 -> 30.5 %."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None) -> str:
    """Three digits, or a dash for none."""
    return "–" if value is None else f"{value:.3g}"


def ranges(units: Iterable[int]) -> str:
    """1, 2, 3, 7 -> 1–3, 7."""
    parts = []
    for _, run in groupby(enumerate(sorted(units)), key=lambda pair: pair[1] - pair[0]):
        first, *rest = [unit for _, unit in run]
        parts.append(f"{first}–{rest[-1]}" if rest else str(first))
    return ", ".join(parts)


def shape(sizes: Sequence[int] | None) -> str:
    """32 × 3 × 3 × 3."""
    return "–" if sizes is None else " × ".join(map(str, sizes)) or "scalar"
