"""Sessions of onnxruntime that compute where they say they do, and runs in batches."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from spa.errors import DataError, ModelError, UsageError
from spa.runtime.arrays import array_of, lacks_numpy, ort_value
from spa.runtime.installed import CPU, CUDA, FATAL_ONLY, cuda_works, one_line, onnxruntime_here, silence
from spa.runtime.weights import lend, to_file
from spa.runtime.widening import widened

if TYPE_CHECKING:
    import onnxruntime

# Results are compared with a reference: no TF32, whose ten bits of mantissa are far from rounding error.
_OPTIONS: Mapping[str, Mapping[str, str]] = {CUDA: {"use_tf32": "0"}, CPU: {}}


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
    """A session that runs a model; one of bfloat16 as float32, where there are no kernels for it.

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
    ort = onnxruntime_here()
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or the threads of one slow another
    options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    chosen = list(providers) if providers is not None else ([CUDA, CPU] if cuda_works() else [CPU])
    with _quiet() if set(chosen) - {CPU} else contextlib.nullcontext():
        try:
            spilled = to_file(model, options) if spill and isinstance(model, ir.Model) else None
            source, lent = spilled or _source(model, options)
            created = ort.InferenceSession(
                source, options, providers=chosen, provider_options=[dict(_OPTIONS.get(name, {})) for name in chosen]
            )
        except Exception as error:  # its exceptions have no other base in common
            wide = widened(model) if isinstance(model, ir.Model) else None
            if wide is None:
                raise ModelError(f"onnxruntime refuses the model: {one_line(error)}") from error
            return session(
                wide, optimize=optimize, providers=providers, threads=threads, prepack=prepack, spin=spin, spill=spill
            )  # fmt: skip
    if missing := [name for name in chosen if name not in created.get_providers()]:
        raise UsageError(
            f"onnxruntime cannot use {', '.join(missing)} here; it has {', '.join(created.get_providers())}"
        )
    created.lent_weights = lent
    return created


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What is said of providers goes nowhere; of the whole process, so that threads may not do this at once."""
    with silence(), warnings.catch_warnings(action="ignore"):
        yield


def _source(
    model: ir.Model | onnx.ModelProto | bytes | str | os.PathLike[str], options: Any
) -> tuple[bytes | str, list[np.ndarray]]:
    """What onnxruntime reads the model from, and the weights that it uses but does not own."""
    if isinstance(model, bytes):
        return model, []
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model), []
    return lend(ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model, options)


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
    wide = {entry.name for entry in session.get_inputs() if entry.type == "tensor(float)"}
    feeds = {
        name: array.astype(np.float32) if name in wide and lacks_numpy(array.dtype) else array
        for name, array in feeds.items()
    }
    without_numpy = any(lacks_numpy(array.dtype) for array in feeds.values())
    without_numpy = without_numpy or any(re.match(r"tensor\((bfloat16|float8)", output.type) for output in outputs)
    try:
        if without_numpy:
            values = session.run_with_ort_values(names, {name: ort_value(array) for name, array in feeds.items()})
            return {name: array_of(value) for name, value in zip(names, values, strict=True)}
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        raise DataError(f"onnxruntime cannot run the model on these inputs: {one_line(error)}") from error
