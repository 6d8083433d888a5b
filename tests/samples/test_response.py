"""Fewer samples of the kinds to which a network hardly responds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.normalize.normalize import normalize
from spa.passes.samples import values as kinds_of_values
from spa.passes.samples.datafree import Recipe
from spa.passes.samples.ranges import Range
from spa.passes.samples.response import FEW, shares, silent
from spa.passes.samples.values import OTHERS, SHIPPED, turns, values
from tests.models import Weight, build

EVERYWHERE = np.full((1, 1, 3, 3), 1 / 9, np.float32)


def recipe_of(batch: str, kernel: np.ndarray) -> Recipe:
    """Of a network of one number: how much of something there is in a picture."""
    weights: dict[str, Weight] = {"w": kernel, "v": [1, 1]}
    text = f"""(float[{batch},1,32,160] x) => (float[{batch},1] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w)  p = GlobalAveragePool(c)  f = Flatten(p)  y = MatMul(f, v) }}"""
    return Recipe.of(normalize(ir.from_proto(build(text, weights))))


def plain(least: float, most: float) -> Callable[..., np.ndarray]:
    """Pictures of one grey each, between two."""

    def made(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        return np.broadcast_to(rng.uniform(least, most, (count, 1, 1, 1)), (count, channels, height, width))

    return made


@pytest.mark.parametrize("batch", ["n", "1", "2"])
def test_kinds_get_samples_by_what_they_change(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees light hardly tells greys of one kind apart, and those of two others about as well."""
    spans = {"photographs": (0.0, 1.0), "made-up pictures": (0.5, 0.6), "lines of text": (0.3, 0.9)}
    monkeypatch.setattr(kinds_of_values, "PICTURES", {kind: plain(*span) for kind, span in spans.items()})
    recipe = recipe_of(batch, EVERYWHERE)
    actual = recipe.shares(recipe.inputs[0], SHIPPED)
    assert actual == pytest.approx(np.array([1.0, FEW, 1.0]) / (2 + FEW))
    assert recipe.shares(recipe.inputs[0], OTHERS) == ()


@pytest.mark.parametrize(("others", "expected"), [((0.5, 0.5), True), ((0.5, 0.501), True), ((0.2, 0.8), False)])
def test_where_a_network_says_nothing_usual_kinds_judge(
    others: tuple[float, float], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees light says nothing of pictures that are all of one grey: no repair can be judged by them."""
    spans = {kind: plain(0.0, 1.0) for kind in SHIPPED} | {kind: plain(*others) for kind in OTHERS}
    monkeypatch.setattr(kinds_of_values, "PICTURES", spans)
    recipe = recipe_of("n", EVERYWHERE)
    input_ = recipe.inputs[0]
    assert silent(recipe, input_, OTHERS, SHIPPED, recipe.ranges[input_.name]) == expected
    (judges,) = recipe.others_apart(24)
    spread = float(np.std(judges.samples["x"].mean((1, 2, 3))))
    usual = float(np.std(recipe.others(24, kinds=SHIPPED).samples["x"].mean((1, 2, 3))))
    assert (spread == pytest.approx(usual)) == expected
    assert len(judges) == 24


def test_where_nothing_changes_kinds_are_alike() -> None:
    recipe = recipe_of("n", np.zeros_like(EVERYWHERE))
    assert shares(recipe, recipe.inputs[0], SHIPPED, []) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("given", [(1.0, 1.0, 1.0), (0.5, 0.3, 0.2), (0.7, 0.1, 0.2), (1.0,)])
def test_any_number_of_the_first_are_in_proportion(given: tuple[float, ...]) -> None:
    order = turns(given, 60)
    for count in (6, 20, 60):
        counted = np.bincount(order[:count], minlength=len(given))
        assert np.abs(counted - count * np.array(given) / sum(given)).max() <= 1
    if len(set(given)) == 1:
        assert order.tolist() == [number % len(given) for number in range(60)]


def test_each_kind_takes_turns_among_ranges() -> None:
    """Also where there are as many kinds as ranges: not one kind in one range."""
    recipe = recipe_of("n", EVERYWHERE)
    value = recipe.inputs[0]
    apart = [Range(name, np.array(1.0), np.array(level)) for name, level in (("dark", -1000.0), ("light", 1000.0))]
    options: dict[str, Any] = {"kinds": SHIPPED[:2], "rng": np.random.default_rng(0)}
    made = values(value, 8, apart, **options).reshape(8, -1).mean(1) > 0
    assert made.tolist() == [False, False, True, True, False, False, True, True]
