"""What `mkdocs build` fills into pages where they ask for it: the tables of operators and of criteria."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import getdoc
from typing import Any

from spa.passes.choose.importance import CRITERIA
from spa.report import rule_rows, rules_markdown


def criteria_markdown() -> str:
    """Every criterion of weights, as its docstring says it."""
    said = {name: " ".join((getdoc(criterion) or "").split()) for name, criterion in CRITERIA.items()}
    rows = [f"| `{name}` | {text} |" for name, text in said.items()]
    return "\n".join(["| criterion | a unit's score |", "|---|---|", *rows])


TABLES: Mapping[str, Callable[[], str]] = {
    "<!-- operators -->": lambda: rules_markdown(rule_rows()),
    "<!-- criteria -->": criteria_markdown,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables."""
    for marker, table in TABLES.items():
        if marker in markdown:
            markdown = markdown.replace(marker, table())
    return markdown
