from __future__ import annotations

import json

import numpy as np
import pytest

from spa.analysis.plan import FORMAT, Plan
from spa.errors import ModelError
from tests.grouped import attention, chain, mlp, shuffled


def test_of_sorts_and_leaves_out_what_stays() -> None:
    groups = chain(4, 6, 5, 3).groups
    plan = Plan.of(groups, {"w0:1": [4, 1, 1], "w1:1": [], "unknown": [0]})
    assert plan.removed == {"w0:1": (1, 4)}
    assert plan.sizes == {"w0:1": 6}
    assert plan
    assert not Plan.of(groups, {})


def test_masks_of_a_group() -> None:
    model = mlp(units=6)
    masks = Plan.of(model.groups, {"w1:1": [0, 5]}).masks(model.groups)
    (mask,) = masks.values()
    assert mask.tolist() == [False, True, True, True, True, False]
    assert Plan({}, {}).masks(model.groups) == {}


def test_masks_of_a_group_in_pieces() -> None:
    """Units count through the pieces that a factor was cut into; pieces that stay whole have no mask."""
    model = shuffled()
    group = max(model.groups, key=lambda g: len(g.leaves))
    assert len(group.leaves) > 1
    masks = Plan.of([group], {group.name: [group.size - 1]}).masks(model.groups)
    assert list(masks) == [group.leaves[-1]]
    whole = np.concatenate([masks.get(leaf, np.ones(leaf.size, bool)) for leaf in group.leaves])
    assert np.flatnonzero(~whole).tolist() == [group.size - 1]


def test_json_both_ways() -> None:
    groups = attention().groups
    plan = Plan.of(groups, {group.name: [0, group.size - 1] for group in groups})
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert json.loads(text)["format"] == FORMAT


NO_GROUPS = "expected an object with format and groups"
GROUP = {"group": "w1:1", "size": 6, "removed": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no plan of format"),
        ("{", "no plan of format"),
        ("3", "no plan of format"),
        ("[]", "no plan of format"),
        ("{}", NO_GROUPS),
        (json.dumps({"format": "other", "groups": []}), "expected a plan of format 'spa-plan-1', found 'other'"),
        (json.dumps({"format": FORMAT}), NO_GROUPS),
        (json.dumps({"format": FORMAT, "groups": [{"group": "w1:1", "removed": [1]}]}), NO_GROUPS),
        (json.dumps({"format": FORMAT, "groups": [GROUP | {"removed": ["x"]}]}), NO_GROUPS),
        (json.dumps({"format": FORMAT, "groups": [GROUP | {"removed": 3}]}), NO_GROUPS),
    ],
)  # fmt: skip
def test_text_that_is_no_plan(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("name", "size", "units", "message"),
    [
        ("other:0", 6, (1,), "no group of this model; was it made for another"),
        ("w1:1", 7, (1,), "expects 7 units in 'w1:1', this model has 6"),
        ("w1:1", 6, (1, 6), "removes unit 6 of 'w1:1', whose units are 0 to 5"),
        ("w1:1", 6, (-1,), "removes unit -1 of 'w1:1'"),
        ("w1:1", 6, tuple(range(6)), "removes all 6 units of 'w1:1'; at least one must stay"),
    ],
)
def test_plans_of_another_model(name: str, size: int, units: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Plan({name: units}, {name: size}).masks(mlp(units=6).groups)
