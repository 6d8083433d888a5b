"""Random inputs that a model takes, and those that cannot be made up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa import runtime
from spa.errors import UsageError
from tests.small import linear, text_model

TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
tokens (
    int64[batch, length] ids, float[batch, length] attention_mask, bool[batch] keep, uint8[2, 3] image, float16[4] half
) => (int64[batch, length] y, float[batch, length] m, bool[batch] k, uint8[2, 3] i, float16[4] h)
{
    y = Identity(ids)
    m = Identity(attention_mask)
    k = Identity(keep)
    i = Identity(image)
    h = Identity(half)
}
"""


@pytest.mark.parametrize("of", ["model", "session"])
def test_random_feeds(of: str) -> None:
    proto = onnx.parser.parse_model(TOKENS)
    source = ir.from_proto(proto) if of == "model" else runtime.session(proto, optimize=False)
    shapes = {"ids": [2, 500], "attention_mask": [2, 500], "keep": [2]}
    feeds = runtime.random_feeds(source, shapes=shapes, seed=0, high={"ids": 7})
    assert {name: array.dtype.name for name, array in feeds.items()} == {
        "ids": "int64",
        "attention_mask": "float32",
        "keep": "bool",
        "image": "uint8",
        "half": "float16",
    }
    assert {name: list(feeds[name].shape) for name in shapes} == shapes
    assert set(feeds["ids"].flat) == set(range(7))
    assert np.all(feeds["attention_mask"] == 1)
    assert np.all(feeds["keep"])
    again = runtime.random_feeds(source, shapes=shapes, seed=0, high={"ids": 7})
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    other = runtime.random_feeds(source, shapes=shapes, seed=1, high={"ids": 7})
    assert not np.array_equal(feeds["ids"], other["ids"])
    session = runtime.session(proto, optimize=False)
    assert np.array_equal(runtime.run(session, feeds)["y"], feeds["ids"])


def test_integers_index_any_table_by_default() -> None:
    source = ir.from_proto(onnx.parser.parse_model(TOKENS))
    shapes = {"ids": [1, 100], "attention_mask": [1, 1], "keep": [1]}
    assert set(runtime.random_feeds(source, shapes=shapes, seed=0)["ids"].flat) == {0, 1}


def test_initializers_that_are_also_inputs_need_no_feed() -> None:
    proto = linear()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [32, 16]))
    feeds = runtime.random_feeds(ir.from_proto(proto), shapes={"x": [3, 32]}, seed=0)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (3, 32)}


@pytest.mark.parametrize(
    ("shapes", "high", "message"),
    [
        ({}, {}, "input 'x' has the shape batch,32: give a number for each axis"),
        ({"x": [2, 16]}, {}, "input 'x' has the shape batch,32, which 2,16 does not fit"),
        ({"x": [2]}, {}, "which 2 does not fit"),
        ({"x": [-2, 32]}, {}, "which -2,32 does not fit"),
        ({"x": [2**40, 32]}, {}, "would have 3.5e\\+13 elements; the limit is 2\\^31"),
        ({"x": [2, 32], "z": [1]}, {}, "there is no input 'z'; the inputs are 'x'"),
        ({"x": [2, 32]}, {"ids": 7}, "there is no input 'ids'"),
        ({"x": [2, 32]}, {"x": 0}, None),
    ],
)
def test_shapes_that_do_not_fit(shapes: Mapping[str, list[int]], high: Mapping[str, int], message: str | None) -> None:
    for source in (ir.from_proto(linear()), runtime.session(linear(), optimize=False)):
        if message is None:
            assert runtime.random_feeds(source, shapes=shapes, seed=0, high=high)["x"].shape == (2, 32)
            continue
        with pytest.raises(UsageError, match=message):
            runtime.random_feeds(source, shapes=shapes, seed=0, high=high)


@pytest.mark.parametrize("declared", ["string[2] x", "seq(float[2]) x"])
@pytest.mark.parametrize("of", ["model", "session"])
def test_inputs_that_cannot_be_made_up(declared: str, of: str) -> None:
    proto = text_model("y = Identity(x)", declared, declared.replace(" x", " y"))
    source = ir.from_proto(proto) if of == "model" else runtime.session(proto, optimize=False)
    with pytest.raises(UsageError, match="no input can be made up for it"):
        runtime.random_feeds(source, shapes={}, seed=0)


# Runs
