"""Whole numbers kept as floats, and nodes that onnxruntime runs because they have no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa import runtime
from spa.errors import ModelError
from spa.gradients.call import MICROSOFT

WITHOUT_GRADIENT = frozenset(
    {
        ("", "ConvInteger"),
        ("", "NonMaxSuppression"),
        ("", "QLinearConv"),
        ("", "QLinearMatMul"),
        ("", "StringNormalizer"),
        ("", "TfIdfVectorizer"),
        *(
            (MICROSOFT, name)
            for name in (
                "ConvTransposeWithDynamicPads", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
                "QAttention", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
                "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid",
                "QLinearSoftmax", "QLinearWhere", "QOrderedMatMul",
            )
        ),
    }
)  # fmt: skip
"""Operators that decide, or that compute with integers: onnxruntime runs them, and no gradient passes."""

_MEMORY = "onnx_dtype"


def remember(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers that are kept as floats, so that a gradient passes, and the type that they stand for."""
    setattr(x, _MEMORY, dtype)
    return x


def as_integers(x: Tensor) -> Tensor:
    """Numbers in the type that they stand for."""
    dtype = getattr(x, _MEMORY, None)
    return x if dtype is None else x.detach().round().to(dtype)


def has_no_gradient(node: ir.Node) -> bool:
    """Whether a node is one that onnxruntime runs."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type) in WITHOUT_GRADIENT


class Runner:
    """One node as a model of its own, in onnxruntime."""

    def __init__(self, node: ir.Node, versions: dict[str, int]) -> None:
        self.node, self.versions = node, versions
        self.sessions: dict[tuple[Any, ...], Any] = {}

    def __call__(self, operands: list[Tensor | None]) -> list[Tensor]:
        """The node's results.

        Raises:
            ModelError: onnxruntime does not know it.
        """
        arrays = [None if x is None else as_integers(x).detach().cpu().numpy() for x in operands]
        key = tuple(None if a is None else (str(a.dtype), a.ndim) for a in arrays)
        if key not in self.sessions:
            self.sessions[key] = runtime.session(self._model(arrays), optimize=False)
        feeds = {f"x{at}": array for at, array in enumerate(arrays) if array is not None}
        made = runtime.run(self.sessions[key], feeds)
        device = next((x.device for x in operands if x is not None), torch.device("cpu"))
        return [torch.from_numpy(np.array(made[f"y{at}"], order="C")).to(device) if value.name else None
                for at, value in enumerate(self.node.outputs)]  # fmt: skip

    def _model(self, arrays: list[np.ndarray | None]) -> ir.Model:
        inputs: list[ir.Value | None] = []
        for at, array in enumerate(arrays):
            if array is None:
                inputs.append(None)
                continue
            dtype = ir.DataType.from_numpy(array.dtype)
            inputs.append(ir.Value(name=f"x{at}", type=ir.TensorType(dtype), shape=ir.Shape([None] * array.ndim)))
        outputs = [ir.Value(name=f"y{at}" if value.name else "") for at, value in enumerate(self.node.outputs)]
        if self.node.domain not in ("", "ai.onnx", MICROSOFT):
            raise ModelError(f"operator {self.node.domain}::{self.node.op_type} is not known")
        node = ir.Node(
            self.node.domain, self.node.op_type, inputs, list(self.node.attributes.values()), outputs=outputs
        )
        graph = ir.Graph(
            [x for x in inputs if x is not None], [y for y in outputs if y.name], nodes=[node],
            opset_imports=self.versions, name="node",
        )  # fmt: skip
        return ir.Model(graph, ir_version=10)
