"""Results as they show themselves in a notebook: a table, without any library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from spa.errors import MissingExtra
from spa.pages import bench, sweep
from spa.pages.parts import Part
from spa.pages.words import FIGURES, percent, quantity

CELL = 'style="padding:2px 10px 2px 0;text-align:{}"'


def result_html(report: Mapping[str, Any]) -> str:
    """Costs before and after, and what verification found; of a report's JSON."""
    rows = [
        (name, quantity(before), quantity(report["after"][name]), percent(report["removed_share"][name]))
        for name, before in report["before"].items()
    ]
    outputs = [
        (name, *(f"{figures[key]:.3g}" if figures.get(key) is not None else "–" for key in FIGURES))
        for name, figures in report["outputs"].items()
    ]
    parts = [_table(["", "before >", "after >", "removed >"], rows)]
    if outputs:
        columns = [f"output, on {report['outputs_on']}", *(f"{title} >" for title in FIGURES.values())]
        parts.append(_table(columns, outputs))
    lines = [report["status"], *filter(None, [report["verdict"]])]
    return "".join([*parts, *(f"<div>{escape(line)}</div>" for line in lines)])


def sweep_html(document: Mapping[str, Any]) -> str:
    """The table of the ratios, and the picture where the library that draws is there."""
    heading = f"<div><b>{escape(Path(str(document['source'])).name)}</b>, shares of {escape(document['of'])}</div>"
    return heading + _part(sweep.points_table(document)) + _picture(document)


def bench_html(document: Mapping[str, Any]) -> str:
    """The table of the models, and how two compare."""
    said = [bench.sentence(document), bench.how(document)]
    return _part(bench.model_table(document)) + "".join(f"<div>{escape(line)}</div>" for line in said if line)


def _picture(document: Mapping[str, Any]) -> str:
    from spa.pages import engine, pictures

    try:
        return engine.svg(pictures.sweep_picture(document))
    except MissingExtra:
        return ""


def _part(part: Part | None) -> str:
    if part is None:
        return ""
    return _table([f"{c['name']} >" if c["numbers"] else c["name"] for c in part["columns"]], part["rows"])


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    sides = [CELL.format("right" if name.endswith(" >") else "left") for name in columns]
    names = [name.removesuffix(" >") for name in columns]
    head = "".join(f"<th {side}>{escape(name)}</th>" for name, side in zip(names, sides, strict=True))
    lines = [
        "".join(f"<td {side}>{escape(str(cell))}</td>" for cell, side in zip(row, sides, strict=True)) for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
