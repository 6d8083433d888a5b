"""Run an ONNX graph as a `torch.nn.Module`: parameters by initializer names, weights written back by `to_onnx`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from torch import Tensor, nn

import spa.gradients.operators
import spa.operators  # noqa: F401  (both fill a registry)
from spa.errors import DataError, ModelError
from spa.feeds import as_declared
from spa.frontends.files import onnx_file
from spa.gradients.call import Call, Implementation, draws, implementation, is_still
from spa.gradients.graphs import bits, bodies, free_name, reads, stored_tensors, to_torch
from spa.gradients.integers import Runner, has_no_gradient
from spa.shapes.binding import declared_shapes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Source = Union[str, "os.PathLike[str]", onnx.ModelProto, ir.Model, "gs.Graph"]
Feed = Any  # a torch tensor or a numpy array: torch is typed as Any


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A node, what computes it, and which values nothing reads after it."""

    node: ir.Node
    function: Implementation
    version: int
    done: tuple[ir.Value, ...]


def torch_module(source: Source, *, seed: int = 0) -> GraphModule:
    """A model as a torch module in evaluation mode.

    Args:
        source: a path, `onnx.ModelProto`, `onnx_ir.Model` or onnx-graphsurgeon graph; never changed.
        seed: of what the graph draws at random (dropout in training mode, RandomNormal ...).

    Raises:
        ModelError: the source is no valid model, or holds an operator that is not known; names all of these.
        MissingExtra: torch is not installed.
    """
    return GraphModule(onnx_file.load(source), seed=seed).eval()


def best_device() -> torch.device:
    """A GPU where torch finds one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class GraphModule(nn.Module):
    """An ONNX graph that torch runs.

    Its `state_dict` has the initializers' names. Parameters are the tensors of floating-point numbers with more than
    one element, all finite; running statistics and other floats are buffers; integers stay on the CPU.

    Attributes:
        input_names, output_names: of what it takes and gives, in order.
    """

    def __init__(self, model: ir.Model, *, seed: int = 0) -> None:
        super().__init__()
        self.source = model
        self._model = InlinePass()(model.clone()).model if model.functions else model
        graph = self._model.graph
        self._versions = dict(graph.opset_imports)
        self._inputs = [value for value in graph.inputs if not value.is_initializer()]
        self.input_names = [str(value.name) for value in self._inputs]
        self.output_names = [str(value.name) for value in graph.outputs]
        self._generator = torch.Generator().manual_seed(seed)
        self._steps: dict[ir.Graph, list[_Step]] = {}
        self._stored: dict[ir.Value, str] = {}  # the name of each parameter and buffer
        self._constants: dict[ir.Value, Any] = {}
        self._device = torch.device("cpu")
        self._prepare(graph, set(graph.outputs))
        self._store()
        self._fold(graph)

    # ---------------------------------------------------------------------------------------------- construction
    def _prepare(self, graph: ir.Graph, kept: set[ir.Value]) -> None:
        """The steps of a graph and of the bodies in it."""
        unknown: dict[str, int] = {}
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if implementation(node) is None and not has_no_gradient(node):
                name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                unknown[name] = unknown.get(name, 0) + 1
        if unknown:
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
            raise ModelError(f"no gradients for {listed}: these operators have no implementation in spa.gradients")
        last: dict[ir.Value, ir.Node] = {value: node for node in graph for value in reads(node)}
        own = {value for node in graph for value in node.outputs}
        done: dict[ir.Node, list[ir.Value]] = {}
        for value, node in last.items():
            if value in own and value not in kept:
                done.setdefault(node, []).append(value)
        steps = []
        for node in graph:
            function = implementation(node) or _as_implementation(Runner(node, self._versions))
            version = node.version if node.version is not None else self._versions.get(node.domain, 1)
            steps.append(_Step(node, function, int(version), tuple(done.get(node, ()))))
            for body in bodies(node):
                self._prepare(body, set(body.outputs))
        self._steps[graph] = steps

    def _store(self) -> None:
        """Parameters and buffers, under their names; the same name in two bodies is told apart by a number."""
        taken: set[str] = set()
        for _, value, stored in stored_tensors(self._model):
            if stored.dtype == ir.DataType.STRING:
                raise ModelError(f"stored tensor {value.name!r} holds text, which torch has no tensors of")
            tensor = to_torch(stored)
            if not tensor.is_floating_point():
                self._constants[value] = tensor
                continue
            name = free_name(str(value.name), taken)
            self._stored[value] = name
            moves = not all(is_still(node, at) for node, at in value.uses())
            holder, last = self._holder(name)
            if tensor.numel() > 1 and moves and bool(torch.isfinite(tensor).all()):
                holder._parameters[last] = nn.Parameter(tensor)
            else:
                holder._buffers[last] = tensor

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a tensor, and its last name: dots in a name lead from module to module.

        Written into torch's own tables, because `register_parameter` refuses what files allow: a tensor `a` beside
        another one `a.b`, or one named like a method.
        """
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            holder = holder._modules.setdefault(part, nn.Module())
        return holder, last

    def _tensor_named(self, name: str) -> Tensor:
        """A parameter or buffer as it is now."""
        holder, last = self._holder(name)
        return holder._parameters[last] if last in holder._parameters else holder._buffers[last]

    def _fold(self, graph: ir.Graph) -> None:
        """Compute once what only integers and constants lead to: shapes and axes."""
        steps = []
        for step in self._steps[graph]:
            operands = [value for value in step.node.inputs if value is not None]
            if any(value in self._stored for value in step.node.outputs):  # a constant that is a parameter
                continue
            if bodies(step.node) or draws(step.function) or any(value not in self._constants for value in operands):
                steps.append(step)
                continue
            with torch.no_grad():
                self._constants |= self._results(step, [self._constants.get(v) for v in step.node.inputs], {})  # type: ignore[arg-type]
        for body in [body for step in steps for body in bodies(step.node)]:
            self._fold(body)
        self._steps[graph] = [
            _Step(s.node, s.function, s.version, tuple(v for v in s.done if v not in self._constants)) for s in steps
        ]

    def _beside(self, operand: Any) -> Any:
        """Floating-point numbers on the device of the weights; integers, which say how nodes work, stay on the CPU."""
        if isinstance(operand, list):
            return [self._beside(part) for part in operand]
        floats = isinstance(operand, Tensor) and operand.is_floating_point()
        return operand.to(self._device) if floats else operand

    def feeds_of(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch the graph takes, caches before the first token with its own number of heads."""
        return as_declared({name: batch[name] for name in self.input_names}, declared_shapes(self._model.graph))

    def stored_floats(self) -> Iterator[tuple[ir.Value, Tensor]]:
        """Each parameter and buffer, with the value of the graph that it is."""
        for value, name in self._stored.items():
            yield value, self._tensor_named(name)

    def stored_parameters(self) -> Iterator[tuple[ir.Value, Tensor]]:
        """Each parameter, with the value of the graph that it is."""
        for value, tensor in self.stored_floats():
            if isinstance(tensor, nn.Parameter):
                yield value, tensor

    # ---------------------------------------------------------------------------------------------------- running
    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The outputs: one as it is, several as a tuple.

        Args:
            arguments: the inputs in order, or one mapping by name; arrays or tensors.
            named: inputs by name.

        Raises:
            DataError: an input is missing, or there is none of that name.
            ModelError: a node cannot be computed; names it.
        """
        if len(arguments) == 1 and isinstance(arguments[0], Mapping):
            named, arguments = {**arguments[0], **named}, ()
        if len(arguments) > len(self.input_names):
            raise DataError(f"{len(arguments)} inputs given, the model takes {len(self.input_names)}")
        results = self.outputs({**dict(zip(self.input_names, arguments, strict=False)), **named})
        return next(iter(results.values())) if len(results) == 1 else tuple(results.values())

    def outputs(self, feeds: Mapping[str, Feed], instead: Mapping[ir.Value, Tensor] | None = None) -> dict[str, Any]:
        """The outputs by name.

        Args:
            instead: tensors that are read in the place of stored ones, by these.
        """
        if missing := [name for name in self.input_names if name not in feeds]:
            raise DataError(f"no value for input {missing[0]!r}; the model takes {', '.join(self.input_names)}")
        if extra := [name for name in feeds if name not in self.input_names]:
            raise DataError(f"the model has no input {extra[0]!r}; it takes {', '.join(self.input_names)}")
        self._device = next((tensor.device for _, tensor in self.stored_floats()), torch.device("cpu"))
        known: dict[ir.Value, Any] = {v: self._beside(_tensor(feeds[str(v.name)])) for v in self._inputs}
        known |= instead or {}
        return dict(zip(self.output_names, self._run(self._model.graph, known), strict=True))

    def _run(self, graph: ir.Graph, known: dict[ir.Value, Any]) -> list[Any]:
        """The outputs of a graph; `known` holds its inputs and what lies around it."""
        for step in self._steps[graph]:
            operands = [None if value is None else self._value(value, known) for value in step.node.inputs]
            known |= self._results(step, operands, known)
            for value in step.done:
                known.pop(value, None)
        return [self._value(value, known) for value in graph.outputs]

    def _value(self, value: ir.Value, known: Mapping[ir.Value, Any]) -> Any:
        if value in known:
            return known[value]
        if value in self._constants:
            return self._constants[value]
        name = self._stored.get(value)
        if name is not None:
            return self._tensor_named(name)
        if not value.name:
            return None
        raise ModelError(f"value {value.name!r} is read before anything computes it")

    def _results(
        self, step: _Step, operands: Sequence[Tensor | None], known: dict[ir.Value, Any]
    ) -> dict[ir.Value, Any]:
        def body(graph: ir.Graph, inputs: Sequence[Any]) -> list[Any]:
            known.update(zip(graph.inputs, inputs, strict=True))
            return self._run(graph, known)

        call = Call(step.node, step.version, self.training, self._generator, body)
        if self._device.type != "cpu":
            operands = [self._beside(operand) for operand in operands]
        if torch.is_autocast_enabled(self._device.type):
            operands = _of_one_precision(operands)
        try:
            made = step.function(call, *operands)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, (ModelError, DataError)):
                raise
            raise ModelError(f"{call.where}: {' '.join(str(error).split())[:300]}") from error
        results = made if isinstance(made, tuple) else (made,)
        return dict(zip(step.node.outputs, results, strict=False))

    # ------------------------------------------------------------------------------------------------ and back
    def to_onnx(self) -> ir.Model:
        """The model with the weights as they are now; tensors that did not change keep their bytes."""
        copy = self.source.clone()
        names = {(place, value.name): self._stored.get(value) for place, value, _ in stored_tensors(self._model)}
        for place, value, stored in list(stored_tensors(copy)):
            name = names.get((place, value.name))
            tensor = None if name is None else self._tensor_named(name).detach().cpu()
            if tensor is None or torch.equal(bits(tensor), bits(to_torch(stored).to(tensor))):
                continue
            array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
            changed = ir.Tensor(
                np.array(array.astype(stored.dtype.numpy()), order="C"), dtype=stored.dtype, name=stored.name
            )
            node = value.producer()
            if node is None:
                value.const_value = changed
            else:
                node.attributes["value"] = ir.AttrTensor("value", changed)
                value.const_value = None
        return copy


def _tensor(feed: Feed) -> Any:
    return torch.from_numpy(np.array(feed, order="C")) if isinstance(feed, np.ndarray) else feed


def _of_one_precision(operands: Sequence[Any]) -> list[Any]:
    """Operands with the widest type that any has: what was computed in 16 bits meets weights of 32."""
    types = {x.dtype for x in operands if isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 1}
    if len(types) < 2:
        return list(operands)
    widest = max(types, key=lambda dtype: torch.finfo(dtype).bits)
    return [x.to(widest) if isinstance(x, Tensor) and x.is_floating_point() else x for x in operands]


def _as_implementation(runner: Runner) -> Implementation:
    def run(_: Call, *operands: Tensor | None) -> Any:
        made = runner(list(operands))
        return made[0] if len(made) == 1 else tuple(made)

    return run
