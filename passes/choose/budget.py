"""How much of a model goes, of what, and from where: ``Budget(ratio=0.3, of="flops", align=8)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, ClassVar

from spa.analysis.cost import MEASURES
from spa.errors import UsageError
from spa.fields import Options, about, at_least, between, is_number

PROTECTED = 0.3
"""Of the attention in a sequence that repeats itself, to what followed before: from here on a head is protected."""
RETRIEVAL, OUTLIERS = "retrieval", "outliers"
CHANNELS = "channels"
LATENCY = "latency"
UNSAID = float("nan")
"""No ratio, where something else says how much goes."""
AUTO = "auto"
BUDGETS = (*MEASURES, LATENCY, CHANNELS)
SCOPES = ("global", "local", "isomorphic")


def _is_share(value: Any) -> str | None:
    if (is_number(value) and 0 < value < 1) or value is UNSAID:
        return None
    if isinstance(value, str) and value.strip().endswith("%"):
        return f"a number between 0 and 1, both excluded{_meant(value)}; only the command line takes a percent sign"
    meant = f"; did you mean {value / 100:g} or, on the command line, {value:g}%?" if _is_percent(value) else ""
    return f"a share between 0 and 1, both excluded{meant}"


def _meant(text: str) -> str:
    try:
        return f", such as {share(text):g}"
    except UsageError:
        return ""


def _is_protection(value: Any) -> str | None:
    try:
        what, share = protection(value)
    except (AttributeError, ValueError):
        what, share = "", 0.0
    known = what == OUTLIERS or 0 < share <= 1
    return None if known else f"{RETRIEVAL}, {RETRIEVAL}:0.5 with a score between 0 and 1, or {OUTLIERS}"


def protection(text: str) -> tuple[str, float]:
    """What is protected, and of heads the score from which on they are.

    Raises:
        ValueError: it is neither.
    """
    name, _, score = text.partition(":")
    if name not in (RETRIEVAL, OUTLIERS) or (name == OUTLIERS and score):
        raise ValueError(text)
    return name, float(score) if score else PROTECTED


def is_said(ratio: float) -> bool:
    """Whether a ratio was given."""
    return not isnan(ratio)


def _is_percent(value: Any) -> bool:
    return is_number(value) and 1 < value < 100


def share(text: str) -> float:
    """0.3 and 30% are the same.

    Raises:
        UsageError: the text is no number.
    """
    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(f"{text!r}: expected a share such as 0.3 or 30%") from None
    return number / 100 if text.strip().endswith("%") else number


def _is_multiple(value: Any) -> str | None:
    expected = f"a whole number of units, 1 or more, or {AUTO}"
    return None if isinstance(value, str) and value == AUTO else at_least(1, what=expected)(value)


def multiple(text: str) -> int | str:
    """A number, or auto as it is."""
    return int(text) if text.strip().isdecimal() else text.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Options):
    """What is to go.

    With the scope global, all units of the model compete; with isomorphic, those of groups with the same kind and
    structure, all such families losing the same share (Fang et al., Isomorphic Pruning, 2024); with local, those of one
    group, all groups losing the same share. A budget of channels is local by nature.

    The width of a unit, for `align`, is the number of positions in a row that it takes: one for a channel, as many as
    the head has for a head. Of nested groups, such as heads and the positions inside them, only one is cut, so that
    one loses exactly `ratio`: the outermost that can lose at least half of it (two heads cannot lose a tenth), else
    the next inner one; included groups are cut besides.

    Raises:
        UsageError: an option is out of range.
    """

    PANEL: ClassVar[str] = "What goes, such as --ratio 30% --of flops --align 8"

    ratio: float = field(
        default=UNSAID,
        metadata=about(
            "the share to remove, between 0 and 1",
            metavar="SHARE",
            check=_is_share,
            parse=share,
            unset="what target or max_loss says",
        ),
    )
    of: str = field(
        default="params",
        metadata=about(
            "what it is a share of",
            metavar="WHAT",
            choices=BUDGETS,
            more="of the whole model; latency is the time of a run on this machine, or where profile was made; or with "
            "channels, of the units of every group that takes part",
        ),
    )
    scope: str = field(  # global is the least damaging in tests/benchmarks/defaults.md
        default="global",
        metadata=about(
            "whose units compete",
            metavar="NAME",
            choices=SCOPES,
            more="local takes the same share of every group, isomorphic of all groups of one kind and structure",
        ),
    )
    align: int | str = field(
        default=AUTO,
        metadata=about(
            "kept widths are multiples of this, or all of a group stays",
            metavar="N",
            check=_is_multiple,
            parse=multiple,
            more="auto: what the processor computes in blocks of, given up for a group where it holds the budget back",
        ),
    )
    min_keep: float = field(
        default=0.1,
        metadata=about(
            "the share of its units that each group keeps at least",
            metavar="SHARE",
            check=between(0, 1, what="a share between 0 and 1"),
            parse=share,
        ),
    )
    include: Sequence[str] = field(
        default=(),
        metadata=about(
            "kinds or groups that are off by default and shall go too: width, head_dim, experts, depth",
            metavar="PATTERN",
        ),
    )
    exclude: Sequence[str] = field(
        default=(), metadata=about("groups to leave alone, by group, kind, tensor or node", metavar="PATTERN")
    )
    only: Sequence[str] = field(
        default=(), metadata=about("groups to prune, and no others, by group, kind, tensor or node", metavar="PATTERN")
    )
    protect: str | None = field(
        default=None,
        metadata=about(
            "what stays: retrieval, heads that look up what was said before (with a score of "
            f"{PROTECTED} or more; retrieval:0.5 asks for another); outliers, experts whose outputs are extreme",
            metavar="WHAT",
            check=_is_protection,
        ),
    )
    widths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By group, the numbers of units that it may keep besides all: no option, but what a framework takes."""
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By group, the units that stay: no option, but what `protect` comes to."""
