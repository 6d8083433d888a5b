"""A Llama-like decoder of any size, written straight to disk: `python -m models.decoder FOLDER --preset 7b`.

Grouped-query attention with rotary positions, RMSNorm, gated MLP; weights seeded; external data beside the
model, so that a file larger than memory can be made and pruned.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 1 << 22  # values generated at a time


@dataclass(frozen=True, slots=True)
class Decoder:
    """The sizes of a decoder."""

    layers: int = 2
    width: int = 64
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 128
    vocabulary: int = 100
    length: int = 16

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.width // self.heads


PRESETS = {
    "tiny": Decoder(),
    "1b": Decoder(16, 2048, 32, 8, 8192, 32000, 16),
    "7b": Decoder(32, 4096, 32, 8, 14336, 32000, 16),
}


class _Graph:
    """Nodes and weights, collected; weights are only named and sized here."""

    def __init__(self, dtype: int) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, tuple[int, ...]] = {}
        self.constants: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, to: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [to], name=f"node/{to}", **attributes))
        return to

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = shape
        return name

    def number(self, name: str, values: object, dtype: type = np.int64) -> str:
        if name not in {tensor.name for tensor in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name


def _norm(graph: _Graph, x: str, name: str, width: int, kind: type) -> str:
    square = graph.add("Mul", x, x, to=f"{name}/square")
    mean = graph.add("ReduceMean", square, graph.number("last", [-1]), to=f"{name}/mean")
    shifted = graph.add("Add", mean, graph.number(f"{name}/eps", 1e-5, kind), to=f"{name}/shifted")
    root = graph.add("Sqrt", shifted, to=f"{name}/root")
    scaled = graph.add("Div", x, root, to=f"{name}/scaled")
    return graph.add("Mul", scaled, graph.weight(f"{name}.weight", width), to=name)


def _heads(graph: _Graph, x: str, name: str, sizes: Decoder, heads: int) -> str:
    projected = graph.add(
        "MatMul", x, graph.weight(f"{name}.weight", sizes.width, heads * sizes.head_dim), to=f"{name}/flat"
    )
    split = graph.add(
        "Reshape", projected, graph.number(f"{name}/shape", [0, 0, heads, sizes.head_dim]), to=f"{name}/split"
    )
    return graph.add("Transpose", split, to=f"{name}/heads", perm=[0, 2, 1, 3])


def _rotate(graph: _Graph, x: str, sizes: Decoder) -> str:
    half = sizes.head_dim // 2
    last = graph.number("axis3", [3])
    first = graph.add("Slice", x, graph.number("zero", [0]), graph.number("half", [half]), last, to=f"{x}/first")
    second = graph.add("Slice", x, graph.number("half", [half]), graph.number("end", [2**62]), last, to=f"{x}/second")
    turned = graph.add("Concat", graph.add("Neg", second, to=f"{x}/minus"), first, to=f"{x}/turned", axis=-1)
    left = graph.add("Mul", x, "rotary/cos", to=f"{x}/left")
    right = graph.add("Mul", turned, "rotary/sin", to=f"{x}/right")
    return graph.add("Add", left, right, to=f"{x}/rotated")


def _shared(graph: _Graph, x: str, sizes: Decoder) -> str:
    """Each key or value head serves several query heads."""
    times = sizes.heads // sizes.kv_heads
    if times == 1:
        return x
    lifted = graph.add("Unsqueeze", x, graph.number("axis2", [2]), to=f"{x}/lifted")
    target = graph.number("repeat", [1, 1, times, 1, 1])
    repeated = graph.add("Expand", lifted, target, to=f"{x}/repeated")
    shape = graph.number("queries", [0, sizes.heads, -1, sizes.head_dim])
    return graph.add("Reshape", repeated, shape, to=f"{x}/shared")


def _layer(graph: _Graph, x: str, name: str, sizes: Decoder, kind: type) -> str:
    normed = _norm(graph, x, f"{name}.attention_norm", sizes.width, kind)
    query = _rotate(graph, _heads(graph, normed, f"{name}.q", sizes, sizes.heads), sizes)
    key = _shared(graph, _rotate(graph, _heads(graph, normed, f"{name}.k", sizes, sizes.kv_heads), sizes), sizes)
    value = _shared(graph, _heads(graph, normed, f"{name}.v", sizes, sizes.kv_heads), sizes)
    across = graph.add("Transpose", key, to=f"{name}/across", perm=[0, 1, 3, 2])
    logits = graph.add("MatMul", query, across, to=f"{name}/logits")
    scaled = graph.add("Mul", logits, graph.number(f"{name}/scale", sizes.head_dim**-0.5, kind), to=f"{name}/scaled")
    masked = graph.add("Add", scaled, "causal", to=f"{name}/masked")
    weights = graph.add("Softmax", masked, to=f"{name}/weights", axis=-1)
    mixed = graph.add("MatMul", weights, value, to=f"{name}/mixed")
    back = graph.add("Transpose", mixed, to=f"{name}/back", perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", back, graph.number("flat", [0, 0, sizes.width]), to=f"{name}/flat")
    projected = graph.add(
        "MatMul", flat, graph.weight(f"{name}.o.weight", sizes.width, sizes.width), to=f"{name}/projected"
    )
    x = graph.add("Add", x, projected, to=f"{name}/attended")
    normed = _norm(graph, x, f"{name}.mlp_norm", sizes.width, kind)
    gate = graph.add("MatMul", normed, graph.weight(f"{name}.gate.weight", sizes.width, sizes.ffn), to=f"{name}/gate")
    up = graph.add("MatMul", normed, graph.weight(f"{name}.up.weight", sizes.width, sizes.ffn), to=f"{name}/up")
    silu = graph.add("Mul", gate, graph.add("Sigmoid", gate, to=f"{name}/sigmoid"), to=f"{name}/silu")
    hidden = graph.add("Mul", silu, up, to=f"{name}/hidden")
    down = graph.add("MatMul", hidden, graph.weight(f"{name}.down.weight", sizes.ffn, sizes.width), to=f"{name}/down")
    return graph.add("Add", x, down, to=f"{name}/out")


def build(sizes: Decoder, folder: Path, *, dtype: str = "float16", seed: int = 0) -> Path:
    """Write `model.onnx` and `model.data` into a folder; memory stays below a few hundred MB at any size."""
    kind = np.dtype(dtype).type
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = _Graph(element)
    half = np.arange(sizes.head_dim // 2)
    angle = np.arange(sizes.length)[:, None] / 10000.0 ** (half / max(half.size, 1))[None, :]
    angle = np.concatenate([angle, angle], axis=1)
    graph.number("rotary/cos", np.cos(angle)[None, None], kind)
    graph.number("rotary/sin", np.sin(angle)[None, None], kind)
    graph.number("causal", np.triu(np.full((sizes.length, sizes.length), -1e4), 1)[None, None], kind)
    x = graph.add("Gather", graph.weight("embedding.weight", sizes.vocabulary, sizes.width), "input_ids", to="embedded")
    for layer in range(sizes.layers):
        x = _layer(graph, x, f"layers.{layer}", sizes, kind)
    normed = _norm(graph, x, "norm", sizes.width, kind)
    graph.add("MatMul", normed, graph.weight("head.weight", sizes.width, sizes.vocabulary), to="logits")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.data").open("wb") as data:
        stored = [
            _store(data, name, shape, element, kind, seed, k) for k, (name, shape) in enumerate(graph.weights.items())
        ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", sizes.length])
    logits = helper.make_tensor_value_info("logits", element, ["batch", sizes.length, sizes.vocabulary])
    proto = helper.make_graph(graph.nodes, "decoder", [ids], [logits], [*graph.constants, *stored])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _store(data, name: str, shape: tuple[int, ...], element: int, kind: type, seed: int, number: int) -> TensorProto:  # type: ignore[no-untyped-def]
    """Append one seeded weight to the data file; returns the tensor that points at it."""
    offset = -(-data.tell() // 4096) * 4096
    data.seek(offset)
    count = 0
    for block in _values(shape, seed, number):
        data.write(block.astype(kind).tobytes())
        count += block.size
    tensor = TensorProto(name=name, data_type=element, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.data"), ("offset", offset), ("length", count * np.dtype(kind).itemsize)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _values(shape: tuple[int, ...], seed: int, number: int) -> Iterator[np.ndarray]:
    """Seeded normal values scaled by fan-in; ones with some spread for scales."""
    rng = np.random.default_rng([seed, number])
    left = int(np.prod(shape))
    while left:
        block = rng.standard_normal(min(left, BLOCK), dtype=np.float32)
        left -= block.size
        yield 1 + 0.1 * block if len(shape) == 1 else block / np.float32(np.sqrt(shape[0]))


def main() -> None:
    """Write a decoder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    path = build(PRESETS[arguments.preset], arguments.folder, dtype=arguments.dtype, seed=arguments.seed)
    sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
