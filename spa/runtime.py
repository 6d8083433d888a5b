"""onnxruntime: sessions that compute where they say they do, valid random inputs, runs in batches.

onnxruntime is an extra and imported on first use.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import math
import os
import re
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from spa.errors import DataError, MissingExtra, ModelError, NoInputError, UsageError
from spa.mapped import release

if TYPE_CHECKING:
    import onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# Results are compared with a reference: no TF32, whose ten bits of mantissa are far from rounding error.
_OPTIONS: Mapping[str, Mapping[str, str]] = {CUDA: {"use_tf32": "0"}, CPU: {}}

# Weights of at least this many bytes are kept out of serialised models; onnx makes these external, too.
LARGE_NBYTES = 1024

_SPILLED_NBYTES, _ALIGNMENT = 1 << 25, 64

_MAX_ELEMENTS = 2**31  # of one made-up input
_OLD_VERSIONS = 8, 17  # an IR version and an opset that every onnxruntime here takes

_FATAL_ONLY = 4  # of onnxruntime's log severities: what is below is raised too, and some of it is expected


def session(
    model: ir.Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    *,
    optimize: bool,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    prepack: bool = True,
    spin: bool = False,
    spill: bool = False,
) -> onnxruntime.InferenceSession:
    """A session that runs a model.

    Args:
        model: what to run.
        optimize: whether onnxruntime may rewrite the graph. Without, every node runs as it is written.
        providers: onnxruntime's names of devices, in order of preference; by default a CUDA device if there is one
            that works, else the CPU.
        threads: how many threads work inside an operator; by default one a core.
        prepack: whether weights may be copied to the order that kernels like best.
        spill: whether many weights of a model in memory go through a file that onnxruntime maps, of which no copy is
            made; what it is lent otherwise it copies.
        spin: whether threads wait for work at full speed, as is onnxruntime's default; else numpy gets the cores then.

    Raises:
        MissingExtra: without onnxruntime.
        ModelError: if onnxruntime refuses the model.
        UsageError: if a provider that was asked for does not work here.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    chosen = list(providers) if providers is not None else ([CUDA, CPU] if _cuda_works() else [CPU])
    quiet = _silence() if set(chosen) - {CPU} else contextlib.nullcontext()
    with quiet, warnings.catch_warnings(action="ignore"):
        try:
            spilled = _spilled(model, options) if spill and isinstance(model, ir.Model) else None
            source, lent = spilled or _source(model, options)
            created = ort.InferenceSession(
                source, options, providers=chosen, provider_options=[dict(_OPTIONS.get(name, {})) for name in chosen]
            )
        except Exception as error:  # its exceptions have no other base in common
            raise ModelError(f"onnxruntime refuses the model: {_one_line(error)}") from error
    if missing := [name for name in chosen if name not in created.get_providers()]:
        raise UsageError(
            f"onnxruntime cannot use {', '.join(missing)} here; it has {', '.join(created.get_providers())}"
        )
    created.lent_weights = lent
    return created


def _source(
    model: ir.Model | onnx.ModelProto | bytes | str | os.PathLike[str], options: Any
) -> tuple[bytes | str, list[np.ndarray]]:
    """What onnxruntime reads the model from, and the weights that it uses but does not own."""
    if isinstance(model, bytes):
        return model, []
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model), []
    return _lend_weights(ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model, options)


def require() -> None:
    """Find out early whether models can be run.

    Raises:
        MissingExtra: without onnxruntime; names the extra that brings it.
    """
    _onnxruntime()


def available() -> bool:
    """Whether models can be run."""
    try:
        _onnxruntime()
    except MissingExtra:
        return False
    return True


def newest_versions() -> tuple[int, int]:
    """The newest IR version and opset of standard operators that models may have here.

    Those that onnx knows; where onnxruntime is in use, those that it takes too.
    """
    known = onnx.IR_VERSION, onnx.defs.onnx_opset_version()
    return _taken(*known) if hasattr(sys.modules.get("onnxruntime"), "InferenceSession") else known


@functools.cache
def _taken(ir_version: int, opset: int) -> tuple[int, int]:
    """The newest versions up to these that onnxruntime takes, which it says of no model but one that it is given."""
    while ir_version > _OLD_VERSIONS[0] and not _takes(ir_version, _OLD_VERSIONS[1]):
        ir_version -= 1
    while opset > _OLD_VERSIONS[1] and not _takes(_OLD_VERSIONS[0], opset):
        opset -= 1
    return ir_version, opset


def _takes(ir_version: int, opset: int) -> bool:
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    try:
        ort.InferenceSession(_probe(ir_version, opset), options, providers=[CPU])
    except Exception:  # noqa: BLE001 - its exceptions have no other base in common
        return False
    return True


def _probe(ir_version: int, opset: int) -> bytes:
    """The smallest model there is: y = -x."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "probe", [value], [result])
    opsets = [onnx.helper.make_opsetid("", opset)]
    serialized: bytes = onnx.helper.make_model(graph, ir_version=ir_version, opset_imports=opsets).SerializeToString()
    return serialized


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra(
            "onnxruntime is not installed: pip install 'spa-onnx[cpu]', or 'spa-onnx[gpu]' for an NVIDIA GPU"
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingExtra(
            "onnxruntime is broken, as it is when onnxruntime and onnxruntime-gpu share an environment: "
            "pip uninstall both, then pip install 'spa-onnx[cpu]' or 'spa-onnx[gpu]'"
        )
    return onnxruntime


def has_cuda() -> bool:
    """Whether models run on an NVIDIA GPU here; without onnxruntime they do not."""
    try:
        return _cuda_works()
    except MissingExtra:
        return False


@functools.cache
def _cuda_works() -> bool:
    """Whether a CUDA session computes on CUDA. The list of available providers only says what was built."""
    ort = _onnxruntime()
    if CUDA not in ort.get_available_providers():
        return False
    with _silence(), warnings.catch_warnings(action="ignore"):
        try:
            ort.preload_dlls()  # the CUDA libraries that pip installed
            created = ort.InferenceSession(_probe(*_OLD_VERSIONS), providers=[CUDA, CPU])
            return CUDA in created.get_providers() and bool(
                created.run(None, {"x": np.ones(1, np.float32)})[0][0] == -1
            )
        except Exception:  # noqa: BLE001 - whatever it is, CUDA does not work
            return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send stdout and stderr nowhere, Python's and, as native code writes past Python, the process's own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # a closed descriptor needs no silencing
                saved = os.dup(descriptor)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, descriptor)
                os.dup2(nowhere, descriptor)
        yield


def _one_line(error: Exception) -> str:
    """The gist of onnxruntime's message, on one line."""
    return " ".join(str(error).split())[:300]


def large_weights(graphs: Iterable[ir.Graph]) -> dict[ir.Value, ir.TensorProtocol]:
    """The initializers that are worth keeping out of a serialised model."""
    return {
        value: value.const_value
        for graph in graphs
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and (value.const_value.nbytes >= LARGE_NBYTES or isinstance(value.const_value, ir.ExternalTensor))
    }


def serialized_without(
    model: ir.Model, weights: Mapping[ir.Value, ir.TensorProtocol], offsets: Mapping[ir.Value, int], location: str
) -> onnx.ModelProto:
    """The model's messages, with these weights as external tensors at these offsets; the model stays as it is."""
    try:
        for value, tensor in weights.items():
            value.const_value = ir.ExternalTensor(
                location,
                offsets.get(value, 0),
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props) or None,
            )
        return ir.to_proto(model)
    finally:
        for value, tensor in weights.items():
            value.const_value = tensor


def _lend_weights(model: ir.Model, options: Any) -> tuple[bytes, list[np.ndarray]]:
    """The model for onnxruntime, which is to use large weights where they lie: no copy, no limit of 2 GB.

    Returns the bytes of the model without these weights, and the arrays, which have to live as long as the session.
    """
    weights = {
        value: tensor
        for value, tensor in large_weights((model.graph,)).items()
        if not value.is_graph_input() and tensor.dtype.bitwidth >= 8
    }
    # In a file numbers start at any byte; onnxruntime's kernels expect them at multiples of their size.
    arrays = [np.require(tensor.numpy(), requirements=["C", "ALIGNED"]) for tensor in weights.values()]
    options.add_external_initializers([str(value.name) for value in weights], [_ort_value(array) for array in arrays])
    return serialized_without(model, weights, {}, "lent").SerializeToString(), arrays


class _Folder:
    """A temporary folder that goes when nobody holds this any more."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="spa-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


def _spilled(model: ir.Model, options: Any) -> tuple[bytes, _Folder] | None:
    """The model for onnxruntime with its large weights in a file, and the folder, which has to live as long.

    None: there are few, or no room for a file.
    """
    weights = {
        value: tensor
        for value, tensor in large_weights((model.graph,)).items()
        if not value.is_graph_input() and tensor.dtype.bitwidth >= 8
    }
    if sum(tensor.nbytes for tensor in weights.values()) < _SPILLED_NBYTES:
        return None
    folder = _Folder()
    offsets: dict[ir.Value, int] = {}
    try:
        with (Path(folder.name) / "weights").open("wb") as file:
            for value, tensor in weights.items():
                file.write(bytes(-file.tell() % _ALIGNMENT))
                offsets[value] = file.tell()
                file.write(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
        release(model)
    except OSError:
        return None
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder.name)
    return serialized_without(model, weights, offsets, "weights").SerializeToString(), folder


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    dtype: ir.DataType
    shape: tuple[int | str | None, ...]  # a name or None: known only when the model runs
    ranked: bool = True  # whether a shape without axes means a scalar; onnxruntime shows an unknown rank like one


def random_feeds(
    source: onnxruntime.InferenceSession | ir.Model | ir.Graph,
    *,
    shapes: Mapping[str, Sequence[int]],
    seed: int,
    high: Mapping[str, int] | None = None,
    skip: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Valid random inputs by name.

    Floats are standard normal, booleans and everything named a mask one, integers uniform from 0 up to but excluding
    ``high`` (by default 2, which indexes any table, or 128 for types of one byte).

    Args:
        source: what the inputs are for.
        shapes: the shapes of inputs; those with only static axes need none.
        seed: the same seed gives the same inputs.
        high: by input, the first integer that is too large, such as the number of rows of an embedding.
        skip: inputs that are left out.

    Raises:
        UsageError: if a shape is missing or does not fit, a name is unknown, or an input is not a dense tensor of
            numbers.
    """
    inputs = _inputs(source, skip)
    high = high or {}
    if unknown := sorted((shapes.keys() | high.keys()) - {entry.name for entry in inputs}):
        names = ", ".join(repr(entry.name) for entry in inputs)
        raise UsageError(f"there is no input {unknown[0]!r}; the inputs are {names}")
    generator = np.random.default_rng(seed)
    return {
        entry.name: _random(entry, _bound_shape(entry, shapes.get(entry.name)), high.get(entry.name), generator)
        for entry in inputs
    }


def _inputs(source: onnxruntime.InferenceSession | ir.Model | ir.Graph, skip: Collection[str] = ()) -> list[_Input]:
    if isinstance(source, (ir.Model, ir.Graph)):
        graph = source if isinstance(source, ir.Graph) else source.graph
        values = [value for value in graph.inputs if not value.is_initializer() and value.name not in skip]
        for value in values:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                raise NoInputError(f"input {value.name!r} is a {value.type}, so no input can be made up for it")
        return [
            _Input(
                str(value.name),
                value.dtype or ir.DataType.UNDEFINED,
                (None,)
                if value.shape is None
                else tuple(size if isinstance(size, int) else size.value for size in value.shape),
                ranked=value.shape is not None,
            )
            for value in values
        ]
    inputs = []
    for argument in source.get_inputs():
        if argument.name in skip:
            continue
        match = re.fullmatch(r"tensor\((\w+)\)", argument.type)
        if match is None:
            raise NoInputError(f"input {argument.name!r} is a {argument.type}, so no input can be made up for it")
        shape = tuple(argument.shape)
        inputs.append(_Input(argument.name, ir.DataType[match[1].upper()], shape, ranked=bool(shape)))
    return inputs


def _bound_shape(entry: _Input, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
        static = tuple(size for size in entry.shape if isinstance(size, int))
        if len(static) < len(entry.shape):
            axes = ",".join(str(size) if size else "?" for size in entry.shape)
            raise UsageError(f"input {entry.name!r} has the shape {axes}: give a number for each axis")
        given = static
    declared_shape = entry.shape if entry.ranked else (None,) * len(given)
    fits = len(given) == len(declared_shape) and all(
        size >= 0 and (size == declared or not isinstance(declared, int))
        for size, declared in zip(given, declared_shape, strict=True)
    )
    if not fits:
        axes = ",".join(str(size) if size else "?" for size in entry.shape)
        raise UsageError(f"input {entry.name!r} has the shape {axes}, which {','.join(map(str, given))} does not fit")
    if math.prod(given) > _MAX_ELEMENTS:
        raise UsageError(f"input {entry.name!r} would have {math.prod(given):.2g} elements; the limit is 2^31")
    return tuple(given)


def is_mask(name: str) -> bool:
    """Whether an input is called a mask: ones for what counts."""
    return "mask" in name.lower()


def _random(entry: _Input, shape: tuple[int, ...], high: int | None, generator: np.random.Generator) -> np.ndarray:
    if entry.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        raise NoInputError(f"input {entry.name!r} is of type {entry.dtype.name}, so no input can be made up for it")
    if entry.dtype == ir.DataType.BOOL or is_mask(entry.name):
        values: np.ndarray = np.ones(shape)
    elif entry.dtype.is_integer():
        limit = high if high is not None else (128 if entry.dtype.bitwidth == 8 else 2)
        values = generator.integers(0, limit, shape)
    else:
        values = generator.standard_normal(shape)
    return values.astype(entry.dtype.numpy())


def run(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray], *, batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """Run a model; results by name.

    Args:
        session: the model.
        feeds: inputs by name.
        batch_size: run this many rows (of axis 0, of every input and every result) at a time, to bound memory.

    Raises:
        DataError: if onnxruntime cannot run the model on these inputs, or rows cannot be told apart.
    """
    if batch_size is None:
        return _run_once(session, feeds)
    rows = {array.shape[:1] for array in feeds.values()}
    if len(rows) != 1 or rows == {()} or batch_size < 1:
        raise DataError(f"cannot run {batch_size} rows at a time: axis 0 of the inputs differs, {sorted(rows)}")
    ((count,),) = rows
    parts = []
    for start in range(0, count, batch_size):
        batch = {name: array[start : start + batch_size] for name, array in feeds.items()}
        results = _run_once(session, batch)
        expected = min(batch_size, count - start)
        if uneven := [name for name, array in results.items() if array.shape[:1] != (expected,)]:
            raise DataError(f"result {uneven[0]!r} does not have one row for each input row; run it in one batch")
        parts.append(results)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run_once(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = session.get_outputs()
    names = [output.name for output in outputs]
    without_numpy = any(_lacks_numpy(array.dtype) for array in feeds.values())
    without_numpy = without_numpy or any(re.match(r"tensor\((bfloat16|float8)", output.type) for output in outputs)
    try:
        if without_numpy:
            values = session.run_with_ort_values(names, {name: _ort_value(array) for name, array in feeds.items()})
            return {name: _array(value) for name, value in zip(names, values, strict=True)}
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        raise DataError(f"onnxruntime cannot run the model on these inputs: {_one_line(error)}") from error


def _lacks_numpy(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself lacks this type, so that onnxruntime does not take its arrays."""
    return dtype.type.__module__ == "ml_dtypes"


def _ort_value(array: np.ndarray) -> Any:
    ort_value, contiguous = _onnxruntime().OrtValue, np.ascontiguousarray(array)
    if not _lacks_numpy(array.dtype):
        return ort_value.ortvalue_from_numpy(contiguous)
    bits = contiguous.view(np.dtype(f"u{array.dtype.itemsize}"))
    return ort_value.ortvalue_from_numpy_with_onnx_type(bits, ir.DataType.from_numpy(array.dtype).value)


def _array(value: Any) -> np.ndarray:
    dtype = ir.DataType(value.element_type())
    if not _lacks_numpy(np.dtype(dtype.numpy())):
        array: np.ndarray = value.numpy()
        return array
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, dtype.numpy()).reshape(value.shape())
