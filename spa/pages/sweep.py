"""The page of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa.pages import charts
from spa.pages.bench import how, model_table
from spa.pages.parts import Page, Part, grid, notes, repeat, table, text, tiles
from spa.pages.words import LOSSES, measure_of, number, percent, quantity, removed_share

CAPTIONS = {
    "loss": "How far the outputs are from the dense model's. Look for the knee: beyond it each share costs more.",
    "time": "Median time of a run beside the dense model's; the band holds it with 95 %.",
    "metric": "Your metric of each model.",
}


def page(document: Mapping[str, Any]) -> Page:
    """What each ratio costs and brings."""
    name, of = Path(str(document["source"])).name, document["of"]
    points = [point for point in document["points"] if not point["said"]]
    lead = f"{len(points)} of {len(document['points'])} ratios of {of}, in {document['seconds']:.0f} s."
    page = Page("Sweep", name, lead)
    page.section("summary", "Summary", "", _summary(document, points))
    page.section("charts", "What it costs and brings", "", [grid(_charts(page, document)), text(_measured(document))])
    page.section("points", "The ratios", "", [points_table(document), _why(document), notes(document["notes"])])
    if document["timing"]:
        page.section("time", "How times were taken", how(document["timing"]), [model_table(document["timing"])])
    repeat(page, document, f"{Path(name).stem}.sweep.json")
    return page


def _summary(document: Mapping[str, Any], points: list[Mapping[str, Any]]) -> list[Part | None]:
    before = document["before"]
    entries = [("dense model", f"{quantity(before['params'])}", "parameters")]
    entries.append(("FLOPs", quantity(before["flops"]), "of the dense model"))
    timed = [point for point in points if point["time"] is not None]
    if timed:
        fastest = min(timed, key=lambda point: point["time"])
        dense = document["timing"]["rows"][0]["milliseconds"]
        entries.append(("time, dense", f"{dense:.3g} ms", ""))
        entries.append(("fastest", f"{fastest['milliseconds']:.3g} ms", f"at ratio {fastest['ratio']:g}"))
    usable = [point for point in points if point["usable"]]
    if usable:
        most = max(usable, key=lambda point: point["ratio"])
        entries.append(("usable as it is up to", percent(most["ratio"], 0), "by the limits of the documentation"))
    return [tiles(entries)]


def _charts(page: Page, document: Mapping[str, Any]) -> list[Part]:
    specs = charts.sweep(document)
    return [page.chart(name, spec, CAPTIONS[name], caption=CAPTIONS[name]) for name, spec in specs.items()]


def _measured(document: Mapping[str, Any]) -> str:
    return f"Distances of outputs were measured on {document['outputs_on']}." if document["outputs_on"] else ""


def points_table(document: Mapping[str, Any]) -> Part | None:
    """A row for each ratio."""
    of, metric = measure_of(document["of"]), document["metric"]
    measures = [name for name in ("params", "flops") if name != of]
    columns = ["ratio >", f"{of} removed >", *(f"{name} removed >" for name in measures)]
    columns += ["ms >", "of dense time >", *(f"{title} >" for title in LOSSES.values()), "same first choice >"]
    columns += [f"{metric} >"] * bool(metric)
    rows = []
    for point in document["points"]:
        if point["said"]:
            continue
        figures = [charts.figure(point["outputs"], name) for name in LOSSES]
        removed = [percent(removed_share(point, name)) for name in (of, *measures)]
        row = [f"{point['ratio']:g}", *removed, number(point["milliseconds"]), number(point["time"])]
        row += [*map(number, figures), percent(charts.figure(point["outputs"], "top1"))]
        rows.append([*row, *[number(point["metric"])] * bool(metric)])
    return table(columns, rows)


def _why(document: Mapping[str, Any]) -> Part | None:
    rows = [(f"{point['ratio']:g}", point["said"]) for point in document["points"] if point["said"]]
    return table(["not made: ratio >", "why"], rows)
