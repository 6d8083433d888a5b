"""Pictures made up from what natural images have in common: their spectrum, their colours, and things before things.

Half of them are random fields whose power falls off as 1 / f^2 (Field 1987): texture everywhere, of one strength. The
others are dead leaves (Lee, Mumford and Huang 2001): opaque shapes, one before the other, of sizes whose density falls
off as the cube of the radius. They have what Gaussian fields lack, edges, corners and plain areas.
"""

from __future__ import annotations

import numpy as np

COLOURS = np.array([[0.5, 0.3, 0.15], [0.5, 0.0, -0.28], [0.5, -0.3, 0.15]])
"""Columns are the directions of natural colour: brightness, blue to yellow, green to magenta, by falling strength."""

FALLOFFS = np.linspace(0.5, 1.2, 32)
"""Exponents of the textures' amplitudes over frequency, from coarse grain to soft shadows."""

LEAVES = (8, 60)
SMALLEST, LARGEST, LEAST_RADIUS = 1 / 40, 2 / 3, 2.0
"""Radii as shares of a picture's side; and the least in pixels."""

SQUARE, REACH = 0.9, 1.5
"""Half the side of a square leaf, and how far its corners are from the centre at most, in radii."""

PACE = 2
"""Pixels that a film passes by from frame to frame, at most."""

STEADY = 1e-6


def pictures(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, channels, height, width) float32, of mean zero and variance one or so."""
    textures = [_field(channels, height, width, falloff, rng) for falloff in FALLOFFS]
    images = np.empty((count, channels, height, width), np.float32)
    for sample in range(count):
        if sample % 2:
            images[sample] = _leaves(textures, rng)
        else:
            level = _coloured(rng.standard_normal((channels, 1, 1)))
            images[sample] = rng.uniform(0.4, 1.0) * _field(channels, height, width, 1.0, rng) + 0.6 * level
    return images


def gratings(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, channels, height, width) float32: crossed stripes and checks of any pitch over a slope, none of them in
    `pictures`."""
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    images = np.empty((count, channels, height, width), np.float32)
    for sample in range(count):
        picture = _coloured(rng.standard_normal((channels, 1, 1))) + 0.0 * (rows + columns)
        for _ in range(rng.integers(1, 5)):
            angle, pitch = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(1.5), np.log(max(height, width) / 3)))
            wave = np.sin(pitch * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) + rng.uniform(0, 2 * np.pi))
            wave = np.sign(wave) if rng.uniform() < 0.4 else wave
            window = np.exp(
                -((rows - rng.uniform(-1, 1)) ** 2 + (columns - rng.uniform(-1, 1)) ** 2) * rng.uniform(0, 3)
            )
            picture = picture + 0.7 * _coloured(rng.standard_normal((channels, 1, 1))) * wave * window
        images[sample] = picture
    return images


def films(stills: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """(count, channels, frames, height, width): pictures that pass by, each at a pace of its own.

    Args:
        stills: (count, channels, height, width).
    """
    paces = rng.integers(-PACE, PACE + 1, (len(stills), 2))
    shifted = [
        [np.roll(still, at * pace, (1, 2)) for at in range(frames)] for still, pace in zip(stills, paces, strict=True)
    ]
    return np.moveaxis(np.array(shifted), 1, 2)


def _field(channels: int, height: int, width: int, falloff: float, rng: np.random.Generator) -> np.ndarray:
    """A random field whose amplitude falls off over frequency, (channels, height, width)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(height, width)
    noise = np.fft.rfft2(rng.standard_normal((channels, height, width)))
    fields = np.fft.irfft2(noise / frequency**falloff, s=(height, width))
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    fields /= fields.std(axis=(1, 2), keepdims=True) + STEADY
    return _coloured(fields).astype(np.float32)


def _coloured(independent: np.ndarray) -> np.ndarray:
    """Channels that vary together as those of natural colours do, from independent ones; other than three: as is."""
    if len(independent) != len(COLOURS):
        return independent
    mixing = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    return np.asarray(np.einsum("ck,khw->chw", mixing, independent))


def _leaves(textures: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Opaque shapes before a textured ground, the small ones in front."""
    channels, height, width = textures[0].shape

    def colour() -> np.ndarray:
        return _coloured(rng.standard_normal((channels, 1, 1)))

    image = (colour() + 0.3 * textures[rng.integers(len(textures))]).astype(np.float32)
    side = max(height, width)
    least, most = max(LEAST_RADIUS, SMALLEST * side), max(LEAST_RADIUS, LARGEST * side)
    drawn = rng.uniform(size=rng.integers(*LEAVES))
    radii = np.sort((least**-2 + drawn * (most**-2 - least**-2)) ** -0.5)[::-1]  # density as the cube
    for radius in radii:
        area, along, across = _place(radius, height, width, rng)
        inside = along**2 + across**2 < 1.0 if rng.uniform() < 0.5 else np.maximum(abs(along), abs(across)) < SQUARE
        texture = textures[rng.integers(len(textures))]
        shade = 0.3 * (rng.standard_normal() * along + rng.standard_normal() * across)
        strength = rng.uniform(0, 0.6) * (rng.uniform() < 0.6)  # some leaves are plain
        leaf = colour() + shade + strength * texture[:, *area]
        np.copyto(image[:, *area], leaf.astype(np.float32), where=inside)
    return image


def _place(
    radius: float, height: int, width: int, rng: np.random.Generator
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Where a leaf may be, and how far each position is from its centre along its two axes, in radii."""
    centre = rng.uniform(0, (height, width))
    low = np.maximum(0, centre - REACH * radius).astype(int)
    high = np.minimum((height, width), centre + REACH * radius + 1).astype(int)
    rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
    rows, columns = (rows - centre[0]) / radius, (columns - centre[1]) / radius
    angle, shorter = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    across = (np.cos(angle) * columns - np.sin(angle) * rows) / shorter
    return (slice(low[0], high[0]), slice(low[1], high[1])), along, across
