"""The page of what heads do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa.pages import charts
from spa.pages.parts import Page, notes, repeat, table, tiles
from spa.pages.words import number

MEASURES = {
    "retrieval": ("Looking up", "attention to what followed the same token before, in a sequence said twice"),
    "first": ("First token", "attention to the first token"),
    "previous": ("Token before", "attention to the token before"),
    "entropy": ("Entropy", "of the attention, in nats"),
    "importance": ("Importance", "what the readers of the head lose as it goes"),
}


def page(document: Mapping[str, Any]) -> Page:
    """A map of all heads for each measure, and the table."""
    name = Path(str(document["paths"].get("source") or "model")).name
    rows, places = document["heads"], list(dict.fromkeys(row["attention"] for row in document["heads"]))
    page = Page("Heads", name, f"{len(rows)} heads of {len(places)} attentions; means over queries.")
    top = max(rows, key=lambda row: row["retrieval"] or 0.0)
    if top["retrieval"] is not None:
        said = f"head {top['head']} of {top['attention']}"
        page.section("summary", "Summary", "", [tiles([("looks up most", number(top["retrieval"]), said)])])
    for measure, (title, caption) in MEASURES.items():
        told = [{**row, "layer": places.index(row["attention"])} for row in rows if row[measure] is not None]
        if told:
            label = f"{title} by attention and head"
            chart = page.chart(measure, head_map(told, measure), label, caption=caption)
            page.section(measure, title, "", [chart])
    cells = [
        (row["attention"], row["head"], *("–" if row[m] is None else number(row[m]) for m in MEASURES)) for row in rows
    ]
    columns = ["attention", "head >", *(f"{measure} >" for measure in MEASURES)]
    page.section("table", "All heads", "", [table(columns, cells, summary="numbers"), notes(document["notes"])])
    repeat(page, document, f"{Path(name).stem}.heads.json")
    return page


def head_map(rows: charts.Rows, measure: str) -> charts.Spec:
    """A square for each head, attentions from top to bottom."""
    colour = {
        "field": measure, "type": "quantitative", "title": measure, "scale": {"range": [charts.PALE, charts.ACCENT]},
    }  # fmt: skip
    return {
        **charts.base(rows), "height": charts.BAR * len({row["layer"] for row in rows}), "mark": {"type": "rect"},
        "encoding": {
            "y": {"field": "layer", "type": "ordinal", "title": "attention"},
            "x": {"field": "head", "type": "ordinal", "title": "head"},
            "color": colour,
            "tooltip": [{"field": name} for name in ("attention", "head", measure)],
        },
    }  # fmt: skip
