"""Inputs that a model runs on are found: sizes that hang together, counts of positions, what a user gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

import spa
from spa import runtime
from spa.errors import DataError, UsageError
from spa.passes.cut.trials import Inputs, NoTrial, Outputs, Trial
from spa.steps import analyse, load_normal
from tests.cut import decoders
from tests.models import build

PAST = "past_sequence_length"
DECODERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "spa export --cache": lambda: decoders.plain(
        sequence="sequence",
        past="past_sequence",
        mask="total_sequence",
        total="total",
        batch="batch",
        position_ids=False,
    ),
    "optimum": lambda: decoders.plain(
        sequence="sequence_length", past=PAST, mask=f"{PAST} + sequence_length", total=f"{PAST} + sequence_length"
    ),
    "optimum, one token a call": lambda: decoders.plain(
        sequence="sequence_length", past=PAST, mask=f"{PAST} + 1", total=f"{PAST} + 1"
    ),
    "names that say nothing": lambda: decoders.plain(sequence="s1", past="s2", mask="s3", total="s4", batch="s0"),
    "names that are turned round": lambda: decoders.plain(sequence="total", past="new", mask="past", total="t"),
    "onnxruntime-genai": lambda: decoders.grouped(given=False),
    "lengths of their own": lambda: decoders.grouped(given=True),
    "lengths of other names": lambda: decoders.grouped(given=True, names=("a", "b")),
}


def inputs_of(proto: onnx.ModelProto, **options: object) -> tuple[Inputs, Callable[..., object]]:
    model = load_normal(proto)
    session = runtime.session(model, optimize=False)
    analysis = analyse(model, inputs=options.get("shapes"))  # type: ignore[arg-type]
    inputs = Inputs.of(model.graph, analysis.shapes, options.get("shapes"), options.get("feeds"))  # type: ignore[arg-type]
    return inputs, lambda feeds: runtime.run(session, feeds)


def trials(proto: onnx.ModelProto, **options: object) -> list[Trial]:
    inputs, run = inputs_of(proto, **options)
    return inputs.trials(run)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DECODERS)
def test_sizes_of_a_cache_are_found(kind: str) -> None:
    for trial in trials(DECODERS[kind]()):
        new, past = trial.feeds["input_ids"].shape[1], trial.feeds["past_key_values.0.key"].shape[2]
        assert past > 0
        assert trial.outputs["present.0.key"].shape[2] == past + new
        if "attention_mask" in trial.feeds:
            assert trial.feeds["attention_mask"].shape[1] == past + new
            assert trial.feeds["attention_mask"].all()


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_are_pruned_and_verified_without_help(kind: str) -> None:
    result = spa.prune(DECODERS[kind](), ratio=0.2, weights=True)
    assert result.report.status == "verified", result.report.missing
    assert result.report.difference is not None
    assert result.report.difference < 1e-5


def test_the_count_of_a_sample_names_its_last_position() -> None:
    first = trials(DECODERS["lengths of their own"]())[0]
    total = first.outputs["present.0.key"].shape[2]
    assert int(first.feeds["total_sequence_length"]) == total
    assert np.all(first.feeds["seqlens_k"] == total - 1)


TEXT = "(float[N,S,6] x) => (float[N,S,3] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }"


def test_values_and_sizes_differ_from_trial_to_trial() -> None:
    first, second, third = trials(build(TEXT, {"w": [6, 8], "v": [8, 3]}))
    assert first.feeds["x"].shape == second.feeds["x"].shape
    assert not np.array_equal(first.feeds["x"], second.feeds["x"])
    assert all(a != b for a, b in zip(first.feeds["x"].shape[:2], third.feeds["x"].shape[:2], strict=True))


def test_a_graph_of_one_size_is_tried_with_that_alone() -> None:
    fixed = TEXT.replace("N,S", "2,5")
    assert [trial.feeds["x"].shape for trial in trials(build(fixed, {"w": [6, 8], "v": [8, 3]}))] == [(2, 5, 6)] * 2


@pytest.mark.parametrize(("width", "count"), [(800_000, 3), (1_100_000, 2)])
def test_large_inputs_are_not_made_larger_still(width: int, count: int) -> None:
    """Whether sizes are baked in is not worth twice four million numbers."""
    text = f"(float[N,{width}] x) => (float[N,1] y) {{ y = MatMul(x, w) }}"
    tried = trials(build(text, {"w": np.ones((width, 1), np.float32)}))
    assert len(tried) == count, [trial.feeds["x"].shape for trial in tried]


def test_only_the_batch_grows_where_a_table_bounds_the_rest() -> None:
    text = "(float[N,S,6] x) => (float[N,S,6] y) { h = Slice(t, a, n, k)  y = Add(x, h) }".replace(
        "h = Slice", "f = Shape(x)  n = Gather(f, o)  h = Slice"
    )
    proto = build(text, {"t": [20, 6], "a": np.array([0]), "o": np.array([1]), "k": np.array([0])})
    tried = trials(proto)
    assert [trial.feeds["x"].shape[1] for trial in tried] == [13] * 3
    assert tried[2].feeds["x"].shape[0] == tried[0].feeds["x"].shape[0] + 1


def test_what_the_first_sizes_failed_of_is_told() -> None:
    """Sizes that are tried after those of the analysis fail of what they are, and not of what is wrong."""
    inputs, _ = inputs_of(build(TEXT, {"w": [6, 8], "v": [8, 3]}))
    first = inputs.start.inputs["x"]

    def fails(feeds: Mapping[str, np.ndarray]) -> Outputs:
        raise DataError("at first" if feeds["x"].shape == tuple(first) else "later")

    with pytest.raises(NoTrial, match="at first"):
        inputs.trials(fails)


def test_given_values_settle_the_sizes_of_others() -> None:
    text = "(float[N,S,6] x, float[N,S,1] scale) => (float[N,S,1] y) { a = MatMul(x, w)  y = Mul(a, scale) }"
    given = np.arange(12.0).reshape(3, 4, 1)
    tried = trials(build(text, {"w": [6, 1]}), feeds={"scale": given})
    assert all(np.array_equal(trial.feeds["scale"], given) for trial in tried)
    assert {trial.feeds["x"].shape for trial in tried} == {(3, 4, 6)}


@pytest.mark.parametrize(
    ("feed", "expected"),
    [("ones", {1.0}), ("zeros", {0.0}), (7, {7.0}), ([2.5], {2.5}), ("range:3", {0.0, 1.0, 2.0})],
)
def test_words_and_numbers(feed: object, expected: set[float]) -> None:
    for trial in trials(build(TEXT, {"w": [6, 8], "v": [8, 3]}), feeds={"x": feed}):
        assert set(np.unique(trial.feeds["x"])) == expected


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"z": "ones"}, "feed 'z': there is no such input; the inputs are 'x'"),
        ({"x": "twos"}, r"feed 'x': expected ones, zeros, range:N .*, found 'twos'"),
        ({"x": "range:0"}, "found 'range:0'"),
        (
            {"x": [1, 2]},
            r"feed 'x' has 2 numbers of shape \(2,\), which the shape .* does not fit; give the shape with",
        ),
        ({"x": np.ones((1, 2, 7))}, "input 'x' has the shape"),
        ({"x": [[1], [2, 3]]}, "feed 'x': expected numbers in rows of one length"),
        ({"x": ["a"]}, "feed 'x': expected numbers"),
    ],
)
def test_feeds_that_do_not_fit(feeds: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trials(build(TEXT, {"w": [6, 8], "v": [8, 3]}), feeds=feeds)


def test_numbers_that_an_integer_input_cannot_hold() -> None:
    proto = build("(int64[N] i) => (float[N,4] y) { y = Gather(table, i) }", {"table": [3, 4]})
    with pytest.raises(UsageError, match=r"feed 'i': the input takes int64, which cannot hold 1\.5"):
        trials(proto, feeds={"i": [1.5]})


def test_a_table_that_only_the_user_knows() -> None:
    """What is made up starts from zero, and this one from fifty."""
    text = "(int64[N] i) => (float[N,4] y) { j = Sub(i, fifty)  k = Mul(j, j)  y = Gather(table, k) }"
    proto = build(text, {"table": [3, 4], "fifty": np.array(5000)})
    inputs, run = inputs_of(proto)
    with pytest.raises(NoTrial, match="the dense model does not run on random inputs"):
        inputs.trials(run)  # type: ignore[arg-type]
    assert trials(proto, feeds={"i": 5001})[0].outputs["y"].shape[1] == 4


HIDING = {
    "truth values, as torch has them": ("bool[N,5] padding", "f = Cast<to=1>(padding)  i = Div(f, nothing)", False),
    "whole numbers": ("int64[N,5] hidden_mask", "f = Cast<to=1>(hidden_mask)  i = Div(f, nothing)", 0),
    "truth values that show": ("bool[N,5] seen", "f = Cast<to=1>(seen)  o = Sub(one, f)  i = Div(o, nothing)", True),
}


@pytest.mark.parametrize("name", HIDING)
def test_masks_that_hide_where_they_are_one(name: str) -> None:
    """What hides is minus infinity, so that nothing is left where all is hidden."""
    declared, body, expected = HIDING[name]
    text = f"""(float[N,5,6] x, {declared}) => (float[N,5,3] y) {{
        a = MatMul(x, w)  {body}  n = IsNaN(i)  z = Where(n, none, i)  m = Neg(z)  u = Unsqueeze(m, last)
        b = Add(a, u)  s = Softmax<axis=1>(b)  y = MatMul(s, v) }}"""
    numbers = {"one": np.float32(1), "none": np.float32(0), "nothing": np.float32(0), "last": np.array([-1])}
    model = build(text, {"w": [6, 8], "v": [8, 3], **{name: np.array(value) for name, value in numbers.items()}})
    for trial in trials(model):
        mask = next(array for name, array in trial.feeds.items() if name != "x")
        assert np.all(mask == expected)
        assert np.isfinite(trial.outputs["y"]).all()
    result = spa.prune(model, ratio=0.3, weights=True, align=1)
    assert result.report.verified


@pytest.mark.parametrize(("feed", "same"), [("ones", True), (0.5, True), ([[0.5, 1, 2]], True), ("range:9", False)])
def test_outputs_are_the_same_where_a_user_says_what_goes_in(feed: object, same: bool) -> None:
    """Ones give the same however often they are given, which is no reason not to compare."""
    model = build("(float[1,3] x) => (float[1,2] y) { a = MatMul(x, u)  r = Relu(a)  y = MatMul(r, v) }", U_V)
    assert all(trial.fixed == same for trial in trials(model, feeds={"x": feed}))
    assert spa.prune(model, ratio=0.3, weights=True, align=1, feeds={"x": feed}).report.verified


U_V: dict[str, list[int]] = {"u": [3, 24], "v": [24, 2]}
