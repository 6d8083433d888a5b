"""What a training changes of a network: copied, put back, and told from what stays."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from spa.gradients.module import GraphModule


def moving(student: GraphModule, *, training: bool) -> dict[str, Tensor]:
    """What a training changes, by name: trained parameters, and statistics where those of batches are taken."""
    parameters = {name: tensor for name, tensor in student.named_parameters() if tensor.requires_grad}
    return parameters | (dict(student.named_buffers()) if training else {})


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of some tensors, by name."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def restore(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Write a state into tensors.

    Raises:
        ValueError: it is of another model.
    """
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            raise ValueError(f"no {name!r} of shape {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(state[name])


def digest(student: GraphModule, changed: Collection[str]) -> str:
    """Of the names, the shapes and the numbers of all tensors but those that are changed."""
    whole = hashlib.sha256()
    for name, tensor in student.state_dict().items():
        if name not in changed:
            numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            whole.update(f"{name} {tuple(tensor.shape)}\n".encode())
            whole.update(numbers.data)
    return whole.hexdigest()
