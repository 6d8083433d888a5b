"""torch's two exporters, each from a module and its arguments to a graph: dynamo, and the older TorchScript."""

from __future__ import annotations

import inspect
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from spa.errors import ModelError
from spa.frontends.exporting.exported import close_inputs, open_arrays
from spa.frontends.exporting.torch_running import input_names, is_tensor, load_torch, tensors_in, to_numpy
from spa.frontends.files import onnx_file

Dynamic = bool | Mapping[str, Mapping[int, str]]
"""Open axes by argument and their names; True: axis 0, where all inputs agree on it."""

_INNER = "inner."


def dynamo(
    module: Any, args: Any, kwargs: Any, names: list[str], *, opset: Any, dynamic: Dynamic, finish: Any, program: Any
) -> ir.Model:
    """The graph as torch.export and its ONNX exporter make it."""
    torch = load_torch()
    if program is None:
        given, named, axes = _doubled(module, args, kwargs, dynamic)
        program = torch.export.export(module, given, named, dynamic_shapes=axes)
    made = torch.onnx.export(program, optimize=False, verbose=False, opset_version=opset, output_names=names)
    finish(made, module)
    model: ir.Model = made.model
    _name_axes(model, dynamic)
    return onnx_file.load(model)


def _doubled(module: Any, args: Any, kwargs: Any, dynamic: Dynamic) -> tuple[Any, Any, Any]:
    """Example inputs and which of their axes are open; a batch of one, which would count as constant, is doubled."""
    from torch.utils import _pytree

    torch = load_torch()
    leaves = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if is_tensor(leaf)]
    sizes = {leaf.shape[0] for leaf in leaves if leaf.ndim}
    if not dynamic or (dynamic is True and len(sizes) != 1):
        return args, kwargs, None
    if sizes == {1}:
        args, kwargs = _pytree.tree_map(
            lambda leaf: torch.cat([leaf, leaf]) if is_tensor(leaf) and leaf.ndim else leaf, (args, kwargs)
        )
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    if isinstance(dynamic, Mapping):
        chosen = {
            name: _pytree.tree_map(lambda x, name=name: _open(x, dynamic.get(name, ())), tree)
            for name, tree in given.items()
        }
    else:
        chosen = _pytree.tree_map(lambda x: _open(x, (0,)), dict(given))
    return args, kwargs, chosen


def _open(leaf: Any, axes: Iterable[int]) -> Any:
    auto = load_torch().export.Dim.AUTO
    return {axis: auto for axis in axes if axis < leaf.ndim} if is_tensor(leaf) else None


def torchscript(
    module: Any, args: Any, kwargs: Any, names: list[str], *, opset: Any, dynamic: Dynamic, finish: Any, program: Any
) -> ir.Model:
    """The graph as the tracing exporter makes it, for what dynamo cannot export."""
    torch = load_torch()
    if program is not None:
        raise ModelError("an exported program has no source to trace")
    flat = _flattened(module, args, kwargs)
    tensors = tuple(tensors_in((args, kwargs)))
    inputs = input_names(module, args, kwargs)
    axes: Any = None
    if isinstance(dynamic, Mapping):
        axes = {
            name: dict(asked) for name in inputs for key, asked in dynamic.items() if f"{name}_".startswith(f"{key}_")
        }
    elif dynamic and len({tensor.shape[0] for tensor in tensors if tensor.ndim}) == 1:
        axes = {name: {0: "batch"} for name, tensor in zip(inputs, tensors, strict=True) if tensor.ndim}
    raw, mode = finish.kept == "all", torch.onnx.TrainingMode
    saved = [(tensor, tensor.detach().clone()) for tensor in module.state_dict(keep_vars=True).values()]
    if raw:
        _make_distinct(module)  # the exporter merges equal tensors
    with tempfile.TemporaryDirectory() as folder, _plain_attention():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            flat, tensors, str(path), dynamo=False, opset_version=opset, input_names=inputs, output_names=names,
            dynamic_axes=axes, do_constant_folding=not raw, keep_initializers_as_inputs=False,
            training=mode.EVAL if finish.kept == "nothing" else mode.PRESERVE,
        )  # fmt: skip
        model = onnx_file.load(onnx.load(str(path)))
    for tensor, numbers in saved:
        tensor.data.copy_(numbers)
    arrays = {name: to_numpy(tensor) for name, tensor in module.state_dict(keep_vars=True).items() if is_tensor(tensor)}
    for name, value in list(model.graph.initializers.items()):
        if name.startswith(_INNER):
            model.graph.initializers.pop(name)
            value.name = name.removeprefix(_INNER)
            if raw and value.name in arrays:
                value.const_value = ir.Tensor(arrays[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


@contextmanager
def _plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as single operators, not as the fused one that only torch has."""
    mha = load_torch().backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


def _flattened(module: Any, args: Any, kwargs: Any) -> Any:
    """A module of tensors in, tensors out, for the exporter that knows no keyword arguments."""
    from torch.utils import _pytree

    torch = load_torch()
    leaves, spec = _pytree.tree_flatten((args, kwargs))

    class Flat(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            given = iter(tensors)
            filled = [next(given) if is_tensor(leaf) else leaf for leaf in leaves]
            positional, named = _pytree.tree_unflatten(filled, spec)
            return tuple(tensors_in(self.inner(*positional, **named)))

    return Flat().train(module.training)


def _make_distinct(module: Any) -> None:
    """Move every float tensor by a little of its own, so that no two are equal."""
    torch = load_torch()
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict(keep_vars=True).values():
        if is_tensor(tensor) and tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            tensor.data.mul_(1 + 0.01 * noise).add_(1e-3 * noise)


@dataclass(frozen=True, slots=True)
class Finish:
    """How the exporter's optimiser runs on its graph: what is no constant at the time cannot be folded.

    Attributes:
        kept: nothing, norms (what batch norms read) or all (parameters and buffers).
    """

    kept: str

    def __call__(self, made: Any, module: Any) -> None:
        names: Iterable[str] = ()
        if self.kept == "norms":
            norms = [node for node in made.model.graph if node.op_type == "BatchNormalization"]
            names = [str(value.name) for node in norms for value in node.inputs[1:] if value is not None]
        elif self.kept == "all":
            tensors = module.state_dict(keep_vars=True)
            names = [name for name, tensor in tensors.items() if is_tensor(tensor) and tensor.is_floating_point()]
        held = open_arrays(made.model, frozenset(names))
        made.optimize()
        close_inputs(made.model, held)


def _name_axes(model: ir.Model, dynamic: Dynamic) -> None:
    """The exporter invents names such as s77 for open axes; give them those that people use."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        asked: Mapping[int, str] = {0: "batch"}
        if isinstance(dynamic, Mapping):
            key = next((key for key in dynamic if f"{value.name}_".startswith(f"{key}_")), "")
            asked = dynamic.get(key, {})
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and axis in asked:
                names.setdefault(str(size), asked[axis])
    for value in itertools.chain(model.graph.inputs, *(node.outputs for node in model.graph)):
        if value.shape is not None:
            value.shape = ir.Shape([names.get(str(axis), axis) for axis in value.shape])
