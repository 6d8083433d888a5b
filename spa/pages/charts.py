"""Charts of a document, as Vega-Lite specifications. Colours are names of `spa.pages.colours`, as CSS variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spa.pages.words import LOSSES, measure_of, removed_share

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
ACCENT, PALE, WARM, INK, FAINT = "var(--accent)", "var(--pale)", "var(--warm)", "var(--ink)", "var(--faint)"
BAR = 15
"""Height in pixels of a row of bars."""

MOST_BARS = 40

BELOW = 100.0
"""How far below the smallest loss at which a group stopped curves are drawn."""

LONGEST = "longest"
"""The parameter of charts that says how many letters of a name are shown: its end, which tells it from others."""


def base(rows: Rows, **more: Any) -> Spec:
    """A chart as wide as its container."""
    return {
        "$schema": SCHEMA, "data": {"values": list(rows)}, "width": "container", "background": "transparent",
        "autosize": {"type": "fit-x", "contains": "padding"}, "params": [{"name": LONGEST, "value": 36}], **more,
    }  # fmt: skip


def _high(rows: Rows, step: int) -> int:
    """The height in pixels of a chart with a band for each name; of several rows of a name, a step for each."""
    return step * max(1, len(rows))


def _x(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _names(field: str = "name") -> Spec:
    short = f"'…' + substring(datum.label, length(datum.label) - {LONGEST} + 1)"
    axis = {"labelExpr": f"length(datum.label) > {LONGEST} ? {short} : datum.label"}
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": axis}


def _tip(**fields: str) -> list[Spec]:
    """What the pointer shows: field, with its title; a trailing % or # says how numbers look."""
    entries = []
    for name, title in fields.items():
        kind, form = ("quantitative", {"%": ".1%", "#": ".4~g"}.get(title[-1])) if title[-1] in "%#" else (None, None)
        entry: Spec = {"field": name, "title": title.rstrip("%#"), "type": kind or "nominal"}
        entries.append(entry if form is None else {**entry, "format": form})
    return entries


# ------------------------------------------------------------------------------------------------- a prune
def widths(rows: Rows) -> Spec:
    """Units before (pale) and those that stay.

    Args:
        rows: name, units, kept, share.
    """
    tip = _tip(name="group", group="as the plan calls it", units="units before#", kept="units kept#", share="removed%")
    whole = {"tickMinStep": 1, "format": ",d"}
    wide = {"y": _names(), "x": _x("units", "units", stack=None, axis=whole), "tooltip": tip}
    kept = {"y": _names(), "x": _x("kept", "units", stack=None, axis=whole), "tooltip": tip}
    size = {"type": "bar", "height": {"band": 0.74}, "cornerRadiusEnd": 2}
    return base(
        rows,
        height=_high(rows, BAR),
        layer=[
            {"mark": {**size, "color": PALE}, "encoding": wide},
            {"mark": {**size, "color": ACCENT}, "encoding": kept},
        ],
    )


def curves(points: Rows, stops: Rows, score: str) -> Spec:
    """What each group loses as its units go, and where it stopped.

    Args:
        points: group, share, loss; stops: those where a group stopped.
    """
    losses = [row["loss"] for row in points]
    least = max(min(losses), min((row["loss"] for row in stops), default=max(losses)) / BELOW)
    scale = {"type": "log", "domain": [least, max(losses)]}
    axis = {"format": ".0e", "tickCount": 6}
    y = {"field": "loss", "type": "quantitative", "title": score, "scale": scale, "axis": axis}
    x = _x("share", "share of the group's units removed", axis={"format": "%"}, scale={"domain": [0, 1]})
    tip = _tip(group="group", share="removed%", loss="expected loss#", removed="units removed#", units="of units#")
    over = {"name": "hover", "select": {"type": "point", "fields": ["group"], "on": "pointerover"}}
    bright = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0.35}
    thick = {"condition": {"param": "hover", "empty": False, "value": 3}, "value": 1.2}
    line = {"mark": {"type": "line", "color": FAINT, "interpolate": "monotone", "clip": True}}
    return base(
        points,
        height=320,
        layer=[
            {**line, "params": [over], "encoding": {
                "x": x, "y": y, "detail": {"field": "group"}, "opacity": bright, "strokeWidth": thick, "tooltip": tip,
            }},
            {"data": {"values": list(stops)}, "mark": {"type": "point", "filled": True, "size": 45, "color": WARM,
                                                       "opacity": 0.9},
             "encoding": {"x": x, "y": y, "tooltip": tip}},
        ],
    )  # fmt: skip


def losses(rows: Rows) -> Spec:
    """What refitted layers lose: foretold and measured.

    Args:
        rows: name, what (foretold or measured), loss.
    """
    return _beside(
        rows,
        what="what",
        words=("foretold", "measured"),
        x=_x("loss", "share of the variance of the layer's outputs", axis={"format": "%"}),
        tip=_tip(name="layer", what="loss", loss="share%"),
    )


def _beside(rows: Rows, *, what: str, words: Sequence[str], x: Spec, tip: Any) -> Spec:
    """For each name two bars, pale and strong, told apart by the column ``what``, which holds one of two words."""
    colour = {
        "field": what, "type": "nominal", "title": None, "legend": {"orient": "top"},
        "scale": {"domain": list(words), "range": [PALE, ACCENT]},
    }  # fmt: skip
    return base(
        rows,
        height=_high(rows, 9),
        mark={"type": "bar", "cornerRadiusEnd": 2},
        encoding={
            "y": _names(), "yOffset": {"field": what, "sort": list(words)}, "color": colour, "x": x, "tooltip": tip,
        },
    )  # fmt: skip


def times(rows: Rows) -> Spec:
    """Medians of whole models, with the middle half.

    Args:
        rows: name, milliseconds, low, high.
    """
    tip = _tip(name="model", milliseconds="median, ms#", low="middle half from#", high="to#")
    names = _names()
    return base(
        rows,
        height=_high(rows, 30),
        layer=[
            {"mark": {"type": "bar", "height": {"band": 0.6}, "cornerRadiusEnd": 3},
             "encoding": {"y": names, "x": _x("milliseconds", "milliseconds a run"), "tooltip": tip,
                          "color": {"condition": {"test": "datum.first", "value": PALE}, "value": ACCENT}}},
            {"mark": {"type": "rule", "color": INK, "strokeWidth": 1.5},
             "encoding": {"y": names, "x": _x("low", "milliseconds a run"), "x2": {"field": "high"}, "tooltip": tip}},
        ],
    )  # fmt: skip


def layer_times(rows: Rows) -> Spec:
    """Time by layer, before and after.

    Args:
        rows: name, when (before or after), milliseconds.
    """
    return _beside(
        rows,
        what="when",
        words=("before", "after"),
        x=_x("milliseconds", "milliseconds"),
        tip=_tip(name="layer", operator="operator", when="when", milliseconds="ms#"),
    )


def trials(rows: Rows, limit: float, measure: str) -> Spec:
    """The ratios that were tried within a limit.

    Args:
        rows: ratio, loss, best.
    """
    positive = all(row["loss"] > 0 for row in rows)
    y: Spec = {"field": "loss", "type": "quantitative", "title": measure}
    y["scale"] = {"type": "log"} if positive else {"zero": False}
    colour = {"condition": {"test": "datum.best", "value": WARM}, "value": ACCENT}
    return base(
        rows,
        height=260,
        layer=[
            {"mark": {"type": "line", "color": FAINT}, "encoding": {"x": _ratio(), "y": y}},
            {"data": {"values": [{"loss": limit}]}, "mark": {"type": "rule", "color": WARM, "strokeDash": [5, 4]},
             "encoding": {"y": y}},
            {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
             "encoding": {"x": _ratio(), "y": y, "color": colour, "tooltip": _tip(ratio="ratio%", loss="loss#")}},
        ],
    )  # fmt: skip


def _ratio() -> Spec:
    return _x("ratio", "ratio", axis={"format": "%"}, scale={"zero": False})


# ------------------------------------------------------------------------------------------------- a sweep
def sweep(document: Mapping[str, Any]) -> dict[str, Spec]:
    """One chart for each figure of a sweep over the share that went, by name: loss, time, metric.

    Where shares are of latency, the time is what the others stand over.
    """
    rows = sweep_rows(document)
    of = measure_of(str(document["of"]))
    axis = {"format": "%", "tickCount": 6, "labelFlush": False}
    x = _x("removed", f"share of {of} removed", axis=axis, scale={"zero": True})
    tip = _tip(
        removed=f"{of} removed%", kl="KL#", relative_l2="relative L2#", top1="same first choice%", metric="metric#",
        milliseconds="ms#", time="of the dense time%",
    )  # fmt: skip
    charts: dict[str, Spec] = {}
    for name, title in LOSSES.items():
        if any(row.get(name) is not None for row in rows):
            y: Spec = {"field": name, "type": "quantitative", "title": f"{title} from the dense model"}
            charts["loss"] = _path(rows, x, y, tip, ACCENT)
            break
    if of != "latency" and any(row.get("time") is not None for row in rows):
        y = {"field": "time", "type": "quantitative", "title": "time of the dense model's", "axis": {"format": "%"}}
        spec = _path(rows, x, y, tip, WARM)
        spec["layer"].insert(0, {
            "mark": {"type": "errorband", "color": WARM, "opacity": 0.2},
            "encoding": {"x": x, "y": {**y, "field": "from"}, "y2": {"field": "to"}},
        })  # fmt: skip
        charts["time"] = spec
    if document.get("metric"):
        y = {"field": "metric", "type": "quantitative", "title": str(document["metric"]), "scale": {"zero": False}}
        y["axis"] = {"format": ".4~g"}
        charts["metric"] = _path(rows, x, y, tip, ACCENT)
    return charts


def _path(rows: Rows, x: Spec, y: Spec, tip: list[Spec], colour: str) -> Spec:
    line = {"type": "line", "color": colour, "strokeWidth": 2, "point": {"filled": True, "size": 70, "color": colour}}
    seen = {"filter": f"isValid(datum['{y['field']}'])"}
    return base(
        rows, height=240,
        layer=[{"transform": [seen], "mark": line, "encoding": {"x": x, "y": y, "tooltip": tip}}],
    )  # fmt: skip


def sweep_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The dense model and each point that was made, in the order of what went."""
    of = measure_of(str(document["of"]))
    dense: dict[str, Any] = {
        "removed": 0.0,
        "time": 1.0,
        "from": 1.0,
        "to": 1.0,
        "metric": document.get("dense_metric"),
    }
    if document.get("timing"):
        dense["milliseconds"] = document["timing"]["rows"][0]["milliseconds"]
    else:
        dense["time"] = None
    compared = any(point["outputs"] for point in document["points"])
    dense |= {"kl": 0.0, "relative_l2": 0.0, "top1": 1.0} if compared else {}
    rows = [dense]
    for point in document["points"]:
        if point["said"] or removed_share(point, of) is None:
            continue
        figures = {name: figure(point["outputs"], name) for name in ("kl", "relative_l2", "top1")}
        low, high = point["interval"] or (None, None)
        rows.append(
            {"ratio": point["ratio"], "removed": removed_share(point, of), "time": point["time"],
             "from": low, "to": high, "milliseconds": point["milliseconds"], "metric": point["metric"], **figures}
        )  # fmt: skip
    known = {name for row in rows[1:] for name, value in row.items() if value is not None}
    rows.sort(key=lambda row: float(row["removed"] or 0))
    return [{name: value for name, value in row.items() if name in known} for row in rows]


def figure(outputs: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    """A figure of the output that is furthest off."""
    values = [value for figures in outputs.values() if (value := figures.get(name)) is not None]
    if not values:
        return None
    return min(values) if name == "top1" else max(values)


# ---------------------------------------------------------------------------------------------- training
def history(rows: Rows, before: float) -> Spec:
    """Loss on samples held out, after each epoch.

    Args:
        rows: epoch, loss.
    """
    step = -(-len(rows) // 12)
    axis = {"values": [row["epoch"] for row in rows][::step], "format": "d"}
    x = {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": axis}
    y = {"field": "loss", "type": "quantitative", "title": "loss on samples held out"}
    return base(
        rows,
        height=260,
        layer=[
            {"data": {"values": [{"loss": before}]}, "mark": {"type": "rule", "color": WARM, "strokeDash": [5, 4]},
             "encoding": {"y": y}},
            {"mark": {"type": "line", "color": ACCENT, "point": {"filled": True, "size": 60, "color": ACCENT}},
             "encoding": {"x": x, "y": y, "tooltip": _tip(epoch="epoch#", loss="loss#")}},
        ],
    )  # fmt: skip
