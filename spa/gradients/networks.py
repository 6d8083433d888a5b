"""Networks that criteria take gradients of, with their loss on samples: a graph, or a torch module of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from spa.analysis.group import Group
from spa.errors import DataError, UsageError
from spa.gradients.losses import Labelled, Loss, own
from spa.gradients.module import GraphModule, best_device
from spa.gradients.samples import Split


class Network(Protocol):
    """A network and its loss.

    Attributes:
        parameters: all of them; they can be written.
        weights: those that are stored tensors of the graph, by these.
        drawn: whether the loss is that of targets drawn from the network's own outputs, so that a mean gradient is
            chance.
    """

    parameters: Sequence[Tensor]
    weights: Mapping[ir.Value, Tensor]
    drawn: bool

    def batches(self) -> Iterator[Any]:
        """All samples, some at a time, in the same order every time."""
        ...

    def count(self, batch: Any) -> int:
        """How many samples a batch has."""
        ...

    def outputs(self, batch: Any) -> Any:
        """What the network makes of a batch."""
        ...

    def tensors(self, outputs: Any) -> list[Tensor]:
        """The numbers in outputs."""
        ...

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """A number."""
        ...


class GraphNetwork:
    """The graph that groups were found in.

    Raises:
        UsageError, DataError: the loss is none, or does not fit the samples.
    """

    def __init__(self, module: GraphModule, split: Split, *, labels: str | None, loss: Any, seed: int) -> None:
        self.module, self.split = module, split
        self.weights: Mapping[ir.Value, Tensor] = dict(module.stored_parameters())
        self.parameters: Sequence[Tensor] = list(self.weights.values())
        self.drawn = labels is None and loss is None
        self._loss: Loss = (
            Labelled(labels) if labels is not None else own(loss) if loss is not None else DrawnTargets(seed)
        )

    def batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        """All samples."""
        return self.split.every()

    def count(self, batch: Mapping[str, np.ndarray]) -> int:
        """How many samples a batch has."""
        return self.split.count(batch)

    def outputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """By name."""
        return self.module.outputs({name: batch[name] for name in self.module.input_names})

    def tensors(self, outputs: Mapping[str, Any]) -> list[Tensor]:
        """Those of floating-point numbers."""
        return [x for x in outputs.values() if isinstance(x, Tensor) and x.is_floating_point()]

    def loss(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        """A number."""
        return self._loss(outputs, batch)


class ModuleNetwork:
    """A torch module with its own autograd; its parameters have the names of the graph's stored tensors.

    Args:
        data: batches as a DataLoader gives them: inputs alone, or (inputs, targets).
        loss: called with the module's output and the targets, or without targets with the output alone; by default
            cross-entropy with targets that are whole numbers, else of targets drawn from the outputs.

    Raises:
        DataError: there are no batches.
    """

    def __init__(
        self, module: Any, groups: Sequence[Group], data: Iterable[Any], loss: Callable[..., Any] | None, seed: int
    ) -> None:
        self.module = module
        self._device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        named = dict(module.named_parameters(remove_duplicate=False))
        values = {str(piece.value.name): piece.value for group in groups for piece in group.slices}
        self.weights: Mapping[ir.Value, Tensor] = {
            value: named[name] for name, value in values.items() if name in named and named[name].requires_grad
        }
        self.parameters: Sequence[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self._batches = [_inputs_and_targets(batch) for batch in data]
        if not self._batches:
            raise DataError("data: there are no batches")
        self._given = loss
        self._targets = DrawnTargets(seed)
        targets = self._batches[0][1]
        counted = isinstance(targets, Tensor) and not targets.is_floating_point()
        self.drawn = loss is None and not counted

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """All batches."""
        return iter(self._batches)

    def count(self, batch: tuple[Any, Any]) -> int:
        """By the first tensor of a batch."""
        first = next(iter(self.tensors(batch)), None)
        return 1 if first is None or not first.ndim else int(first.shape[0])

    def outputs(self, batch: tuple[Any, Any]) -> Any:
        """The module's output, as it comes."""
        inputs = _moved(batch[0], self._device)
        if isinstance(inputs, Mapping):
            return self.module(**inputs)
        return self.module(*inputs) if isinstance(inputs, tuple) else self.module(inputs)

    def tensors(self, outputs: Any) -> list[Tensor]:
        """Those of floating-point numbers, however they are nested."""
        if isinstance(outputs, Tensor):
            return [outputs] if outputs.is_floating_point() else []
        parts = (
            outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (list, tuple)) else ()
        )
        return [tensor for part in parts for tensor in self.tensors(part)]

    def loss(self, outputs: Any, batch: tuple[Any, Any]) -> Tensor:
        """A number."""
        targets = _moved(batch[1], self._device)
        if self._given is not None:
            value = self._given(outputs) if targets is None else self._given(outputs, targets)
        elif self.drawn:
            return self._targets.of_all(self.tensors(outputs))
        else:
            value = functional.cross_entropy(self.tensors(outputs)[0], targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UsageError(f"loss: expected a tensor of one number, found {type(value).__name__}")
        return value.reshape(())


def _inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        return batch[0], batch[1]
    return (tuple(batch) if isinstance(batch, list) else batch), None


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_moved(part, device) for part in value)
    return value


class DrawnTargets:
    """Minus the log-likelihood of targets that the network's own outputs are the distribution of.

    A row that may hold logits draws a class; any other output is the mean of a normal distribution of its own variance.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Mapping[str, Any], _: Mapping[str, np.ndarray]) -> Tensor:
        return self.of_all([x for x in outputs.values() if isinstance(x, Tensor)])

    def of_all(self, outputs: Sequence[Tensor]) -> Tensor:
        """Of all outputs together."""
        moved = [self.of(x.float()) for x in outputs if x.requires_grad]
        if not moved:
            raise UsageError("no gradient reaches an output: the model computes none from its stored tensors")
        return torch.stack(moved).sum()

    def of(self, output: Tensor) -> Tensor:
        """Of one output."""
        if output.ndim == 2 and output.shape[1] > 1:
            shares = torch.softmax(output.detach(), -1).cpu()
            drawn = torch.multinomial(shares, 1, generator=self.generator).reshape(-1).to(output.device)
            return functional.cross_entropy(output, drawn)
        noise = torch.randn(output.shape, generator=self.generator).to(output.device)
        scale = output.detach().std(correction=0) + 1e-12
        return (output / scale * noise).sum() / max(output.shape[0] if output.ndim else 1, 1)


def module_of(groups: Sequence[Group]) -> GraphModule:
    """The graph that groups were found in, in torch, on a GPU where there is one.

    Raises:
        UsageError: no group holds a stored tensor.
        ModelError: an operator has no gradient here.
    """
    graph = next((piece.value.graph for group in groups for piece in group.slices), None)
    if not isinstance(graph, ir.Graph):
        raise UsageError("no group holds a stored tensor, so there is nothing to score")
    return GraphModule(ir.Model(graph, ir_version=10)).eval().to(best_device())
