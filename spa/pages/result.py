"""The page of a prune."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa.pages import charts
from spa.pages.bench import how, time_parts
from spa.pages.parts import Page, Part, heading, notes, repeat, table, text, tiles, verdict
from spa.pages.words import FIGURES, percent, quantity, ranges, shape
from spa.verdict import UNUSABLE

NAMELESS = re.compile(r"(onnx::)?(\w*_)?\d+")
"""Tensors that an exporter numbered."""

WORST = 24
"""Refitted layers that are drawn; the table has all."""

FIGURE_WORDS = (
    "Relative L2 is the root of the mean squared error over the output's variance: 0 is the same, 1 as far off as a "
    "constant. KL is the divergence of the output's probabilities, in nats. Same first choice is the share of rows "
    "whose largest number stands where the dense model has it."
)


def page(document: Mapping[str, Any]) -> Page:
    """What went, what that costs, and why the rest stays."""
    name = Path(str(document["paths"].get("source") or "model")).name
    page = Page("Pruning", name, _lead(document))
    page.section("summary", "Summary", "", _summary(document))
    limit = document.get("limit")
    if limit:
        page.section("limit", "The largest share within the limit", "", _limit(page, limit))
    page.section("widths", "Widths before and after", _widths_lead(document), _widths(page, document))
    page.section("losses", "What each group loses, and where it stopped", "", _curves(page, document))
    page.section("layers", "Refitted layers", "", _layers(page, document))
    page.section("time", "Time before and after", _time_lead(document), _times(page, document))
    page.section("outputs", "How far the outputs moved", f"Measured on {document['outputs_on']}.", _outputs(document))
    page.section("stays", "What stays, and why", "", _stays(document))
    page.section("plan", "The plan", "The units that went, by group; spa apply repeats a saved plan.", _plan(document))
    repeat(page, document, f"{Path(name).stem}.report.json")
    return page


def _lead(document: Mapping[str, Any]) -> str:
    options, repaired = document["options"], bool(document["layers"])
    of = options.get("of", "params")
    reached, latency = document["removed_share"].get(of), document.get("latency")
    asked = f"{percent(options['ratio'])} of {of} asked for" if options.get("ratio") is not None else ""
    if options.get("target") is not None:
        asked = f"{options['target']:g} ms asked for"
    if latency is not None:
        reached = 1 - (latency["pruned"] or latency["foretold"]) / (latency["dense"] or latency["base"])
    if document.get("limit"):
        asked = f"as much of {of} as the limit lets go"
    went = f"{percent(reached)}{' of the time' if latency is not None else ''} went" if reached is not None else ""
    how = "chosen by loss on samples, readers refitted" if repaired else "chosen by the size of weights"
    return f"{'; '.join(filter(None, (asked, went, how)))}."


# ----------------------------------------------------------------------------------------------- summary
def _summary(document: Mapping[str, Any]) -> list[Part | None]:
    names = {"params": "parameters", "flops": "FLOPs", "bytes": "bytes stored"}
    entries = []
    for measure, before in document["before"].items():
        after = document["after"][measure]
        value = f"{quantity(before)} → {quantity(after)}"
        entries.append((names.get(measure, measure), value, f"{percent(document['removed_share'][measure])} removed"))
    timing = document.get("timing")
    if timing and timing["comparison"]:
        first, second = timing["rows"]
        beside = timing["comparison"]
        value = f"{first['milliseconds']:.3g} → {second['milliseconds']:.3g} ms"
        entries.append(("time of a run", value, f"{beside['ratio']:.2f} of the time: {beside['verdict']}"))
    said = document["verdict"]
    bad = UNUSABLE in said
    met = [verdict(document["latency"]["sentence"])] if document.get("latency") else []
    return [tiles(entries), verdict(_checked(document)), verdict(said, bad=bad), *met, notes(document["notes"])]


def _checked(document: Mapping[str, Any]) -> str:
    if document["status"] == "not checked":
        return "Not verified: nobody asked for it."
    if document["status"] == "not compared":
        return f"Not compared: {'; '.join(document['missing'])}"
    said = "Verified: valid, same inputs and outputs"
    if document["difference"] == 0:
        said += f"; does not differ from {document['reference']}"
    elif document["difference"] is not None:
        said += f"; differs by {document['difference']:.1e} of the largest output from {document['reference']}"
    return f"{said}."


def _limit(page: Page, limit: Mapping[str, Any]) -> list[Part | None]:
    rows = [
        {"ratio": trial["ratio"], "loss": trial["loss"], "best": trial["ratio"] == limit["ratio"]}
        for trial in sorted(limit["trials"], key=lambda trial: trial["ratio"])
        if trial["loss"] is not None
    ]
    before, after = limit["metric_before"], limit["metric_after"]
    measure = f"fall of {limit['measure']}" if before is not None else limit["measure"]
    chart = page.chart(
        "limit", charts.trials(rows, limit["max_loss"], measure), "Loss at the ratios that were tried",
        caption="The broken line is the limit; the orange point is what was kept.",
    )  # fmt: skip
    figures = f" ({before:.4g} dense, {after:.4g} pruned)" if before is not None and after is not None else ""
    on = f", on {limit['on']}" if limit["on"] else ""
    said = f"Ratio {limit['ratio']:.3g}: {measure} {limit['loss']:.3g} of at most {limit['max_loss']:g}{figures}{on}."
    columns = ["ratio >", f"{measure} >", ""]
    trials = [
        (f"{t['ratio']:.4g}", "–" if t["loss"] is None else f"{t['loss']:.4g}", t["said"]) for t in limit["trials"]
    ]
    return [verdict(said), chart, table(columns, trials, summary="numbers")]


# ------------------------------------------------------------------------------------------------ widths
def _widths_lead(document: Mapping[str, Any]) -> str:
    cut = sum(1 for row in document["groups"] if row["removed"])
    return f"{cut} of {len(document['groups'])} groups were cut. Pale is what there was, solid what stays."


def _labels(document: Mapping[str, Any]) -> dict[str, str]:
    """What each group is called on the page: as it is, or by its layer where its tensor's name is but a number."""
    layers = {tensor["name"]: row["layer"] for row in document["widths"] for tensor in row["tensors"]}
    labels = {}
    for row in document["groups"]:
        tensor, _, axis = row["name"].rpartition(":")
        nameless = NAMELESS.fullmatch(tensor) and tensor in layers
        labels[row["name"]] = f"{layers[tensor]}:{axis}" if nameless else row["name"]
    return labels


def _widths(page: Page, document: Mapping[str, Any]) -> list[Part | None]:
    labels = _labels(document)
    groups = [row for row in document["groups"] if row["removed"] or not row["off"]]
    parts: list[Part | None] = []
    kinds = dict.fromkeys(row["kind"] for row in groups)
    for number, kind in enumerate(kinds):
        rows = [
            {
                "name": labels[row["name"]], "group": row["name"], "units": row["units"],
                "kept": row["units"] - row["removed"], "share": row["removed"] / row["units"],
            }
            for row in groups if row["kind"] == kind
        ]  # fmt: skip
        if len(kinds) > 1:
            parts.append(heading(f"{kind}: {len(rows)} group{'s' * (len(rows) != 1)}"))
        label = f"Units of each group of the kind {kind}, before and after"
        parts.append(page.chart(f"widths-{number}", charts.widths(rows), label, long=len(rows) > charts.MOST_BARS))
    shapes = [
        (row["layer"], row["operator"], shape(tensor["before"]), shape(tensor["after"]))
        for row in document["widths"]
        for tensor in row["tensors"]
        if len(tensor["before"]) > 1
    ]
    parts.append(table(["layer", "operator", "weight before", "after"], shapes, summary=f"all {len(shapes)} weights"))
    return parts


# ------------------------------------------------------------------------------------------------ losses
def _curves(page: Page, document: Mapping[str, Any]) -> list[Part | None]:
    points, stops, labels = [], [], _labels(document)
    for curve in document.get("curves") or ():
        for count, loss in zip(curve["removed"], curve["losses"], strict=True):
            if loss is None or loss <= 0 or not count:
                continue
            name, units = labels.get(curve["group"], curve["group"]), curve["units"]
            row = {"group": name, "share": count / units, "loss": loss, "removed": count, "units": units}
            points.append(row)
            if count == curve["stopped"]:
                stops.append(row)
    if not points:
        return [text("Weights alone decided, by their size: no losses were measured.")]
    chart = page.chart(
        "curves", charts.curves(points, stops, "expected loss"), "Loss of each group over the share of it that goes",
        caption="A line for each group; the point is where it stopped. Losses are expected squared relative distances "
        "of the outputs, the group alone being cut. A group stops where its next unit would lose more, for what it "
        "frees, than those of others.",
    )  # fmt: skip
    alone = [row for row in stops if row["removed"]]
    worst = sorted(alone, key=lambda row: -row["loss"])
    rows = [(r["group"], r["units"], r["removed"], percent(r["share"], 0), f"{r['loss']:.2g}") for r in worst]
    columns = ["group", "units >", "removed >", "share >", "expected loss >"]
    return [chart, table(columns, rows, summary="numbers, the largest loss first")]


def _layers(page: Page, document: Mapping[str, Any]) -> list[Part | None]:
    layers = document["layers"]
    if not layers:
        return []

    def loss(layer: Mapping[str, Any]) -> float:
        return float(layer["predicted"] if layer["measured"] is None else layer["measured"])

    worst = sorted(layers, key=loss, reverse=True)
    rows = [
        {"name": layer["name"], "what": what, "loss": layer[key]}
        for layer in worst[:WORST]
        for what, key in (("foretold", "predicted"), ("measured", "measured"))
        if layer[key] is not None
    ]
    caption = "Foretold by the moments that were fitted; measured on samples that no fit has seen."
    if len(layers) > WORST:
        caption = f"The {WORST} of {len(layers)} layers that lost most. {caption}"
    chart = page.chart("layers", charts.losses(rows), "Loss of refitted layers", caption=caption)
    numbers = [
        (
            layer["name"],
            layer["width"],
            layer["removed"],
            percent(layer["predicted"], 2),
            percent(layer["measured"], 2),
            layer["note"],
        )
        for layer in layers
    ]
    columns = ["layer", "inputs >", "removed >", "foretold >", "measured >", ""]
    return [chart, table(columns, numbers, summary=f"all {len(layers)} refitted layers")]


# -------------------------------------------------------------------------------------------------- time
def _time_lead(document: Mapping[str, Any]) -> str:
    return how(document["timing"]) if document.get("timing") else ""


def _times(page: Page, document: Mapping[str, Any]) -> list[Part | None]:
    timing, by_layer = document.get("timing"), document.get("layer_times")
    if not timing:
        return [text(f"Not timed: {document['untimed']}")] if document.get("untimed") else []
    parts = time_parts(page, timing)
    if by_layer:
        parts += _by_layer(page, by_layer)
    return parts


def _by_layer(page: Page, by_layer: list[Mapping[str, Any]]) -> list[Part | None]:
    """The layers that took most time, before and after."""

    def most(row: Mapping[str, Any]) -> float:
        return max(row["before"] or 0.0, row["after"] or 0.0)

    shown = sorted(by_layer, key=most, reverse=True)
    top = shown[:WORST]
    rows = [
        {"name": row["name"], "operator": row["operator"], "when": when, "milliseconds": row[when]}
        for row in top
        for when in ("before", "after")
        if row[when] is not None
    ]
    caption = f"The {len(top)} of {len(shown)} layers that take most time. " if len(shown) > len(top) else ""
    caption += "Shares of the time of the whole model, by the profile of a run."
    chart = page.chart("layer-times", charts.layer_times(rows), "Time by layer, before and after", caption=caption)
    numbers = [(row["name"], row["operator"], _ms(row["before"]), _ms(row["after"])) for row in shown]
    columns = ["layer", "operator", "before, ms >", "after, ms >"]
    return [heading("By layer"), chart, table(columns, numbers, summary=f"all {len(shown)} layers")]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# ------------------------------------------------------------------------------------- outputs and the rest
def _outputs(document: Mapping[str, Any]) -> list[Part | None]:
    outputs = document["outputs"]
    names = [name for name in FIGURES if any(name in figures for figures in outputs.values())]
    rows = []
    for output, figures in outputs.items():
        cells = [
            "–" if figures.get(name) is None else percent(figures[name]) if name == "top1" else f"{figures[name]:.3g}"
            for name in names
        ]
        rows.append([output, *cells])
    part = table(["output", *(f"{FIGURES[name]} >" for name in names)], rows)
    return [part, text(FIGURE_WORDS)] if part else []


def _stays(document: Mapping[str, Any]) -> list[Part | None]:
    rows = [
        (entry["reason"], quantity(entry["params"]), percent(entry["share"]), entry["example"])
        for entry in document["frozen"]
        if entry["params"]
    ]
    off = [(row["name"], row["kind"], row["off"]) for row in document["groups"] if row["off"] and not row["removed"]]
    labels = _labels(document)
    whole = [labels[row["name"]] for row in document["groups"] if not row["off"] and not row["removed"]]
    parts: list[Part | None] = []
    if rows:
        parts += [heading("Tensors with no axis to cut"), table(["reason", "parameters >", "share >", "example"], rows)]
    if off:
        parts += [heading("Groups that are off unless included"), table(["group", "kind", "why"], off)]
    if whole:
        parts.append(text(f"Groups that may go and kept all their units: {', '.join(whole)}."))
    return parts or [text("Every stored tensor has an axis that may be cut.")]


def _plan(document: Mapping[str, Any]) -> list[Part | None]:
    sizes = {row["name"]: row["units"] for row in document["groups"]}
    rows = [
        (name, f"{len(units)} of {sizes.get(name, '?')}", ranges(units)) for name, units in document["removed"].items()
    ]
    return [table(["group", "removed", "units"], rows, summary=f"{len(rows)} groups")]
