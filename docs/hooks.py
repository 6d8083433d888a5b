"""What `mkdocs build` fills into pages: the table of operators."""

from __future__ import annotations

from typing import Any

from spa.report import rule_rows, rules_markdown

MARKER = "<!-- operators -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with the table where it asks for it."""
    return markdown.replace(MARKER, rules_markdown(rule_rows())) if MARKER in markdown else markdown
