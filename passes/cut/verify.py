"""Is the pruned model valid, does it run, and does it compute what the theorem says?

`check` compares a pruned model with the dense one: ONNX checker, strict shape inference, an onnxruntime
session, the same outputs (names, types, shapes), and the difference from the dense model whose removed
units are read as zero (`spa.passes.cut.masking`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from spa import runtime
from spa.errors import DataError, ModelError, NoInputError, VerificationError

TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float64": 1e-6}
DEFAULT_TOLERANCE = 1e-3  # float32: relative to the largest value of the output
SEEDS = (0, 1)
INTEGER_LIMITS = (50, 10, 2, 1)
ROUNDING = 3e-7  # relative: a rounding error or two of float32
ROUNDING_MARGIN = 10.0
Outputs = Mapping[str, Any]
PROTO_LIMIT = 2**31 - 1
_DRAWING = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def check_structure(dense: ir.Model, pruned: ir.Model) -> list[str]:
    """ONNX checker and strict shape inference; what the dense model fails too is noted, not held against the cut.

    Raises:
        VerificationError: the pruned model is invalid where the dense one is not.
    """
    notes = []
    problem = _invalid(pruned)
    if problem is not None:
        before = _invalid(dense)
        if before is None:
            raise VerificationError(f"the pruned model is invalid: {problem}")
        notes.append(f"the ONNX checker refuses the dense model already: {before}")
    _check_boundary(dense, pruned)
    return notes


def _check_boundary(dense: ir.Model, pruned: ir.Model) -> None:
    for word, before, after in (
        ("input", _fed(dense), _fed(pruned)),
        ("output", dense.graph.outputs, pruned.graph.outputs),
    ):
        if [_signature(value) for value in before] != [_signature(value) for value in after]:
            raise VerificationError(
                f"the {word}s changed: {list(map(_signature, before))} became {list(map(_signature, after))}"
            )


def _fed(model: ir.Model) -> list[ir.Value]:
    """The inputs that a user gives; old IR versions list the stored tensors among the inputs too."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _signature(value: ir.Value) -> tuple[str | None, str, str]:
    return value.name, str(value.type), str(value.shape)


def _invalid(model: ir.Model) -> str | None:
    """The first complaint of the checker or of strict shape inference; None: valid."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            if model_nbytes(model) < PROTO_LIMIT // 2:
                proto = ir.to_proto(model)
                onnx.checker.check_model(proto)
                onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
            else:
                path = Path(folder) / "model.onnx"
                ir.save(model, path, external_data="model.data")
                onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return " ".join(str(error).split())[:400]
    return None


def model_nbytes(model: ir.Model) -> int:
    """Bytes of all stored tensors."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same random inputs.

    Attributes:
        difference: the largest difference of an output relative to its largest value; None: not compared.
        rounding: how far the reference itself moves when its weights are off by a rounding error or two;
            measured only where the difference is above the tolerance.
        notes: what could not be done, and why.
    """

    difference: float | None
    rounding: float = 0.0
    notes: tuple[str, ...] = ()

    def agrees(self, tolerance: float) -> bool:
        """Whether nothing but rounding separates the two."""
        return self.difference is None or self.difference <= max(tolerance, ROUNDING_MARGIN * self.rounding)


def compare(masked: ir.Model, pruned: ir.Model, *, shapes: Mapping[str, Sequence[int]]) -> Comparison:
    """Run both models on random inputs.

    Args:
        shapes: input name -> shape to run with.

    Raises:
        UsageError: an input of such a shape cannot be made.
        VerificationError: the pruned model does not load or run where the masked one does, or the other way
            round; or an output's shape or type differs.
    """
    masked, pruned = seeded(masked), seeded(pruned)
    left, refusal = _session(masked)
    right, problem = _session(pruned)
    if left is None and right is None:
        return Comparison(None, notes=(f"not compared: the dense model does not load: {refusal}",))
    if left is None or right is None:
        which = f"pruned model does not load: {problem}" if left else f"reference does not load: {refusal}"
        raise VerificationError(f"the {which}")
    runs = []
    for seed in SEEDS:
        try:
            expected, feeds, problem = _run_dense(left, shapes, seed)
        except NoInputError as error:
            return Comparison(None, notes=(f"not compared: {error}",))
        if expected is None:
            if _runs(right, feeds):
                raise VerificationError(f"the reference does not run where the pruned model does: {problem}")
            note = f"not compared: the dense model does not run on random inputs ({problem}); give --input NAME=SHAPE"
            return Comparison(None, notes=(note,))
        if not any(map(_tells, expected.values())):
            return Comparison(None, notes=("not compared: the dense model gives no finite numbers on random inputs",))
        try:
            runs.append((feeds, expected, runtime.run(right, feeds)))
        except DataError as error:
            raise VerificationError(f"the pruned model does not run: {error}") from error
    worst = max(_largest_difference(expected, found) for _, expected, found in runs)
    if worst <= tolerance(masked):
        return Comparison(worst)
    rounding = _rounding(masked, runs)
    notes: tuple[str, ...] = ()
    if worst <= ROUNDING_MARGIN * rounding:
        notes = (f"this model amplifies rounding: weights off by {ROUNDING:.0e} move its outputs by {rounding:.1e}",)
    return Comparison(worst, rounding, notes)


def _rounding(masked: ir.Model, runs: Sequence[tuple[Outputs, Outputs, Outputs]]) -> float:
    """How far rounding moves the reference; infinitely far where it decides whether the model runs at all."""
    moved = runtime.session(shaken(masked), optimize=False)
    try:
        return max(_largest_difference(expected, runtime.run(moved, feeds)) for feeds, expected, _ in runs)
    except (DataError, VerificationError):  # sizes that are computed from rounded numbers
        return float("inf")


def seeded(model: ir.Model) -> ir.Model:
    """The model with a seed at every node that draws random numbers, so that two runs draw the same."""
    copy = model.clone()
    drawing = [node for node in ir.traversal.RecursiveGraphIterator(copy.graph) if node.op_type in _DRAWING]
    for number, node in enumerate(drawing):
        node.attributes["seed"] = ir.AttrFloat32("seed", float(number))
    return copy


def shaken(model: ir.Model) -> ir.Model:
    """The model with every stored float off by a random relative error of a rounding or two."""
    copy = model.clone()
    rng = np.random.default_rng(0)
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 32:
            continue
        array = tensor.numpy()
        noise = rng.choice((1 - ROUNDING, 1 + ROUNDING), array.shape).astype(array.dtype)
        value.const_value = ir.Tensor(array * noise, dtype=tensor.dtype, name=value.name)
    return copy


def _session(model: ir.Model) -> tuple[Any, str]:
    """A session, or why there is none."""
    try:
        return runtime.session(model, optimize=False), ""
    except ModelError as error:
        return None, str(error)


def _runs(session: Any, feeds: Outputs) -> bool:
    try:
        return bool(runtime.run(session, feeds))
    except DataError:
        return False


def _run_dense(session: Any, shapes: Mapping[str, Sequence[int]], seed: int) -> tuple[Outputs | None, Outputs, str]:
    """Outputs and feeds of a run that works: integer inputs are made smaller until they index no table's outside."""
    problem = ""
    for limit in INTEGER_LIMITS:
        feeds = runtime.random_feeds(session, shapes=shapes, seed=seed, high=dict.fromkeys(shapes, limit))
        try:
            return runtime.run(session, feeds), feeds, ""
        except DataError as error:
            problem = str(error)
    return None, feeds, problem


def _largest_difference(expected: Outputs, found: Outputs) -> float:
    return max((_difference(name, reference, found[name]) for name, reference in expected.items()), default=0.0)


def _tells(reference: object) -> bool:
    """Whether an output says anything."""
    return (
        isinstance(reference, np.ndarray)
        and bool(reference.size)
        and (reference.dtype.kind != "f" or bool(np.isfinite(reference).any()))
    )


def _difference(name: str, reference: object, found: object) -> float:
    if not isinstance(reference, np.ndarray) or not isinstance(found, np.ndarray):
        return 0.0 if type(reference) is type(found) else float("inf")
    if reference.shape != found.shape or reference.dtype != found.dtype:
        raise VerificationError(
            f"output {name!r} has shape {found.shape} of {found.dtype}, expected {reference.shape} of {reference.dtype}"
        )
    if not reference.size or reference.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(reference, found) else float("inf")
    left, right = reference.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isnan(left), np.isnan(right)):
        return float("inf")
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.where(left == right, 0.0, left - right))  # equal infinities differ by nothing
    scale = float(np.nanmax(np.abs(left[np.isfinite(left)]), initial=0.0)) or 1.0
    return float(np.nanmax(gap, initial=0.0)) / scale


def tolerance(model: ir.Model) -> float:
    """How far from the reference rounding may take a model of this precision."""
    kinds = {
        v.const_value.dtype.numpy().name
        for v in model.graph.initializers.values()
        if v.const_value is not None and v.const_value.dtype.is_floating_point() and v.const_value.size > 1
    }
    return max((TOLERANCE.get(kind, DEFAULT_TOLERANCE) for kind in kinds), default=DEFAULT_TOLERANCE)


def find_culprit(names: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> list[str]:
    """The smallest part of a plan found by halving that still fails; one culprit takes O(log n) calls of `fails`."""
    suspects = list(names)
    while len(suspects) > 1:
        half = len(suspects) // 2
        if fails(suspects[:half]):
            suspects = suspects[:half]
        elif fails(suspects[half:]):
            suspects = suspects[half:]
        else:
            break  # it takes several together
    return suspects
