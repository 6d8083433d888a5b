"""Numbers of unknown meaning (spectra, embeddings, tables): several families, since no one of them is likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEADY = 1e-6

FAMILIES = ("smooth", "pink", "crosswise", "low rank", "constant")
SLOPES = 0.0, 1.5
"""Of amplitude over frequency, of smooth samples: from white noise to spectra over time."""

OTHER_FAMILIES = ("sparse", "waves", "steps")
"""Families that nothing is fitted on."""


def features(shape: tuple[int, ...], families: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Of shape (samples, ...), of mean zero and variance one or so; each sample of a family.

    - smooth: power falls off over frequency along both of the last axes, as in spectra over time, with a slope of its
      own; where one of the two is short or missing, no two numbers have to do with each other;
    - pink: power falls off over frequency along the last axis, crosswise: along the one before;
    - low rank: sums of a few patterns, the same for all samples;
    - constant: nearly the same number everywhere;
    - sparse: next to nothing but for a few numbers; waves: a sine along the last axis; steps: of plain levels.
    """
    samples = np.empty(shape)
    flat = int(np.prod(shape[1:]))
    patterns = rng.standard_normal((max(2, min(16, flat // 4)), *shape[1:]))
    for number, family in enumerate(families):
        if family == "low rank":
            mixed = np.tensordot(rng.standard_normal(len(patterns)), patterns, 1) / np.sqrt(len(patterns))
            samples[number] = mixed + 0.1 * rng.standard_normal(shape[1:])
        elif family == "constant":
            samples[number] = rng.standard_normal() + 0.1 * rng.standard_normal(shape[1:])
        elif family in ("pink", "crosswise"):
            across = family == "crosswise" and len(shape) > 2
            samples[number] = pink(shape[1:], rng, -2 if across else -1)
        elif family == "sparse":
            samples[number] = 3.0 * rng.standard_normal(shape[1:]) * (rng.uniform(size=shape[1:]) < 0.1)
        elif family == "smooth" and len(shape) > 2 and min(shape[-2:]) > 2:
            samples[number] = _smooth(shape[1:], rng)
        elif family in ("waves", "steps"):
            samples[number] = _along(shape[1:], rng, waves=family == "waves")
        else:
            samples[number] = rng.standard_normal(shape[1:])
        samples[number] *= np.exp(0.3 * rng.standard_normal())
    return samples


def pink(shape: tuple[int, ...], rng: np.random.Generator, axis: int = -1) -> np.ndarray:
    """Noise whose power falls off over frequency along one axis, of variance one."""
    if not shape or shape[axis] < 3:
        return rng.standard_normal(shape)
    noise = np.fft.rfft(rng.standard_normal(shape), axis=axis)
    steps = np.sqrt(np.maximum(np.arange(noise.shape[axis]), 1.0))
    falling = noise / steps.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])
    signal = np.fft.irfft(falling, n=shape[axis], axis=axis)
    return np.asarray(signal / (signal.std() + STEADY))


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls off as a power of the frequency, of variance one."""
    high, wide = shape[-2:]
    frequency = np.hypot(*np.meshgrid(high * np.fft.fftfreq(high), wide * np.fft.rfftfreq(wide), indexing="ij"))
    noise = np.fft.rfft2(rng.standard_normal(shape)) / np.maximum(frequency, 1.0) ** rng.uniform(*SLOPES)
    field = np.fft.irfft2(noise, s=(high, wide))
    return np.asarray(field / (field.std() + STEADY))


def _along(shape: tuple[int, ...], rng: np.random.Generator, *, waves: bool) -> np.ndarray:
    """One curve along the last axis, of another strength and level in each row."""
    place = np.linspace(0, 1, shape[-1]) if shape else np.zeros(1)
    if waves:
        curve = np.sin(2 * np.pi * (rng.uniform(0.5, 0.2 * len(place) + 1) * place + rng.uniform()))
    else:
        curve = rng.standard_normal(4)[np.minimum((place * 4).astype(int), 3)]
    strength, level = (rng.standard_normal((*shape[:-1], 1)) for _ in range(2))
    return np.asarray((strength * curve + 0.5 * level).reshape(shape))
