"""Rows of a model's outputs that count: what a mask among the inputs hides, such as padding, is not learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.couple import couple
from spa.passes.normalize.normalize import normalize
from spa.passes.repair.rowweights import RowWeights, is_binary
from spa.shapes import infer_shapes


class CountedRows:
    """Which rows of each output count, by the masks that a model is found to have.

    Args:
        batches: inputs by name; a mask is looked for in the first one that has an input of zeros and ones.
    """

    def __init__(self, model: ir.Model, batches: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._outputs: dict[str, ir.Value] = {}
        self._weights: RowWeights | None = None
        batch = next((batch for batch in batches if any(map(is_binary, batch.values()))), None)
        if batch is None:
            return
        normal = normalize(model.clone())
        shapes = infer_shapes(normal, inputs={name: array.shape for name, array in batch.items()})
        session = runtime.session(normal, optimize=True)
        arrays = runtime.run(session, batch)
        self._outputs = {
            str(value.name): value
            for value in normal.graph.outputs
            if isinstance(array := arrays.get(str(value.name)), np.ndarray) and array.dtype.kind == "f" and array.ndim
        }
        if not self._outputs:
            return

        def run(batches: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
            runs = [runtime.run(session, each) for each in batches]
            return [[arrays[name] for arrays in runs] for name in self._outputs]

        self._weights = RowWeights.of(normal, couple(normal, shapes), [batch], list(self._outputs.values()), run)

    def of(self, name: str, batch: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray | None:
        """(rows as the output has them: all axes but the last) 1 for those that count; None: all do.

        Args:
            shape: of the output on this batch.
        """
        if self._weights is None or name not in self._outputs:
            return None
        weights = self._weights.of_output(self._outputs[name], batch, shape)
        return None if weights is None else weights.reshape(shape[:-1]).astype(np.float32)
