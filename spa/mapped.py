"""Find tensors that are views of memory-mapped files, and let go of their pages."""

from __future__ import annotations

import mmap

import numpy as np
import onnx_ir as ir


def map_of(tensor: ir.TensorProtocol | None) -> mmap.mmap | None:
    """The mapped file that a tensor is a view of."""
    holder = getattr(tensor, "raw", None)
    while isinstance(holder, np.ndarray):
        holder = holder.base
    holder = holder.obj if isinstance(holder, memoryview) else holder
    return holder if isinstance(holder, mmap.mmap) else None


def release(held: ir.Model | ir.TensorProtocol) -> None:
    """Let the kernel take back the pages of the files that weights lie in; they are read again when wanted."""
    tensors = (
        [value.const_value for value in held.graph.initializers.values()] if isinstance(held, ir.Model) else [held]
    )
    for mapped in {file for tensor in tensors if (file := map_of(tensor)) is not None}:
        if hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)
