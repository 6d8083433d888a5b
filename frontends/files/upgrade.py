"""Models of opsets 1 to 8, brought up to the oldest opset that SPA knows with onnx's own converter."""

from __future__ import annotations

import onnx
from onnx import shape_inference, version_converter

from spa.errors import ModelError
from spa.frontends.files.check import OLDEST_OPSET

_STANDARD = ("", "ai.onnx")
_RESHAPE = 5  # from this version on Reshape reads its target from a tensor
_IN_PLACE = 6  # up to the version before, operators say which operands they may overwrite


def old_opset(proto: onnx.ModelProto) -> int | None:
    """The version of a model's standard operators if it is older than those that SPA knows.

    None also where the model has functions, which the converter loses and which opsets so old did not have.
    """
    version = next((each.version for each in proto.opset_import if each.domain in _STANDARD), None)
    return version if version is not None and 0 < version < OLDEST_OPSET and not proto.functions else None


def upgraded(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The model in opset 9, and a note that says so; the weights must be in it.

    Raises:
        ModelError: the converter does not know how; with its words.
    """
    version = old_opset(proto)
    assert version is not None
    try:
        if version < _RESHAPE:
            proto = version_converter.convert_version(proto, _RESHAPE)
        if version < _IN_PLACE:
            proto = _with_shapes(proto)
        made = version_converter.convert_version(proto, OLDEST_OPSET)
    except Exception as error:  # the converter raises RuntimeError, ConvertError, InferenceError, ValidationError ...
        words = " ".join(str(error).split()).rpartition("failed: ")[2]
        raise ModelError(
            f"expected opset {OLDEST_OPSET} or newer, found {version}, which onnx's version converter cannot bring "
            f"up to {OLDEST_OPSET} ({words[:120]}); export the model again"
        ) from error
    return made, f"opset {version} was brought up to {OLDEST_OPSET} with onnx's version converter"


def _with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that declares the shapes of values, which the converter needs and for old operators cannot infer."""
    later = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in later.graph.node:
        for attribute in [each for each in node.attribute if each.name == "consumed_inputs"]:
            node.attribute.remove(attribute)
    for each in later.opset_import:
        if each.domain in _STANDARD:
            each.version = _IN_PLACE
    told: onnx.ModelProto = onnx.ModelProto.FromString(proto.SerializeToString())
    known = {value.name for value in told.graph.value_info}
    inferred = shape_inference.infer_shapes(later).graph.value_info
    told.graph.value_info.extend(value for value in inferred if value.name not in known)
    return told
