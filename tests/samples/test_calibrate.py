"""Calibration data are read, or refused with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from spa.errors import DataError
from spa.frontends.samples import ImageOptions, read_samples
from spa.passes.samples.checking import check_samples, sample_axes
from spa.passes.samples.feeds import Together, together
from tests.models import build


def model_of(inputs: str) -> ir.Model:
    names = [part.split()[-1] for part in inputs.split(", ")]
    body = "y = Identity(" + names[0] + ")"
    return ir.from_proto(
        onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => (y) {{ {body} }}')
    )


ONE = model_of("float[n,3] x")
TWO = model_of("int64[n,4] ids, int64[n,4] mask")
FIXED = model_of("float[2,3] x")
GOOD = np.arange(15, dtype=np.float32).reshape(5, 3)
GOOD5 = np.random.default_rng(6).standard_normal((12, 5)).astype(np.float32)
IDS = np.arange(12).reshape(3, 4)


def test_arrays_mappings_and_iterables_are_the_same():
    for given in (GOOD, {"x": GOOD}, list(GOOD), iter(GOOD), [{"x": row} for row in GOOD], {"arr_0": GOOD}):
        np.testing.assert_array_equal(check_samples(given, ONE).samples["x"], GOOD)


class Reader:
    """What onnxruntime's CalibrationDataReader is: batches by input name, and a length that it refuses to tell."""

    def __len__(self):
        raise NotImplementedError

    def __iter__(self):
        yield {"x": GOOD[:2]}
        yield {"x": GOOD[2:]}


def test_batches_of_loaders_and_readers_are_put_one_behind_the_other():
    loader = [[GOOD[:2], np.zeros(2)], [GOOD[2:], np.zeros(3)]]
    samples = [(row, 7) for row in GOOD]
    rows = [[np.array(number) for number in row] for row in GOOD]
    for given in (Reader(), loader, samples, rows, [GOOD[:4], GOOD[4:]], [{"x": GOOD}]):
        np.testing.assert_array_equal(check_samples(given, ONE).samples["x"], GOOD)
    checked = check_samples([(IDS[:2], np.ones((2, 4), int)), (IDS[2:], np.ones((1, 4), int), "label")], TWO)
    np.testing.assert_array_equal(checked.samples["ids"], IDS)
    assert checked.samples["mask"].shape == (3, 4)


MASKED = {
    "named axes": ("int64[n,s] ids, int64[n,s] attention_mask", (3, 4), np.int64),
    "stored sizes": ("int64[n,4] ids, bool[n,1,4] mask", (3, 1, 4), np.bool_),
    "samples along the second axis": ("float[n,4] ids, int32[4,n] src_key_padding_mask", (3, 4), np.int32),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_nobody_gave_are_ones(name):
    inputs, shape, dtype = MASKED[name]
    checked = check_samples({"ids": IDS}, model_of(inputs))
    (mask,) = (array for key, array in checked.samples.items() if key != "ids")
    assert mask.shape == shape
    assert mask.dtype == np.dtype(dtype)
    assert mask.all()
    assert any("is one everywhere, since no samples of it were given" in note for note in checked.notes)


@pytest.mark.parametrize("mask", ["int64[n,t] mask", "float[n,s] mask"])
def test_masks_of_unknown_size_or_of_scores_are_asked_for(mask):
    with pytest.raises(DataError, match="no samples for input 'mask'"):
        check_samples({"ids": IDS}, model_of(f"int64[n,s] ids, {mask}"))


# ------------------------------------------------------------------------------------------------ whole feeds
PUT_TOGETHER = {
    "edges that an input names": (
        """(float[n,5] x, int64[e] ends) => (float[e,3] y) {
        a = MatMul(x, w)  r = Relu(a)  h = Gather<axis=0>(r, ends)  y = MatMul(h, v) }""",
        Together.NEVER,
    ),
    "edges as pairs": (
        """(float[n,5] x, int64[e,1] ends) => (float[e,3] y) {
        a = MatMul(x, w)  r = Relu(a)  h = GatherND(r, ends)  y = MatMul(h, v) }""",
        Together.NEVER,
    ),
    "each sample's own row, by its number": (
        """(float[n,s] x, float[n,5] z) => (float[n,3] y) {
        sh = Shape(x)  nn = Gather<axis=0>(sh, zero)
        count = Range(zero, nn, one)  at = Unsqueeze(count, last)  first = Mul(at, zero)  i = Concat<axis=1>(at, first)
        p = GatherND(x, i)  q = Unsqueeze(p, last)  b = Mul(z, q)  a = MatMul(b, w)  r = Relu(a)  y = MatMul(r, v) }""",
        Together.ANY,
    ),
    "tokens": (
        """(int64[n,s] x, float[n,5] z) => (float[n,s,3] y) {
        h = Gather<axis=0>(w, x)  a = MatMul(h, u)  r = Relu(a)  y = MatMul(r, v) }""",
        Together.ANY,
    ),
    "dynamic quantisation": (
        """(float[n,5] x) => (float[n,3] y) {
        a = MatMul(x, w)  q, s, z = DynamicQuantizeLinear(a)  d = DequantizeLinear(q, s, z)  y = MatMul(d, v) }""",
        Together.ONE,
    ),
    "a set, pooled and told to each of its elements": (
        """(float[n,5] x) => (float[n,3] y) {
        a = MatMul(x, w)  m = ReduceMean<keepdims=1>(a, zeroth)  r = Sub(a, m)  y = MatMul(r, v) }""",
        Together.NEVER,
    ),
    "nodes that attend to one another": (
        """(float[n,5] x) => (float[n,3] y) {
        a = MatMul(x, w)  t = Transpose<perm=[1,0]>(a)  c = MatMul(a, t)  p = Softmax(c)  b = MatMul(p, a)
        y = MatMul(b, v) }""",
        Together.NEVER,
    ),
}  # fmt: skip
NUMBERS = {
    "zero": np.array(0), "one": np.array(1), "last": np.array([-1]), "zeroth": np.array([0]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUT_TOGETHER)
def test_how_samples_may_be_put_together(name):
    text, expected = PUT_TOGETHER[name]
    weights: dict[str, Any] = {"w": [5, 32], "u": [32, 32], "v": [32, 3], **NUMBERS}
    model = ir.from_proto(build(text, {k: v for k, v in weights.items() if k in text}))
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    assert together(model, inputs, sample_axes(inputs)) is expected


QUANTISED = PUT_TOGETHER["dynamic quantisation"][0]


@pytest.mark.parametrize("given", [GOOD5, list(GOOD5), [{"x": GOOD5[:4]}, {"x": GOOD5[4:]}]])
def test_samples_of_a_dynamically_quantised_model_are_run_one_by_one(given):
    checked = check_samples(given, ir.from_proto(build(QUANTISED, {"w": [5, 32], "v": [32, 3]})))
    assert [batch["x"].shape for batch in checked.batches(32)] == [(1, 5)] * len(GOOD5)
    assert any("one by one" in note for note in checked.notes)


def test_scalars_are_the_same_for_all_samples():
    model = model_of("float[n,3] x, int64 rate")
    for given in ({"x": GOOD, "rate": 8000}, [{"x": row, "rate": 8000} for row in GOOD], [(GOOD, np.array(8000))]):
        checked = check_samples(given, model)
        assert checked.scalars == {"rate": 8000}
        assert [type(batch["rate"]) for batch in checked.first(4).batches(2)] == [np.ndarray] * 2
    with pytest.raises(DataError, match="'rate' is a scalar and the same for all samples, found 5 values: 0, 1"):
        check_samples({"x": GOOD, "rate": np.arange(5)}, model)
    with pytest.raises(DataError, match="takes no samples"):
        check_samples({"rate": 8000}, model_of("int64 rate"))


def test_types_are_brought_to_the_input_s():
    assert check_samples({"x": GOOD.astype(np.float64)}, ONE).samples["x"].dtype == np.float32
    assert (
        check_samples({"ids": IDS.astype(np.int32), "mask": np.ones((3, 4), bool)}, TWO).samples["mask"].dtype
        == np.int64
    )


REFUSED = [
    (ONE, {"y": GOOD, "z": GOOD}, "no samples for input 'x'; found 'y', 'z'"),
    (TWO, {"mask": IDS}, "no samples for input 'ids'"),
    (ONE, {"x": GOOD, "z": GOOD}, "the model has no input 'z'; its inputs are 'x'"),
    (ONE, {"x": GOOD[:, :2]}, r"takes samples of shape \(3\), found \(2,\)"),
    (ONE, {"x": GOOD[0]}, r"takes samples of shape \(3\), found \(\)"),
    (ONE, {"x": GOOD[:, None]}, r"takes samples of shape \(3\), found \(1, 3\); that is the whole input"),
    (ONE, {"x": GOOD[:0]}, "empty"),
    (ONE, [], "there are no samples"),
    (ONE, {"x": np.zeros((5, 3))}, "all samples of input 'x' are zero"),
    (
        ONE,
        {"x": np.where(np.arange(15).reshape(5, 3) == 7, np.nan, GOOD)},
        "sample 2 of input 'x' holds NaN or infinite",
    ),
    (
        ONE,
        {"x": np.where(np.arange(15).reshape(5, 3) == 12, np.inf, GOOD)},
        "sample 4 of input 'x' holds NaN or infinite",
    ),
    (ONE, {"x": np.array([["a", "b", "c"]])}, "input 'x' is FLOAT, found <U1"),
    (TWO, {"ids": IDS, "mask": IDS[:2]}, "every input needs as many samples"),
    (TWO, {"ids": IDS + 0.5, "mask": IDS}, "input 'ids' is INT64, found fractions"),
    (ONE, [GOOD[0], GOOD[0, :2]], "must have one shape"),
    (TWO, [IDS[0]], "a sample must be a mapping with the keys 'ids', 'mask'"),
]


@pytest.mark.parametrize(("model", "given", "message"), REFUSED)
def test_what_does_not_fit_is_refused(model, given, message):
    with pytest.raises(DataError, match=message):
        check_samples(given, model)


def test_one_sample_is_taken_with_a_word():
    assert "one calibration sample only" in check_samples({"x": GOOD[:1]}, ONE).notes[0]


def test_fixed_number_of_samples_at_a_time():
    data = check_samples({"x": GOOD}, FIXED)
    parts = data.batches(32)
    assert [len(part["x"]) for part in parts] == [2, 2, 2]
    np.testing.assert_array_equal(parts[2]["x"], GOOD[[4, 0]])
    assert [len(part["x"]) for part in check_samples({"x": GOOD}, ONE).batches(2)] == [2, 2, 1]


def test_first_draws_evenly():
    np.testing.assert_array_equal(check_samples({"x": GOOD}, ONE).first(3).samples["x"], GOOD[[0, 2, 4]])


# ----------------------------------------------------------------------------------------------------- files
def read(*arguments: Any, **options: Any) -> Any:
    return read_samples(*arguments, **options)


def test_files(tmp_path):
    np.savez(tmp_path / "all.npz", x=GOOD)
    np.save(tmp_path / "all.npy", GOOD)
    for path in ("all.npz", "all.npy"):
        arrays = read(tmp_path / path, {"x": (None, 3)})
        np.testing.assert_array_equal(arrays["x"], GOOD)


@pytest.mark.parametrize("several", [False, True])
def test_folder_of_arrays(tmp_path, several):
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", GOOD[number : number + 1] if several else GOOD[number])
    np.testing.assert_array_equal(read(tmp_path, {"x": (None, 3)})["x"], GOOD[:4])
    assert len(read(tmp_path, {"x": (None, 3)}, most=2)["x"]) == 2


def test_folder_of_archives(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", ids=IDS[number], mask=IDS[number])
    arrays = read(tmp_path, {"ids": (None, 4), "mask": (None, 4)})
    np.testing.assert_array_equal(arrays["mask"], IDS)


def test_function(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef samples():\n    return [np.ones(3), np.zeros(3)]\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(check_samples(read_samples("mine:samples", {"x": (None, 3)}), ONE)) == 2
    with pytest.raises(DataError, match="expected a function, found int"):
        read_samples("mine:number", {})
    with pytest.raises(DataError, match="has no attribute 'nothing'"):
        read_samples("mine:nothing", {})


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.npz", "no such file"), ("text.txt", r"expected \.npz, \.npy, an image"), ("bad.npz", r"no \.npz")],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, message):
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "bad.npz").write_text("x")
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, {"x": (None, 3)})


def test_folder_without_data_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no .npy, .npz, image or text \(.txt, .jsonl\)"):
        read(tmp_path, {"x": (None, 3)})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((None, 3, 4, 6), (2, 3, 4, 6)), ((None, 4, 6, 3), (2, 4, 6, 3)), ((None, 1, 4, 6), (2, 1, 4, 6))],
)
def test_images(tmp_path, shape, expected):
    image = pytest.importorskip("PIL.Image")
    for number in range(2):
        image.new("RGB", (12, 8), (255, 0, 51)).save(tmp_path / f"{number}.png")
    pictures = read(tmp_path, {"x": shape}, images=ImageOptions(mean=(0.5,), std=(0.25,)))["x"]
    assert pictures.shape == expected
    if 3 in shape:
        colour = pictures[0, :, 0, 0] if shape[1] == 3 else pictures[0, 0, 0]
        np.testing.assert_allclose(colour, [2.0, -2.0, -1.2], atol=1e-6)


STATES = model_of("float[n,3] x, float[2,n,4] state")
NAMELESS = model_of("float[?,3] x, float[2,?,4] state")


def test_samples_lie_where_the_model_has_them():
    """A recurrent network's states are (layers, samples, units)."""
    states = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    by_sample = [{"x": GOOD[at], "state": states[:, at]} for at in range(5)]
    by_batch = [{"x": GOOD[at : at + 2], "state": states[:, at : at + 2]} for at in (0, 2, 4)]
    for given in ({"x": GOOD, "state": states}, by_sample, by_batch):
        for model in (STATES, NAMELESS):
            checked = check_samples(given, model)
            assert len(checked) == 5
            assert checked.batch_size is None
            first, *_, last = checked.batches(2)
            np.testing.assert_array_equal(first["state"], states[:, :2])
            assert (checked.count(last), last["state"].shape) == (1, (2, 1, 4))
            np.testing.assert_array_equal(checked.beginning(first, 1)["state"], states[:, :1])
    with pytest.raises(DataError, match=r"input 'state' takes samples of shape \(2, 4\), found .*; axis 1 of an array"):
        check_samples({"x": GOOD, "state": states.transpose(1, 0, 2)}, STATES)
