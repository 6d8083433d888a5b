"""What ships with the tool, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spa.passes.samples import library
from spa.passes.samples.photographs import photographs
from spa.passes.samples.resize import resized
from spa.passes.samples.sounds import chirps, sounds, voices
from spa.passes.samples.text import text


def test_every_photograph_has_a_source_and_all_are_small() -> None:
    said = (library.FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    rows = [line for line in said.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(library.photographs()) == 43
    assert all("| CC0 1.0 |" in row or "| public domain |" in row for row in rows)
    assert sum(path.stat().st_size for path in library.FOLDER.glob("*.npz")) < 2e6


def test_pictures_come_back_from_their_coefficients() -> None:
    """Of a smooth picture and of one with an edge; what is lost is what quantisation takes."""
    rows, columns = np.mgrid[0:32, 0:48]
    smooth = np.stack([4 * rows, 3 * columns, 255 - 4 * rows], -1)
    edge = np.where(columns[..., None] < 20, [220, 40, 30], [20, 60, 200])
    given = np.stack([smooth, edge]).astype(np.uint8)
    decoded = library.decode(**library.encode(given)).astype(int)
    assert np.abs(decoded[0] - given[0]).mean() < 4
    assert np.abs(decoded[1] - given[1])[:, 24:].mean() < 4
    assert decoded.shape == given.shape


@pytest.mark.parametrize("shape", [(3, 40, 60), (1, 28, 28), (3, 24, 200), (3, 420, 440), (1, 3, 5)])
@pytest.mark.parametrize("kind", [photographs, text])
def test_views_of_any_size_between_black_and_white(kind: object, shape: tuple[int, int, int]) -> None:
    assert callable(kind)
    views = kind(5, *shape, np.random.default_rng(0))
    assert views.shape == (5, *shape)
    assert views.dtype == np.float32
    assert 0 <= views.min() <= views.max() <= 1
    if min(shape[1:]) > 10:
        assert np.unique([picture.std() for picture in views]).size == 5, "each is another"
        assert views.std() > 0.05


def test_text_has_ink_along_its_line() -> None:
    """Wide pictures hold one line: the columns between letters have none, those through letters do."""
    lines = text(20, 1, 32, 320, np.random.default_rng(0))[:, 0]
    spread = lines[:, 8:24].std(axis=1)
    assert np.median(spread.max(axis=1)) > 3 * np.median(spread.min(axis=1))


def test_resizing_keeps_plain_areas_and_slopes() -> None:
    slope = np.arange(64, dtype=np.float32)[None, :].repeat(16, 0)
    for size in ((8, 32), (16, 200)):
        scaled = resized(slope, *size)
        assert scaled.shape == size
        np.testing.assert_allclose(np.diff(scaled[0])[3:-3], 64 / size[1], rtol=1e-3)
    np.testing.assert_allclose(resized(np.full((5, 7), 3.0), 11, 2), 3.0, rtol=1e-6)


def test_sounds_have_notes() -> None:
    """Notes stand out of the spectrum; noise whose power falls off has no such peaks."""
    waves = sounds((60, 4000), np.random.default_rng(0))
    power = np.abs(np.fft.rfft(waves)) ** 2
    peaks = power.max(1) / np.median(power, axis=1)
    assert (peaks > 1e3).mean() > 0.6
    assert 0.3 < np.median(waves.std(1)) < 3


@pytest.mark.parametrize("shape", [(5, 2, 600), (1, 16000), (4, 1, 512)])
@pytest.mark.parametrize("kind", [chirps, voices])
def test_other_sounds(kind: Callable[..., np.ndarray], shape: tuple[int, ...]) -> None:
    waves = kind(shape, np.random.default_rng(0))
    assert waves.shape == shape
    assert np.isfinite(waves).all()
    assert (waves.std(-1) > 0.05).all()


def test_voices_have_harmonics_at_equal_steps() -> None:
    """So a voice is like itself one period later, at a lag between the highest and the lowest pitch of voices."""

    def likeness(sounds: np.ndarray) -> float:
        correlation = np.fft.irfft(np.abs(np.fft.rfft(sounds, 2 * sounds.shape[1])) ** 2)
        return float(np.median(correlation[:, 30:700].max(1) / correlation[:, 0]))

    rng = np.random.default_rng(1)
    assert likeness(voices((40, 4096), rng)) > 0.4
    assert likeness(rng.standard_normal((40, 4096))) < 0.1
