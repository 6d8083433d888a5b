"""`--report page.html`: one file that opens offline, of the document that --json prints."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spa import document
from spa.cli.app import RESULT
from spa.clock import Progress
from spa.errors import SpaError
from spa.options import PruneOptions
from spa.result import PruneResult

if TYPE_CHECKING:
    from spa.passes.latency.layers import LayerTime

Page = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Write a page of the result: one file with charts that opens offline.",
        rich_help_panel=RESULT,
    ),
]


def check_page(path: Path | None) -> None:
    """Refuse a page that could not be written, before any work."""
    if path is not None:
        from spa.pages import page

        page.check(path)


def write_page(path: Path | None, data: dict[str, Any], files: Mapping[str, Path | None]) -> None:
    """Write the page of a document, with how to repeat it.

    Args:
        data: the document, which gets what the page has beside it.
        files: whose digests stand on the page, by what they are.
    """
    if path is None:
        return
    from spa.pages import page

    data["repeat"] = document.repeat(sys.argv[1:], files)
    page.write(data, path)


SECONDS = 4.0
"""That both models are timed side by side for a page, about; half of it again for the time by layer of each."""


def measured(result: PruneResult, options: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The times of both models, whole and by layer, for a page; or why they could not be timed."""
    from spa.latency import runs_on
    from spa.profiling import layers
    from spa.timing import bench

    given = {"inputs": options.get("inputs"), "feeds": options.get("feeds")}
    try:
        given |= runs_on(PruneOptions.of(**options).device)
        timing = bench(
            [result.dense, result.model], names=["dense", "pruned"], seconds=SECONDS, progress=progress, **given
        )
        times = [
            _scaled(layers(model, seconds=SECONDS / 4, **given), row.milliseconds)
            for model, row in zip((result.dense, result.model), timing.rows, strict=True)
        ]
    except SpaError as error:
        return {"untimed": str(error)}
    return {"timing": json.loads(timing.to_json()), "layer_times": by_layer(*times)}


def _scaled(times: Sequence[LayerTime], milliseconds: float) -> list[LayerTime]:
    """Times by layer that sum up to the time of the whole model, as it was measured without looking into it."""
    factor = milliseconds / max(sum(unit.milliseconds for unit in times), 1e-12)
    return [replace(unit, milliseconds=unit.milliseconds * factor) for unit in times]


def by_layer(before: Sequence[LayerTime], after: Sequence[LayerTime]) -> list[dict[str, Any]]:
    """A row for each unit of both models: which are one is said by the last node that became
    it, else by its place among those of its operator."""
    rows: dict[str, dict[str, Any]] = {}
    for when, times in (("before", before), ("after", after)):
        nameless: Counter[str] = Counter()
        for unit in times:
            nameless[unit.operator] += not unit.nodes
            name = unit.nodes[-1] if unit.nodes else f"{unit.operator} {nameless[unit.operator]}"
            row = rows.setdefault(name, {"name": name, "operator": unit.operator, "before": None, "after": None})
            row[when] = (row[when] or 0.0) + unit.milliseconds
    return list(rows.values())
