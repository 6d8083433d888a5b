from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from models import folder
from spa.shapes.decoder import Decoder
from spa.steps import analyse, load_normal
from tests.cut import decoders


def _of(model: onnx.ModelProto) -> Decoder | None:
    return Decoder.of(ir.from_proto(model).graph)


def test_a_decoder_with_its_caches() -> None:
    decoder = _of(folder.graph_of(folder.Sizes(layers=2)))
    assert decoder is not None
    assert decoder.tokens.name == "input_ids"
    assert {str(v.name): name for v, name in decoder.caches.items()} == {
        f"past_key_values.{layer}.{part}": f"present.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")
    }
    assert (decoder.scores, decoder.length, decoder.batch) == ("logits", None, None)


def test_what_it_is_given_at_first_and_then() -> None:
    decoder = _of(folder.graph_of(folder.Sizes(layers=1)))
    assert decoder is not None
    first = decoder.feeds(np.ones((2, 5), np.int64))
    assert first["attention_mask"].shape == (2, 5)
    assert first["past_key_values.0.key"].shape == (2, 2, 0, 16)
    caches = decoder.behind({name: np.zeros((2, 2, 5, 16), np.float32) for name in decoder.caches.values()})
    later = decoder.feeds(np.ones((2, 1), np.int64), caches)
    assert later["attention_mask"].shape == (2, 6)
    assert later["past_key_values.0.value"].shape == (2, 2, 5, 16)


def test_positions_go_on_behind_the_cache() -> None:
    model = decoders.plain(sequence="s", past="p", mask="p + s", total="p + s")
    decoder = _of(model)
    assert decoder is not None
    assert list(decoder.feeds(np.ones((1, 3), np.int64))["position_ids"][0]) == [0, 1, 2]
    caches = {str(value.name): np.zeros((1, 2, 4, 8), np.float32) for value in decoder.caches}
    assert list(decoder.feeds(np.ones((1, 2), np.int64), caches)["position_ids"][0]) == [4, 5]


def test_what_is_none() -> None:
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }'
    assert _of(onnx.parser.parse_model(text)) is None
    state = text.replace("(float[N, 3, 8, 8] x)", "(int64[N, S] ids, float[N, 3] h)").replace("Relu(x)", "Relu(h)")
    assert _of(onnx.parser.parse_model(state.replace("[N, 3, 8, 8] y", "[N, 3] y"))) is None


def test_its_costs_are_those_of_a_prompt() -> None:
    sizes = analyse(load_normal(folder.graph_of(folder.Sizes(layers=1)))).sizes.inputs
    assert sizes["input_ids"] == sizes["attention_mask"] == (1, 128)
    assert sizes["past_key_values.0.key"] == (1, 2, 0, 16)
