"""What units take together: the curve between the shares that they foretell and those of whole runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from spa.analysis.cost import Cost, Term
from spa.analysis.group import Group
from spa.passes.latency.bend import MOST, Bend
from spa.passes.latency.variants import plan_of
from spa.record import Variant
from tests.grouped import residual

SHARES = (1.0, 0.75, 0.5, 0.375, 0.125)


def timed(beta: float) -> tuple[Cost, list[Variant], list[Group]]:
    """Settings of a network whose units foretell SHARES, and whose runs take what the curve says."""
    groups = [group for group in residual().groups if group.name == "c0:0"]
    cost = Cost({"latency": [Term(1.0, (groups[0].leaves[0],))]})
    variants = []
    for share in SHARES:
        removed = {"c0:0": groups[0].size - round(share * groups[0].size)}
        foretold = cost.of("latency", plan_of(groups, removed).masks(groups)) / cost.of("latency")
        assert foretold == share
        variants.append(Variant(removed, 7.0 * (share + beta * share * (1 - share)), ()))
    return cost, variants, groups


@pytest.mark.parametrize("beta", [-0.4, 0.0, 0.3])
def test_the_curve_of_settings_is_found_again(beta: float) -> None:
    cost, variants, groups = timed(beta)
    bend = Bend.of(cost, "latency", variants, groups)
    assert bend.beta == pytest.approx(beta, abs=1e-12)
    for share in SHARES:
        assert bend.asked(bend.share(share)) == pytest.approx(share)


@pytest.mark.parametrize("beta", [-3.0, 3.0])
def test_less_is_foretold_wherever_units_take_less(beta: float) -> None:
    bend = Bend.of(*_between(timed(beta)))
    assert abs(bend.beta) == MOST
    assert all(a < b for a, b in pairwise(bend.share(f) for f in np.linspace(0, 1, 50)))
    assert (bend.share(0.0), bend.share(1.0)) == (0.0, 1.0)


def test_the_example_of_the_module() -> None:
    assert Bend(-0.2).share(0.5) == pytest.approx(0.45)
    assert Bend(-0.2).asked(0.45) == pytest.approx(0.5)


def test_nothing_timed_bends_nothing() -> None:
    cost, variants, groups = timed(0.3)
    assert Bend.of(cost, "latency", variants[:1], groups) == Bend()
    still = [replace(variant, removed={}) for variant in variants]
    assert Bend.of(cost, "latency", still, groups) == Bend(), "where all settings are the dense model"


def _between(made: tuple[Cost, list[Variant], list[Group]]) -> tuple[Cost, str, list[Variant], list[Group]]:
    cost, variants, groups = made
    return cost, "latency", variants, groups
