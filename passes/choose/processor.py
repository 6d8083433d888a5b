"""Blocks of channels that a processor computes at once: widths that are no multiple of them run as if they were, or slow.

| where | multiple | why |
|---|---|---|
| x86 with AVX-512 | 16 | onnxruntime's blocked convolutions (MLAS, NCHWc) hold 16 channels; depthwise and grouped ones, whose channels do not divide by that, leave them |
| x86 without | 8 | the same, with 8 channels |
| Arm | 16 | the same on NEON, where it is built in; matrix products go by 16 columns |
| any of these, matrices alone | 4 | products of matrices run as fast at any width: a vision transformer and ConvNeXt gain 0.01 to 0.02 in exponent from 16, and a small ViT at half its FLOPs pays KL 0.029 for 0.004 |
| NVIDIA, float16 and float32 | 8 | tensor cores (CUDA, TensorRT) |
| NVIDIA, int8 | 32 | the same |
| unknown | 16 | what all of the processors above take |
"""  # noqa: E501

from __future__ import annotations

import functools
import platform
from importlib import import_module
from pathlib import Path

import onnx_ir as ir

from spa import runtime

WIDEST = 16
MATRICES = 4
_NVIDIA, _NVIDIA_BYTES = 8, 32
_X86 = {"x86_64", "amd64", "i386", "i686", "x86"}


def block(dtype: ir.DataType | None, *, kernels: bool) -> int:
    """What the widths of tensors of a type are best multiples of, where a model runs on this machine.

    Args:
        kernels: whether one of the tensors is a convolution's of two axes, which is what processors block.
    """
    if runtime.has_cuda():
        return _NVIDIA_BYTES if dtype is not None and dtype.is_integer() else _NVIDIA
    return processor_block() if kernels else MATRICES


@functools.cache
def processor_block() -> int:
    """The same for this machine's processor."""
    if platform.machine().lower() not in _X86:
        return WIDEST
    features = _features()
    return 8 if features and "avx512f" not in features else WIDEST


def _features() -> set[str]:
    """The processor's features in small letters: as Linux lists them, else as numpy found them; empty: not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    if flags:
        return set(flags.split())
    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        try:
            known: dict[str, bool] = import_module(name).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return {feature.lower() for feature, there in known.items() if there}
    return set()
