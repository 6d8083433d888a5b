"""Experts with weights of their own: gone, with all that they alone reach, they are scores at minus infinity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import spa
from spa.analysis.plan import Plan
from spa.steps import analyse, load_normal
from tests.analysis.test_numbering import CHOSEN, EXPERTS, FFN, WIDTH, Built, _answers, _barred


def _numbers(built: Built) -> None:
    built.stored |= {"depth": np.array(EXPERTS, np.int64), "off_on": np.array([0, 1], np.int64)}
    built.stored |= {f"at{e}": np.array(e, np.int64) for e in range(EXPERTS)}
    built.stored |= {"one": np.array([1], np.int64), "zeros": np.zeros((), np.float32)}


def _expert(built: Built, e: int, rows: str) -> str:
    """up, Relu, down, with biases, all of its own."""
    built.stored |= {f"up{e}": built.weight(WIDTH, FFN), f"down{e}": built.weight(FFN, WIDTH)}
    built.stored |= {f"b{e}": built.weight(1, FFN)[0], f"c{e}": built.weight(1, WIDTH)[0]}
    built.add("MatMul", f"{rows} up{e}", f"hidden{e}")
    built.add("Add", f"hidden{e} b{e}", f"biased{e}")
    built.add("Relu", f"biased{e}", f"act{e}")
    built.add("Gemm", f"act{e} down{e} c{e}", f"made{e}")
    return f"made{e}"


def indexed() -> Built:
    """As torch.onnx exports a loop over experts with where and index_add: the tokens of each, written back."""
    built = Built()
    built.routed(normalised=True)
    _numbers(built)
    built.stored |= {"first": np.array([0], np.int64), "second": np.array([1], np.int64)}
    built.add("OneHot", "number depth off_on", "marks", axis=-1)
    built.add("Transpose", "marks", "turned", perm=[2, 1, 0])
    built.add("Mul", "x zeros", "so_far")
    so_far = "so_far"
    for e in range(EXPERTS):
        built.add("Gather", f"turned at{e}", f"mine{e}", axis=0)
        built.add("NonZero", f"mine{e}", f"places{e}")
        built.add("Gather", f"places{e} first", f"slots{e}", axis=0)
        built.add("Gather", f"places{e} second", f"tokens{e}", axis=0)
        built.add("Squeeze", f"slots{e} first", f"slot{e}")
        built.add("Squeeze", f"tokens{e} first", f"token{e}")
        built.add("Gather", f"x token{e}", f"rows{e}", axis=0)
        made = _expert(built, e, f"rows{e}")
        built.add("Unsqueeze", f"token{e} one", f"token_{e}")
        built.add("Unsqueeze", f"slot{e} one", f"slot_{e}")
        built.add("Concat", f"token_{e} slot_{e}", f"where{e}", axis=1)
        built.add("GatherND", f"gate where{e}", f"share{e}")
        built.add("Unsqueeze", f"share{e} one", f"share_{e}")
        built.add("Mul", f"{made} share_{e}", f"weighed{e}")
        built.add("Shape", f"weighed{e}", f"size{e}")
        built.add("Expand", f"token_{e} size{e}", f"to{e}")
        built.add("ScatterElements", f"{so_far} to{e} weighed{e}", f"sum{e}", axis=0, reduction="add")
        so_far = f"sum{e}"
    built.add("Identity", so_far, "mixed")
    return built


def written() -> Built:
    """The same, written back by ScatterND."""
    built = indexed()
    for node in built.nodes:
        if node.op_type == "ScatterElements":
            e = node.output[0].removeprefix("sum")
            node.op_type = "ScatterND"
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("reduction", "add"))
            node.input[1] = f"token_{e}"
    built.nodes = [node for node in built.nodes if node.op_type not in ("Expand", "Shape")]
    return built


def masked() -> Built:
    """All experts run on all tokens; a gate is the sum of those whose number is compared with the expert's."""
    built = Built()
    built.routed(normalised=True)
    _numbers(built)
    total = ""
    for e in range(EXPERTS):
        made = _expert(built, e, "x")
        built.add("Equal", f"number at{e}", f"is{e}")
        built.add("Cast", f"is{e}", f"mark{e}", to=onnx.TensorProto.FLOAT)
        built.add("Mul", f"gate mark{e}", f"gates{e}")
        built.add("ReduceSum", f"gates{e} last", f"share{e}", keepdims=1)
        built.add("Mul", f"{made} share{e}", f"weighed{e}")
        if total:
            built.add("Add", f"{total} weighed{e}", f"sum{e}")
        total = f"sum{e}" if total else f"weighed{e}"
    built.add("Identity", total, "mixed")
    return built


def scattered(how: str = "Slice") -> Built:
    """Gates scattered into zeros, of which each expert has a column."""
    built = Built()
    built.routed(normalised=True)
    _numbers(built)
    built.stored |= {f"from{e}": np.array([e], np.int64) for e in range(EXPERTS + 1)}
    built.stored |= {"nothing": np.zeros((1, 1), np.float32), "axis": np.array([1], np.int64)}
    built.add("Shape", "logits", "size")
    built.add("ConstantOfShape", "size", "none")
    built.add("ScatterElements", "none number gate", "spread", axis=1)
    if how == "Split":
        built.add("Split", "spread", " ".join(f"share{e}" for e in range(EXPERTS)), axis=1, num_outputs=EXPERTS)
    total = ""
    for e in range(EXPERTS):
        if how == "Slice":
            built.add("Slice", f"spread from{e} from{e + 1} axis", f"share{e}")
        elif how == "Gather":
            built.add("Gather", f"spread at{e}", f"column{e}", axis=1)
            built.add("Unsqueeze", f"column{e} one", f"share{e}")
        made = _expert(built, e, "x")
        built.add("Mul", f"share{e} {made}", f"weighed{e}")
        if total:
            built.add("Add", f"weighed{e} {total}", f"sum{e}")
        total = f"sum{e}" if total else f"weighed{e}"
    built.add("Identity", total, "mixed")
    return built


def columns() -> Built:
    """Numbers compared with a table of all of them, and a column for each expert."""
    built = masked()
    nodes, built.nodes = built.nodes, []
    built.stored["all"] = np.arange(EXPERTS)
    for node in nodes:
        if node.op_type == "Equal" and node.output[0] == "is0":
            built.add("Unsqueeze", "number last", "numbers")
            built.add("Equal", "all numbers", "same")
        if node.op_type == "Equal":
            e = node.output[0].removeprefix("is")
            built.add("Gather", f"same at{e}", f"is{e}", axis=2)
        else:
            built.nodes.append(node)
    return built


FORMS: dict[str, Callable[[], Built]] = {
    "indexed": indexed,
    "written": written,
    "masked": masked,
    "columns of a table": columns,
    "scattered, Slice": scattered,
    "scattered, Gather": lambda: scattered("Gather"),
    "scattered, Split": lambda: scattered("Split"),
}


@pytest.mark.parametrize("gone", [[1, 4, 6], [0], [0, 1], [7], [2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("form", FORMS)
def test_experts_that_are_gone_are_scores_at_minus_infinity(form: str, gone: list[int]) -> None:
    dense = FORMS[form]().model()
    (group,) = [group for group in analyse(load_normal(dense)).groups if group.kind == "experts"]
    assert (group.name, group.size, group.least) == ("router:1", EXPERTS, CHOSEN)
    assert group.off is not None
    result = spa.apply_plan(dense, Plan.of([group], {group.name: gone}))
    assert result.report.verified
    assert result.report.exact
    x = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32)
    actual, expected = _answers(ir.to_proto(result.model), x), _answers(_barred(FORMS[form](), gone), x)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(expected - _answers(dense, x)).max() > 1e-3
    left = result.model.graph.initializers
    assert left["router"].shape == (WIDTH, EXPERTS - len(gone))
    for e in range(EXPERTS):
        assert (f"up{e}" in left) is (e not in gone)
        assert (f"c{e}" in left) is (e not in gone)


@pytest.mark.parametrize("form", FORMS)
def test_they_count_with_all_their_weights(form: str) -> None:
    dense = FORMS[form]().model()
    expert = WIDTH * FFN * 2 + FFN + WIDTH
    result = spa.prune(dense, ratio=0.3, include="experts", only="experts", weights=True, align=1)
    gone = len(next(iter(result.plan.removed.values())))
    before, after = result.report.before["params"], result.report.after["params"]
    assert before - after == pytest.approx(gone * (expert + WIDTH), abs=gone)
    assert result.report.verified


@pytest.mark.parametrize("form", FORMS)
def test_with_samples_they_go_by_what_is_lost(form: str) -> None:
    x = np.random.default_rng(2).standard_normal((96, WIDTH)).astype(np.float32)
    options = {"ratio": 0.3, "include": "experts", "only": "experts", "align": 1, "data": {"x": x}, "preset": "fast"}
    for criterion in (None, "reap"):
        result = spa.prune(FORMS[form]().model(), criterion=criterion, **options)  # type: ignore[arg-type]
        assert result.report.verified
        assert len(next(iter(result.plan.removed.values()))) >= 2
        assert not any("cannot be told apart" in note for note in result.report.notes)


def _shown(built: Built) -> None:
    built.outputs["share2"] = onnx.TensorProto.FLOAT


def _shifted(built: Built) -> None:
    node = next(node for node in built.nodes if node.output[0] == "share5")
    node.output[0] = "share5/0"
    at = built.nodes.index(node)
    built.nodes.insert(at + 1, onnx.helper.make_node("Exp", ["share5/0"], ["share5"]))


@pytest.mark.parametrize("spoil", [_shown, _shifted])
@pytest.mark.parametrize("form", ["masked", "scattered, Slice"])
def test_they_stay_where_what_is_not_chosen_counts(form: str, spoil: Callable[[Built], None]) -> None:
    built = FORMS[form]()
    spoil(built)
    groups = analyse(load_normal(built.model())).groups
    assert not any(group.kind == "experts" for group in groups)
