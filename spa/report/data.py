"""The report of a run, as data: costs before and after, groups, what cannot shrink and why, and verification."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from spa import verdict
from spa.analysis.branch import ADDED
from spa.analysis.coupling import Coupling
from spa.analysis.group import Frozen, Group, find_frozen
from spa.analysis.plan import Plan
from spa.analysis.stored import NUMBERS
from spa.notation.dims import ONE, leaves

if TYPE_CHECKING:
    from spa.limit import LimitReport
    from spa.passes.latency.outcome import Latency
    from spa.passes.repair.curves import LossCurve
    from spa.passes.repair.sequential import LayerReport
    from spa.passes.samples.perplexity import Perplexity

VERIFIED, NOT_COMPARED, NOT_CHECKED = "verified", "not compared", "not checked"
"""What verification came to: both models ran and every output that the cut reaches was compared; the pruned model is
valid, but not all was compared; nobody asked."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group before and after.

    Attributes:
        name, kind: unique in the model; what its units are: channels, heads, ffn ...
        units, removed: how many it has, and how many of them go.
        params: stored numbers that belong to its units, those that other groups share included.
        inside: names of the groups whose units hold whole copies of this one (heads, for head_dim).
        off: why it is left alone, as nobody included it.
    """

    name: str
    kind: str
    units: int
    removed: int
    params: int = 0
    inside: tuple[str, ...] = ()
    off: str | None = None


@dataclass(frozen=True, slots=True)
class FrozenShare:
    """Parameters that no group can reach, by reason.

    Attributes:
        params, share: how many, and of all parameters which share (0..1).
        example: the largest tensor among them.
    """

    reason: str
    params: int
    share: float
    example: str


@dataclass(frozen=True, slots=True)
class FrozenAxes:
    """Axes of stored tensors that stay, by reason.

    Attributes:
        axes: how many.
        params: stored numbers of the tensors that they are axes of.
        example: the axis with most parameters, and the node or tensor that holds it.
    """

    reason: str
    axes: int
    params: int
    example: str


@dataclass(slots=True)
class Report:
    """What was removed, what was kept and why.

    Attributes:
        before, after: params, flops and bytes of the whole model: stored numbers, operations of a run at `sizes` (a
            multiply-accumulate counts as two), and bytes of stored tensors.
        groups: what went of each.
        frozen: what cannot shrink, and why, with the share of the parameters that it holds.
        sizes: the shapes of inputs with open axes at which flops are counted, by name (`spa.shapes.sizes`).
        resized: inputs and outputs that the cut makes smaller (caches), by name: their shapes before and after.
        difference: largest difference of an output from the reference's, as a share of its largest value; None: not
            compared.
        channel_difference: the same of each slice of each output (a channel), relative to its own largest value.
        reference: what was compared with.
        exact: whether the theorem covers the plan.
        status: VERIFIED, NOT_COMPARED or NOT_CHECKED.
        missing: what was not compared, and why.
        give: the options with which it may be.
        layers: what was refitted, layer by layer; empty where weights did not change.
        curves: what each group loses as its units go; empty where weights decided.
        limit: what was found to go within a limit; None: a share was asked for.
        outputs: for each output how far it moved from the dense model's: relative_l2 (0: not at all), and kl (nats) and
            top1 (share of agreement, 0..1) where it holds probabilities or could hold logits
            (`spa.passes.repair.difference` defines them).
        outputs_on: what it was measured on, in the words of `spa.verdict`.
        latency: what a budget of time came to; None: it was of something else.
        perplexity: of the models before and after on texts held out from every choice and fit; None: there are none.
        trained: how fine-tuning went, after each step, in words; empty: there was none.
        notes: what a user should know besides.
        seconds: that each step took, by its name.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    groups: Sequence[GroupRow]
    frozen: Sequence[FrozenShare]
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    resized: Mapping[str, Mapping[str, Sequence[int | str | None] | None]] = field(default_factory=dict)
    difference: float | None = None
    channel_difference: float | None = None
    reference: str = "the dense model with the removed units read as zero"
    exact: bool = True
    status: str = NOT_CHECKED
    missing: Sequence[str] = ()
    give: Sequence[str] = ()
    layers: Sequence[LayerReport] = ()
    curves: Sequence[LossCurve] = ()
    limit: LimitReport | None = None
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    outputs_on: str = verdict.HELD_OUT
    perplexity: Perplexity | None = None
    trained: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    latency: Latency | None = None

    @property
    def verified(self) -> bool:
        """Whether both models ran and were compared, and agreed."""
        return self.status == VERIFIED

    def removed_share(self, measure: str) -> float:
        """The share (0..1) of a `measure` that went: params, flops or bytes."""
        return 1 - self.after[measure] / self.before[measure] if self.before[measure] else 0.0

    def to_json(self) -> str:
        """The report as one JSON object."""
        data: dict[str, Any] = asdict(self) | {"verified": self.verified}
        data["verdict"] = verdict.summary(self.outputs, self.outputs_on, trained=bool(self.trained))
        if self.latency is not None:
            data["latency"]["sentence"] = self.latency.sentence
        data["removed_share"] = {measure: self.removed_share(measure) for measure in self.before}
        return json.dumps(_finite(data), indent=1)


def _finite(data: Any) -> Any:
    """The data without infinities and what is no number, which JSON does not know: null stands for them."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def resized_note(resized: Mapping[str, Mapping[str, Sequence[int | str | None] | None]]) -> str:
    """Which inputs and outputs became smaller, in a line."""
    gone = [name for name, shapes in resized.items() if shapes["after"] is None]
    if gone:
        fewer = {name: shapes for name, shapes in resized.items() if name not in gone}
        said = f"{len(gone)} inputs and outputs go with the attention whose keys and values they hold: {gone[0]}"
        return f"{said}; {resized_note(fewer)}" if fewer else said
    name, shapes = next(iter(resized.items()))
    before, after = (
        ",".join("?" if size is None else str(size) for size in shapes[at] or ()) for at in ("before", "after")
    )
    return (
        f"{len(resized)} inputs and outputs, which hold the keys and values of earlier calls, have fewer heads: {name} "
        f"is {after} and was {before}; --exclude {name} leaves its heads alone"
    )


def group_rows(groups: Sequence[Group], plan: Plan | None = None) -> list[GroupRow]:
    """A row for each group."""
    removed = plan.removed if plan is not None else {}
    return [
        GroupRow(
            g.name, g.kind, g.size, len(removed.get(g.name, ())), _params(g), tuple(sorted(g.outer)),
            str(g.off) if g.off and g.name not in removed else None,
        )
        for g in groups
    ]  # fmt: skip


def _params(group: Group) -> int:
    """The stored numbers along a group's units, each once."""
    held: dict[ir.Value, Fraction] = {}  # the share of a tensor that stays when all units go
    for piece in group.slices:
        tensor = piece.value.const_value
        if tensor is not None and tensor.dtype not in NUMBERS:
            free = Fraction(int((piece.unit_of < 0).sum()), max(1, piece.unit_of.size))
            held[piece.value] = held.get(piece.value, Fraction(1)) * free
    return sum(round(value.const_value.size * (1 - free)) for value, free in held.items() if value.const_value)


def frozen_shares(coupling: Coupling, groups: Sequence[Group], total: float) -> list[FrozenShare]:
    """The stored floats that the model came with, none of whose axes can shrink, by reason, largest share first."""
    prunable = {s.value for g in groups if g.branch is None for s in g.slices}
    by_reason: dict[str, list[tuple[int, str]]] = {}
    for value, axes in coupling.axes.items():
        tensor = value.const_value
        if tensor is None or value in prunable or ADDED in value.meta or value not in coupling.weights:
            continue
        if not tensor.dtype.is_floating_point():
            continue
        reasons = [coupling.frozen[leaf].text for dim in axes for leaf in leaves(dim) if leaf in coupling.frozen]
        reason = " and ".join(dict.fromkeys(reasons)) or "a single number"
        if all(leaf is ONE for dim in axes for leaf in leaves(dim)):
            reason = "a single number"
        by_reason.setdefault(reason, []).append((int(tensor.size), str(value.name)))
    shares = [
        FrozenShare(reason, sum(n for n, _ in entries), sum(n for n, _ in entries) / (total or 1), max(entries)[1])
        for reason, entries in by_reason.items()
    ]
    return sorted(shares, key=lambda share: -share.params)


def frozen_axes(coupling: Coupling) -> list[FrozenAxes]:
    """The axes of stored tensors that cannot shrink, by reason, most parameters first."""
    by_reason: dict[str, list[Frozen]] = {}
    for entry in find_frozen(coupling):
        by_reason.setdefault(entry.reason.text, []).append(entry)
    rows = []
    for reason, entries in by_reason.items():
        params = sum({entry.name.rpartition(":")[0]: entry.params for entry in entries}.values())
        example = f"{entries[0].name} in {entries[0].reason.where}".replace("'", "")
        rows.append(FrozenAxes(reason, len(entries), params, example))
    return sorted(rows, key=lambda row: -row.params)


def inventory_json(report: Report, axes: Sequence[FrozenAxes]) -> str:
    """What could go, and what stays and why, as one JSON object."""
    data = {
        "cost": report.before,
        "sizes": report.sizes,
        "groups": [asdict(row) for row in report.groups],
        "frozen_tensors": [asdict(share) for share in report.frozen],
        "frozen_axes": [asdict(entry) for entry in axes],
    }
    return json.dumps(data, indent=1)
