"""Families of numbers of unknown meaning."""

from __future__ import annotations

import numpy as np
import pytest

from spa.passes.samples.features import FAMILIES, OTHER_FAMILIES, features
from spa.passes.samples.ranges import LIKELY, UNKNOWN, candidates, plausible


def neighbours(array: np.ndarray, axis: int) -> float:
    """The correlation of numbers that lie side by side along an axis, as a mean over the samples."""
    moved = np.moveaxis(array, axis, -1)
    pairs = [(sample[..., :-1].ravel(), sample[..., 1:].ravel()) for sample in moved]
    return float(np.mean([np.corrcoef(left, right)[0, 1] for left, right in pairs]))


def test_smooth_samples_are_alike_along_both_axes() -> None:
    smooth = features((40, 24, 31), ["smooth"] * 40, np.random.default_rng(0))
    assert neighbours(smooth, 1) > 0.3
    assert neighbours(smooth, 2) > 0.3
    pink = features((40, 24, 31), ["pink"] * 40, np.random.default_rng(0))
    assert abs(neighbours(pink, 1)) < 0.1


def test_smooth_samples_of_a_single_axis_are_white() -> None:
    smooth = features((40, 200), ["smooth"] * 40, np.random.default_rng(0))
    assert abs(neighbours(smooth, 1)) < 0.1


@pytest.mark.parametrize("shape", [(6, 1), (6, 1, 1), (6, 2, 1), (6, 1, 5), (6, 3, 4, 5)])
@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
def test_families_of_any_shape_are_of_about_size_one(family: str, shape: tuple[int, ...]) -> None:
    drawn = features(shape, [family] * 6, np.random.default_rng(0))
    assert drawn.shape == shape
    assert np.all(np.isfinite(drawn))
    assert np.abs(drawn).max() < 20


def test_features_may_have_the_most_likely_range_where_pictures_may_not() -> None:
    between = (LIKELY + UNKNOWN) / 2
    scores = [between, *[9.0] * 20]
    scores[3] = 0.0
    features_may = plausible(scores, candidates(picture=False))
    assert [candidate.name for candidate in features_may] == ["0 +- 1", "0 +- 3"]
    pictures_may = plausible([between, 0.0, 9.0, 9.0], candidates(picture=True), picture=True)
    assert [candidate.name for candidate in pictures_may] == ["0..1"]
