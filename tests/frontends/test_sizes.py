from __future__ import annotations

import pytest

from spa.frontends.exporting.exported import RebuildError
from spa.frontends.exporting.sizes import Choice, Holder, find_choices, search

HEADS = {(0, 0, 2): (12, 8), (0, 0, 1): (4, 4), (0, 1, 2): (3, 2), (1, 0, 1): (12, 12)}


def test_a_number_is_the_size_of_a_part() -> None:
    holders = [Holder("a", "Attention", {"heads": 3, "depth": 7}, frozenset({"heads", "depth"}))]
    (choice,) = find_choices(holders, {"a.query.weight": HEADS})
    assert (choice.attribute, choice.readings) == ("heads", ({"a": 2},))


def test_values_that_coincide_have_several_readings_the_changed_one_first() -> None:
    holders = [Holder("a", "Attention", {"width": 12}, frozenset({"width"}))]
    (choice,) = find_choices(holders, {"a.query.weight": HEADS})
    assert choice.readings == ({"a": 8}, {"a": 12})


def test_what_nothing_reads_changes_only_where_there_is_no_doubt() -> None:
    holders = [Holder("a", "Attention", {"width": 12, "heads": 3}, frozenset())]
    assert [choice.attribute for choice in find_choices(holders, {"a.query.weight": HEADS})] == ["heads"]


def test_a_place_must_suit_all_objects_of_a_kind() -> None:
    parts = {"a.w": {(0, 0, 1): (6, 5), (1, 0, 1): (6, 4)}, "b.w": {(0, 0, 1): (6, 3), (1, 0, 1): (9, 9)}}
    holders = [Holder(path, "Layer", {"size": 6}, frozenset({"size"})) for path in "ab"]
    (choice,) = find_choices(holders, parts)
    assert choice.readings == ({"a": 5, "b": 3},)


def test_elements_of_tuples() -> None:
    holders = [Holder("a", "Norm", {"shape": (5, 12)}, frozenset({"shape"}))]
    (choice,) = find_choices(holders, {"a.w": {(0, 0, 1): (12, 9)}})
    assert (choice.element, choice.readings) == (1, ({"a": 9},))


def test_search_goes_on_while_it_helps() -> None:
    choices = [Choice("k", name, None, ({"": 0}, {"": 1}, {"": 2})) for name in "xyz"]
    wanted = {0: 2, 1: 0, 2: 1}
    seen = []

    def outcome(readings):
        seen.append(dict(readings))
        return float(sum(readings[n] != wanted[n] for n in wanted))

    search(choices, outcome, limit=0.0)
    assert seen[-1] == wanted
    with pytest.raises(RebuildError):
        search(choices, lambda _: 1.0, limit=0.0)
