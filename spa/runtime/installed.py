"""onnxruntime as it is installed here: whether it is, up to which versions of ONNX, and with CUDA or without.

It is an extra and imported on first use.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spa.errors import MissingExtra

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_OLD_VERSIONS = 8, 17  # an IR version and an opset that every onnxruntime here takes

FATAL_ONLY = 4  # of onnxruntime's log severities: what is below is raised too, and some of it is expected


def require() -> None:
    """Find out early whether models can be run.

    Raises:
        MissingExtra: without onnxruntime; names the extra that brings it.
    """
    onnxruntime_here()


def available() -> bool:
    """Whether models can be run."""
    try:
        onnxruntime_here()
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
    ort = onnxruntime_here()
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
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


def onnxruntime_here() -> Any:
    """The module.

    Raises:
        MissingExtra: it is missing or broken; names the extra that brings it.
    """
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
        return has_cuda_library() and cuda_works()
    except MissingExtra:
        return False


def has_cuda_library() -> bool:
    """Whether onnxruntime comes with CUDA's library, which it loads from its own folder; said without loading it."""
    if "onnxruntime" in sys.modules:  # whose providers say more
        return True
    spec = importlib.util.find_spec("onnxruntime")
    folders = (spec and spec.submodule_search_locations) or ()
    return any(any(Path(folder, "capi").glob("*onnxruntime_providers_cuda*")) for folder in folders)


def works(provider: str) -> bool:
    """Whether onnxruntime has a provider here; of CUDA, whether it computes."""
    return cuda_works() if provider == CUDA else provider in onnxruntime_here().get_available_providers()


@functools.cache
def cuda_works() -> bool:
    """Whether a CUDA session computes on CUDA. The list of available providers only says what was built."""
    ort = onnxruntime_here()
    if CUDA not in ort.get_available_providers():
        return False
    with silence(), warnings.catch_warnings(action="ignore"):
        try:
            ort.preload_dlls()  # the CUDA libraries that pip installed
            created = ort.InferenceSession(_probe(*_OLD_VERSIONS), providers=[CUDA, CPU])
            return CUDA in created.get_providers() and bool(
                created.run(None, {"x": np.ones(1, np.float32)})[0][0] == -1
            )
        except Exception:  # noqa: BLE001 - whatever it is, CUDA does not work
            return False


@contextlib.contextmanager
def silence() -> Iterator[None]:
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


def one_line(error: Exception) -> str:
    """The gist of onnxruntime's message, on one line."""
    return " ".join(str(error).split())[:300]
