"""The page of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa.pages import charts
from spa.pages.parts import Page, repeat, table, tiles, verdict
from spa.pages.words import percent


def page(document: Mapping[str, Any]) -> Page:
    """Loss over epochs."""
    name = Path(str(document["paths"].get("source") or "model")).name
    before, after, epochs = document["before"], document["after"], document["epochs"]
    lead = (
        f"Trained for {epochs} epoch{'s' * (epochs != 1)}, {document['seconds']:.0f} s; losses are on samples held out."
    )
    page = Page("Training", name, lead)
    gained = after < before
    page.section(
        "summary", "Summary", "",
        [
            tiles([
                ("loss before", f"{before:.4g}", "as it came in"),
                ("loss after", f"{after:.4g}", f"{percent(1 - after / before)} less" if gained and before > 0 else ""),
                ("epochs", str(epochs), f"{document['seconds']:.0f} s"),
                ("trained", percent(document["trained"]), "of the parameters"),
            ]),
            verdict(
                "onnxruntime computes what torch does on the result."
                if gained else "No epoch did better: the model is given back as it came in.", bad=not gained,
            ),
        ],
    )  # fmt: skip
    rows = [{"epoch": number + 1, "loss": loss} for number, loss in enumerate(document["history"])]
    if rows:
        chart = page.chart(
            "history", charts.history(rows, before), "Loss on samples held out after each epoch",
            caption="The broken line is the loss before training.",
        )  # fmt: skip
        numbers = [(row["epoch"], f"{row['loss']:.5g}") for row in rows]
        parts = [chart, table(["epoch >", "loss >"], numbers, summary="numbers")]
        page.section("history", "Loss by epoch", "", parts)
    repeat(page, document, f"{Path(name).stem}.training.json")
    return page
