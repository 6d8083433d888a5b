"""Samples made up from a model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from spa import runtime
from spa.errors import DataError
from spa.passes.normalize.normalize import normalize
from spa.passes.samples.datafree import Recipe, make_samples
from spa.passes.samples.pictures import films, pictures
from spa.passes.samples.values import carry_over
from spa.passes.samples.words import PIECE
from tests.models import Weight, build


def model_of(text: str, weights: dict[str, Weight]) -> ir.Model:
    return normalize(ir.from_proto(build(text, weights)))


def test_images_have_the_spectrum_and_colours_of_pictures() -> None:
    images = pictures(64, 3, 32, 32, np.random.default_rng(0))
    assert images.shape == (64, 3, 32, 32)
    assert images.dtype == np.float32
    assert abs(float(images.mean())) < 0.2
    assert 0.5 < float(images.std()) < 1.5
    near = np.corrcoef(images[..., :-1].ravel(), images[..., 1:].ravel())[0, 1]
    far = np.corrcoef(images[..., :-16].ravel(), images[..., 16:].ravel())[0, 1]
    assert near > far + 0.2 > 0.2, "brightness changes slowly from place to place"
    many = pictures(2000, 3, 8, 8, np.random.default_rng(0))
    red, green, blue = (many[:, channel].ravel() for channel in range(3))
    assert np.corrcoef(red, green)[0, 1] > 0.5
    assert np.corrcoef(red, blue)[0, 1] < np.corrcoef(red, green)[0, 1]


CONV = "(float[n,3,8,8] x) => (float[n,4,8,8] y) { y = Conv(x, w) }"


def test_the_same_seed_gives_the_same_samples() -> None:
    model = model_of(CONV, {"w": [4, 3, 1, 1]})
    first, again, other = (make_samples(model, most=5, seed=seed).samples["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("n,3,8,8", (6, 3, 8, 8)),
        ("n,8,8,3", (6, 8, 8, 3)),
        ("n,3,4,9,8", (6, 3, 4, 9, 8)),
        ("n,4,9,8,3", (6, 4, 9, 8, 3)),
        ("n,40", (6, 40)),
        ("n,t,5", (6, 128, 5)),
        ("2,7", (6, 7)),
    ],
)
def test_numbers_fit_the_input(shape: str, expected: tuple[int, ...]) -> None:
    model = model_of(f"(float[{shape}] x) => (float[{shape}] y) {{ y = Mul(x, w) }}", {"w": np.full(1, 2, np.float32)})
    samples = make_samples(model, most=6)
    assert samples.samples["x"].shape == expected
    assert samples.samples["x"].std() > 0.1
    assert any("made up from the model alone" in note for note in samples.notes)


def test_tables_are_found_by_trying_and_masks_are_ones() -> None:
    model = model_of(
        """(int64[n,t] ids, int64[n,t] kind, int64[n,t] mask) => (float[n,t,4] y) {
        a = Gather(words, ids)  b = Gather(kinds, kind)  c = Add(a, b)
        m = Cast<to=1>(mask)  u = Unsqueeze(m, last)  y = Mul(c, u) }""",
        {"words": [37, 4], "kinds": [2, 4], "last": np.array([-1])},
    )
    samples = make_samples(model, most=40, inputs={"ids": [1, 9], "kind": [1, 9], "mask": [1, 9]}).samples
    assert (samples["ids"].min(), samples["ids"].max()) == (0, 36)
    assert not samples["kind"].any()
    assert (samples["mask"] == 1).all()


def test_weights_tell_of_pictures_and_sounds_alone() -> None:
    """Tokens are those of the vocabulary that was trained on; of features and tables what weights tell made more rows
    of tests/benchmarks/small.md worse than better."""
    shown = model_of("(float[n,3,8,8] x) => (float[n,4,8,8] y) { y = Conv(x, w) }", {"w": [4, 3, 1, 1]})
    read = model_of(
        "(int64[n,6] ids) => (float[n,6,5] y) { e = Gather(words, ids)  y = MatMul(e, w) }",
        {"words": [11, 4], "w": [4, 5]},
    )
    heard = model_of("(float[n,1,2048] x) => (float[n,4,2041] y) { y = Conv(x, w) }", {"w": [4, 1, 8]})
    features = model_of("(float[n,40] x) => (float[n,4] y) { y = MatMul(x, w) }", {"w": [40, 4]})
    assert [make_samples(each, most=8).unlike for each in (shown, heard, read, features)] == [True, True, False, False]


def test_a_language_model_writes_its_own_samples() -> None:
    """The next word is the last one plus one, surely: a causal model over eight words."""
    following = np.roll(40 * np.eye(8, dtype=np.float32), 1, axis=1)
    model = model_of(
        "(int64[n,6] ids) => (float[n,6,8] y) { e = Gather(words, ids)  y = MatMul(e, next) }",
        {"words": np.eye(8, dtype=np.float32), "next": following},
    )
    samples = make_samples(model, most=64)
    ids = samples.samples["ids"]
    assert (np.diff(ids, axis=1) % 8 == 1).all()
    assert "samples were written by the model itself" in samples.notes
    assert runtime.run(runtime.session(model, optimize=False), {"ids": ids[:1]})


def test_every_word_of_a_text_of_fixed_length_is_drawn_behind_those_before_it() -> None:
    """Of 30 words, rewritten all at once as often as needed."""
    following = np.roll(40 * np.eye(8, dtype=np.float32), 1, axis=1)
    model = model_of(
        "(int64[n,30] ids) => (float[n,30,8] y) { e = Gather(words, ids)  y = MatMul(e, next) }",
        {"words": np.eye(8, dtype=np.float32), "next": following},
    )
    ids = make_samples(model, most=64).samples["ids"]
    assert (np.diff(ids, axis=1) % 8 == 1).all()


@pytest.mark.parametrize("masked", [False, True])
def test_texts_of_open_length_are_pieces_that_are_exact(masked: bool) -> None:
    """Runs of each beginning: a mask is as long as the words."""
    following = np.roll(40 * np.eye(8, dtype=np.float32), 1, axis=1)
    mask = ", int64[n,t] mask" if masked else ""
    shown = "f = Cast<to=1>(mask)  u = Unsqueeze(f, last)  m = Mul(e, u)" if masked else "m = Identity(e)"
    model = model_of(
        f"(int64[n,t] ids{mask}) => (float[n,t,8] y) {{ e = Gather(words, ids)  {shown}  y = MatMul(m, next) }}",
        {"words": np.eye(8, dtype=np.float32), "next": following, "last": np.array([-1])},
    )
    lengths: list[int] = []
    recipe = Recipe.of(model)
    run = recipe.run

    def noted(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        lengths.append(feeds["ids"].shape[1])
        return run(feeds)

    ids = replace(recipe, run=noted).samples(most=64).samples["ids"]
    pieces = ids.reshape(-1, PIECE)
    assert (np.diff(pieces, axis=1) % 8 == 1).all()
    assert len(set(pieces[:, 0])) > 2
    assert max(lengths[-PIECE + 1 :]) == PIECE - 1


def test_a_model_that_runs_on_nothing_made_up_is_refused() -> None:
    model = model_of("(int64[n,t] ids) => (float[n,4] y) { f = Cast<to=1>(ids)  y = MatMul(f, w) }", {"w": [5, 4]})
    with pytest.raises(DataError, match="give shapes with --input NAME=SIZES, or calibration data"):
        make_samples(model, most=4)
    assert len(make_samples(model, most=4, inputs={"ids": [1, 5]})) == 4


DEEP = """(float[n,3,S,S] x) => (float[n,2] y) {
    a = Conv(x, u) b = Conv(a, v) p = GlobalAveragePool(b) f = Flatten(p) y = MatMul(f, w) }"""
SINGLE = "(float[n,8] x) => (float[n,2] y) { a = MatMul(x, v) y = MatMul(a, w) }"


@pytest.mark.parametrize(("side", "expected"), [(64, 16), (16, 29), (5, 100)])
def test_layers_that_read_many_rows_of_a_sample_need_few_samples(side: int, expected: int) -> None:
    """Pictures of 16 by 16 have 14 x 14, then 12 x 12 rows, and 4096 are enough."""
    model = model_of(DEEP.replace("S", str(side)), {"u": [4, 3, 3, 3], "v": [4, 4, 3, 3], "w": [4, 2]})
    assert len(make_samples(model, most=100)) == expected


def test_where_layers_read_one_row_of_a_sample_there_are_as_many_as_may_be() -> None:
    assert len(make_samples(model_of(SINGLE, {"v": [8, 6], "w": [6, 2]}), most=100)) == 100


@pytest.mark.parametrize("hidden", [True, False])
def test_a_mask_that_hides_everything_is_turned(hidden: bool) -> None:
    """Truth hides a position in one model and shows it in the other; ones in the first leave nothing but NaN."""
    choice = "where, low, s" if hidden else "where, s, low"
    model = model_of(
        f"""(float[n,6,8] x, bool[n,6] mask) => (float[n,6,8] y) {{
        a = MatMul(x, w) t = Transpose<perm=[0,2,1]>(a) s = MatMul(x, t) where = Unsqueeze(mask, middle)
        m = Where({choice}) p = Softmax<axis=-1>(m) y = MatMul(p, a) }}""",
        {"w": [8, 8], "low": np.full((), -np.inf, np.float32), "middle": np.array([1])},
    )
    mask = make_samples(model, most=20).samples["mask"]
    assert (mask == (not hidden)).all()


def test_half_of_the_pictures_have_edges_and_plain_areas() -> None:
    """The kurtosis of differences between neighbours: three for Gaussian fields, ten and more for photographs."""
    images = pictures(64, 3, 64, 64, np.random.default_rng(0))
    steps = np.diff(images, axis=-1)
    steps /= steps.std(axis=(1, 2, 3), keepdims=True)
    kurtosis = (steps**4).mean(axis=(1, 2, 3))
    assert np.median(kurtosis[::2]) < 3.5
    assert np.median(kurtosis[1::2]) > 8


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 7), (3, 40, 5), (1, 2, 90)])
def test_pictures_of_any_size(shape: tuple[int, int, int]) -> None:
    images = pictures(9, *shape, np.random.default_rng(0))
    assert images.shape == (9, *shape)
    assert np.isfinite(images).all()


def test_films_move_steadily() -> None:
    rng = np.random.default_rng(0)
    clips = films(pictures(8, 3, 32, 32, rng), 5, rng)
    assert clips.shape == (8, 3, 5, 32, 32)
    paces = [
        [(down, right) for down in range(-2, 3) for right in range(-2, 3) if _passes(film, down, right)]
        for film in clips
    ]
    assert all(len(fits) == 1 for fits in paces)
    assert len({pace for (pace,) in paces}) > 2


def _passes(film: np.ndarray, down: int, right: int) -> bool:
    moved = [np.roll(film[:, 0], (at * down, at * right), (1, 2)) for at in range(film.shape[1])]
    return all(np.array_equal(film[:, at], frame) for at, frame in enumerate(moved))


def test_open_sides_are_those_that_the_model_takes() -> None:
    model = model_of("(float[n,3,h,w] x) => (float[n,3,h,5] y) { y = MatMul(x, v) }", {"v": [48, 5]})
    assert make_samples(model, most=20).samples["x"].shape[1:] == (3, 48, 48)


@pytest.mark.parametrize(
    ("feed", "wanted"),
    [(np.full((1, 4), 7), {7}), ("range:3", {0, 1, 2}), (5, {5}), (np.array([[1] * 4, [2] * 4]), {1, 2})],
    ids=["array", "word", "number", "rows"],
)
def test_an_input_that_is_fed_holds_what_the_user_says(feed: Any, wanted: set[int]) -> None:
    text = """(int64[n,4] ids, float[n,6] x, float gain) => (float[n,3] y) {
        e = Gather(t, ids) r = ReduceSum(e, axes) f = Flatten(r) m = Concat<axis=1>(f, x) g = Mul(m, gain)
        y = MatMul(g, w) }"""
    weights: dict[str, Weight] = {"t": [9, 5], "axes": np.array([1]), "w": [11, 3]}
    model = normalize(ir.from_proto(build(text, weights)))
    samples = Recipe.of(model, feeds={"ids": feed, "gain": 2.5}).samples(most=40)
    assert set(np.unique(samples.samples["ids"])) == wanted
    assert samples.scalars["gain"] == np.float32(2.5)
    assert np.unique(samples.samples["x"]).size > 40


@pytest.mark.parametrize(
    ("text", "weights", "sound"),
    [
        ("(float[n,1,768] x) => (float[n,4,192] y) { y=Conv<kernel_shape=[9],strides=[4],pads=[4,4]>(x,w) }",
         {"w": [4, 1, 9]}, True),
        ("(float[n,768] x) => (float[n,3,8] y) { f=Reshape(x,s) y=MatMul(f,w) }",
         {"s": np.array([-1, 3, 256]), "w": [256, 8]}, True),
        ("(float[n,768] x) => (float[n,8] y) { y=MatMul(x,w) }", {"w": [768, 8]}, False),
        ("(float[n,20,768] x) => (float[n,20,8] y) { y=MatMul(x,w) }", {"w": [768, 8]}, False),
        ("(float[n,2,768] x) => (float[n,8] y) { f=Flatten(x) y=MatMul(f,w) }", {"w": [1536, 8]}, False),
    ],
    ids=["convolution", "frames", "vectors", "vectors in a row", "flattened"],
)  # fmt: skip
def test_what_a_matrix_reads_at_once_is_no_sound(text: str, weights: dict[str, Weight], sound: bool) -> None:
    """Vectors (embeddings, say) are as long as short sounds, and made-up ones speak less for real ones."""
    recipe = Recipe.of(model_of(text, weights))
    assert carry_over(recipe.inputs) is sound
    made = recipe.samples().samples["x"]
    assert np.isfinite(made).all()
    apart = recipe.others_apart(12)
    assert [len(some) for some in apart] == ([12] if sound else [4, 4, 4])
    others = recipe.others(12).samples["x"]
    for at, some in enumerate(apart):
        np.testing.assert_array_equal(some.samples["x"], others[at :: len(apart)])
