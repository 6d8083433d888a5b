"""Check that a pruned model is valid, with the inputs and outputs of the dense one, by ONNX's checker and strict shape
inference."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from spa import runtime
from spa.errors import VerificationError
from spa.passes.cut.boundary import UNCHANGED, Boundary


def check_structure(dense: ir.Model, pruned: ir.Model, boundary: Boundary = UNCHANGED) -> list[str]:
    """ONNX checker and strict shape inference; what the dense model fails too is noted, not held against the cut.

    Args:
        boundary: the inputs and outputs that the cut makes smaller.

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
    _check_boundary(dense, pruned, boundary)
    return notes


def _check_boundary(dense: ir.Model, pruned: ir.Model, boundary: Boundary) -> None:
    for word, before, after in (
        ("input", _fed(dense), _fed(pruned)),
        ("output", dense.graph.outputs, pruned.graph.outputs),
    ):
        expected = [_signature(v, boundary.shape_of(v)) for v in before if v.name not in boundary.gone]
        actual = [_signature(value, value.shape) for value in after]
        if expected != actual:
            raise VerificationError(f"the {word}s changed: expected {', '.join(expected)}; found {', '.join(actual)}")


def _fed(model: ir.Model) -> list[ir.Value]:
    """The inputs that a user gives; old IR versions list the stored tensors among the inputs too."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _signature(value: ir.Value, shape: ir.Shape | None) -> str:
    return f"{value.name} {value.type} {shape}"


def _invalid(model: ir.Model) -> str | None:
    """The first complaint of the checker or of strict shape inference; None: valid."""
    try:
        proto = _without_weights(model)
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return " ".join(str(error).split())[:400]
    return None


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model with an input in place of each large weight: of a weight, shape and type are to be checked."""
    weights = runtime.large_weights((model.graph,))
    proto = runtime.serialized_without(model, weights, {}, "weights")
    names = {str(value.name) for value in weights}
    listed = {value.name for value in proto.graph.input}
    stored = [tensor for tensor in proto.graph.initializer if tensor.name in names]
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in stored
        if tensor.name not in listed
    )
    return proto
