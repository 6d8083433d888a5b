"""The rules of the operators that are known, as the table of `spa rule` and of docs/operators.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from spa.notation.operation import registered
from spa.operators.applied import REFUSED, applied
from spa.report.grid import add_row, new_table, print_table

SHOWN = 3
"""Rules of an operator that a table of all shows."""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """Operators of a family whose axes are written alike, and the rules that the first of them gets."""

    family: str
    operators: tuple[str, ...]
    rules: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The rules without their notes."""
        return [rule.partition(" | ")[0] for rule in self.rules]

    @property
    def first(self) -> list[str]:
        """The lines that a table shows, and how many more there are."""
        more = len(self.rules) - SHOWN
        return [*self.lines[:SHOWN], *[f"and {more} more"] * (more > 0)]


def rule_rows(operator: str | None = None) -> list[RuleRow]:
    """What the operators that are known get for rules, families in alphabetical order; only `operator`, if given."""
    rules = applied()
    operators: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # (family, rules without their notes) -> operators
    for (domain, name), entry in sorted(registered().items()):
        full = f"{domain}::{name}" if domain else name
        if operator is None or operator.lower() in (name.lower(), full.lower()):
            family = entry.rule.__module__.rpartition(".")[2]
            lines = tuple(said.partition(" | ")[0] for said in rules.get(full, ()))
            operators.setdefault((family, lines), []).append(full)
    rows = [RuleRow(family, tuple(names), tuple(rules.get(names[0], ()))) for (family, _), names in operators.items()]
    return sorted(rows, key=lambda row: (row.family, row.operators))


def rules_markdown(rows: Sequence[RuleRow]) -> str:
    """The table of docs/operators.md."""
    lines = ["| family | operators | rules |", "|---|---|---|"]
    for row in rows:
        cell = "<br>".join(line if _is_prose(line) else f"`{line}`" for line in row.first)
        lines.append(f"| {row.family} | {', '.join(row.operators)} | {cell} |")
    return "\n".join(lines)


def _is_prose(line: str) -> bool:
    return line.startswith((REFUSED, "and "))


def print_rules(rows: Sequence[RuleRow], console: Console, *, whole: bool) -> None:
    """The rules for a person; `whole`: all of them, with their notes."""
    table = new_table("operators", "rules")
    for row in rows:
        add_row(table, ", ".join(row.operators), "\n".join(row.rules if whole else row.first))
    print_table(table, console)
