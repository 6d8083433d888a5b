"""Parts of pages: sections, each with a template of its own, and charts by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Part = dict[str, Any]


@dataclass(slots=True)
class Page:
    """A page on its way.

    Attributes:
        kicker: what kind of page it is, in a word or two above the title.
        lead: what was asked for and what came of it.
        charts: Vega-Lite specifications by the name of their place.
    """

    kicker: str
    title: str
    lead: str
    sections: list[dict[str, Any]] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)

    def section(self, name: str, title: str, lead: str, parts: Iterable[Part | None]) -> None:
        """Add a section; without parts it is left out."""
        kept = [part for part in parts if part is not None]
        self.sections.append({"id": name, "title": title, "lead": lead, "parts": kept})

    def chart(self, name: str, spec: Mapping[str, Any], label: str, *, caption: str = "", long: bool = False) -> Part:
        """A chart, what it shows for who cannot see it, and a line below it.

        Args:
            long: it scrolls beyond the height of a screen.
        """
        self.charts[name] = spec
        return {"kind": "chart", "name": name, "label": label, "caption": caption, "long": long}


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, summary: str = "") -> Part | None:
    """A table; columns that end in > hold numbers.

    Args:
        summary: what it is called where it is folded.
    """
    heads = [{"name": name.removesuffix(" >"), "numbers": name.endswith(" >")} for name in columns]
    lines = [[str(cell) for cell in row] for row in rows]
    return {"kind": "table", "columns": heads, "rows": lines, "summary": summary} if lines else None


def tiles(entries: Iterable[tuple[str, str, str]]) -> Part:
    """Figures: name, value, and what to know of it."""
    return {"kind": "tiles", "tiles": [{"name": a, "value": b, "more": c} for a, b, c in entries]}


def verdict(text: str, *, bad: bool = False) -> Part | None:
    """A sentence that decides."""
    return {"kind": "verdict", "text": text, "bad": bad} if text else None


def notes(lines: Sequence[str]) -> Part | None:
    """What a user should know."""
    return {"kind": "notes", "notes": list(lines)} if lines else None


def text(words: str) -> Part:
    """A paragraph."""
    return {"kind": "text", "text": words}


def heading(words: str) -> Part:
    """A heading within a section."""
    return {"kind": "heading", "text": words}


def code(words: str) -> Part | None:
    """What is typed."""
    return {"kind": "code", "text": words} if words else None


def grid(charts: Sequence[Part]) -> Part | None:
    """Charts side by side where there is room."""
    return {"kind": "charts", "charts": list(charts)} if charts else None


def repeat(page: Page, document: Mapping[str, Any], name: str) -> None:
    """The last section: how the same comes out again."""
    how = document.get("repeat") or {}
    facts = [("SPA", document["version"])]
    facts += [(key, value) for key, value in (how.get("versions") or {}).items()]
    facts += [(f"SHA-256 of {key}", value) for key, value in (how.get("sha256") or {}).items() if value]
    options = [(key, _shown(value)) for key, value in (document.get("options") or {}).items()]
    page.section(
        "repeat", "How to repeat it", "The command, and what it ran with.",
        [
            code(how.get("command") or ""),
            table(["what", "value"], facts),
            table(["option", "value"], options, summary="all options") if options else None,
            {"kind": "button", "name": name, "text": "Save the data of this page as JSON"},
        ],
    )  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
