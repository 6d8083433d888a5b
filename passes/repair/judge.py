"""Measure how far any cut of a model is from the dense one, on samples that no fit has seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.passes.cut.boundary import UNCHANGED, Boundary
from spa.passes.layers.workers import one_thread_each
from spa.passes.repair.network import prepare
from spa.passes.repair.own import values_of
from spa.passes.repair.session import Session
from spa.passes.samples.calibrate import Calibration
from spa.presets import PRESETS

MOST_NBYTES = 1 << 30
"""Of the outputs of all samples, which wait for those of every cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """The outputs of a dense model on some samples.

    Attributes:
        count: of samples.
        dense: each value that is compared, batch by batch.
    """

    session: Session
    count: int
    dense: Sequence[Sequence[np.ndarray]]

    @classmethod
    def of(cls, model: ir.Model, samples: Calibration, *, inputs: Mapping[str, Sequence[int]] | None = None) -> Judge:
        """Run a normalised model on samples: on as many as give `MOST_NBYTES` of outputs.

        Raises:
            DataError: nothing can be compared: the model only decides.
        """
        network = prepare(model, inputs=inputs)
        if not network.compared:
            raise DataError("no output of the model holds numbers that could be compared")
        with one_thread_each():
            session = Session.of(network, samples.first(1), PRESETS["fast"])
            nbytes = sum(array.nbytes for arrays in session.outputs(session.batches) for array in arrays)
            if samples.batch_size is None:
                samples = samples.first(max(1, MOST_NBYTES // max(nbytes, 1)))
            session = Session.of(network, samples, PRESETS["fast"])
            return cls(session, len(samples), session.outputs(session.batches))

    def differences(self, pruned: ir.Model, boundary: Boundary = UNCHANGED) -> dict[str, dict[str, float]]:
        """How far the compared values of a cut of the model are off: as `difference.output_difference` has it.

        Args:
            boundary: the inputs and outputs that the cut makes smaller; such outputs are not compared.

        Raises:
            DataError: a value is not there, or has another shape.
        """
        network, batches = self.session.network, self.session.batches
        names = {
            at: _name_in(pruned, v, network.new_biases)
            for at, v in enumerate(network.compared)
            if v.name not in boundary.kept
        }
        with one_thread_each():
            theirs = values_of(pruned, list(names.values()), [boundary.cut(batch) for batch in batches])
        differences = {}
        for at, name in names.items():
            if any(a.shape != b.shape for a, b in zip(self.dense[at], theirs[name], strict=True)):
                raise DataError(f"value {name!r} has another shape than in the dense model, and cannot be compared")
            differences[str(network.compared[at].name)] = self.session.difference(
                at, self.dense[at], theirs[name], batches
            )
        return differences


def _name_in(model: ir.Model, value: ir.Value, added: Collection[str]) -> str:
    """What a value of the network is called in a cut: where its added bias is gone, as it was before that."""
    name, producer = str(value.name), value.producer()
    known = {v.name for node in model.graph for v in node.outputs} | {v.name for v in model.graph.inputs}
    if name in known or producer is None or producer.name not in added or producer.inputs[0] is None:
        return name
    return str(producer.inputs[0].name)
