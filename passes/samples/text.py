"""Rendered text: lines of made-up words on paper, at the size of a picture."""

from __future__ import annotations

import numpy as np

from spa.passes.samples import library
from spa.passes.samples.resize import resized

LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
"""By how often English uses them (Norvig 2013), so that words look like words."""

ONE_LINE = 2.5
"""Width over height of pictures that show one line of text."""

LEAST_HEIGHT = 9
"""Pixels of a line of text."""

LINE_HEIGHT = 48
"""Of the stored characters."""


def text(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, channels, height, width) float32 from 0 to 1: one line where pictures are wide, a page elsewhere."""
    images = np.empty((count, channels, height, width), np.float32)
    for number in range(count):
        ink = _line(height, width, rng) if width >= ONE_LINE * height else _page(height, width, rng)
        dark, light = np.sort(rng.beta(0.6, 0.6, 2))
        if light - dark < 0.3:
            dark, light = max(0.0, dark - 0.3), min(1.0, light + 0.3)
        tint = 0.15 * rng.standard_normal((2, channels, 1, 1)) * (rng.uniform() < 0.5)
        paper, pen = (light, dark) if rng.uniform() < 0.75 else (dark, light)
        slope = (
            rng.normal(0, 0.15) * np.linspace(-1, 1, width) + rng.normal(0, 0.1) * np.linspace(-1, 1, height)[:, None]
        )
        ground = paper + tint[0] + slope * (rng.uniform() < 0.5)
        shown = ground * (1 - ink) + (pen + tint[1]) * ink
        shown += rng.uniform(0, 0.04) * rng.standard_normal((1, height, width))
        images[number] = np.clip(shown, 0.0, 1.0)
    return images


def _line(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width): one line that fills most of the height, 0 paper to 1 ink."""
    ink = np.zeros((height, width), np.float32)
    size = int(np.clip(rng.uniform(0.6, 1.15) * height, LEAST_HEIGHT, 1.3 * height))
    filled = width if rng.uniform() < 0.6 else int(width * rng.uniform(0.3, 1.0))
    _write(
        ink,
        (height - size) // 2 + int(rng.integers(-1, 2)),
        int(rng.integers(0, max(1, width // 30))),
        filled,
        size,
        rng,
    )
    return ink


def _page(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width): lines of text one below the other, of one size or of several."""
    ink = np.zeros((height, width), np.float32)
    size = max(LEAST_HEIGHT, int(height / np.exp(rng.uniform(np.log(1.5), np.log(16)))))
    margin = int(rng.uniform(0, 0.12) * width)
    top = int(rng.uniform(-0.3, 1.0) * size)
    while top < height:
        this = size if rng.uniform() < 0.8 else int(size * rng.uniform(0.8, 2.0))
        if rng.uniform() < 0.9:
            right = width - margin if rng.uniform() < 0.7 else int(width * rng.uniform(0.3, 1.0))
            _write(ink, top, margin, right, this, rng)
        top += int(this * rng.uniform(0.8, 1.3)) + 1
    return ink


def _write(ink: np.ndarray, top: int, left: int, right: int, size: int, rng: np.random.Generator) -> None:
    """Write one line into a picture, as far as it is inside."""
    stretch = rng.uniform(0.7, 1.3)
    letters = int(1.2 * (right - left) / max(1.0, 0.4 * size * stretch)) + 2
    slant = float(rng.choice([0.0, 0.0, 0.2]))
    drawn = _strip(_words(letters, rng), size, stretch, bold=int(rng.integers(0, 4)), slant=slant)
    drawn = drawn[:, : max(0, right - left)]
    above = max(0, -top)
    place = ink[top + above : top + size, left : left + drawn.shape[1]]
    part = drawn[above : above + place.shape[0], : place.shape[1]]
    np.maximum(place, part, out=place)


def _words(letters: int, rng: np.random.Generator) -> str:
    """About so many characters of made-up words, numbers and signs."""
    chances = 1.0 / np.arange(2, len(LETTERS) + 2) ** 0.7
    chances /= chances.sum()
    words, total = [], 0
    while total < letters:
        if rng.uniform() < 0.15:
            word = "".join(rng.choice(list("0123456789"), rng.integers(1, 6)))
        else:
            word = "".join(rng.choice(list(LETTERS), rng.integers(1, 11), p=chances))
            case = rng.uniform()
            word = word.upper() if case < 0.15 else word.capitalize() if case < 0.4 else word
        if rng.uniform() < 0.15:
            word += str(rng.choice(list(".,:;!?-/%)&+*'")))
        words.append(word)
        total += len(word) + 1
    return " ".join(words)


def _strip(words: str, size: int, stretch: float, *, bold: int, slant: float) -> np.ndarray:
    """(size, width): words as the font draws them, from 0 to 1, thicker and slanted."""
    blank = np.zeros((LINE_HEIGHT, 12), np.uint8)
    known = library.glyphs()
    parts = []
    for character in words:
        glyph = known.get(character, blank) / np.float32(255)
        for _ in range(bold):
            glyph[:, 1:] = np.maximum(glyph[:, 1:], glyph[:, :-1])
        parts.append(resized(glyph, size, max(1, round(glyph.shape[1] * size / LINE_HEIGHT * stretch))))
    strip = np.concatenate(parts, axis=1)
    if slant:
        rows = np.arange(size)
        columns = np.arange(strip.shape[1]) + (slant * (rows - size // 2)).astype(int)[:, None]
        strip = strip[rows[:, None], np.clip(columns, 0, strip.shape[1] - 1)]
    return np.asarray(strip)
