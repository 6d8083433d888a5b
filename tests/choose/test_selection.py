"""Which units a selection takes for a budget, and what it keeps.

One file: every case asks the same function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spa.analysis.group import keep_mask
from spa.analysis.plan import Plan
from spa.errors import BudgetError, NothingToPrune, UsageError
from spa.passes.choose.allocation import weighed
from spa.passes.choose.budget import BUDGETS, LATENCY, SCOPES, Budget
from spa.passes.choose.importance import random, score_groups
from spa.passes.choose.meeting import meet
from spa.passes.choose.problem import Problem, Terms
from spa.passes.choose.selection import Selection, select
from spa.passes.choose.tracks import allowed_removals, run_length
from tests.grouped import Grouped, attention, batch_normed, chain, grouped, mlp, normed, residual, shuffled, streamed

MODELS = {
    "mlp": lambda seed: mlp(units=16, seed=seed),
    "chain": lambda seed: chain(8, 12, 20, 9, 4, seed=seed),
    "residual": lambda seed: residual(width=16, inner=10, seed=seed),
    "attention": lambda seed: attention(heads=6, head_dim=8, seed=seed),
    "shuffled": lambda seed: shuffled(seed=seed),
    "batch_normed": lambda seed: batch_normed(scales=(1.0,) * 12, seed=seed),
}


def choose(
    model: Grouped,
    *,
    seed: int = 0,
    scores: list[np.ndarray] | None = None,
    unread: Sequence[str] = (),
    norms: bool = False,
    **options: Any,
) -> Selection:
    scores = score_groups(model.groups, random(seed)) if scores is None else scores
    budget = Budget(**{"align": 1, **options})
    return select(model.groups, scores, model.cost, budget, unread=unread, norms=norms, frozen=model.frozen)


def params_left(model: Grouped, selection: Selection) -> int:
    """Parameters after the cut, counted tensor by tensor from the masks of their axes."""
    masks = selection.plan.masks(model.groups)
    left = 0
    for value in model.model.graph.initializers.values():
        kept = [keep_mask(dim, masks) for dim in model.coupling.axes[value]]
        whole = [dim.size for dim in model.coupling.axes[value]]
        left += prod(size if mask is None else int(mask.sum()) for size, mask in zip(whole, kept, strict=True))
    return left


def counts(model: Grouped, selection: Selection) -> dict[str, int]:
    return {group.name: len(selection.plan.removed.get(group.name, ())) for group in model.groups}


# ------------------------------------------------------------------------------------------------ properties
def check(model: Grouped, selection: Selection, *, ratio: float, of: str, align: int, min_keep: float) -> None:
    masks = selection.plan.masks(model.groups)
    dense, pruned = (model.cost.of("params", kept) for kept in (None, masks))
    assert pruned == params_left(model, selection)
    assert selection.reached["params"] == pytest.approx(1 - pruned / dense)
    for measure in ("flops", "bytes"):
        assert selection.reached[measure] == pytest.approx(1 - model.cost.of(measure, masks) / model.cost.of(measure))
    for axes in model.coupling.axes.values():  # activations too: no axis of anything is empty
        for dim in axes:
            mask = keep_mask(dim, masks)
            assert mask is None or mask.any()
    for group in model.groups:
        kept = group.size - counts(model, selection)[group.name]
        assert kept >= max(1, min_keep * group.size - 1e-6)
        assert kept == group.size or kept * run_length(group) % align == 0
        for leaf in group.leaves:
            assert leaf.size == 1 or leaf not in masks or masks[leaf].any()
    if of != "channels":
        assert selection.reached[of] >= ratio - 1e-6


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(MODELS)),
    ratio=st.floats(0.01, 0.99),
    of=st.sampled_from([of for of in BUDGETS if of != LATENCY]),
    scope=st.sampled_from(SCOPES),
    align=st.sampled_from([1, 1, 2, 4, 8]),
    min_keep=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 3),
)
def test_every_selection_keeps_what_it_promises(
    name: str, ratio: float, of: str, scope: str, align: int, min_keep: float, seed: int
) -> None:
    model = MODELS[name](seed)
    try:
        selection = choose(model, seed=seed, ratio=ratio, of=of, scope=scope, align=align, min_keep=min_keep)
    except BudgetError as error:
        assert f"ratio {ratio:g} of {of}" in str(error)  # noqa: PT017 (either outcome is right, each must hold)
        return
    check(model, selection, ratio=ratio, of=of, align=align, min_keep=min_keep)
    again = choose(MODELS[name](seed), seed=seed, ratio=ratio, of=of, scope=scope, align=align, min_keep=min_keep)
    assert selection.plan == again.plan


@pytest.mark.parametrize("scope", ["local", "isomorphic"])
@pytest.mark.parametrize("of", ["params", "flops", "bytes"])
@pytest.mark.parametrize("name", ["chain", "residual", "batch_normed", "shuffled"])
def test_a_larger_ratio_removes_more_and_nothing_else(name: str, of: str, scope: str) -> None:
    model, before = MODELS[name](0), dict[str, set[int]]()
    only = ["c0:0#2"] if name == "shuffled" else []  # which of a nest is cut depends on the ratio
    for ratio in np.linspace(0.03, 0.36, 12) if only else np.linspace(0.05, 0.6, 12):
        plan = choose(model, ratio=float(ratio), of=of, scope=scope, min_keep=0.0, only=only).plan
        now = {group: set(units) for group, units in plan.removed.items()}
        assert all(units <= now.get(group, set()) for group, units in before.items())
        before = now
    assert before


# -------------------------------------------------------------------------------------------------- budgets
@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("of", ["params", "flops"])
def test_a_global_selection_loses_no_more_than_the_shortest_that_reaches_the_budget(ratio: float, of: str) -> None:
    model = chain(8, 12, 20, 9, 4)
    scores = score_groups(model.groups, "l2")
    selection = choose(model, scores=scores, ratio=ratio, of=of, min_keep=0.0)
    units = sorted((float(s), k, unit) for k, score in enumerate(scores) for unit, s in enumerate(score))
    best = {(k, int(np.argmax(score))) for k, score in enumerate(scores)}
    widths = [8, 12, 20, 9, 4]

    def share(gone: Sequence[int]) -> float:  # both measures are proportional to the number of multiply-accumulates
        left = [width - less for width, less in zip(widths, [0, *gone, 0], strict=True)]
        return 1 - sum(a * b for a, b in pairwise(left)) / sum(a * b for a, b in pairwise(widths))

    removed: list[list[int]] = [[], [], []]
    for _, k, unit in units:
        if share([len(gone) for gone in removed]) >= ratio:
            break
        if (k, unit) not in best:
            removed[k].append(unit)
    shortest = share([len(gone) for gone in removed])
    mine = [selection.plan.removed.get(group.name, ()) for group in model.groups]
    assert ratio <= share([len(gone) for gone in mine]) <= shortest
    worst = max(scores[k][unit] for k, gone in enumerate(removed) for unit in gone)
    beyond = [unit for k, gone in enumerate(mine) for unit in gone if scores[k][unit] > worst]
    assert len(beyond) <= 2, "only what makes up for a last step goes beyond it"


# A wide step, of a sixth of the model, comes last: finer units make up for it. `fine` says what those score.
@pytest.mark.parametrize(("fine", "passed_over"), [(1.1, True), (3.0, True), (100.0, False)])
@pytest.mark.parametrize("of", ["params", "flops", "bytes"])
def test_a_coarse_last_step_is_given_back_where_finer_ones_lose_less(of: str, fine: float, passed_over: bool) -> None:
    model = grouped(
        """(float[2,8] x, float[2,8] u) => (float[2,4] y, float[2,4] z) {
        a=MatMul(x,w0) r=Relu(a) y=MatMul(r,w1)  b=MatMul(u,v0) s=Relu(b) z=MatMul(s,v1) }""",
        {"w0": (8, 32), "w1": (32, 4), "v0": (8, 64), "v1": (64, 4)},
    )
    coarse, *_ = (group for group in model.groups if group.name == "w0:1")
    others = np.concatenate([np.zeros(20), np.full(44, fine)])
    scores = [np.ones(32) if group is coarse else others for group in model.groups]
    multiples = tuple(16 if group is coarse else 1 for group in model.groups)
    terms = Terms(Budget(ratio=0.22, of=of, align=1), frozenset(), False, multiples)
    problem = Problem.of(model.groups, scores, model.cost, terms)
    counts = meet(problem)
    assert counts is not None
    gone = dict(zip((track.group.name for track in problem.tracks), counts, strict=True))
    assert gone == ({"w0:1": 0, "v0:1": 22} if passed_over else {"w0:1": 16, "v0:1": 6})
    assert problem.share(counts, of) >= 0.22


def test_scores_of_weights_are_weighed_against_what_units_free() -> None:
    """A small layer between others, of a hundredth of the model, whose units score next to nothing."""
    weights = {"w0": (64, 256), "w1": (256, 256), "w2": (256, 2), "w3": (2, 64), "w4": (64, 2), "w5": (2, 100)}
    nodes = "a=MatMul(x,w0) b=Relu(a) c=MatMul(b,w1) d=Relu(c) e=MatMul(d,w2) f=Tanh(e) g=MatMul(f,w3) h=Relu(g)"
    model = grouped(
        f"(float[2,64] x) => (float[2,100] y) {{ {nodes} i=MatMul(h,w4) j=Tanh(i) y=MatMul(j,w5) }}", weights
    )
    at = next(number for number, group in enumerate(model.groups) if group.size == 64)
    scores = [np.linspace(0.3, 1.0, group.size) for group in model.groups]
    scores[at] = np.concatenate([np.full(63, 0.25), [1.0]])
    for of in ("params", "flops", "bytes"):
        name = model.groups[at].name
        assert model.cost.of(of, Plan.of(model.groups, {name: range(63)}).masks(model.groups)) > 0.99 * model.cost.of(
            of
        )
        plain = choose(model, scores=scores, ratio=0.2, of=of)
        assert len(plain.plan.removed[name]) > 40
        fair = choose(model, scores=weighed(scores, model.groups, model.cost, of), ratio=0.2, of=of)
        assert len(fair.plan.removed.get(name, ())) == 0
    assert [*map(list, weighed(scores, model.groups, model.cost, "channels"))] == [*map(list, scores)]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_one_step_less_would_not_reach_the_budget(scope: str, align: int, ratio: float) -> None:
    model = chain(8, 32, 32, 24, 4)
    selection = choose(model, ratio=ratio, scope=scope, align=align)
    gone = counts(model, selection)

    def reached(gone: dict[str, int]) -> float:
        left = [8, *(group.size - gone[group.name] for group in model.groups), 4]
        return 1 - sum(a * b for a, b in pairwise(left)) / (8 * 32 + 32 * 32 + 32 * 24 + 24 * 4)

    assert reached(gone) >= ratio
    less = [reached({**gone, name: gone[name] - align}) < ratio for name in gone if gone[name]]
    assert all(less) if scope == "global" else any(less)


@pytest.mark.parametrize("ratio", [0.1, 0.33, 0.5, 0.7])
def test_local_takes_the_same_share_of_every_group(ratio: float) -> None:
    model = chain(8, 40, 100, 20, 4)
    gone = counts(model, choose(model, ratio=ratio, scope="local"))
    shares = [gone[group.name] / group.size for group in model.groups]
    assert max(shares) - min(shares) <= 1 / 20
    assert min(shares) > 0


def test_isomorphic_takes_the_same_share_of_every_family_and_ranks_inside() -> None:
    model = grouped(
        """(float[2,8] x) => (float[2,8] y) {
            a=MatMul(x,w0) r0=Relu(a) b=MatMul(r0,w1) r1=Relu(b) c=MatMul(r1,w2) r2=Relu(c) d=MatMul(r2,w3)
            e=Add(d,h) r3=Relu(e) y=MatMul(r3,w4) }""",
        {"w0": (8, 40), "w1": (40, 40), "w2": (40, 40), "w3": (40, 40), "h": (40,), "w4": (40, 8)},
    )
    families = [["w0:1", "w1:1", "w2:1"], ["w3:1"]]  # the last has a bias besides
    scores = [np.arange(40.0) + level for level in (0, 10, 1000, 5000)]
    selection = choose(model, scores=scores, ratio=0.3, scope="isomorphic", min_keep=0.0)
    gone = counts(model, selection)
    shares = [sum(gone[name] for name in family) / (40 * len(family)) for family in families]
    assert shares[0] == pytest.approx(shares[1], abs=1 / 40)
    assert gone["w2:1"] == 0
    assert gone["w0:1"] == gone["w1:1"] + 10


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("ratio", "removed"), [(0.5, [6, 10, 5]), (0.1, [1, 2, 1]), (0.04, [0, 1, 0]), (0.3, [4, 6, 3]), (0.9, [10, 18, 8])]
)
def test_channels_is_the_same_share_of_every_group_to_the_nearest_unit(
    ratio: float, removed: list[int], scope: str
) -> None:
    selection = choose(chain(8, 12, 20, 9, 4), ratio=ratio, of="channels", scope=scope)
    assert list(counts(chain(8, 12, 20, 9, 4), selection).values()) == removed
    assert selection.reached["channels"] == sum(removed) / 41


def test_ties_go_by_the_order_of_groups_and_units() -> None:
    model = chain(4, 5, 5, 4)
    selection = choose(model, scores=[np.ones(5), np.ones(5)], ratio=0.4, min_keep=0.0)
    assert selection.plan.removed == {"w0:1": (1, 2, 3)}  # of equals the first of a group is the one that has to stay


def test_what_scores_least_goes() -> None:
    model = mlp(units=8)
    score = np.array([5.0, 1.0, 7.0, 3.0, 2.0, 8.0, 6.0, 4.0])
    selection = choose(model, scores=[score], ratio=0.5, of="channels")
    assert selection.plan.removed == {"w1:1": (1, 3, 4, 7)}


# --------------------------------------------------------------------------------------------------- bounds
@pytest.mark.parametrize(
    ("size", "least", "step", "kept"),
    [
        (6, 1, 1, [6, 5, 4, 3, 2, 1]),
        (20, 2, 8, [20, 16, 8]),
        (16, 2, 8, [16, 8]),
        (24, 9, 8, [24, 16]),
        (8, 1, 8, [8]),
        (7, 1, 8, [7]),
        (5, 5, 1, [5]),
    ],
)
def test_what_may_stay(size: int, least: int, step: int, kept: list[int]) -> None:
    assert [size - gone for gone in allowed_removals(size, least=least, step=step)] == kept


@pytest.mark.parametrize(("align", "heads"), [(1, 3), (4, 3), (8, 3), (16, 2), (32, 4)])
def test_align_is_about_widths_so_heads_count_with_their_head_dim(align: int, heads: int) -> None:
    model = attention(heads=6, head_dim=8)
    assert 6 - counts(model, choose(model, ratio=0.5, of="channels", align=align))["wq:1"] == heads


@pytest.mark.parametrize(("min_keep", "least"), [(0.0, 1), (0.1, 2), (0.5, 8), (0.75, 12)])
def test_min_keep_holds_in_every_group(min_keep: float, least: int) -> None:
    model = chain(8, 16, 16, 4)
    scores = [np.arange(16.0), np.arange(16.0) + 100]  # all of the first group goes before any of the second
    selection = choose(model, scores=scores, ratio=0.3 if min_keep < 0.7 else 0.2, min_keep=min_keep)
    assert 16 - counts(model, selection)["w0:1"] >= least
    with pytest.raises(BudgetError, match=f"min_keep={min_keep:g}" if min_keep else "the last unit of each group"):
        choose(model, ratio=0.99, of="channels", min_keep=min_keep)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("only", ["c0:0", "c0:0#2"])
def test_factors_of_single_positions_never_leave_an_axis_empty(seed: int, only: str) -> None:
    model = shuffled(seed=seed)
    for ratio in (0.2, 0.3, 0.5, 0.6):
        try:
            selection = choose(model, seed=seed, ratio=ratio, min_keep=0.0, only=[only])
        except BudgetError:
            continue
        check(model, selection, ratio=ratio, of="params", align=1, min_keep=0.0)
    assert counts(model, choose(model, seed=seed, ratio=0.2, min_keep=0.0, only=[only]))[only] == 1


# ---------------------------------------------------------------------------------------- which groups take part
NESTS: list[tuple[Callable[[], Grouped], dict[str, Any], set[str]]] = [
    (lambda: attention(heads=6), {"ratio": 0.3}, {"wq:1"}),
    (lambda: attention(heads=3, head_dim=12), {"ratio": 0.1}, {"wq:1#2", "wv:1"}),  # no head can go
    (lambda: attention(heads=3, head_dim=12), {"ratio": 0.3}, {"wq:1"}),
    (lambda: attention(heads=6), {"ratio": 0.5, "include": ["head_dim"]}, {"wq:1", "wq:1#2", "wv:1"}),
    (lambda: attention(heads=6), {"ratio": 0.5, "include": ["wv:1"]}, {"wq:1", "wv:1"}),
    (lambda: attention(heads=6), {"ratio": 0.5, "include": ["heads"]}, {"wq:1"}),
    (lambda: attention(heads=6), {"ratio": 0.5, "exclude": ["heads"]}, {"wq:1#2", "wv:1"}),
    (lambda: attention(heads=6), {"ratio": 0.5, "only": ["wv:1"]}, {"wv:1"}),
    (lambda: attention(heads=6, head_dim=12), {"ratio": 0.3, "min_keep": 0.9, "of": "channels"}, set()),
    (normed, {"ratio": 0.5}, {"w1:1"}),
    (normed, {"ratio": 0.5, "include": ["width"]}, {"w0:1", "w1:1"}),
    (normed, {"ratio": 0.5, "include": ["w0:*"]}, {"w0:1", "w1:1"}),
    (normed, {"ratio": 0.5, "include": ["wid*"], "only": ["w0"]}, {"w0:1"}),
]


@pytest.mark.parametrize(("make", "options", "cut"), NESTS)
def test_which_groups_are_cut(make: Callable[[], Grouped], options: dict[str, Any], cut: set[str]) -> None:
    options = {"of": "channels", **options}
    if not cut:
        with pytest.raises(BudgetError, match=r"at most .* min_keep=0\.9"):
            choose(make(), **options)
        return
    assert set(choose(make(), **options).plan.removed) == cut


def test_a_group_too_short_to_be_cut_does_not_compete_with_what_is_cut_in_its_place() -> None:
    model = attention(heads=3, head_dim=12)
    scores = [np.full(group.size, 0.0 if group.kind == "heads" else 1.0) for group in model.groups]
    selection = choose(model, scores=scores, ratio=0.1, of="params")
    assert selection.plan.removed.keys() <= {"wq:1#2", "wv:1"}
    assert selection.limits == (
        "1 heads group left alone (nested with groups that are cut; include='heads' cuts both)",
    )


@pytest.mark.parametrize("pattern", ["c1:0", "c1", "c?:0", "first", "fir*", "channels", "d1"])
def test_patterns_name_groups_kinds_tensors_and_nodes(pattern: str) -> None:
    model = residual()
    for node in model.model.graph:
        if any(value is not None and value.name == "c1" for value in node.inputs):
            node.name = "first"
    inside = pattern in ("c1:0", "d1")
    everything = {"c0:0", "c1:0"}  # c1 itself is cut by both groups
    assert set(choose(model, ratio=0.3, only=[pattern], of="channels").plan.removed) == (
        {"c1:0"} if inside else everything
    )
    if inside:
        assert set(choose(model, ratio=0.3, exclude=[pattern], of="channels").plan.removed) == {"c0:0"}
        return
    with pytest.raises(NothingToPrune, match=r"2 channels groups left alone \(left out by exclude or only\)"):
        choose(model, ratio=0.3, exclude=[pattern], of="channels")


@pytest.mark.parametrize("option", ["include", "exclude", "only"])
@pytest.mark.parametrize(
    ("pattern", "hint"), [("chanels", "close to it: channels"), ("c0:1", "close to it: c"), ("zzzz", "spa groups")]
)
def test_a_pattern_that_matches_nothing_is_refused(option: str, pattern: str, hint: str) -> None:
    with pytest.raises(
        UsageError, match=f"{option} '{pattern}' matches no group, tensor or node that could be cut; .*{hint}"
    ):
        choose(residual(), **{"ratio": 0.3, option: ["channels", pattern]})  # type: ignore[arg-type]


def test_groups_without_parameters_are_left_alone() -> None:
    model = grouped(
        "(float[2,6] x) => (float[2,4] y) { a=MatMul(x,w1) b=Cast<to=1>(i) c=Mul(a,b) y=MatMul(c,w2) }",
        {"w1": (6, 6), "w2": (6, 4), "i": np.arange(6)},
    )
    assert set(choose(model, ratio=0.3).plan.removed) == {"w1:1"}


def test_what_nothing_could_make_up_for_stays_and_is_named() -> None:
    model = chain(8, 10, 12, 4)
    first, *others = [group.name for group in model.groups]
    selection = choose(model, ratio=0.1, unread=[first])
    assert set(selection.plan.removed) <= set(others)
    assert any("nothing could make up for them" in limit for limit in selection.limits)
    with pytest.raises(BudgetError, match="groups that nothing could make up for"):
        choose(model, ratio=0.9, unread=[first])
    with pytest.raises(NothingToPrune, match="nothing could make up for them"):
        choose(model, ratio=0.1, unread=[first, *others])


# --------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("of", [of for of in BUDGETS if of != LATENCY])
def test_a_ratio_that_is_no_share_is_refused(ratio: float, of: str) -> None:
    with pytest.raises(UsageError, match=r"ratio .*: expected a share between 0 and 1"):
        choose(mlp(), ratio=ratio, of=of)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "seconds"}, "of 'seconds': expected one of params, flops, bytes, latency, channels"),
        ({"scope": "layer"}, "scope 'layer': expected one of global, local, isomorphic"),
        ({"align": 0}, "align 0: expected"),
        ({"min_keep": 1.5}, "min_keep 1.5: expected"),
        ({"min_keep": float("nan")}, "min_keep nan: expected"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(mlp(), ratio=0.3, **options)


def test_a_budget_out_of_reach_says_what_holds_the_rest() -> None:
    with pytest.raises(BudgetError) as caught:
        choose(normed(), ratio=0.9, min_keep=0.5, align=2, exclude=["w2"], include=["width"])
    text = str(caught.value)
    # of 8 * 10 + 2 * 10 + 10 * 6 + 6 * 4 = 184: 6 of 10 stay; then 1; then 1 and 1 of 6
    assert text == (
        "ratio 0.9 of params cannot be met: at most 34.7 % can go; the rest is held by min_keep=0.5 (34.8 %), "
        "align=2 (8.7 %), groups left out by exclude or only (13.6 %), the last unit of each group (8.2 %)"
    )
    with pytest.raises(BudgetError, match=r"at most 38\.4 % .* groups that are off unless included \(56\.9 %\)"):
        choose(streamed(), ratio=0.95)


def test_a_group_keeps_a_share_of_the_units_that_it_once_had() -> None:
    model = mlp()
    (group,) = model.groups
    scores, budget = score_groups(model.groups, random(0)), Budget(ratio=0.3, of="channels", align=1, min_keep=0.5)
    assert len(select(model.groups, scores, model.cost, budget).plan.removed[group.name]) > 0
    with pytest.raises(BudgetError, match=r"at most 0\.0 % can go"):
        select(model.groups, scores, model.cost, budget, first={group.name: 2 * group.size})


def test_what_can_go_at_most_is_said_to_the_tenth_of_a_percent() -> None:
    with pytest.raises(BudgetError, match=r"at most 66\.6 % can go"):
        choose(mlp(), ratio=0.9, of="channels", min_keep=0.25)


def test_what_a_budget_error_says_can_be_reached_can_be() -> None:
    for name, align, min_keep, of in product(
        ("chain", "residual", "attention"), (1, 4), (0.1, 0.4), ("params", "flops")
    ):
        model = MODELS[name](0)
        with pytest.raises(BudgetError) as caught:
            choose(model, ratio=0.999, of=of, align=align, min_keep=min_keep)
        most = float(str(caught.value).partition("at most ")[2].partition(" %")[0]) / 100
        assert choose(model, ratio=most, of=of, align=align, min_keep=min_keep).reached[of] >= most
        shares = re.findall(r"\((\d+\.\d) %", str(caught.value).partition("the rest is held by ")[2])
        held = [float(share) / 100 for share in shares]
        assert most + sum(held) == pytest.approx(1, abs=0.005)


def test_a_share_too_small_for_any_unit_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"less than half a step .* smallest ratio at which something does is 0\.025"):
        choose(chain(8, 12, 20, 9, 4), ratio=0.02, of="channels")
    assert choose(chain(8, 12, 20, 9, 4), ratio=0.025, of="channels").plan.removed.keys() == {"w1:1"}


def test_nothing_to_prune_says_why() -> None:
    frozen = grouped("(float[2,8] x) => (float[2,4] y) { y=MatMul(x,w) }", {"w": (8, 4)})
    with pytest.raises(NothingToPrune, match="nothing can be removed: graph input: 32 params, such as 'w'"):
        choose(frozen, ratio=0.3)
    with pytest.raises(NothingToPrune, match=r"1 width group left alone \(off unless included with include='width'"):
        choose(streamed(), ratio=0.3, only=["g"])


def test_a_norm_of_its_own_is_opened_where_need_is() -> None:
    """w1:1 alone gives up to 38 %; beyond, w0:1 is opened, and a note says so. A stream is never opened."""
    model = normed()
    assert choose(model, ratio=0.38).plan.removed.keys() == {"w1:1"}
    selection = choose(model, ratio=0.5)
    assert selection.plan.removed.keys() == {"w0:1", "w1:1"}
    assert selection.limits[0].startswith(
        "opened since nothing else meets the budget, and by weights alone not exact: w0:1"
    )
    assert choose(model, ratio=0.2, only=["g"]).plan.removed.keys() == {"w0:1"}
    assert "w0:1" in choose(model, ratio=0.2, norms=True).plan.removed
    assert not any("opened" in limit for limit in choose(model, ratio=0.2, norms=True).limits)
    with pytest.raises(BudgetError):
        choose(model, ratio=0.5, exclude=["width"])
    assert choose(model, ratio=0.5, of="channels").plan.removed.keys() == {"w1:1"}
    with pytest.raises(BudgetError):
        choose(streamed(), ratio=0.5)


def test_limits_tell_what_was_left_alone_and_what_is_at_its_end() -> None:
    model = attention(heads=6)
    selection = choose(model, ratio=0.3)
    assert selection.limits == (
        "2 head_dim groups left alone (nested with groups that are cut; include='head_dim' cuts both)",
    )
    scores = [np.arange(10.0), np.arange(10.0) + 100]
    selection = choose(chain(8, 10, 10, 4), scores=scores, ratio=0.75)
    assert selection.limits == ("w0:1 lost all that min_keep=0.1 lets go",)


def test_units_that_are_kept_stay() -> None:
    """However low their scores."""
    model = residual()
    scores = [np.arange(group.size, dtype=float) for group in model.groups]
    budget = Budget(ratio=0.3, align=1, kept={"c0:0": [0, 1], "c1:0": [0]})
    plan = select(model.groups, scores, model.cost, budget).plan
    assert plan.removed
    assert not {0, 1} & set(plan.removed.get("c0:0", ()))
    assert 0 not in plan.removed.get("c1:0", ())
    with pytest.raises(BudgetError, match=r"protect=None"):
        select(model.groups, scores, model.cost, replace(budget, ratio=0.9, kept={"c0:0": range(8), "c1:0": [0]}))
