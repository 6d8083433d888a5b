"""The colours of pages and pictures, by name, on a light and on a dark ground."""

from __future__ import annotations

import re

LIGHT = {
    "ground": "#f6f8f8", "card": "#ffffff", "ink": "#17252a", "soft": "#51636a", "line": "#dde4e5",
    "accent": "#00796b", "pale": "#b5d9d4", "warm": "#c2570c", "faint": "#64808a", "bad": "#b3261e",
}  # fmt: skip
DARK = {
    "ground": "#11181a", "card": "#192326", "ink": "#e6eeee", "soft": "#9db1b5", "line": "#2d3c40",
    "accent": "#4db6a8", "pale": "#2f5a56", "warm": "#f2a65a", "faint": "#8fa9b0", "bad": "#ff8a80",
}  # fmt: skip


def variables(colours: dict[str, str]) -> str:
    """The names as CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def fixed(text: str) -> str:
    """A text whose colours are those of the light ground, for pictures that no style sheet reaches."""
    return re.sub(r"var\(--(\w+)\)", lambda match: LIGHT[match[1]], text)
