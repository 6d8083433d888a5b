"""Sounds made up: notes with harmonics, onsets and decays over noise, and noise whose spectrum falls off."""

from __future__ import annotations

import numpy as np

from spa.passes.samples.features import pink

RATES = (16000.0, 16000.0, 22050.0, 44100.0)
"""Samples a second, by turns: an input does not say; what most networks were made for is among these."""

EARLIER = 1.0
"""Seconds before the beginning at which a note may have begun."""

PITCHES = (55.0, 1800.0)
"""Hertz, of the lowest and the highest note."""

NOTES = 12
HARMONICS = 24

SHARE_OF_NOISE = 1 / 6
"""Of the sounds are noise alone."""

VOICE, GLIDE = (70.0, 500.0), 2.0
"""Hertz, between which a voice lies in the middle; and octaves a second by which it rises or falls, at most."""

FORMANTS = ((250.0, 900.0), (700.0, 2300.0), (1800.0, 3500.0))
"""Hertz, between which each resonance of a voice lies (Peterson and Barney 1952, for all vowels and speakers)."""

FORMANT_WIDTHS, BESIDE_FORMANTS = (80.0, 300.0), 0.02


def sounds(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Sounds along the last axis, of variance one but for a loudness of each sample's own."""
    signals = np.empty(shape)
    for number in range(shape[0]):
        noise = pink(shape[1:], rng)
        if rng.uniform() < SHARE_OF_NOISE:
            signals[number] = noise
        else:
            level = 10 ** (-rng.uniform(3, 30) / 20)
            signals[number] = _normal(_notes(shape[-1], rng)) + level * noise
        signals[number] *= np.exp(0.5 * rng.standard_normal())
    return signals


def chirps(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Tones that rise or fall along the last axis, in white noise: few networks respond to them."""
    time = np.arange(shape[-1]) / shape[-1]
    signals = np.empty(shape)
    for number in range(shape[0]):
        low, high = np.exp(rng.uniform(np.log(4), np.log(shape[-1] / 5), 2))
        tone = np.sin(2 * np.pi * (low * time + (high - low) * time**2 / 2)) * np.sqrt(2)
        signals[number] = _in_white_noise(tone, shape[1:], rng)
    return signals


def voices(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Harmonics of a pitch that rises or falls, along the last axis, under the resonances of a vowel; in white noise.

    A source and a filter (Fant 1960): the amplitude of each harmonic is that of its resonances.
    """
    signals = np.empty(shape)
    for number in range(shape[0]):
        rate = float(rng.choice(RATES))
        time = np.arange(shape[-1]) / rate
        pitch = np.exp(rng.uniform(*np.log(VOICE)))
        phase = 2 * np.pi * np.cumsum(pitch * 2 ** (rng.uniform(-GLIDE, GLIDE) * (time - time[-1] / 2))) / rate
        formants, widths = np.exp(rng.uniform(*np.log(FORMANTS).T)), rng.uniform(*FORMANT_WIDTHS, len(FORMANTS))
        harmonics = np.arange(1, max(2, min(40, int(rate / 4 / pitch))))
        gains = BESIDE_FORMANTS + np.sum(1 / (1 + ((harmonics[:, None] * pitch - formants) / widths) ** 2), axis=1)
        starts = rng.uniform(0, 2 * np.pi, len(harmonics))
        voice = (gains / np.sqrt(harmonics)) @ np.sin(harmonics[:, None] * phase + starts[:, None])
        signals[number] = _in_white_noise(_normal(voice), shape[1:], rng)
    return signals


def _in_white_noise(sound: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noisy = sound + 10 ** (-rng.uniform(3, 30) / 20) * rng.standard_normal(shape)
    return np.asarray(noisy * np.exp(0.5 * rng.standard_normal()))


def _notes(length: int, rng: np.random.Generator) -> np.ndarray:
    """(length,): one to a dozen notes, each from an onset on, some together."""
    rate = float(rng.choice(RATES))
    time = np.arange(length) / rate
    signal = np.zeros(length)
    for _ in range(int(rng.integers(1, max(3, min(NOTES, 2 + int(3 * length / rate)))))):
        pitch = np.exp(rng.uniform(*np.log(PITCHES)))
        vibrato = rng.uniform(0, 0.01) / rng.uniform(4, 8) * np.sin(2 * np.pi * rng.uniform(4, 8) * time)
        phase = 2 * np.pi * pitch * (time + vibrato)
        falloff, note = rng.uniform(0.5, 2.0), np.zeros(length)
        for harmonic in range(1, HARMONICS + 1):
            if harmonic * pitch < rate / 2:
                note += (
                    harmonic**-falloff * rng.uniform(0.2, 1.0) * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
                )
        onset = rng.uniform(-EARLIER, 0.8 * time[-1])
        since = np.maximum(time - onset, 0.0)
        envelope = (1 - np.exp(-since / rng.uniform(0.002, 0.05))) * np.exp(-since / np.exp(rng.uniform(-2.5, 2.0)))
        signal += note * envelope * np.exp(0.5 * rng.standard_normal())
    return signal if np.any(signal) else rng.standard_normal(length)


def _normal(sound: np.ndarray) -> np.ndarray:
    return np.asarray((sound - sound.mean()) / (sound.std() or 1.0))
