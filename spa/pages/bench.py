"""The page of a bench, and its parts that other pages show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa.pages import charts
from spa.pages.parts import Page, Part, repeat, table, tiles, verdict
from spa.pages.words import number, quantity


def page(document: Mapping[str, Any]) -> Page:
    """Models side by side."""
    names = [Path(row["name"]).name for row in document["rows"]]
    page = Page("Latency", " beside ".join(names[:3]) + (" and more" if len(names) > 3 else ""), how(document))
    page.section("time", "Time of a run", "", time_parts(page, document))
    page.section("models", "The models", "", [model_table(document)])
    repeat(page, document, "bench.json")
    return page


def how(timing: Mapping[str, Any]) -> str:
    """On what and how often was timed."""
    threads = timing["threads"]
    shown = "a thread for each core" if not threads else f"{threads} thread{'s' if threads > 1 else ''}"
    shapes = dict.fromkeys(
        " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in inputs.items())
        for inputs in timing["inputs"].values()
    )
    left_out = f" ({timing['disturbed']} left out: the machine did something else)" if timing.get("disturbed") else ""
    on = f"{timing['provider']}, {shown}; inputs {' | '.join(shapes)}"
    return f"{timing['rounds']} runs of each, in turn{left_out}; {on}."


def time_parts(page: Page, timing: Mapping[str, Any]) -> list[Part | None]:
    """The chart of the times of whole models, and how each compares with the first."""
    rows = [
        {"name": Path(row["name"]).name, "first": at == 0, **{key: row[key] for key in ("milliseconds", "low", "high")}}
        for at, row in enumerate(timing["rows"])
    ]
    chart = page.chart(
        "times", charts.times(rows), "Median time of a run of each model",
        caption="Bars are medians; the line over each spans the middle half of the runs.",
    )  # fmt: skip
    return [tiles(_tiles(timing)), chart, verdict(sentence(timing))]


def _tiles(timing: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    entries = []
    for at, row in enumerate(timing["rows"][:6]):
        beside = timing["comparisons"][at - 1] if at else None
        more = "the first" if beside is None else f"{beside['ratio']:.3f} of the first: {beside['verdict']}"
        entries.append((Path(row["name"]).name, f"{row['milliseconds']:.3g} ms", more))
    return entries


def sentence(timing: Mapping[str, Any]) -> str:
    """How the second of two models compares with the first."""
    beside = timing["comparison"]
    if beside is None:
        return ""
    first, second = (Path(row["name"]).name for row in timing["rows"])
    low, high = beside["interval"]
    said = f"{second} takes {beside['ratio']:.3f} of the time of {first} (95 %: {low:.3f} to {high:.3f})"
    said += f": {beside['verdict']}."
    if beside["exponent"] is not None:
        said += f" The exponent against FLOPs is {beside['exponent']:.2f}; 1 where all that went is time."
    return said


def model_table(timing: Mapping[str, Any]) -> Part | None:
    """Times, costs, load and memory of each model."""
    columns = ["model", "median ms >", "middle half >", "load s >", "memory >", "parameters >", "FLOPs >"]
    rows = [
        (
            Path(row["name"]).name, f"{row['milliseconds']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}",
            number(row["load_seconds"]), f"{quantity(row['peak_nbytes'])}B" if row["peak_nbytes"] else "–",
            quantity(row["params"]), quantity(row["flops"]),
        )
        for row in timing["rows"]
    ]  # fmt: skip
    return table(columns, rows)
