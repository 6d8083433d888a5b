"""Operators of onnxruntime that no processor here runs, defined by onnx's own: what `engine="reference"` runs for them.

class NhwcConv(OpRun): ...      its name is the operator's; `_run` is given operands, and attributes as keywords
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from spa.notation.operation import MICROSOFT

Arrays = tuple[np.ndarray, ...]


def computed(operator: str, operands: list[np.ndarray | None], **attributes: Any) -> np.ndarray:
    """The result of one operator of onnx."""
    names = ["" if operand is None else f"x{at}" for at, operand in enumerate(operands)]
    inputs = [onnx.ValueInfoProto(name=name) for name in names if name]
    node = onnx.helper.make_node(operator, names, ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "defined", inputs, [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    feeds = {name: operand for name, operand in zip(names, operands, strict=True) if operand is not None}
    (result,) = list(ReferenceEvaluator(model).run(None, feeds))
    return np.asarray(result)


class NhwcConv(OpRun):
    """A convolution whose channels are last: in data, weight and result (CUDA's kernel takes such weights as they are,
    and `onnxruntime.transformers.fusion_nhwc_conv` makes them so)."""

    op_domain = MICROSOFT

    def _run(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **attributes: Any) -> Arrays:
        front = [np.moveaxis(array, -1, 1) for array in (x, w)]
        return (np.moveaxis(computed("Conv", [*front, b], **attributes), 1, -1),)


class NhwcFusedConv(OpRun):
    """A convolution whose channels are last in data and result, an addend and an activation behind it."""

    op_domain = MICROSOFT

    def _run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None = None,
        z: np.ndarray | None = None,
        *,
        activation: str = "",
        **attributes: Any,
    ) -> Arrays:
        result = np.moveaxis(computed("Conv", [np.moveaxis(x, -1, 1), w, b], **attributes), 1, -1)
        result = result if z is None else result + z
        return (computed(activation, [result]) if activation else result,)


class FusedMatMulActivation(OpRun):
    """A product of matrices and an activation behind it."""

    op_domain = MICROSOFT

    def _run(self, a: np.ndarray, b: np.ndarray, *, activation: str) -> Arrays:
        return (computed(activation, [a @ b]),)


class GemmFastGelu(OpRun):
    """A product of matrices with a bias, and the tanh approximation of Gelu behind it."""

    op_domain = MICROSOFT

    def _run(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> Arrays:
        return (computed("Gelu", [x @ w if b is None else x @ w + b], approximate="tanh"),)


DEFINED = [NhwcConv, NhwcFusedConv, FusedMatMulActivation, GemmFastGelu]
