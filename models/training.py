"""What small trained networks are made with: scores, a graph in ONNX, linear layers of torch and their training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, samples that it was not trained on, and how well it does.

    Attributes:
        test: by input name, the first axis counts samples.
        targets: what is right, for each test sample.
        score: of outputs (samples, ...) and targets: the share that is right, or the explained share of the variance.
        one_by_one: whether the file takes one sample a run, as most published ones do.
    """

    model: onnx.ModelProto
    test: Feeds
    targets: np.ndarray
    score: Callable[[np.ndarray, np.ndarray], float]
    one_by_one: bool = False


# ------------------------------------------------------------------------------------------------------ scores
def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of rows whose largest number is the right one."""
    return float(np.mean(outputs.reshape(len(targets), -1).argmax(1) == targets))


def recall(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of positives that are found, at a threshold of zero."""
    return float(np.mean(outputs.reshape(-1)[targets > 0] > 0))


def agreement(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of numbers on the right side of zero."""
    return float(np.mean((outputs.reshape(-1) > 0) == (targets > 0)))


def explained(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of the targets' variance."""
    off = outputs.reshape(len(targets), -1) - targets.reshape(len(targets), -1)
    return float(1.0 - np.mean(off**2) / np.var(targets))


# ------------------------------------------------------------------------------------------------------ graphs
class Graph:
    """Nodes and weights, collected."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node; the name of its result."""
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, tensor: Any) -> str:
        """A stored tensor, from torch or NumPy."""
        array = np.ascontiguousarray(tensor.detach().numpy() if hasattr(tensor, "detach") else tensor)
        name = f"weight_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def dense(self, read: str, layers: Sequence[Any], *, output: str | None = None) -> str:
        """Linear layers with a ReLU between every two."""
        for number, layer in enumerate(layers):
            last = number + 1 == len(layers)
            read = self.node("Gemm", read, self.weight(layer.weight), self.weight(layer.bias), transB=1,
                             output=output if last else None)  # fmt: skip
            read = read if last else self.node("Relu", read)
        return read

    def model(
        self, inputs: dict[str, tuple[Any, ...]], output: tuple[Any, ...], integers: bool = False
    ) -> onnx.ModelProto:
        """The graph with inputs of these shapes, whose result is `y`."""
        kind = TensorProto.INT64 if integers else TensorProto.FLOAT
        given = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
        result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
        graph = helper.make_graph(self.nodes, "trained", given, result, self.stored)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        return made


def linear(*widths: int) -> list[Any]:
    """Linear layers of torch between these widths."""
    import torch

    return [torch.nn.Linear(before, after) for before, after in pairwise(widths)]


def through(layers: Sequence[Any], read: Any) -> Any:
    """The layers, with a ReLU between every two."""
    for layer in layers[:-1]:
        read = layer(read).relu()
    return layers[-1](read)


def train(
    parameters: Sequence[Any], loss: Callable[[Any], Any], count: int, *, seed: int, steps: int = 1500,
    batch: int = 128, rate: float = 2e-3, decay: float = 2e-2,
) -> None:  # fmt: skip
    """AdamW with a falling rate; `loss` is of the numbers of some training samples."""
    import torch

    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(torch.randint(0, count, (min(batch, count),), generator=generator)).backward()
        optimiser.step()
        schedule.step()


def parameters_of(*parts: Any) -> list[Any]:
    """All parameters of modules and lists of them."""
    return [p for part in parts for module in (part if isinstance(part, list) else [part]) for p in module.parameters()]


def classifier(
    data: np.ndarray, classes: np.ndarray, hidden: Sequence[int], *, seed: int, one_by_one: bool = False, **options: Any
) -> Trained:
    """Linear layers from rows of numbers to classes, trained on three quarters of them."""
    import torch

    torch.manual_seed(seed)
    order = np.random.default_rng(seed).permutation(len(data))
    test, fit = order[: len(data) // 4], order[len(data) // 4 :]
    count = int(classes.max()) + 1
    layers = linear(data.shape[1], *hidden, count)
    x, t = torch.tensor(data[fit], dtype=torch.float32), torch.tensor(classes[fit])
    # numbers are brought to mean 0 and variance 1 by the first layer itself, as a normalisation folded into it
    mean, deviation = x.mean(0), x.std(0) + 1e-3 * x.std()
    train(parameters_of(layers), lambda at: torch.nn.functional.cross_entropy(
        through(layers, (x[at] - mean) / deviation), t[at]), len(x), seed=seed, **options)  # fmt: skip
    with torch.no_grad():
        layers[0].bias -= layers[0].weight @ (mean / deviation)
        layers[0].weight /= deviation
    graph = Graph()
    graph.dense("x", layers, output="y")
    rows: Any = 1 if one_by_one else "n"
    model = graph.model({"x": (rows, data.shape[1])}, (rows, count))
    return Trained(model, {"x": data[test].astype(np.float32)}, classes[test], accuracy, one_by_one)
