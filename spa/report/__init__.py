"""The report of a run, as data and JSON and as tables on a console; the operators' rules as a table."""

from __future__ import annotations

from spa.report.data import (
    NOT_CHECKED,
    NOT_COMPARED,
    VERIFIED,
    FrozenAxes,
    FrozenShare,
    GroupRow,
    Report,
    frozen_axes,
    frozen_shares,
    group_rows,
    inventory_json,
    resized_note,
)
from spa.report.rules import RuleRow, print_rules, rule_rows, rules_markdown
from spa.report.tables import print_inventory, print_report, print_verdict, quantity

__all__ = [
    "NOT_CHECKED", "NOT_COMPARED", "VERIFIED", "FrozenAxes", "FrozenShare", "GroupRow", "Report", "RuleRow",
    "frozen_axes", "frozen_shares", "group_rows", "inventory_json", "print_inventory", "print_report", "print_rules",
    "print_verdict", "quantity", "resized_note", "rule_rows", "rules_markdown",
]  # fmt: skip
