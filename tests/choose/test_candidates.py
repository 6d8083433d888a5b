"""Which groups take part, and what a user is told of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spa.analysis.group import Group
from spa.errors import UsageError
from spa.passes.choose.candidates import find_candidates, names_of, opened, reasons, what_stays
from tests.grouped import Grouped, attention, grouped, normed, residual


def taking_part(model: Grouped, **options: Any) -> list[str]:
    return [model.groups[number].name for number in find_candidates(model.groups, **options).active]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["c0:0", "c1:0"]),
        ({"exclude": ["c1:0"]}, ["c0:0"]),
        ({"exclude": ["c1*"]}, []),  # c1 is a constant of both
        ({"exclude": ["d1"]}, ["c0:0"]),
        ({"only": ["d?"]}, ["c0:0", "c1:0"]),
        ({"only": ["d[2-9]"]}, ["c0:0"]),
        ({"only": ["channels"]}, ["c0:0", "c1:0"]),
        ({"only": ["c0:0", "c1:0"], "exclude": ["c0:0"]}, ["c1:0"]),
    ],
)
def test_patterns(options: dict[str, list[str]], expected: list[str]) -> None:
    assert taking_part(residual(), **options) == expected


def test_patterns_name_nodes() -> None:
    model = residual()
    for number, node in enumerate(model.model.graph):
        node.name = f"{node.op_type}_{number}"
    node_names = {name for name in names_of(model.groups[1]) if name.startswith("Conv_")}
    assert node_names == {"Conv_1", "Conv_3"}
    assert taking_part(model, exclude=["Conv_3"]) == []


@pytest.mark.parametrize("option", ["include", "exclude", "only"])
def test_a_pattern_that_matches_nothing(option: str) -> None:
    with pytest.raises(UsageError, match=rf"^{option} 'c0:O' matches no group.*close to it: c0:0"):
        taking_part(residual(), **{option: ["c0:O"]})
    with pytest.raises(UsageError, match="`spa groups` lists what could go"):
        taking_part(residual(), **{option: ["completely different"]})


def test_width_is_off_until_it_is_included() -> None:
    model = normed()
    assert taking_part(model) == ["w1:1"]
    assert taking_part(model, include=["width"]) == ["w0:1", "w1:1"]
    (line,) = reasons(model.groups, find_candidates(model.groups))
    assert line.startswith("1 width group left alone (off unless included with include='width': enters a mean")


def test_a_group_that_is_off_is_not_exact_and_no_norm_of_its_own_unless_that_is_said() -> None:
    off = replace(normed().groups[0], name="g", own_norm=False, barred=False)
    plain = Group(off.name, off.kind, off.leaves, off.slices, off.off, offsets=off.offsets)
    assert not plain.own_norm
    assert not plain.exact
    assert find_candidates([plain], norms=True).active == ()
    assert find_candidates([replace(plain, own_norm=True)], norms=True).active == (0,)


def test_norms_that_are_opened_are_named_three_of_them() -> None:
    group = replace(normed().groups[0], own_norm=True)
    for count, named in ((2, "g0, g1 ("), (3, "g0, g1, g2 ("), (5, "g0, g1, g2 and 2 more (")):
        groups = [replace(group, name=f"g{number}") for number in range(count)]
        (line,) = opened(groups, find_candidates(groups, norms=True), norms=True)
        assert f"not exact: {named}" in line
    assert opened([group], find_candidates([group]), norms=False) == []


def test_branches_go_on_demand_without_a_word() -> None:
    model = residual()
    assert [group.name for group in model.groups if group.kind == "depth"] == ["c2:branch"]
    assert "c2:branch" not in taking_part(model)
    assert reasons(model.groups, find_candidates(model.groups)) == []
    assert "c2:branch" in taking_part(model, include=["depth"])


def test_of_nested_groups_the_outer_goes() -> None:
    model = attention()
    assert taking_part(model) == ["wq:1"]
    assert taking_part(model, include=["head_dim"]) == ["wq:1", "wq:1#2", "wv:1"]
    assert taking_part(model, exclude=["heads"]) == ["wq:1#2", "wv:1"]
    (line,) = reasons(model.groups, find_candidates(model.groups))
    assert line == "2 head_dim groups left alone (nested with groups that are cut; include='head_dim' cuts both)"


def test_the_inner_goes_where_the_outer_has_too_few_units() -> None:
    model = attention()
    sizes = [group.size for group in model.groups]
    candidates = find_candidates(model.groups, reaches=lambda number: sizes[number] > 3)
    assert [model.groups[number].name for number in candidates.active] == ["wq:1#2", "wv:1"]


def test_what_stays_names_the_largest_first() -> None:
    """Tensors of which no axis goes; those of the groups are left out."""
    text = "(float[2,8] x) => (float[2,4] y, float[2,3] z) { a=MatMul(x,w) y=MatMul(x,v) z=MatMul(y,u) }"
    model = grouped(text, {"w": (8, 9), "v": (8, 4), "u": (4, 3)})
    first, second = "graph input: 32 params, such as 'v'", "graph output: 12 params, such as 'u'"
    assert what_stays(model.groups, model.frozen) == f"{first}; {second}"
    assert what_stays(model.groups, model.frozen, most=1) == first
    model = grouped(text.replace("2,3", "2,30"), {"w": (8, 9), "v": (8, 4), "u": (4, 30)})
    assert what_stays(model.groups, model.frozen) == f"graph output: 120 params, such as 'u'; {first}"
    assert what_stays(model.groups, list(reversed(model.frozen))) == what_stays(model.groups, model.frozen)
    assert what_stays(residual().groups, residual().frozen) == ""
