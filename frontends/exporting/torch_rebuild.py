"""A torch module of the same class with smaller parameters: sizes are found by value and verified by running it.

What torch.nn's own classes call their sizes is known; every other class keeps its sizes in attributes of its own names,
of which only those that `forward` reads matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spa.frontends.exporting.exported import Parts, RebuildError, difference, tolerance
from spa.frontends.exporting.sizes import Choice, Holder, find_choices
from spa.frontends.exporting.torch_running import run

if TYPE_CHECKING:
    import torch

_TRIALS = 200  # of readings of sizes whose values coincide


def rebuild(
    module: torch.nn.Module,
    arrays: Mapping[str, np.ndarray],
    parts: Mapping[str, Parts],
    inputs: Any,
    expected: Sequence[np.ndarray],
) -> torch.nn.Module:
    """A copy of a module that holds other arrays, checked against what it has to compute.

    Args:
        arrays: new parameters and buffers, by ``state_dict`` name.
        parts: what the axes of each array are made of, before and after.
        inputs, expected: the new module's outputs on these inputs.

    Raises:
        RebuildError: the code of some submodule does not work with these sizes, or computes something else.
    """
    smaller = copy.deepcopy(module)
    set_arrays(smaller, arrays)
    for part in smaller.modules():
        _set_known(part, parts, next(name for name, other in smaller.named_modules() if other is part))
    search = _Search(smaller, find_choices(_holders(module, inputs), parts), inputs, expected)
    search.run()
    return smaller


# ------------------------------------------------------------------------------------------------------- arrays
def set_arrays(module: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays in the place of parameters and buffers; what was tied stays tied."""
    import torch

    tensors = module.state_dict(keep_vars=True)
    places: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        places.setdefault(id(tensor), []).append(name)
    for name, array in arrays.items():
        old = tensors[name]
        new = _tensor(array).to(device=old.device, dtype=old.dtype)
        if isinstance(old, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        for place in places[id(old)]:
            path, _, attribute = place.rpartition(".")
            setattr(module.get_submodule(path), attribute, new)


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    whole = np.array(array)  # torch wants memory of its own
    if whole.dtype.name == "bfloat16":
        return torch.from_numpy(whole.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(whole)


# ---------------------------------------------------------------------------------------------- torch.nn's own
def _set_known(module: torch.nn.Module, parts: Mapping[str, Parts], path: str) -> None:
    """Set the size attributes of torch.nn's classes from their tensors."""
    from torch import nn

    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if weight is not None else ()
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        module.groups = _groups(module.groups, parts.get(f"{path}.weight" if path else "weight", {}))
        first, second = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
        setattr(module, first, shape[0])
        setattr(module, second, shape[1] * module.groups)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        kept: Any = weight if weight is not None else module.running_mean
        module.num_features = module.num_features if kept is None else len(kept)
    elif isinstance(module, nn.GroupNorm) and shape:
        module.num_groups = _groups(module.num_groups, parts.get(f"{path}.weight" if path else "weight", {}))
        module.num_channels = shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and shape:
        module.normalized_shape = shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]
    elif isinstance(module, nn.RNNBase):
        module.input_size = module.weight_ih_l0.shape[1]
        module.hidden_size = module.weight_hh_l0.shape[0] // _GATES.get(module.mode, 1)
        module.proj_size = module.weight_hr_l0.shape[0] if module.proj_size else 0


_GATES = {"LSTM": 4, "GRU": 3}


def _groups(before: int, parts: Parts) -> int:
    """The groups of a convolution or norm: the part of axis 0 that had as many indices."""
    if before == 1:
        return 1
    return next((new for (axis, start, _), (old, new) in parts.items() if axis == start == 0 and old == before), before)


# ------------------------------------------------------------------------------------------------- other sizes
def _holders(module: torch.nn.Module, inputs: Any) -> list[Holder]:
    """All submodules of classes that are not torch.nn's, with their numbers and those that `forward` reads."""
    from torch import nn

    read = _attributes_read(module, inputs)
    own = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    holders = []
    for path, part in module.named_modules():
        if isinstance(part, (*own, nn.Embedding, nn.RNNBase, nn.ModuleList, nn.Sequential)):
            continue
        numbers = {name: number for name, number in vars(part).items() if not name.startswith("_") and _counts(number)}
        if numbers:
            kind: Any = type(part)
            holders.append(Holder(path, kind, numbers, frozenset(read.get(path, ()))))
    return holders


def _counts(thing: Any) -> bool:
    if isinstance(thing, (tuple, list)):
        return bool(thing) and all(type(each) is int for each in thing)
    return type(thing) is int


def _attributes_read(module: torch.nn.Module, inputs: Any) -> dict[str, set[str]]:
    """Which attributes of each submodule a forward pass reads."""
    watched = copy.deepcopy(module)
    read: dict[str, set[str]] = {}
    for path, part in watched.named_modules():
        part.__class__ = _watching(type(part), read.setdefault(path, set()))
    run(watched, inputs)
    return read


def _watching(kind: Any, names: set[str]) -> type:
    def getattribute(self: Any, name: str) -> Any:
        names.add(name)
        return kind.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": getattribute, "__module__": kind.__module__})


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How far a forward pass came: finished submodules, where it stopped and why, or how far off it is."""

    finished: int
    where: str = ""
    reason: str = ""
    difference: float = float("inf")


class _Search:
    """Try the likeliest readings of all sizes, then, where it does not work, the other readings one at a time."""

    def __init__(
        self, module: torch.nn.Module, choices: Sequence[Choice], inputs: Any, expected: Sequence[np.ndarray]
    ) -> None:
        self.module, self.choices, self.inputs, self.expected = module, choices, inputs, expected
        self.limit = tolerance(expected)
        self.classes = {path: type(part) for path, part in module.named_modules()}

    def run(self) -> None:
        """Leave the module with sizes that work.

        Raises:
            RebuildError: there are none.
        """
        for choice in self.choices:
            self.set(choice, 0)
        taken = dict.fromkeys(range(len(self.choices)), 0)
        best = self.outcome()
        trials = 0
        while best.difference > self.limit:
            for number, reading in self.others(best, taken):
                trials += 1
                self.set(self.choices[number], reading)
                outcome = self.outcome()
                if outcome.difference <= self.limit or (best.reason and outcome.finished > best.finished):
                    taken[number], best = reading, outcome
                    break
                self.set(self.choices[number], taken[number])
                if trials >= _TRIALS:
                    self.fail(best)
            else:
                self.fail(best)

    def others(self, outcome: _Outcome, taken: Mapping[int, int]) -> list[tuple[int, int]]:
        """Readings not taken: first those of the class that failed and of those around it."""
        names = outcome.where.split(".")
        around: list[Any] = [self.classes.get(".".join(names[:end])) for end in range(len(names), -1, -1)]
        order = sorted(
            range(len(self.choices)),
            key=lambda n: around.index(self.choices[n].kind) if self.choices[n].kind in around else len(around),
        )
        return [
            (number, reading)
            for number in order
            if not outcome.reason or self.choices[number].kind in around
            for reading in range(len(self.choices[number].readings))
            if reading != taken[number]
        ]

    def set(self, choice: Choice, reading: int) -> None:
        for path, value in choice.readings[reading].items():
            part = self.module.get_submodule(path)
            if choice.element is None:
                setattr(part, choice.attribute, value)
                continue
            old = getattr(part, choice.attribute)
            new = [value if at == choice.element else each for at, each in enumerate(old)]
            setattr(part, choice.attribute, type(old)(new))

    def outcome(self) -> _Outcome:
        stack: list[str] = []
        finished = 0

        def enter(path: str) -> Callable[..., None]:
            return lambda *_: stack.append(path)

        def leave(*_: Any) -> None:
            nonlocal finished
            finished += 1
            stack.pop()

        handles = []
        for path, part in self.module.named_modules():
            handles += [part.register_forward_pre_hook(enter(path)), part.register_forward_hook(leave)]
        try:
            outputs = run(self.module, self.inputs)
        except Exception as error:  # noqa: BLE001 - whatever code does with sizes it was not written for
            return _Outcome(finished, stack[-1] if stack else "", " ".join(f"{type(error).__name__}: {error}".split()))
        finally:
            for handle in handles:
                handle.remove()
        return _Outcome(finished, difference=difference(outputs, self.expected))

    def fail(self, outcome: _Outcome) -> None:
        kind = self.classes[outcome.where].__name__
        if outcome.reason:
            where = outcome.where or "the module"
            text = f"the code of {where} ({kind}) does not work with these sizes: {outcome.reason[:200]}"
        else:
            text = f"{kind} computes something else with these sizes: it differs by {outcome.difference:.1e}"
        alike = [path for path, other in self.classes.items() if other is self.classes[outcome.where]]
        raise RebuildError(text, where=outcome.where, alike=alike)
