"""Photographs and the letters of a font that ship with the tool, all free of rights (SOURCES.md names each).

Photographs are stored as JPEG stores them but for its entropy coder: 8 x 8 blocks of brightness and of halved colours,
as quantised cosine coefficients. NumPy and SciPy decode them; an image library is no dependency.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent

BLOCK = 8
MIDDLE = 128.0

BRIGHTNESS_STEPS, COLOUR_STEPS = (
    first + slope * np.add.outer(np.arange(BLOCK), np.arange(BLOCK)) for first, slope in ((8.0, 4.0), (12.0, 10.0))
)
"""By how much a coefficient of each frequency is divided before it is rounded, (8, 8)."""

BRIGHTNESS = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue (ITU-R BT.601)."""

BLUE, RED = 0.564, 0.713
"""By which a colour less the brightness is multiplied (ITU-R BT.601)."""


def encode(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """What `decode` gives pictures back from, nearly.

    Args:
        pictures: uint8 (count, height, width, 3), the sides multiples of 16.
    """
    rgb = pictures.astype(np.float64)
    bright = rgb @ BRIGHTNESS
    colours = np.stack([MIDDLE + BLUE * (rgb[..., 2] - bright), MIDDLE + RED * (rgb[..., 0] - bright)])
    count, height, width = bright.shape
    halved = colours.reshape(2, count, height // 2, 2, width // 2, 2).mean((3, 5))
    return {"luma": _coefficients(bright, BRIGHTNESS_STEPS), "chroma": _coefficients(halved, COLOUR_STEPS)}


def decode(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """uint8 (count, height, width, 3)

    Args:
        luma: int8 (8, 8, count, rows, columns), the coefficients of blocks of brightness.
        chroma: int8 (8, 8, 2, count, rows, columns), those of blue and red at half the size.
    """
    bright = _planes(luma, BRIGHTNESS_STEPS)
    blue, red = (_planes(chroma, COLOUR_STEPS) - MIDDLE).repeat(2, -2).repeat(2, -1)
    channels = [bright + red / RED, bright, bright + blue / BLUE]
    channels[1] = (bright - BRIGHTNESS[0] * channels[0] - BRIGHTNESS[2] * channels[2]) / BRIGHTNESS[1]
    shown: np.ndarray = np.clip(np.rint(np.stack(channels, -1)), 0, 255).astype(np.uint8)
    return shown


@cache
def photographs() -> np.ndarray:
    """uint8 (43, 256, 256, 3): animals, things, buildings."""
    with np.load(FOLDER / "photographs.npz") as stored:
        return decode(stored["luma"], stored["chroma"])


@cache
def glyphs() -> dict[str, np.ndarray]:
    """Printable characters, uint8 (48, width) each: 0 paper, 255 ink."""
    with np.load(FOLDER / "glyphs.npz") as stored:
        parts = np.split(stored["strip"], np.cumsum(stored["widths"].astype(int))[:-1], axis=1)
        return dict(zip(stored["characters"].tobytes().decode(), parts, strict=True))


def _coefficients(planes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(8, 8, ..., rows, columns) int8 of (..., height, width)"""
    from scipy.fft import dctn

    *outer, height, width = planes.shape
    blocks = (planes - MIDDLE).reshape(*outer, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    rounded = np.rint(dctn(np.moveaxis(blocks, (-3, -1), (0, 1)), axes=(0, 1), norm="ortho").T / steps.T).T
    return np.asarray(np.clip(rounded, -127, 127), np.int8)


def _planes(coefficients: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(..., height, width) of (8, 8, ..., rows, columns)"""
    from scipy.fft import idctn

    blocks = idctn((coefficients.astype(np.float64).T * steps.T).T, axes=(0, 1), norm="ortho")
    *outer, rows, columns = blocks.shape[2:]
    planes = np.moveaxis(blocks, (0, 1), (-3, -1)).reshape(*outer, rows * BLOCK, columns * BLOCK)
    return np.asarray(planes + MIDDLE)
