"""How much memory of its own a repair may use: one limit, and what each part of the work may take of it.

Weights of the model stay in its file, which is mapped; what is limited is what comes besides: sessions, which hold
weights as float32, values of samples that wait to be read, and moments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

FREE, LEAST = 0.5, 4 << 30
"""Of the memory that is free, unless a limit is given; and bytes that are taken at least, so that what rounds how does
not depend on what else runs."""

WITHOUT = 8 << 30
"""Bytes that count as free where the system does not say."""

WAITING_NBYTES, MOMENTS_NBYTES = 1 << 30, 1 << 31
"""At most: more speeds nothing up."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A limit, in bytes.

    Attributes:
        nbytes: of everything together.
    """

    nbytes: int

    @classmethod
    def of(cls, nbytes: int | None = None) -> Memory:
        """What was asked for; by default half of what is free, or `LEAST`."""
        return cls(max(LEAST, int(FREE * free_nbytes())) if nbytes is None else nbytes)

    @property
    def waiting(self) -> int:
        """Of one stream's values that wait to be read; what goes beyond lies in files."""
        return min(WAITING_NBYTES, self.nbytes // 16)

    @property
    def moments(self) -> int:
        """Of moments for which the network runs as a whole."""
        return min(MOMENTS_NBYTES, self.nbytes // 4)

    @property
    def weights(self) -> int:
        """Of the weights of one session, as `held_nbytes` counts them: it keeps a second copy for its kernels."""
        return self.nbytes // 16

    @property
    def kept(self) -> int:
        """Of arrays that stay until the end, such as new weights; what goes beyond lies in files."""
        return self.nbytes // 8

    def holds(self, model: ir.Model) -> bool:
        """Whether one session may have all weights of a model."""
        return weights_nbytes(model) <= self.weights


def weights_nbytes(model: ir.Model) -> int:
    """Of the stored tensors of a model in a session."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(held_nbytes(tensor) for tensor in tensors if tensor is not None)


def held_nbytes(tensor: ir.TensorProtocol) -> int:
    """Of a stored tensor in a session: floating-point numbers of half precision are held as float32."""
    if tensor.dtype.is_floating_point() and tensor.dtype.bitwidth < 32:
        return 4 * tensor.size
    return tensor.nbytes


def free_nbytes() -> int:
    """Of memory that may be used here without swapping: by the system, and by the control group of this process."""
    sizes = [_available(), *_control_group()]
    return min([size for size in sizes if size is not None], default=WITHOUT)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (kib,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kib) << 10
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group() -> list[int]:
    """What is left under the limit of a container, if there is one."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return [max(int(Path(limit).read_text()) - int(Path(used).read_text()), 0)]
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return []
