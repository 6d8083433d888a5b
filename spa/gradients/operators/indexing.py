"""Operators that read and write at positions, and those that find positions."""

from __future__ import annotations

import torch
from torch import Tensor

from spa.gradients.call import Call, implements, ints, together


def _counted(index: Tensor, size: int) -> Tensor:
    """Positions counted from the front."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@implements("Gather")
def gather(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.integer("axis", 0) % max(x.ndim, 1)
    index = _counted(index, x.shape[axis]).to(x.device)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


@implements("GatherElements")
def gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.integer("axis", 0)
    return torch.gather(x, axis, _counted(index, x.shape[axis]).to(x.device))


@implements("GatherND")
def gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    batch = call.integer("batch_dims", 0)
    index = index.to(x.device)
    columns = [_counted(index[..., at], x.shape[batch + at]) for at in range(index.shape[-1])]
    rows = []
    for axis in range(batch):
        shape = [1] * (index.ndim - 1)
        shape[axis] = x.shape[axis]
        rows.append(torch.arange(x.shape[axis], device=x.device).reshape(shape))
    return x[(*rows, *columns)]


def _reduced(call: Call) -> str | None:
    names = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}
    return names.get(call.text("reduction", "none"))


@implements("ScatterElements", "Scatter")
def scatter_elements(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis = call.integer("axis", 0)
    index, updates = _counted(index, x.shape[axis]).to(x.device), updates.to(x.device)
    reduction = _reduced(call)
    if reduction is None:
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, reduction)


@implements("ScatterND")
def scatter_nd(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    depth = index.shape[-1]
    if not index.numel() and not updates.numel():
        return x
    flat = x.reshape(-1, *x.shape[depth:]) if depth else x.reshape(1, *x.shape)
    rows = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for at in range(depth):
        rows = rows * x.shape[at] + _counted(index[..., at].to(x.device), x.shape[at])
    rows, values = rows.reshape(-1), updates.to(x).reshape(-1, *x.shape[depth:])
    reduction = _reduced(call)
    if reduction is None:
        made = flat.index_copy(0, rows, values) if flat.ndim else values.reshape(())
    elif reduction == "sum":
        made = flat.index_add(0, rows, values)
    else:
        made = flat.index_reduce(0, rows, values, reduction)
    return made.reshape(x.shape)


@implements("OneHot")
def one_hot(call: Call, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size, axis = int(depth.item()), call.integer("axis", -1)
    axis += index.ndim + 1 if axis < 0 else 0
    places = _counted(index, size).unsqueeze(axis)
    shape = [1] * (index.ndim + 1)
    shape[axis] = size
    hot = places == torch.arange(size, device=index.device).reshape(shape)
    return torch.where(hot, values[1].to(index.device), values[0].to(index.device))


@implements("NonZero")
def nonzero(_: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x).T.contiguous()


@implements("Compress")
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    if not call.has("axis"):
        x, axis = x.reshape(-1), 0
    else:
        axis = call.integer("axis")
    places = torch.nonzero(condition.reshape(-1)).reshape(-1).to(x.device)
    return x.index_select(axis, places)


@implements("TopK")
def top_k(call: Call, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ties in the order of positions, as onnxruntime has them."""
    k = call.integer("k") if count is None else int(count.item())
    axis, largest = call.integer("axis", -1), bool(call.integer("largest", 1))
    values, index = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), index.narrow(axis, 0, k)


@implements("ArgMax", "ArgMin")
def arg_extreme(call: Call, x: Tensor) -> Tensor:
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    find = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin
    if not call.integer("select_last_index", 0):
        return find(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=keep)


@implements("ReverseSequence")
def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    batch, time = call.integer("batch_axis", 1), call.integer("time_axis", 0)
    steps = torch.arange(x.shape[time], device=x.device)[:, None]
    length = lengths.to(x.device)[None, :]
    places = torch.where(steps < length, length - 1 - steps, steps)
    places = places if time < batch else places.T
    shape = [1] * x.ndim
    shape[time], shape[batch] = x.shape[time], x.shape[batch]
    return torch.gather(x, time, places.reshape(shape).expand(x.shape))


@implements("Trilu")
def triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if call.integer("upper", 1) else torch.tril(x, diagonal)


@implements("Unique")
def unique(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axis = call.integer("axis") if call.has("axis") else None
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    order = torch.arange(inverse.numel()).flip(0)
    first = torch.zeros(counts.numel(), dtype=torch.int64).scatter(0, inverse.reshape(-1).flip(0), order)
    if not call.integer("sorted", 1):
        by_first = torch.argsort(first)
        values = values.index_select(axis or 0, by_first)
        place = torch.argsort(by_first)
        return values, first[by_first], place[inverse.reshape(-1)], counts[by_first]
    return values, first, inverse.reshape(-1), counts


# ---------------------------------------------------------------------------------------------------- sequences
@implements("SequenceConstruct")
def sequence(_: Call, *tensors: Tensor) -> list[Tensor]:
    return list(tensors)


@implements("SequenceEmpty")
def empty_sequence(_: Call) -> list[Tensor]:
    return []


@implements("SequenceAt")
def sequence_at(_: Call, sequence: list[Tensor], position: Tensor) -> Tensor:
    return sequence[int(position.item())]


@implements("SequenceInsert")
def sequence_insert(_: Call, sequence: list[Tensor], tensor: Tensor, position: Tensor | None = None) -> list[Tensor]:
    longer = list(sequence)
    longer.insert(len(sequence) if position is None else int(position.item()), tensor)
    return longer


@implements("SequenceErase")
def sequence_erase(_: Call, sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    shorter = list(sequence)
    del shorter[-1 if position is None else int(position.item())]
    return shorter


@implements("SequenceLength")
def sequence_length(_: Call, sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence))


@implements("SplitToSequence")
def split_to_sequence(call: Call, x: Tensor, given: Tensor | None = None) -> list[Tensor]:
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    if given is None:
        parts = torch.split(x, 1, axis)
        return list(parts) if keep else [part.squeeze(axis) for part in parts]
    return list(torch.split(x, int(given.item()) if given.ndim == 0 else ints(given), axis))


@implements("ConcatFromSequence")
def concat_from_sequence(call: Call, sequence: list[Tensor]) -> Tensor:
    join = torch.stack if call.integer("new_axis", 0) else torch.cat
    return join(together(*sequence), call.integer("axis"))
