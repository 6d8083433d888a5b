"""The pictures of docs/: widths before and after, accuracy by share removed, the walk of a model; as SVG text.

    python tests/benchmarks/readme.py     # writes them, with everything else that is generated

Colours are such that both backgrounds of the pages carry them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GREY, TEAL, AMBER, INK = "#b0b8bf", "#009688", "#e09f3e", "#6b7780"
OFFSETS = (0, 250, 440)  # of the entries of a legend
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>'
    return "\n".join([head, *parts, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, colour: str, *, round_: int = 2) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="{round_}" fill="{colour}"/>'


def text(x: float, y: float, words: str, colour: str = INK, *, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="{colour}">{escape(words)}</text>'


def line(points: Sequence[tuple[float, float]], colour: str, *, width: float = 2) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def widths() -> str:
    """Units of each group of the tutorial's model before and after, as bars."""
    import spa

    rows = spa.prune(ROOT / "models" / "fashion_resnet.onnx", ratio=0.3, weights=True, dry_run=True).report.groups
    scale, step = 480 / max(row.units for row in rows), 26
    parts = []
    for at, row in enumerate(rows):
        y = 34 + at * step
        parts += [
            text(150, y + 14, row.name.removesuffix(":0"), anchor="end"),
            box(160, y, row.units * scale, 18, GREY),
            box(160, y, (row.units - row.removed) * scale, 18, TEAL),
            text(166 + row.units * scale, y + 14, f"{row.units} → {row.units - row.removed}"),
        ]
    legend = [box(160, 8, 12, 12, TEAL), text(178, 19, "stays"), box(240, 8, 12, 12, GREY), text(258, 19, "goes")]
    return svg(720, 44 + len(rows) * step, [*legend, *parts])


def accuracy() -> str:
    """Accuracy of the tutorial's model by share of FLOPs removed, with and without refit; rows of repair.jsonl."""
    rows = [json.loads(row) for row in (HERE / "repair.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["task"] == "fmnist_resnet"]
    names = {"spa": ("chosen and refitted with samples", TEAL), "spa, data-free": ("with made-up samples", AMBER),
             "l2": ("by weights alone", GREY)}  # fmt: skip
    left, top, width, height = 60, 50, 560, 240

    def place(cut: float, value: float) -> tuple[float, float]:
        return left + width * cut / 0.7, top + height * (1 - value)

    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, y), (end, _) = place(0, value), place(0.7, value)
        parts += [line([(x, y), (end, y)], GREY, width=0.5), text(left - 8, y + 4, f"{value:.0%}", anchor="end")]
    parts += [
        text(place(cut, 0)[0], top + height + 20, f"{cut:.0%}", anchor="middle") for cut in (0, 0.2, 0.3, 0.5, 0.7)
    ]
    parts.append(text(left + width / 2, top + height + 40, "share of FLOPs removed", anchor="middle"))
    parts.append(text(left, 16, "top-1 accuracy on the test set", weight="bold"))
    for at, (method, (label, colour)) in enumerate(names.items()):
        points = [place(0, rows[0]["dense"])]
        points += [place(row["cut"], row["pruned"]) for row in rows if row["method"] == method]
        parts += [line(points, colour), *(box(x - 3, y - 3, 6, 6, colour, round_=3) for x, y in points)]
        parts += [box(left + OFFSETS[at], 26, 12, 12, colour), text(left + 18 + OFFSETS[at], 37, label)]
    return svg(720, top + height + 56, parts)


THERE = {"read": "frontends/files", "normalise": "passes/normalize", "shapes": "spa/shapes", "couple": "spa/analysis",
         "group": "spa/analysis"}  # fmt: skip
BACK = {"write": "frontends/files", "verify": "passes/cut", "cut": "passes/cut", "repair": "passes/repair",
        "choose": "passes/choose"}  # fmt: skip


def walk() -> str:
    """The steps of a prune, there and back, with their rooms."""
    wide, high, gap = 124, 52, 18
    parts = []
    for at, steps in enumerate((THERE, BACK)):
        for column, (step, room) in enumerate(steps.items()):
            x, y = 10 + column * (wide + gap), 10 + at * (high + 46)
            parts += [
                box(x, y, wide, high, AMBER if step == "repair" else TEAL, round_=6),
                text(x + wide / 2, y + 22, step, "#ffffff", anchor="middle", weight="bold"),
                text(x + wide / 2, y + 40, room, "#ffffff", anchor="middle"),
            ]
            if column < len(steps) - 1:
                tip, tail = (x + wide + gap, x + wide) if at == 0 else (x + wide, x + wide + gap)
                parts += arrow((tail, y + high / 2), (tip, y + high / 2))
    turn = 10 + (len(THERE) - 1) * (wide + gap) + wide / 2
    parts += arrow((turn, 10 + high), (turn, 10 + high + 46))
    parts += [text(10, 10 + 2 * high + 46 + 24, "repair: with samples only; without, what was chosen is cut at once")]
    return svg(728, 2 * high + 46 + 46, parts)


def arrow(tail: tuple[float, float], tip: tuple[float, float]) -> list[str]:
    (x, y), across = tip, tail[1] == tip[1]
    back = 6 if (tail < tip) else -6
    head = [(x - back, y - 4), (x, y), (x - back, y + 4)] if across else [(x - 4, y - back), (x, y), (x + 4, y - back)]
    return [line([tail, tip], INK), line(head, INK)]


PICTURES = {"widths.svg": widths, "accuracy.svg": accuracy, "walk.svg": walk}
