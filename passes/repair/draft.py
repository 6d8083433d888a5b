"""The pruned network as it is drafted: one object owns every weight that differs from the dense model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.reading import reads
from spa.passes.layers.consumers import Layer
from spa.passes.repair.network import Network
from spa.passes.repair.pieces import Batch, piece
from spa.passes.repair.sliced import Sliced
from spa.passes.repair.store import Shelf


@dataclass(slots=True, eq=False)
class Draft:
    """Stored tensors that stand for those of the dense model.

    Attributes:
        weights: what has changed, by name: float64, of the dense shape.
        sliced: the network without the units that are cut out already; those of other groups are read as zeros.
        shelf: where new weights lie; None: in memory.
    """

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    sliced: Sliced | None = None
    shelf: Shelf | None = None

    def array(self, value: ir.Value) -> np.ndarray:
        """A stored tensor as it is now, float64."""
        if value.name in self.weights:
            return self.weights[value.name]
        assert value.const_value is not None
        return np.asarray(value.const_value.numpy(), np.float64)

    def put(self, layer: Layer, matrix: np.ndarray, bias: np.ndarray) -> None:
        """Take a layer's new weight (blocks, width, outputs) and bias (blocks, outputs)."""
        self.weights[str(layer.weight.name)] = self._kept(layer.weight_of(matrix))
        if layer.bias is not None:
            self.weights[str(layer.bias.name)] = layer.bias_of(bias, self.array(layer.bias))

    def holds(self, layer: Layer) -> bool:
        """Whether a layer's new weight and bias are numbers of the types that they are stored in."""
        for value in (layer.weight, layer.bias):
            if value is not None and value.const_value is not None:
                with np.errstate(over="ignore"):
                    cast = self.array(value).astype(value.const_value.dtype.numpy())
                if not np.all(np.isfinite(cast)):
                    return False
        return True

    def session(
        self, network: Network, outputs: Sequence[ir.Value], sample: Batch, *, threads: int | None = None
    ) -> Any:
        """A session of the whole network as it is drafted, that gives some of its values."""
        model, weights, nodes = network.model, dict(self.weights), list(network.model.graph)
        if self.sliced is not None:
            model, weights, nodes = self.sliced.model, self.sliced.narrow(weights), self.sliced.nodes(nodes)
        whole = piece(model, nodes, sample, [str(value.name) for value in outputs], weights)
        return runtime.session(whole, optimize=True, threads=threads)

    def differs(self, node: ir.Node) -> bool:
        """Whether a node reads another stored tensor than in the dense network, or is another."""
        changed = self.sliced is not None and node in self.sliced.changed
        return changed or any(value.name in self.weights for value in reads(node))

    def store(self, model: ir.Model) -> None:
        """Write the changed weights into the model, in the types that they had."""
        for name, array in self.weights.items():
            value = model.graph.initializers[name]
            assert value.const_value is not None
            dtype = value.const_value.dtype
            made = self._kept(np.ascontiguousarray(array.astype(dtype.numpy())))
            value.const_value = ir.Tensor(made, dtype=dtype, name=name)
            value.shape = ir.Shape(array.shape)

    def _kept(self, array: np.ndarray) -> np.ndarray:
        return array if self.shelf is None else self.shelf.keep(array)
