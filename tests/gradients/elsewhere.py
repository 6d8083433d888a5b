"""A device that is not there: its tensors are computed on the CPU, and may not be mixed with those of the CPU.

    module.to(device())                  # numbers as ever; a mixture raises, as it does on a GPU

Import it where tests are collected: autograd counts the devices when the first gradient is taken.

torch takes it for a device of its own ("elsewhere", its key PrivateUse1), with autograd and all. As on a GPU, a number
without axes and indices may lie on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "elsewhere"
MOVES = ("_to_copy", "copy_", "_copy_from", "_copy_from_and_resize")
"""Operators that read one device and write another."""

WITH_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class Elsewhere(torch.Tensor):
    """A tensor on that device; `numbers` lie on the CPU."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.numbers = real
        return made

    def tolist(self) -> Any:
        """The numbers, as on any device."""
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator on tensors of that device, or one that makes some."""
    name = function.overloadpacket.__name__
    flat, tree = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    mixed = [t for t in tensors if t.ndim and not isinstance(t, Elsewhere)]
    if there and mixed and name not in (*MOVES, *WITH_INDICES):
        raise RuntimeError(f"{name}: expected all tensors on one device, found {NAME} and cpu")
    if name in WITH_INDICES and not isinstance(tensors[0], Elsewhere):
        raise RuntimeError(f"{name}: a tensor of the cpu, indices of {NAME}")
    target = kwargs.get("device")
    stays = torch.device(target).type == NAME if target is not None else bool(there)
    real = [leaf.numbers if isinstance(leaf, Elsewhere) else here(leaf) for leaf in flat]
    real_args, real_kwargs = tree_unflatten(real, tree)
    made = FUSED.get(name, function)(*real_args, **real_kwargs)
    written = args[0] if name.endswith("_") and args else None
    if isinstance(written, torch.Tensor) and made is getattr(written, "numbers", written):
        return written
    return tree_map(lambda leaf: Elsewhere(leaf) if stays and isinstance(leaf, torch.Tensor) else leaf, made)


def lstm_cell(x: Any, h: Any, cell: Any, x_bias: Any = None, h_bias: Any = None) -> tuple[Any, Any, Any]:
    """What only GPUs have a kernel for, (batch, 4 sizes) each: the forward pass."""
    gates = x + h + sum(bias for bias in (x_bias, h_bias) if bias is not None)
    first, forgotten, new, last = gates.chunk(4, 1)
    state = torch.sigmoid(forgotten) * cell + torch.sigmoid(first) * torch.tanh(new)
    return torch.sigmoid(last) * torch.tanh(state), state, gates


def gru_cell(x: Any, h: Any, state: Any, x_bias: Any = None, h_bias: Any = None) -> tuple[Any, Any]:
    """The same, of (batch, 3 sizes)."""
    x, h = (x, h) if x_bias is None else (x + x_bias, h + h_bias)
    (reset, update, new), (h_reset, h_update, h_new) = x.chunk(3, 1), h.chunk(3, 1)
    update = torch.sigmoid(update + h_update)
    new = torch.tanh(new + torch.sigmoid(reset + h_reset) * h_new)
    return new + update * (state - new), x


FUSED = {"_thnn_fused_lstm_cell": lstm_cell, "_thnn_fused_gru_cell": gru_cell}


def here(leaf: Any) -> Any:
    """The CPU in the place of that device."""
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == NAME else leaf


backend_registration._setup_privateuseone_for_python_backend(NAME)  # before autograd counts the devices there are
LIBRARY = torch.library.Library("_", "IMPL")
LIBRARY.fallback(lambda function, *args, **kwargs: run(function, args, kwargs), "PrivateUse1")


def device() -> torch.device:
    """The device."""
    return torch.device(NAME, 0)
