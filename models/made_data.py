"""Data that small networks are trained on: utterances, texts and tables, made up."""

from __future__ import annotations

from typing import Any

import numpy as np


def utterances(count: int, words: int, generator: np.random.Generator, *, frames: int = 16, bins: int = 96) -> Any:
    """(count, frames, bins) features of made-up words and (count,) which word: moving resonances, speakers, noise.

    A word is a path of three resonances; a speaker shifts them, speaks faster or slower and louder or softer. The first
    half of the samples are words, the others are noises, tones and silence, of class `words`.
    """
    paths = np.random.default_rng(77).uniform(0.1, 0.9, (words, 5, 3))
    place = np.linspace(0, 1, bins)
    spectra = np.empty((count, frames, bins))
    classes = np.where(np.arange(count) < count // 2, generator.integers(0, words, count), words)
    for number, word in enumerate(classes):
        time = np.clip((np.linspace(0, 1, frames) - generator.uniform(-0.1, 0.25)) / generator.uniform(0.6, 1.0), 0, 1)
        path = paths[word] if word < words else generator.uniform(0.1, 0.9, (5, 3))
        if word == words and generator.uniform() < 0.6:
            path = np.repeat(path[:1], 5, axis=0) + 0.02 * generator.standard_normal((5, 3))
        tracks = np.stack([np.interp(time, np.linspace(0, 1, 5), path[:, k]) for k in range(3)], 1)
        tracks = np.sort(tracks, axis=1) * np.exp(0.05 * generator.standard_normal())
        power = sum(
            np.exp(-0.5 * ((place - tracks[:, k : k + 1]) / 0.04) ** 2) * 10 ** -(0.4 * k) for k in range(3)
        ) * np.exp(generator.normal(0, 0.5, (frames, 1)))
        tilt = 10 ** (-generator.uniform(0.5, 2.0) * place)
        floor = 10 ** -generator.uniform(1.0, 3.0) * generator.gamma(2.0, 0.5, (frames, bins))
        spectra[number] = np.log((power + 1e-3) * tilt + floor) + generator.normal(0, 1.0)
    return spectra, classes


def bags(
    count: int, generator: np.random.Generator, *, vocabulary: int = 600, topics: int = 6, length: int = 40
) -> Any:
    """(count, length) whole numbers of made-up texts, and their topics: words by falling frequency, some of a topic."""
    common = 1.0 / np.arange(2, vocabulary + 2)
    own = np.random.default_rng(78).permuted(np.tile(np.arange(vocabulary), (topics, 1)), axis=1)[:, :40]
    classes = generator.integers(0, topics, count)
    texts = generator.choice(vocabulary, (count, length), p=common / common.sum())
    for number, topic in enumerate(classes):
        told = generator.uniform(size=length) < 0.25
        texts[number, told] = own[topic, np.minimum(generator.geometric(0.08, int(told.sum())), 40) - 1]
    return texts, classes


def table(count: int, generator: np.random.Generator, *, columns: int = 40, useful: int = 8) -> Any:
    """(count, columns) numbers of which few matter and many repeat others, and (count,) three classes."""
    base = np.random.default_rng(79)
    centres, mixing = 1.6 * base.standard_normal((6, useful)), base.standard_normal((useful, columns // 2))
    cluster = generator.integers(0, 6, count)
    plain = centres[cluster] + generator.standard_normal((count, useful))
    repeated = plain @ mixing + 0.3 * generator.standard_normal((count, columns // 2))
    rest = generator.standard_normal((count, columns - useful - columns // 2))
    return np.concatenate([plain, repeated, rest], 1), cluster % 3
