"""How the time of coupling grows with a graph: synthetic chains of 100, 1,000 and 10,000 nodes.

    python tests/benchmarks/growth.py [CHAIN ...] [--sizes 100 1000 10000] [--repeat 5] [--table FILE.md]

Four chains: convolutions (Conv, Relu), residual blocks (Conv, Relu, Conv, Add: one width runs through all of
them), dense blocks (Conv, Relu, Concat; a convolution brings the width back after every sixth) and transformer
blocks (attention and a feed-forward network, written out node by node).  A row: processor milliseconds of
coupling and of finding the groups, the fastest of some repetitions, and the exponent of growth, which is the
slope of log(coupling + groups) over log(nodes): 1 is linear.  Shapes are inferred before and shown apart.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from spa.analysis.couple import couple
from spa.analysis.group import find_groups
from spa.shapes import infer_shapes

WIDTH, IMAGE, TOKENS, HEADS = 8, 4, 4, 2
DENSE_LAYERS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chains", nargs="*", default=list(CHAINS), help=", ".join(CHAINS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    print(" | ".join(COLUMNS))
    rows = []
    for name in arguments.chains:
        rows += chain_rows(name, arguments.sizes, arguments.repeat)
    if arguments.table:
        arguments.table.write_text(table(rows, arguments))


def chain_rows(name: str, sizes: list[int], repeat: int) -> list[list[str]]:
    """A row for each size, and the exponent behind the last."""
    points, rows = [], []
    for size in sizes:
        model = build(CHAINS[name], size)
        nodes = len(model.graph)
        shapes, coupling, groups, count = measured(model, repeat)
        points.append((nodes, coupling + groups))
        exponent = f"{slope(points):.2f}" if len(points) > 1 else ""
        milliseconds = [f"{1e3 * seconds:.1f}" for seconds in (shapes, coupling, groups)]
        rows.append([name, str(nodes), str(count), *milliseconds, exponent])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def measured(model: ir.Model, repeat: int) -> tuple[float, float, float, int]:
    """Seconds for shapes, coupling and groups, each the fastest of some repetitions, and how many groups."""
    start = time.process_time()
    shapes = infer_shapes(model)
    inference = time.process_time() - start
    couplings, groupings, groups = [], [], []
    for _ in range(repeat):
        gc.collect()
        start = time.process_time()
        coupling = couple(model, shapes)
        between = time.process_time()
        groups = find_groups(coupling)
        couplings.append(between - start)
        groupings.append(time.process_time() - between)
    return inference, min(couplings), min(groupings), len(groups)


def slope(points: list[tuple[int, float]]) -> float:
    """The exponent that fits all points best."""
    nodes, seconds = np.log(np.array(points)).T
    return float(np.polyfit(nodes, seconds, 1)[0])


# --------------------------------------------------------------------------------------------------- chains
class Builder:
    """A graph that grows node by node."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.input = ir.Value(name="input", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    def constant(self, array: np.ndarray) -> ir.Value:
        tensor = ir.Tensor(array, name=f"constant{len(self.initializers)}")
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers.append(value)
        return value

    def weight(self, *shape: int) -> ir.Value:
        return self.constant(np.zeros(shape, np.float32))

    def add(self, operator: str, *operands: ir.Value, **attributes: int | list[int]) -> ir.Value:
        node = ir.node(operator, list(operands), attributes, name=f"node{len(self.nodes)}")
        node.outputs[0].name = f"value{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def convolution(self, data: ir.Value, before: int, after: int) -> ir.Value:
        return self.add("Conv", data, self.weight(after, before, 3, 3), self.weight(after), pads=[1, 1, 1, 1])

    def linear(self, data: ir.Value, before: int, after: int) -> ir.Value:
        return self.add("Add", self.add("MatMul", data, self.weight(before, after)), self.weight(after))

    def reshape(self, data: ir.Value, *sizes: int) -> ir.Value:
        return self.add("Reshape", data, self.constant(np.array(sizes)))

    def model(self, output: ir.Value) -> ir.Model:
        graph = ir.Graph(
            [self.input],
            [output],
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": 20},
            name="chain",
        )
        return ir.Model(graph, ir_version=10)


Chain = Callable[[Builder], Iterator[ir.Value]]
"""Adds blocks without end; yields what each makes."""


def build(chain: Chain, nodes: int) -> ir.Model:
    """The first blocks of a chain, at least that many nodes."""
    builder = Builder((1, TOKENS, WIDTH) if chain is transformer else (1, WIDTH, IMAGE, IMAGE))
    for value in chain(builder):
        if len(builder.nodes) >= nodes:
            return builder.model(value)
    raise AssertionError("a chain ended")


def convolutions(builder: Builder) -> Iterator[ir.Value]:
    value = builder.input
    while True:
        value = builder.add("Relu", builder.convolution(value, WIDTH, WIDTH))
        yield value


def residual(builder: Builder) -> Iterator[ir.Value]:
    value = builder.convolution(builder.input, WIDTH, WIDTH)
    while True:
        inner = builder.add("Relu", builder.convolution(value, WIDTH, WIDTH))
        value = builder.add("Add", value, builder.convolution(inner, WIDTH, WIDTH))
        yield value


def dense(builder: Builder) -> Iterator[ir.Value]:
    value = builder.input
    while True:
        for layer in range(1, DENSE_LAYERS + 1):
            made = builder.add("Relu", builder.convolution(value, layer * WIDTH, WIDTH))
            value = builder.add("Concat", value, made, axis=1)
        value = builder.convolution(value, (DENSE_LAYERS + 1) * WIDTH, WIDTH)
        yield value


def transformer(builder: Builder) -> Iterator[ir.Value]:
    value = builder.linear(builder.input, WIDTH, WIDTH)
    while True:
        value = builder.add("Add", value, attention(builder, normalised(builder, value)))
        hidden = builder.add("Gelu", builder.linear(normalised(builder, value), WIDTH, 4 * WIDTH))
        value = builder.add("Add", value, builder.linear(hidden, 4 * WIDTH, WIDTH))
        yield value


def normalised(builder: Builder, value: ir.Value) -> ir.Value:
    return builder.add("LayerNormalization", value, builder.weight(WIDTH), builder.weight(WIDTH), axis=-1)


def attention(builder: Builder, value: ir.Value) -> ir.Value:
    size = WIDTH // HEADS
    heads = [builder.reshape(builder.linear(value, WIDTH, WIDTH), 1, TOKENS, HEADS, size) for _ in range(3)]
    query, content = (builder.add("Transpose", heads[k], perm=[0, 2, 1, 3]) for k in (0, 2))
    key = builder.add("Transpose", heads[1], perm=[0, 2, 3, 1])
    scaled = builder.add("Mul", builder.add("MatMul", query, key), builder.constant(np.array([size**-0.5], np.float32)))
    mixed = builder.add("MatMul", builder.add("Softmax", scaled, axis=-1), content)
    merged = builder.reshape(builder.add("Transpose", mixed, perm=[0, 2, 1, 3]), 1, TOKENS, WIDTH)
    return builder.linear(merged, WIDTH, WIDTH)


CHAINS: dict[str, Chain] = {
    "convolutions": convolutions,
    "residual": residual,
    "dense": dense,
    "transformer": transformer,
}

# ------------------------------------------------------------------------------------------------- printing
COLUMNS = ("chain", "nodes", "groups", "shapes ms", "coupling ms", "groups ms", "exponent")


def table(rows: list[list[str]], arguments: argparse.Namespace) -> str:
    sizes = " ".join(map(str, arguments.sizes))
    command = f"python tests/benchmarks/growth.py --sizes {sizes} --repeat {arguments.repeat}"
    head = f"`{command}`\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
