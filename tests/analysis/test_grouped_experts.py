"""Experts in groups, of which a token chooses some groups first, and then experts in these.

In all forms whole groups go, or the same places of all groups; what is left computes what it did with the scores of the
others at minus infinity.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import spa
from spa.analysis.plan import Plan
from spa.passes.heads.experts import expert_loads
from spa.steps import analyse, load_normal
from tests.analysis.test_numbering import by_gather
from tests.models import build, filled, integers
from tests.repair.test_experts import samples

WIDTH, FFN, EXPERTS, GROUPS, CHOSEN_GROUPS, CHOSEN = 8, 6, 12, 3, 2, 3
PLACES = EXPERTS // GROUPS
STORED = {
    "router": 2 * filled("router", [WIDTH, EXPERTS]), "shift": 0.1 * filled("shift", [EXPERTS]),
    "up": filled("up", [EXPERTS, WIDTH, FFN]), "down": filled("down", [EXPERTS, FFN, WIDTH]),
    "head": filled("head", [WIDTH, 5]),
}  # fmt: skip

SOFTMAX = """s = Softmax<axis=-1>(l)  c = Identity(s)  cg = Reshape(c, split)  g = ReduceMax<keepdims=0>(cg, last)"""
SIGMOID = """s = Sigmoid(l)  c = Add(s, shift)  cg = Reshape(c, split)  two, places = TopK(cg, k2)
    g = ReduceSum<keepdims=0>(two, last)"""
CHOICE = """best, gi = TopK<sorted=0>(g, kg)  shape = Shape(g)  none = ConstantOfShape(shape)
    gis = Shape(gi)  ones = Expand(one, gis)  marks = ScatterElements<axis=1>(none, gi, ones)
    wide = Unsqueeze(marks, last)  each = Expand(wide, whole)  flat = Reshape(each, together)  inside = Cast<to=9>(flat)
    m = Where(inside, c, out)  top, n = TopK<sorted=0>(m, k)  w = GatherElements<axis=1>(s, n)
    total = ReduceSum<keepdims=1>(w, last)  gate = Div(w, total)"""
FORMS = {
    "gathered": """x1 = Unsqueeze(x, middle)  x2 = Unsqueeze(x1, middle)  u = Gather(up, n)  h = MatMul(x2, u)
        r = Relu(h)  d = Gather(down, n)  o = MatMul(r, d)  o1 = Squeeze(o, second)  gate1 = Unsqueeze(gate, last)
        og = Mul(o1, gate1)  mix = ReduceSum<keepdims=0>(og, middle)""",
    "scattered": """all = Shape(s)  zeros = ConstantOfShape(all)  share = ScatterElements<axis=1>(zeros, n, gate)
        h = Einsum<equation="nw,ewf->nef">(x, up)  r = Relu(h)  o = Einsum<equation="nef,efw->new">(r, down)
        mix = Einsum<equation="new,ne->nw">(o, share)""",
    "one-hot": """hot = OneHot(n, depth, offon)  gate1 = Unsqueeze(gate, last)  hg = Mul(hot, gate1)
        share = ReduceSum<keepdims=0>(hg, middle)
        h = Einsum<equation="nw,ewf->nef">(x, up)  r = Relu(h)  o = Einsum<equation="nef,efw->new">(r, down)
        mix = Einsum<equation="new,ne->nw">(o, share)""",
}  # fmt: skip


def mixture(router: str, form: str) -> onnx.ModelProto:
    """x (N, WIDTH) -> groups -> experts -> y (N, 5)."""
    numbers = {
        "split": integers(-1, GROUPS, PLACES), "last": integers(-1), "middle": integers(1), "second": integers(2),
        "k2": integers(2), "kg": integers(CHOSEN_GROUPS), "k": integers(CHOSEN), "whole": integers(1, GROUPS, PLACES),
        "together": integers(-1, EXPERTS), "depth": np.array(EXPERTS), "one": np.array(1, np.float32),
        "out": np.array(-np.inf, np.float32), "offon": np.array([0, 1], np.float32),
    }  # fmt: skip
    text = f"{router} {CHOICE} {FORMS[form]}"
    text = f"(float[N,{WIDTH}] x) => (float[N,5] y) {{ l = MatMul(x, router)  {text}  y = MatMul(mix, head) }}"
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return build(text, {name: array for name, array in (STORED | numbers).items() if name in words})


def expected(x: np.ndarray, gone: set[int], *, sigmoid: bool) -> np.ndarray:
    """By hand: scores of experts that are gone read minus infinity."""
    logits = x.astype(np.float64) @ STORED["router"]
    absent = np.isin(np.arange(EXPERTS), list(gone))
    if sigmoid:
        scores = 1 / (1 + np.exp(-logits))
        choice = np.where(absent, -np.inf, scores + STORED["shift"])
        groups = np.sort(choice.reshape(-1, GROUPS, PLACES))[..., -2:].sum(-1)
    else:
        logits = np.where(absent, -np.inf, logits)
        scores = np.exp(logits - logits.max(1, keepdims=True))
        choice = scores = scores / scores.sum(1, keepdims=True)
        choice = np.where(absent, -np.inf, choice)
        groups = choice.reshape(-1, GROUPS, PLACES).max(-1)
    outputs = []
    for row, each, marks, group in zip(x, scores, choice, groups, strict=True):
        inside = np.isin(np.arange(EXPERTS) // PLACES, np.argsort(-group)[:CHOSEN_GROUPS])
        best = np.argsort(-np.where(inside, marks, -np.inf))[:CHOSEN]
        assert not gone.intersection(best)
        mixed = sum(each[e] * (np.maximum(row @ STORED["up"][e], 0) @ STORED["down"][e]) for e in best)
        outputs.append(mixed / each[best].sum() @ STORED["head"])
    return np.stack(outputs)


def answers(model: Any, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


X = np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)
ROUTERS = {"softmax": SOFTMAX, "sigmoid": SIGMOID}
GONE = {"a group": ({1}, set()), "a place": (set(), {2}), "a group and a place": ({2}, {0}), "places": (set(), {0, 3})}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gone", GONE)
def test_groups_and_places_go_exactly(router: str, form: str, gone: str) -> None:
    model = mixture(ROUTERS[router], form)
    np.testing.assert_allclose(answers(model, X), expected(X, set(), sigmoid=router == "sigmoid"), rtol=1e-4, atol=1e-5)
    whole, places = [group for group in analyse(load_normal(model)).groups if group.kind == "experts"]
    assert (whole.size, places.size) == (GROUPS, PLACES)
    assert (whole.least, places.least) == (CHOSEN_GROUPS, ceil(CHOSEN / CHOSEN_GROUPS))
    groups, inside = GONE[gone]
    removed = {whole.name: tuple(groups), places.name: tuple(inside)}
    plan = Plan({name: units for name, units in removed.items() if units}, {whole.name: GROUPS, places.name: PLACES})
    result = spa.apply_plan(model, plan)
    assert result.report.verified
    lost = {e for e in range(EXPERTS) if e // PLACES in groups or e % PLACES in inside}
    actual = answers(ir.to_proto(result.model), X)
    np.testing.assert_allclose(actual, expected(X, lost, sigmoid=router == "sigmoid"), rtol=1e-4, atol=1e-5)
    stored = result.model.graph.initializers["up"].const_value
    assert stored is not None
    assert stored.shape[0] == EXPERTS - len(lost)


@pytest.mark.parametrize("by", ["weights", "samples"])
def test_a_share_of_experts_in_groups(by: str) -> None:
    options: dict[str, Any] = {"weights": True} if by == "weights" else {"data": {"x": X}, "preset": "fast"}
    result = spa.prune(mixture(SIGMOID, "gathered"), ratio=0.3, include="experts", only="experts", align=1, **options)
    assert result.report.verified
    assert result.report.removed_share("params") >= 0.3


def test_where_numbers_of_groups_are_read_groups_stay() -> None:
    """The number of the first group is an output: without a group it would be another."""
    model = mixture(SOFTMAX, "gathered")
    model.graph.output.append(onnx.helper.make_tensor_value_info("gi", onnx.TensorProto.INT64, ["N", CHOSEN_GROUPS]))
    kinds = {(group.kind, group.size) for group in analyse(load_normal(model)).groups}
    assert ("experts", GROUPS) not in kinds
    assert ("experts", PLACES) in kinds


def test_loads_are_those_of_groups_and_of_places() -> None:
    analysis = analyse(load_normal(mixture(SIGMOID, "gathered")))
    groups, places = expert_loads(analysis.model, analysis.coupling, analysis.groups, [{"x": X}])
    assert (len(groups.shares), groups.together) == (GROUPS, PLACES)
    assert (len(places.shares), places.together) == (PLACES, GROUPS)
    plain = analyse(load_normal(by_gather().model()))
    (load,) = expert_loads(plain.model, plain.coupling, plain.groups, [{"x": samples(1, 64)}])
    assert load.together == 1
