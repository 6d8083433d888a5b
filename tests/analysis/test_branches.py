"""Which residual branches a graph has, told by the graph alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa.analysis.branches import BLOCKS
from spa.analysis.group import DEPTH, Group
from spa.analysis.plan import Plan
from spa.pipeline import Normal, analyse, load_normal, prune
from tests import depth, models
from tests.models import build, integers, positive

FOUND: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "pre-norm": (depth.pre_norm, ["wb", "wd"]),
    "post-norm": (depth.post_norm, ["wb", "wd"]),
    "parallel, one norm": (depth.parallel, ["wb", "wd"]),
    "parallel, two sums": (depth.parallel_one_by_one, ["wb", "wd"]),
    "a sum of three": (depth.summed, ["wb", "wd"]),
    "behind a bias": (depth.biased, ["wb"]),
    "to the output": (depth.to_the_output, ["w1"]),
    "another form": (depth.windowed, ["wb"]),
    "basic block": (models.residual_cnn, ["c2"]),
    "bottleneck": (depth.bottleneck, ["c7"]),  # the first has a projection
    "inverted": (depth.inverted, ["c3"]),
    "nested": (depth.nested, ["c2", "c4", "c5"]),
    "fused": (lambda: depth.skip_normed(simplified=False), ["wb", "wd"]),
    "fused, root mean square": (lambda: depth.skip_normed(simplified=True), ["wb", "wd"]),
    "fused, no sum": (lambda: depth.skip_normed(simplified=False, handed_on=False), ["wb"]),
    "Concat caches": (lambda: depth.cached("Concat"), ["0.wo", "1.wo"]),
    "Attention": (lambda: depth.cached("Attention"), ["0.wo", "1.wo"]),
    "GroupQueryAttention": (lambda: depth.cached("GroupQueryAttention"), ["0.wo", "1.wo"]),
}


def branches(model: onnx.ModelProto) -> list[Group]:
    return [group for group in analyse(load_normal(model)).groups if group.kind == DEPTH]


@pytest.mark.parametrize("name", FOUND)
def test_branches_are_found(name: str) -> None:
    made, expected = FOUND[name]
    groups = branches(made())
    assert [group.name for group in groups] == [f"{stem}:branch" for stem in expected]
    assert all(group.size == 1 and group.least == 0 and group.off and group.exact for group in groups)


NONE = {
    "read elsewhere": "a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  z = Add(x, b)  s = MatMul(z, w3)"
    "  t = MatMul(a, w4)  y = Add(s, t)",
    "an output too": "a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  z = Add(x, b)  y = MatMul(z, w3)",
    "a projection": "a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  i = MatMul(x, w5)  z = Add(i, b)"
    "  y = MatMul(z, w3)",
    "an activation": "c = Mul(x, x)  d = Mul(c, x)  e = Mul(d, k)  z = Add(x, e)  y = MatMul(z, w3)",
    "a stored addend": "a = MatMul(x, w5)  z = Add(a, h)  y = MatMul(z, w3)",
    "one row for all": "a = ReduceMean<keepdims=1>(x, ax)  b = MatMul(a, w5)  z = Add(x, b)  y = MatMul(z, w3)",
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_branch(name: str) -> None:
    text = NONE[name]
    second = ", float[N,9] a" if name == "an output too" else ""
    whole = f"(float[N,6] x) => (float[N,5] y{second}) {{ {text} }}"
    weights: dict[str, models.Weight] = {
        "w0": [6, 9], "w1": [9, 6], "w4": [9, 5], "w3": [6, 5], "w5": [6, 6], "h": [6], "k": [1], "ax": integers(0),
    }  # fmt: skip
    used = {key: array for key, array in weights.items() if f", {key})" in text}
    assert branches(build(whole, used)) == []


def test_a_sum_with_what_shares_its_first_layer_goes_as_a_whole_or_not() -> None:
    """Of x + f(x) + g(f'(x)), where g reads what f is made of, only g is a branch of its own."""
    text = """a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  c = MatMul(b, w5)  z = Sum(x, b, c)
              y = MatMul(z, w3)"""
    model = build(
        f"(float[N,6] x) => (float[N,5] y) {{ {text} }}",
        {"w0": [6, 9], "w1": [9, 6], "w3": [6, 5], "w5": [6, 6]},
    )
    assert [group.name for group in branches(model)] == ["w5:branch"]


@pytest.mark.parametrize("kind", ["Concat", "Attention", "GroupQueryAttention"])
def test_caches_belong_to_their_branch(kind: str) -> None:
    first, second = branches(depth.cached(kind))
    assert first.cached == ("past.0.k", "past.0.v", "present.0.k", "present.0.v")
    assert second.cached == ("past.1.k", "past.1.v", "present.1.k", "present.1.v")


def test_a_cache_whose_past_something_else_reads_keeps_its_branch() -> None:
    """As the length of the first layer's cache does, which tells the positions of all others."""
    model = depth.cached("Concat")
    model.graph.node.extend([onnx.helper.make_node("Shape", ["past.0.k"], ["shape"])])
    model.graph.output.append(onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4]))
    assert [group.name for group in branches(model)] == ["1.wo:branch"]


def test_a_branch_costs_what_only_it_reaches() -> None:
    analysis = analyse(load_normal(depth.parallel()))
    groups = {group.name: group for group in analysis.groups}

    def params(*names: str) -> float:
        plan = Plan.of(analysis.groups, {name: [0] for name in names})
        return analysis.cost.of("params", plan.masks(analysis.groups))

    size_b, size_d, norm = 12 * 9 * 2, 12 * 10 * 2, 2 * 12
    whole = analysis.cost.before("params")
    assert {"wb:branch", "wd:branch"} <= groups.keys()
    assert whole - params("wb:branch") == size_b
    assert whole - params("wd:branch") == size_d
    assert whole - params("wb:branch", "wd:branch") == size_b + size_d + norm  # the norm that both read goes with both


def test_nested_branches_go_with_the_one_around_them() -> None:
    analysis = analyse(load_normal(depth.nested()))
    removed = {"c5:branch": [0], "c2:branch": [0], "c1:0": [0, 1]}
    plan = Plan.of(analysis.groups, removed)
    assert plan.removed == {"c2:branch": (0,), "c5:branch": (0,)}  # what is inside loses nothing of its own
    left = analysis.cost.of("params", plan.masks(analysis.groups))
    assert left == 6 * 3 + 2 * 6


def test_a_shared_weight_goes_when_all_its_readers_do() -> None:
    text = """a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  z = Add(x, b)
              c = MatMul(z, w0)  s = Relu(c)  d = MatMul(s, w1)  q = Add(z, d)  y = MatMul(q, w3)"""
    model = build(f"(float[N,6] x) => (float[N,5] y) {{ {text} }}", {"w0": [6, 9], "w1": [9, 6], "w3": [6, 5]})
    analysis = analyse(load_normal(model))
    first, second = (group.name for group in analysis.groups if group.kind == DEPTH)

    def left(*names: str) -> tuple[float, float]:
        masks = Plan.of(analysis.groups, {name: [0] for name in names}).masks(analysis.groups)
        return analysis.cost.of("params", masks), analysis.cost.of("flops", masks)

    whole = 6 * 9 * 2 + 6 * 5
    assert left(first)[0] == left(second)[0] == left()[0]
    assert left(first, second)[0] == whole - 6 * 9 * 2
    assert left(first)[1] == left(second)[1] < left()[1]


def test_a_norm_is_no_branch_of_the_sum_behind_it() -> None:
    text = "n = LayerNormalization(x, g, h)  z = Add(x, n)  y = MatMul(z, w3)"
    model = build(f"(float[N,6] x) => (float[N,5] y) {{ {text} }}", {"g": positive("g", 6), "h": [6], "w3": [6, 5]})
    assert branches(model) == []


def _block() -> ir.Model:
    """Two branches of one block, whose tensors are called so, and one besides."""
    proto = depth.transformer("""
        n = LayerNormalization(e, g, h)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)  z = Add(e, b)
        m = LayerNormalization(z, g2, h2)  c = MatMul(m, wc)  s = Gelu(c)  d = MatMul(s, wd)  q = Add(d, z)
        k = MatMul(q, we)  l = Relu(k)  o = MatMul(l, wf)  v = Add(q, o)  y = MatMul(v, w9)""",
        we=[depth.WIDTH, 9], wf=[9, depth.WIDTH],
    )  # fmt: skip
    names = {name: f"layers.0.{name}" for name in ("g", "h", "wa", "wb", "g2", "h2", "wc", "wd")}
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    model = load_normal(proto)
    model.graph.meta[BLOCKS] = ["layers.0.", "layers.1."]
    return model


@pytest.mark.parametrize("by", ["weights", "samples"])
def test_blocks_that_are_marked_go_whole(by: str) -> None:
    model = _block()
    (group,) = [group for group in analyse(model.clone()).groups if group.kind == DEPTH]
    assert group.name == "layers.0:block"
    assert group.branch is not None
    assert len(group.branch.edges) == 2
    x = np.random.default_rng(0).standard_normal((64, 3, 7)).astype(np.float32)
    options: dict[str, Any] = {"weights": True} if by == "weights" else {"data": {"x": x}, "preset": "fast"}
    result = prune(Normal(model, closed=True), ratio=0.3, include=[DEPTH], only=[DEPTH], **options)
    assert result.report.verified
    assert result.plan.removed == {"layers.0:block": (0,)}
    assert not any(name.startswith("layers.0.") for name in result.model.graph.initializers)


def test_a_block_of_which_something_would_be_left_stays() -> None:
    model = _block()
    model.graph.meta[BLOCKS] = ["layers.0.w", "w"]  # the norms of the first, and the first and last layer of all
    kept = [group.branch for group in analyse(model).groups if group.branch is not None]
    assert [branch.block for branch in kept] == ["layers.0.w"]
