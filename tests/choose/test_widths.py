"""Widths that the hardware likes, and what a budget makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spa import pipeline, runtime
from spa.analysis.plan import Plan
from spa.errors import BudgetError
from spa.passes.choose import processor, widths
from spa.passes.choose.budget import Budget
from spa.passes.choose.importance import random, score_groups
from spa.passes.choose.selection import Selection, select
from spa.passes.choose.tracks import run_length
from tests import models
from tests.grouped import Grouped, attention, chain, grouped, mlp, residual


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same processor everywhere."""
    monkeypatch.setattr(widths, "block", lambda dtype, kernels: 16)  # noqa: ARG005


def choose(model: Grouped, *, seed: int = 0, **options: Any) -> Selection:
    scores = score_groups(model.groups, random(seed))
    return select(model.groups, scores, model.cost, Budget(**options), frozen=model.frozen)


def kept(model: Grouped, selection: Selection) -> dict[str, int]:
    return {
        group.name: (group.size - len(selection.plan.removed.get(group.name, ()))) * run_length(group)
        for group in model.groups
    }


@pytest.mark.parametrize("of", ["params", "flops", "bytes"])
@pytest.mark.parametrize("ratio", [0.2, 0.3, 0.5])
@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
def test_wide_groups_keep_multiples(ratio: float, of: str, scope: str) -> None:
    model = chain(64, 512, 256, 384, 10)
    selection = choose(model, ratio=ratio, of=of, scope=scope)
    assert all(width % 16 == 0 for width in kept(model, selection).values())
    assert selection.reached[of] >= ratio - 1e-9
    assert selection.plan.align == 16
    assert not any("multiple" in limit for limit in selection.limits)


def test_a_depthwise_convolution_keeps_multiples() -> None:
    model = grouped(
        """(float[1,3,9,9] x) => (float[1,8,9,9] y) {
        a=Conv(x,c0) r=Relu(a) d=Conv<group=96,pads=[1,1,1,1]>(r,c1) s=Relu(d) y=Conv(s,c2) }""",
        {"c0": (96, 3, 1, 1), "c1": (96, 1, 3, 3), "c2": (8, 96, 1, 1)},
    )
    assert kept(model, choose(model, ratio=0.3))["c0:0"] in (48, 64)


def test_channels_inside_the_groups_of_a_convolution_are_multiples() -> None:
    model = grouped(
        """(float[1,3,9,9] x) => (float[1,8,9,9] y) {
        a=Conv(x,c0) r=Relu(a) d=Conv<group=2>(r,c1) s=Relu(d) y=Conv(s,c2) }""",
        {"c0": (512, 3, 1, 1), "c1": (512, 256, 1, 1), "c2": (8, 512, 1, 1)},
    )
    selection = choose(model, ratio=0.3, only=["channels"])
    cut = [group for group in model.groups if group.name in selection.plan.removed]
    assert cut
    assert all((group.size - len(selection.plan.removed[group.name])) % 16 == 0 for group in cut)


@pytest.mark.parametrize("of", ["params", "flops"])
def test_a_narrow_group_gives_its_multiple_up_where_it_holds_the_budget_back(of: str) -> None:
    model = chain(8, 12, 400, 12, 4)  # 12 and 12 could lose nothing, at most some of the 400 could go
    selection = choose(model, ratio=0.3, of=of)
    assert kept(model, selection)["w1:1"] % 16 == 0
    assert selection.reached[of] >= 0.3 - 1e-9
    deep = choose(model, ratio=0.93, of=of)
    assert deep.reached[of] >= 0.93 - 1e-9
    assert any("no multiple of 16, which would hold the budget back: " in limit for limit in deep.limits)


def test_steps_too_coarse_for_the_budget_are_made_finer_in_one_group() -> None:
    model = chain(8, 32, 32, 4)  # sixteen units are 27 % and more
    selection = choose(model, ratio=0.1)
    assert 0.1 <= selection.reached["params"] < 0.115
    assert sum(width % 16 != 0 for width in kept(model, selection).values()) == 1
    assert any("no multiple of 16" in limit for limit in selection.limits)


@pytest.mark.parametrize(
    ("size", "ratio", "width"), [(64, 0.3, 48), (32, 0.3, 24), (16, 0.3, 12), (24, 0.3, 16), (512, 0.5, 256)]
)
def test_equal_shares_of_channels_come_near(size: int, ratio: float, width: int) -> None:
    model = mlp(units=size)
    assert kept(model, choose(model, ratio=ratio, of="channels"))["w1:1"] == width


def test_heads_of_a_whole_block_go_one_by_one() -> None:
    model = attention(heads=6, head_dim=16)
    assert kept(model, choose(model, ratio=0.3, of="channels"))["wq:1"] == 4 * 16


MODELS = {
    "mlp": lambda: mlp(units=40),
    "chain": lambda: chain(8, 12, 120, 33, 4),
    "residual": lambda: residual(width=24, inner=48),
    "attention": lambda: attention(heads=6, head_dim=8),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(MODELS)),
    ratio=st.floats(0.02, 0.95),
    of=st.sampled_from(["params", "flops", "channels"]),
    scope=st.sampled_from(["global", "local", "isomorphic"]),
    min_keep=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_whatever_can_be_met_is_met(name: str, ratio: float, of: str, scope: str, min_keep: float) -> None:
    model = MODELS[name]()
    options: dict[str, Any] = {"ratio": ratio, "of": of, "scope": scope, "min_keep": min_keep}
    try:
        free = choose(model, align=1, **options)
    except BudgetError:
        return
    selection = choose(model, **options)
    assert selection.plan == choose(MODELS[name](), **options).plan
    if of != "channels":
        assert selection.reached[of] >= ratio - 1e-9
    if scope == "global" and of != "channels":
        assert selection.reached[of] <= max(free.reached[of], 1.15 * ratio) + 1e-9
    if scope == "local" and of != "channels":
        assert selection.reached[of] <= max(free.reached[of], ratio + 0.04 * (1 - ratio)) + 1e-9


def test_multiples_do_not_add_to_what_coarse_units_free_too_much() -> None:
    options: dict[str, Any] = {"ratio": 0.09765625, "of": "params", "min_keep": 0.0}
    free, selection = (choose(residual(width=24, inner=48), **align, **options) for align in ({"align": 1}, {}))
    assert selection.reached["params"] <= free.reached["params"] + 1e-9


def test_one_is_as_without() -> None:
    model = chain(64, 512, 256, 10)
    scores = score_groups(model.groups, random(0))
    fine = choose(model, ratio=0.3, align=1)
    assert select(model.groups, scores, model.cost, Budget(ratio=0.3, align=1)).plan == fine.plan
    assert fine.plan.align == 1
    assert any(width % 16 for width in kept(model, fine).values())


def test_the_plan_says_what_it_was_made_for() -> None:
    plan = choose(chain(64, 512, 256, 10), ratio=0.3).plan
    assert Plan.from_json(plan.to_json()) == plan
    assert '"align": 16' in plan.to_json()
    assert '"align"' not in Plan(plan.removed, plan.sizes).to_json()


def test_pruning_aligns_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "block", lambda dtype, kernels: 4)  # noqa: ARG005
    result = pipeline.prune(models.residual_cnn(), ratio=0.3, verify=False, criterion="l2")
    assert result.plan.align == 4
    assert pipeline.prune(models.residual_cnn(), ratio=0.3, verify=False, criterion="l2", align=1).plan.align == 1


# ------------------------------------------------------------------------------------------------ processors
@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", {"avx2", "avx512f"}, 16),
        ("AMD64", {"avx", "avx2", "fma"}, 8),
        ("x86_64", {"sse2"}, 8),
        ("x86_64", set(), 16),
        ("aarch64", {"asimd"}, 16),
        ("arm64", set(), 16),
        ("riscv64", set(), 16),
    ],
)
def test_blocks_of_processors(machine: str, features: set[str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(processor, "_features", lambda: features)
    assert processor.processor_block.__wrapped__() == expected


def test_features_are_read() -> None:
    features = processor._features()
    assert not features or features & {"sse2", "asimd", "neon", "fp"}


@pytest.mark.parametrize(
    ("dtype", "expected"), [(ir.DataType.FLOAT, 8), (ir.DataType.FLOAT16, 8), (ir.DataType.INT8, 32), (None, 8)]
)
def test_blocks_of_a_gpu(dtype: ir.DataType | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_cuda", lambda: True)
    assert processor.block(dtype, kernels=True) == processor.block(dtype, kernels=False) == expected


def test_matrices_are_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_cuda", lambda: False)
    monkeypatch.setattr(processor, "processor_block", lambda: 16)
    monkeypatch.setattr(widths, "block", processor.block)
    convolutions = grouped(
        "(float[1,3,8,8] x) => (float[1,5,8,8] y) { h=Conv(x,w) r=Relu(h) y=Conv(r,v) }",
        {"w": (64, 3, 1, 1), "v": (5, 64, 1, 1)},
    )
    matrices = grouped(
        "(float[2,6] x) => (float[2,5] y) { h=MatMul(x,w) r=Relu(h) y=MatMul(r,v) }", {"w": (6, 64), "v": (64, 5)}
    )
    assert widths.multiples(convolutions.groups, "auto") == (16,)
    assert widths.multiples(matrices.groups, "auto") == (processor.MATRICES,)


def test_the_type_that_counts_is_that_of_most_numbers() -> None:
    model = grouped(
        "(float[2,8] x) => (float[2,4] y) { q=DequantizeLinear(w1,s) a=MatMul(x,q) r=Relu(a) y=MatMul(r,w2) }",
        {"w1": np.ones((8, 64), np.int8), "s": np.ones((), np.float32), "w2": (64, 4)},
    )
    (group,) = model.groups
    assert widths._type_of(group) == ir.DataType.INT8


@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_a_multiple_does_not_decide_which_of_a_nest_is_cut(ratio: float) -> None:
    """Two heads: a tenth is taken from inside them, as it is without multiples, not from one head of two."""
    model = attention(heads=2, head_dim=16)
    selection, free = choose(model, ratio=ratio), choose(model, ratio=ratio, align=1)
    assert {group.kind for group in model.groups if group.name in selection.plan.removed} == {
        group.kind for group in model.groups if group.name in free.plan.removed
    }
    assert selection.reached["params"] <= max(1.15 * ratio, free.reached["params"])


def test_one_number_for_each_head_does_not_say_how_wide_a_head_is() -> None:
    model = grouped(
        """(float[2,5,8] x) => (float[2,5,8] y) {
            q=MatMul(x,w) h=Reshape(q,to) m=Mul(h,s) f=Reshape(m,back) y=MatMul(f,v) }""",
        {"w": (8, 64), "to": np.array([2, 5, 4, 16]), "s": (4, 1), "back": np.array([2, 5, 64]), "v": (64, 8)},
    )
    heads = next(group for group in model.groups if group.size == 4)
    assert run_length(heads) == 16
