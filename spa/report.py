"""What a run did, for machines (JSON) and for people (rich tables)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spa.coupling import Coupling
from spa.dims import ONE, leaves
from spa.group import Group
from spa.operation import RuleFunction, registered
from spa.plan import Plan


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group before and after."""

    name: str
    kind: str
    units: int
    removed: int
    off: str | None = None


@dataclass(frozen=True, slots=True)
class FrozenShare:
    """Parameters that no group can reach, by reason."""

    reason: str
    params: int
    share: float
    example: str


@dataclass(slots=True)
class Report:
    """What was removed, what was kept and why.

    Attributes:
        before, after: params, flops, bytes of the whole model.
        difference: largest relative difference from the masked dense model; None: not compared.
        exact: whether the theorem covers the plan.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    groups: Sequence[GroupRow]
    frozen: Sequence[FrozenShare]
    difference: float | None = None
    exact: bool = True
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def removed_share(self, measure: str) -> float:
        """The share (0..1) of a measure that went."""
        return 1 - self.after[measure] / self.before[measure] if self.before[measure] else 0.0

    def to_json(self) -> str:
        """The report as one JSON object."""
        data: dict[str, Any] = asdict(self)
        data["removed_share"] = {measure: self.removed_share(measure) for measure in self.before}
        return json.dumps(data, indent=1)


def group_rows(groups: Sequence[Group], plan: Plan | None = None) -> list[GroupRow]:
    """A row for each group."""
    removed = plan.removed if plan is not None else {}
    return [
        GroupRow(g.name, g.kind, g.size, len(removed.get(g.name, ())), str(g.off) if g.off else None) for g in groups
    ]


def frozen_shares(coupling: Coupling, groups: Sequence[Group], total: float) -> list[FrozenShare]:
    """The stored floats none of whose axes can shrink, by reason, largest share first."""
    prunable = {s.value for g in groups for s in g.slices}
    found: dict[str, list[tuple[int, str]]] = {}
    for value, axes in coupling.axes.items():
        tensor = value.const_value
        if tensor is None or value in prunable or value not in coupling.weights or not tensor.dtype.is_floating_point():
            continue
        reasons = [coupling.frozen[leaf].text for dim in axes for leaf in leaves(dim) if leaf in coupling.frozen]
        reason = " and ".join(dict.fromkeys(reasons)) or "a single number"
        if all(leaf is ONE for dim in axes for leaf in leaves(dim)):
            reason = "a single number"
        found.setdefault(reason, []).append((int(tensor.size), str(value.name)))
    shares = [
        FrozenShare(reason, sum(n for n, _ in entries), sum(n for n, _ in entries) / (total or 1), max(entries)[1])
        for reason, entries in found.items()
    ]
    return sorted(shares, key=lambda share: -share.params)


# ------------------------------------------------------------------------------------------------- for people
def quantity(number: float) -> str:
    """1234567 -> 1.23 M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g} {letter}"
    return f"{number:.0f}"


def print_report(report: Report, console: Console, *, all_groups: bool = False) -> None:
    """The tables a person reads after `spa prune`."""
    cost = Table(show_edge=False, box=None)
    for column in ("", "before", "after", "removed"):
        cost.add_column(column, justify="left" if not column else "right")
    for measure in report.before:
        cost.add_row(
            measure,
            quantity(report.before[measure]),
            quantity(report.after[measure]),
            f"{report.removed_share(measure):.1%}",
        )
    console.print(cost)
    console.print()
    print_groups(report.groups, console, all_groups=all_groups)
    print_frozen(report.frozen, console)
    print_verdict(report, console)


def print_verdict(report: Report, console: Console) -> None:
    """What verification found, in a line."""
    if report.difference is not None:
        what = "the dense model with what was removed read as zero"
        word = "exact" if report.exact else "not exact by construction: units that enter a norm were removed"
        console.print(
            f"verified: same outputs, largest relative difference from {what} {report.difference:.1e} ({word})"
        )
    for note in report.notes:
        console.print(f"note: {note}", markup=False)


def print_groups(rows: Sequence[GroupRow], console: Console, *, all_groups: bool = False) -> None:
    """By kind; with `all_groups`, group by group."""
    if not rows:
        return
    table = Table(show_edge=False, box=None)
    table.add_column("group" if all_groups else "kind", overflow="fold")
    if all_groups:
        table.add_column("kind")
    for column in () if all_groups else ("groups",):
        table.add_column(column, justify="right")
    for column in ("units", "removed", "share"):
        table.add_column(column, justify="right")
    table.add_column("")
    if all_groups:
        for row in rows:
            table.add_row(
                row.name,
                row.kind,
                str(row.units),
                str(row.removed),
                f"{row.removed / row.units:.0%}",
                f"off: {row.off}" if row.off else "",
            )
    else:
        kinds = dict.fromkeys((row.kind, row.off is not None) for row in rows)
        for kind, off in kinds:
            mine = [row for row in rows if (row.kind, row.off is not None) == (kind, off)]
            units, gone = sum(row.units for row in mine), sum(row.removed for row in mine)
            hint = f"off, --include {kind} turns it on: {mine[0].off}" if off and not gone else ""
            table.add_row(kind, str(len(mine)), str(units), str(gone), f"{gone / units:.0%}", hint)
    console.print(table)
    console.print()


def print_frozen(shares: Sequence[FrozenShare], console: Console, *, most: int = 6) -> None:
    """What cannot shrink and why."""
    shown = [share for share in shares if share.params][:most]
    if not shown:
        return
    table = Table(show_edge=False, box=None)
    for column in ("stays: tensors with no axis to cut", "params", "share", "for example"):
        table.add_column(column, justify="right" if column in ("params", "share") else "left", overflow="fold")
    for share in shown:
        table.add_row(share.reason, quantity(share.params), f"{share.share:.1%}", share.example)
    console.print(table)
    console.print()


# ----------------------------------------------------------------------------------------------------- rules
@dataclass(frozen=True, slots=True)
class RuleRow:
    """Operators that share a rule, and what it says."""

    family: str
    operators: tuple[str, ...]
    text: str


def rule_rows(operator: str | None = None) -> list[RuleRow]:
    """The registered rules, families in alphabetical order; only those for `operator` if given."""
    found: dict[RuleFunction, list[str]] = {}
    for (domain, name), function in sorted(registered().items()):
        full = f"{domain}::{name}" if domain else name
        if operator is None or operator.lower() in (name.lower(), full.lower()):
            found.setdefault(function, []).append(full)
    rows = [
        RuleRow(function.__module__.rpartition(".")[2], tuple(names), " ".join((function.__doc__ or "").split()))
        for function, names in found.items()
    ]
    return sorted(rows, key=lambda row: (row.family, row.operators))


def rules_markdown(rows: Sequence[RuleRow]) -> str:
    """README's table of operators."""
    lines = ["| family | operators | rule |", "|---|---|---|"]
    for row in rows:
        text = row.text.replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| {row.family} | {', '.join(row.operators)} | {text} |")
    return "\n".join(lines)


def print_rules(rows: Sequence[RuleRow], console: Console) -> None:
    """The rules for a person."""
    table = Table(show_edge=False, box=None)
    for column in ("operators", "rule"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(Text(", ".join(row.operators)), Text(row.text))
    console.print(table)
