"""What verification notices, and what it lets pass.

One file: the cases of one function, each of a few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from spa.errors import VerificationError
from spa.passes.cut import verify
from spa.passes.cut.difference import largest_gap, relative_l2
from spa.passes.cut.rounding import DEFAULT_TOLERANCE, tolerances
from spa.passes.cut.structure import check_structure
from spa.passes.cut.trials import Inputs
from spa.passes.cut.verify import Comparison, _same, find_culprit
from spa.shapes import infer_shapes
from spa.shapes.binding import Binding
from tests.models import Weight, build

TEXT = "(float[N,4] x) => (float[N,3] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }"
WEIGHTS: dict[str, Weight] = {"w": [4, 6], "v": [6, 3]}
SHAPES = {"x": (2, 4)}


def model(text: str = TEXT, weights: dict[str, Weight] | None = None, **options: int) -> ir.Model:
    return ir.from_proto(build(text, WEIGHTS if weights is None else weights, **options))


def scaled(factor: float, name: str = "v") -> ir.Model:
    changed = model()
    tensor = changed.graph.initializers[name].const_value
    assert tensor is not None
    changed.graph.initializers[name].const_value = ir.Tensor((tensor.numpy() * factor).astype(np.float32), name=name)
    return changed


def compare(left: ir.Model, right: ir.Model, *, shapes: Mapping[str, tuple[int, ...]]) -> Comparison:
    return verify.compare(left, right, inputs=Inputs(left.graph, Binding({}, shapes), shapes))


# ------------------------------------------------------------------------------------------------- structure
def test_valid_models_pass() -> None:
    assert check_structure(model(), model(weights={"w": [4, 5], "v": [5, 3]})) == []


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        (TEXT, {"w": [4, 6], "v": [5, 3]}, "the pruned model is invalid: .*Incompatible dimensions"),
        (TEXT, {"w": [4, 6], "v": [6, 2]}, "the pruned model is invalid: "),
        (TEXT.replace("float[N,4] x", "float[M,4] x"), None, "the inputs changed"),
        (TEXT.replace("float[N,3] y", "float[2,3] y"), None, "the outputs changed"),
        (TEXT.replace(" y", " z"), None, "the outputs changed"),
    ],
)
def test_invalid_models_do_not(text: str, weights: dict[str, Weight] | None, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        check_structure(model(), model(text, weights))


def test_what_the_dense_model_fails_too_is_a_note() -> None:
    wrong = model(weights={"w": [4, 6], "v": [5, 3]})
    (note,) = check_structure(wrong, wrong.clone())
    assert note.startswith("the ONNX checker refuses the dense model already: ")


# ---------------------------------------------------------------------------------------------------- values
def test_equal_models_differ_by_nothing() -> None:
    assert compare(model(), model(), shapes=SHAPES).difference == 0


@pytest.mark.parametrize("factor", [1.01, 1.5, 0.0, -1.0])
def test_the_difference_is_relative_to_the_largest_output(factor: float) -> None:
    comparison = compare(model(), scaled(factor), shapes=SHAPES)
    assert comparison.difference == pytest.approx(abs(1 - factor), rel=1e-2)
    assert not comparison.agrees


def test_rounding_agrees() -> None:
    comparison = compare(model(), scaled(1 + 3e-7), shapes=SHAPES)
    assert comparison.difference is not None
    assert 0 < comparison.difference < 1e-6
    assert comparison.agrees
    assert comparison.channel is not None
    assert comparison.channel <= 1e-6


def test_not_a_number_where_the_reference_has_one() -> None:
    assert compare(model(), scaled(np.nan), shapes=SHAPES).difference == float("inf")


def test_a_reference_without_finite_numbers_tells_nothing() -> None:
    comparison = compare(scaled(np.nan), scaled(np.nan), shapes=SHAPES)
    assert comparison.difference is None
    assert comparison.missing == ("output 'y' is empty, or gives no finite numbers, on the inputs tried",)


def test_another_shape_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"output 'y' has shape \(2, 2\) of float32, expected \(2, 3\)"):
        compare(model(), model(TEXT.replace("N,3", "N,K"), {"w": [4, 6], "v": [6, 2]}), shapes=SHAPES)


def test_a_pruned_model_that_does_not_load_is_refused() -> None:
    with pytest.raises(VerificationError, match="the pruned model does not load: onnxruntime refuses"):
        compare(model(), model(weights={"w": [4, 6], "v": [5, 3]}), shapes=SHAPES)
    with pytest.raises(VerificationError, match="the reference does not load: onnxruntime refuses"):
        compare(model(weights={"w": [4, 6], "v": [5, 3]}), model(), shapes=SHAPES)


RESHAPED = "(float[N,4] x) => (float[N,3] y) { a = MatMul(x, w)  r = Reshape(a, s)  b = Relu(r)  y = MatMul(b, v) }"


def test_a_pruned_model_that_does_not_run_is_refused() -> None:
    weights: dict[str, Weight] = {"w": [4, 6], "v": [6, 3], "s": np.array([-1, 6])}
    wrong: dict[str, Weight] = {**weights, "w": [4, 5]}
    with pytest.raises(VerificationError, match="the pruned model does not run: "):
        compare(model(RESHAPED, weights), model(RESHAPED, wrong), shapes={"x": (1, 4)})


def test_a_dense_model_that_does_not_run_is_a_note() -> None:
    weights: dict[str, Weight] = {"w": [4, 5], "v": [6, 3], "s": np.array([-1, 6])}
    comparison = compare(model(RESHAPED, weights), model(RESHAPED, weights), shapes={"x": (1, 4)})
    assert comparison.difference is None
    assert comparison.missing[0].startswith("the dense model does not run on random inputs")


def test_operators_that_onnxruntime_does_not_know_are_a_note() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { y = com.example.Mystery(x) }"
    comparison = compare(model(text, {}), model(text, {}), shapes=SHAPES)
    assert comparison.difference is None
    assert comparison.missing[0].startswith("the dense model does not load")


def test_inputs_that_cannot_be_made_up_are_a_note() -> None:
    text = "(seq(float[N,4]) s, int64 i) => (float[N,3] y) { x = SequenceAt(s, i)  y = MatMul(x, w) }"
    weights: dict[str, Weight] = {"w": [4, 3]}
    comparison = compare(model(text, weights), model(text, weights), shapes={})
    assert comparison.difference is None
    assert comparison.missing[0].startswith("input 's' is a Sequence(")


def test_integers_that_index_a_small_table() -> None:
    text = "(int64[N] i) => (float[N,4] y) { y = Gather(table, i) }"
    weights: dict[str, Weight] = {"table": [3, 4]}
    assert compare(model(text, weights), model(text, weights), shapes={"i": (5,)}).difference == 0


def test_a_model_that_amplifies_rounding_is_judged_by_it() -> None:
    """Two nearly equal numbers subtracted: what is left is rounding alone."""
    text = "(float[N,4] x) => (float[N,4] y) { a = Mul(x, big)  b = Mul(x, other)  y = Sub(a, b) }"
    left: dict[str, Weight] = {"big": np.full(4, 1e6 + 1, np.float32), "other": np.full(4, 1e6, np.float32)}
    right: dict[str, Weight] = {**left, "big": np.full(4, 1e6 + 1.125, np.float32)}
    comparison = compare(model(text, left), model(text, right), shapes=SHAPES)
    assert comparison.difference is not None
    assert comparison.difference > DEFAULT_TOLERANCE
    assert comparison.agrees
    assert comparison.notes[0].startswith("this model amplifies rounding")


@pytest.mark.parametrize(("bound", "agrees"), [(0.8, True), (0.2, False)])
def test_more_tries_are_made_where_rounding_decides_steps(bound: float, agrees: bool) -> None:
    """A bound near enough for one try in four to step over it: two tries step in less than half of the columns."""
    text = """(float[N,64] x) => (float[N,64] y) {
        a = Mul(x, big)  b = Mul(x, other)  d = Sub(a, b)  f = Mul(x, bound)  g = Sub(d, f)  y = Sign(g)
    }"""
    left: dict[str, Weight] = {
        "big": np.full(64, 1e6 + 1, np.float32),
        "other": np.full(64, 1e6, np.float32),
        "bound": np.full(64, bound, np.float32),
    }
    moved = np.where(np.arange(64) % 16, 1e6 + 1, 1e6).astype(np.float32)
    comparison = compare(model(text, left), model(text, {**left, "big": moved}), shapes={"x": (4, 64)})
    assert comparison.channel is not None
    assert comparison.agrees == agrees


@pytest.mark.parametrize(("share", "agrees"), [(0.2, True), (0.01, False)])
def test_a_slice_may_take_a_step_where_rounding_lets_most_slices_take_one(share: float, agrees: bool) -> None:
    """Outputs on a grid of quantised numbers: two tries do not show each step that rounding decides."""
    random = np.random.default_rng(0)
    steps = random.integers(-5, 6, (10, 200)).astype(np.float32)

    def stepped(part: float) -> dict[str, np.ndarray]:
        return {"y": np.where(random.random(steps.shape) < part, -steps, steps)}

    gap = largest_gap([{"y": steps}], [stepped(0.04)], [[stepped(share)] for _ in range(2)], limits={"y": 1e-3})
    assert gap.within == agrees


def test_an_output_may_be_a_scalar() -> None:
    text = "(float[N,4] x) => (float y) { a = Mul(x, w)  y = ReduceSum<keepdims=0>(a) }"
    right = model(text, {"w": np.ones(4, np.float32)})
    assert compare(right, model(text, {"w": np.ones(4, np.float32)}), shapes=SHAPES).agrees
    assert not compare(right, model(text, {"w": np.full(4, 1.1, np.float32)}), shapes=SHAPES).agrees


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("(float[N,4] x) => (float[N,4] y, int64[2] s) { y = Mul(x, w)  s = Shape(x) }", []),
        ("(float[N,4] x) => (int64[2] s) { y = Mul(x, w)  s = Shape(y) }", ["s"]),
        ("(float[N,4] x) => (float[4] y, float[N,4] z) { y = Neg(w)  z = Mul(x, w) }", ["y"]),
    ],
)
def test_whole_numbers_that_do_not_vary_say_something_beside_others_that_do(text: str, missing: list[str]) -> None:
    comparison = compare(
        model(text, {"w": np.ones(4, np.float32)}), model(text, {"w": np.ones(4, np.float32)}), shapes=SHAPES
    )
    assert list(comparison.missing) == [f"output {name!r} is the same on all inputs tried" for name in missing]


@pytest.mark.parametrize(("other", "within"), [("b", True), ("c", False)])
def test_words_have_to_be_the_same(other: str, within: bool) -> None:
    words, actual = np.array(["a", "b"]), np.array(["a", other])
    empty = np.zeros((0, 4))
    gap = largest_gap([{"y": words, "z": empty}], [{"y": actual, "z": empty}], (), limits={"y": 1e-3, "z": 1e-3})
    assert gap.within == within


def test_what_is_there_in_one_trial_only_is_not_the_same() -> None:
    assert _same(np.ones(2), np.ones(2))
    assert not _same(np.ones(2), None)
    assert not _same(None, np.ones(2))


def test_where_half_of_the_slices_take_steps_any_may() -> None:
    """One of two columns moves by a fifth under rounding: the other may be off by as much."""
    ones = np.ones((16, 2))
    shaken, actual = ones.copy(), ones.copy()
    shaken[:, 0], actual[:, 1] = 1.2, 1.05
    gap = largest_gap([{"y": ones}], [{"y": actual}], [[{"y": shaken}]], limits={"y": 1e-3})
    assert gap.within


def test_distance_is_relative_to_the_size_unless_there_is_none() -> None:
    def of(left: list[float], right: list[float]) -> dict[str, float]:
        return relative_l2([{"y": np.array(left)}], [{"y": np.array(right)}])

    assert of([3.0, 4.0], [3.0, 5.0]) == {"y": pytest.approx(0.2)}
    assert of([0.0, 0.0], [3.0, 4.0]) == {"y": pytest.approx(5.0)}
    assert of([np.inf, 1.0], [np.inf, 1.0]) == {}
    others = {"words": np.array(["a"]), "list": [np.ones(2)], "nothing": None}
    assert relative_l2([others], [others]) == {}


@pytest.mark.parametrize(("dtype", "step"), [(np.float16, 6e-8), (np.float32, 1e-38), (np.float64, 1e-308)])
def test_numbers_next_to_zero_may_be_flushed_to_it(dtype: type[np.floating], step: float) -> None:
    zero, near = np.zeros((2, 8), dtype), np.full((2, 8), step, dtype)
    for times, within in ((1, True), (1e4, False)):
        gap = largest_gap([{"y": zero}], [{"y": dtype(times) * near}], [[{"y": zero}]], limits={"y": 1e-3})
        assert gap.within == within


def test_maps_of_plain_numbers_are_compared_and_what_both_lack_is_alike() -> None:
    """ZipMap gives probabilities as Python's own numbers; an optional that holds nothing gives None."""
    dense = {"y": [{"cat": 0.25, "dog": 0.75}], "z": None}
    for shift, within in ((0.0, True), (0.1, False)):
        other = {"y": [{"cat": 0.25, "dog": 0.75 + shift}], "z": None}
        gap = largest_gap([dense], [other], [[dense]], limits={"y": 1e-3, "z": 1e-3})
        assert gap.within == within
    assert gap.place == "output \"y[0]['dog']\""
    with pytest.raises(VerificationError, match="'z' is there in one model only"):
        largest_gap([dense], [{**dense, "z": np.ones(1)}], [[dense]], limits={"y": 1e-3, "z": 1e-3})


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float16, 2e-2), (np.float32, 1e-3), (np.float64, 1e-6), (np.int8, 1e-3)]
)
def test_tolerance_by_type(dtype: type[np.generic], expected: float) -> None:
    kind = {np.float16: "float16", np.float32: "float", np.float64: "double", np.int8: "int8"}[dtype]
    text = f"({kind}[4] x) => ({kind}[4] y) {{ y = Add(x, w) }}"
    assert tolerances(model(text, {"w": np.ones(4, dtype)})) == {"y": expected}


MIXED = {
    "half precision, stored alone": ("c = Cast<to=1>(h)  y = Mul(x, c)  z = Neg(x)", {"y": 1e-3, "z": 1e-3}),
    "half precision, stored numbers alone go through it": (
        "b = Cast<to=1>(h)  c = Cast<to=10>(b)  d = Cast<to=1>(c)  y = Mul(x, d)  z = Neg(x)", {"y": 1e-3, "z": 1e-3},
    ),
    "half precision, computed in": (
        "c = Cast<to=10>(x)  d = Mul(c, h)  e = Cast<to=1>(d)  y = Neg(e)  z = Neg(x)", {"y": 2e-2, "z": 1e-3},
    ),
    "one branch in bfloat16": (
        "c = Cast<to=16>(x)  d = Neg(c)  y = Cast<to=1>(d)  w = Cast<to=10>(x)  v = Mul(w, h)  z = Cast<to=1>(v)",
        {"y": 1e-1, "z": 2e-2},
    ),
    "whole numbers in between": ("c = Cast<to=7>(x)  y = Cast<to=1>(c)  z = Cast<to=1>(c)", {"y": 1e-3, "z": 1e-3}),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_tolerance_by_what_an_output_is_computed_in(name: str) -> None:
    body, expected = MIXED[name]
    text = f"(float[4] x) => (float[4] y, float[4] z) {{ {body} }}"
    made = model(text, {"h": np.ones(4, np.float16)})
    assert tolerances(made, infer_shapes(made).dtypes) == expected


def test_a_branch_in_half_precision_loosens_no_other() -> None:
    """One output is rounded to half precision; one per cent off in the other is too much, although less than 2e-2."""
    text = """(float[N,4] x) => (float[N,4] y, float[N,4] z) {
        c = Cast<to=10>(x)  d = Mul(c, h)  y = Cast<to=1>(d)  z = Mul(x, w) }"""
    left: dict[str, Weight] = {"h": np.ones(4, np.float16), "w": np.ones(4, np.float32)}
    off = np.full(4, 1.01)
    wrong = model(text, {**left, "w": off.astype(np.float32)})
    rounded = model(text, {**left, "h": off.astype(np.float16)})
    assert compare(model(text, left), rounded, shapes=SHAPES).agrees
    comparison = compare(model(text, left), wrong, shapes=SHAPES)
    assert not comparison.agrees
    assert comparison.place.startswith("output 'z'")
    assert comparison.limit == DEFAULT_TOLERANCE


# --------------------------------------------------------------------------------------------------- bisection
@pytest.mark.parametrize("culprit", ["g0", "g7", "g12"])
def test_one_culprit_is_found_in_few_calls(culprit: str) -> None:
    calls = []

    def fails(names: Sequence[str]) -> bool:
        calls.append(names)
        return culprit in names

    assert find_culprit([f"g{k}" for k in range(13)], fails) == [culprit]
    assert len(calls) <= 8


def test_culprits_that_fail_only_together() -> None:
    def together(names: Sequence[str]) -> bool:
        return {"g1", "g6"} <= set(names)

    culprits = find_culprit([f"g{k}" for k in range(8)], together)
    assert {"g1", "g6"} <= set(culprits)


def test_a_single_suspect_needs_no_call() -> None:
    def never(_: Sequence[str]) -> bool:
        raise AssertionError

    fails: Callable[[Sequence[str]], bool] = never
    assert find_culprit(["only"], fails) == ["only"]


def test_checker_complaints_are_one_line() -> None:
    broken = model()
    broken.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(VerificationError, match=r"^the pruned model is invalid: [^\n]*NoSuchOperator[^\n]*$"):
        check_structure(model(), broken)
