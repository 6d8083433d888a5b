"""Weights of a few bits around a cut: opened before it, on their grids again behind it, packed at the end.

    packing = Packing.of(analysis, plan, samples)       before the cut; None: nothing was opened
    packing.round(cut_model, reference)                 what the checks compare lies on grids
    packing.close(cut_model, report)                    what is written is packed

`spa.passes.repair.packed` opens and closes the nodes, `spa.passes.repair.packing` rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.cost import stored_bytes
from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.passes.repair.packed import Packed, close, packed_weights
from spa.passes.repair.packing import Kept, Rounded, grids_of, kept_of, put_on_grids, stored_as
from spa.passes.repair.quantised import Quantised
from spa.passes.samples.calibrate import Calibration
from spa.report import Report
from spa.steps import Analysis, boundary_of

Feeds = Mapping[str, np.ndarray]

MOST_SAMPLES, AT_ONCE = 64, 4
"""By which weights are rounded, and how many run at a time."""

UNMOVED = 1e-4
"""Relative L2 of an output that rounding does not make: what a scale in its type moves."""

LIMIT = 0.05
"""Relative L2 by which a packed model may differ from its opened form: kernels round what they read, too."""


@dataclass(slots=True)
class Packing:
    """What is needed to pack a model again.

    Attributes:
        known: how each opened weight was stored.
        kept: which positions of each axis of an opened weight stay.
        batches: what the cut model is fed.
        grids: of the cut model's weights, once they are rounded.
        moved: how far rounding moved each output on these samples, relative L2.
    """

    known: Mapping[str, Packed | Quantised]
    kept: Mapping[str, Kept]
    batches: Sequence[Feeds]
    grids: dict[str, Rounded] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, analysis: Analysis, plan: Plan, samples: Calibration | None = None) -> Packing | None:
        """Of a model that is not cut yet; None: none of its weights was opened.

        Args:
            samples: by which weights are rounded, and what is packed is compared.
        """
        if not packed_weights(analysis.model):
            return None
        boundary = boundary_of(analysis, plan)
        batches = [] if samples is None else samples.first(MOST_SAMPLES).batches(AT_ONCE)
        kept = kept_of(analysis.model, analysis.coupling, plan.masks(analysis.groups))
        return cls(stored_as(analysis.model), kept, [boundary.cut(batch) for batch in batches])

    def round(self, cut: ir.Model, reference: ir.Model) -> None:
        """Put the weights of a cut model on their grids, and those that stay of the reference, in place."""
        before = _run(cut, self.batches)
        self.grids = grids_of(cut, self.known, self.kept, self.batches)
        put_on_grids(cut, self.grids)
        put_on_grids(reference, self.grids, self.kept)
        self.moved = _distances(before, _run(cut, self.batches))

    def close(self, model: ir.Model, report: Report) -> None:
        """Pack the weights in place, and say in the report what rounding did.

        Raises:
            VerificationError: the packed model computes something else.
        """
        opened = _run(model, self.batches)
        integers = {name: stored for name, stored in self.known.items() if isinstance(stored, Quantised)}
        close(model, self.grids, integers)
        distances = _distances(opened, _run(model, self.batches))
        worst = max(distances, key=lambda name: distances[name], default="")
        if distances and not distances[worst] <= LIMIT:
            raise VerificationError(
                f"packed again, the model differs from its opened form by {distances[worst]:.2g} (relative L2) in "
                f"{worst!r}, more than {LIMIT}"
            )
        weights = [stored for name in self.grids if (stored := self.known[name]).bits < 32]
        bits = sorted({stored.bits for stored in weights})
        said = f"{len(weights)} weights of {' and '.join(map(str, bits))} bits were opened, cut and packed again"
        if self.moved:
            name = max(self.moved, key=lambda name: self.moved[name])
            if self.moved[name] > UNMOVED:  # else the repair rounded them, and its figures count what that costs
                said += f", which moved {name} by relative L2 {self.moved[name]:.3g} on the samples"
        report.notes.append(said)
        report.after = {**report.after, "bytes": stored_bytes(model)}


def _run(model: ir.Model, batches: Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    """What a model computes, node by node as it stands: optimised, kernels round elsewhere."""
    if not batches:
        return []
    session = runtime.session(model, optimize=False)
    return [runtime.run(session, batch) for batch in batches[:2]]


def _distances(left: Sequence[Mapping[str, np.ndarray]], right: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Relative L2 by output."""
    distances = {}
    for name in left[0] if left else ():
        expected, actual = (np.concatenate([part[name].reshape(-1) for part in parts]) for parts in (left, right))
        if expected.dtype.kind == "f" and expected.size:
            expected, actual = expected.astype(np.float64), actual.astype(np.float64)
            distances[name] = float(np.linalg.norm(expected - actual) / (np.linalg.norm(expected) or 1.0))
    return distances
