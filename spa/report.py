"""What a run did, for machines (JSON) and for people (rich tables)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spa import verdict
from spa.analysis.cost import NUMBERS
from spa.analysis.coupling import Coupling
from spa.analysis.group import Frozen, Group, find_frozen
from spa.analysis.plan import Plan
from spa.notation.dims import ONE, leaves
from spa.notation.operation import registered
from spa.operators.applied import REFUSED, applied

if TYPE_CHECKING:
    from spa.passes.repair.sequential import LayerReport

WORST_LAYERS = 8

VERIFIED, NOT_COMPARED, NOT_CHECKED = "verified", "not compared", "not checked"
"""What verification came to: both models ran and every output that the cut reaches was compared; the pruned model is
valid, but not all was compared; nobody asked."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group before and after.

    Attributes:
        params: stored numbers that belong to its units, those that other groups share included.
        inside: names of the groups whose units hold whole copies of this one (heads, for head_dim).
        off: why it is left alone unless included.
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
    """Parameters that no group can reach, by reason."""

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
        before, after: params, flops, bytes of the whole model.
        sizes: the shapes of inputs with open axes at which flops are counted, by name (`spa.shapes.sizes`).
        difference: largest difference of an output from the reference's, relative to its largest value; None: not
            compared.
        channel_difference: the same of each slice of each output (a channel), relative to its own largest value.
        reference: what was compared with.
        exact: whether the theorem covers the plan.
        status: VERIFIED, NOT_COMPARED or NOT_CHECKED.
        missing: what was not compared, and why.
        give: the options with which it may be.
        layers: what was refitted, layer by layer; empty where weights did not change.
        outputs: for each output how far it moved from the dense model's: relative_l2, and kl and top1 where it holds
            probabilities or could hold logits (`spa.passes.repair.difference` defines them).
        outputs_on: what it was measured on: samples held out, made-up inputs or random inputs.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    groups: Sequence[GroupRow]
    frozen: Sequence[FrozenShare]
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    difference: float | None = None
    channel_difference: float | None = None
    reference: str = "the dense model with the removed units read as zero"
    exact: bool = True
    status: str = NOT_CHECKED
    missing: Sequence[str] = ()
    give: Sequence[str] = ()
    layers: Sequence[LayerReport] = ()
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    outputs_on: str = verdict.HELD_OUT
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether both models ran and were compared, and agreed."""
        return self.status == VERIFIED

    def removed_share(self, measure: str) -> float:
        """The share (0..1) of a measure that went."""
        return 1 - self.after[measure] / self.before[measure] if self.before[measure] else 0.0

    def to_json(self) -> str:
        """The report as one JSON object."""
        data: dict[str, Any] = asdict(self) | {"verified": self.verified}
        data["verdict"] = verdict.summary(self.outputs, self.outputs_on)
        data["removed_share"] = {measure: self.removed_share(measure) for measure in self.before}
        return json.dumps(_finite(data), indent=1)


def _finite(data: Any) -> Any:
    """The data without infinities and what is no number, which JSON does not know: null stands for them."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not isfinite(data) else data


def group_rows(groups: Sequence[Group], plan: Plan | None = None) -> list[GroupRow]:
    """A row for each group."""
    removed = plan.removed if plan is not None else {}
    return [
        GroupRow(
            g.name, g.kind, g.size, len(removed.get(g.name, ())), _params(g), tuple(sorted(g.outer)),
            str(g.off) if g.off else None,
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
    """The stored floats none of whose axes can shrink, by reason, largest share first."""
    prunable = {s.value for g in groups for s in g.slices}
    found: dict[str, list[tuple[int, str]]] = {}
    for value, axes in coupling.axes.items():
        tensor = value.const_value
        if tensor is None or value in prunable or value not in coupling.weights or not tensor.dtype.is_floating_point():
            continue
        reasons = [coupling.frozen[leaf].text for dim in axes for leaf in leaves(dim) if leaf in coupling.frozen]
        reason = " and ".join(dict.fromkeys(reasons)) or "a single number"
        if all(leaf is ONE for dim in axes for leaf in leaves(dim)):
            reason = "a single number"
        found.setdefault(reason, []).append((int(tensor.size), str(value.name)))
    shares = [
        FrozenShare(reason, sum(n for n, _ in entries), sum(n for n, _ in entries) / (total or 1), max(entries)[1])
        for reason, entries in found.items()
    ]
    return sorted(shares, key=lambda share: -share.params)


def frozen_axes(coupling: Coupling) -> list[FrozenAxes]:
    """The axes of stored tensors that cannot shrink, by reason, most parameters first."""
    found: dict[str, list[Frozen]] = {}
    for entry in find_frozen(coupling):
        found.setdefault(entry.reason.text, []).append(entry)
    rows = []
    for reason, entries in found.items():
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


# ------------------------------------------------------------------------------------------------- for people
def quantity(number: float) -> str:
    """1234567 -> 1.23 M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g} {letter}"
    return f"{number:.0f}"


def sizes_line(sizes: Mapping[str, Sequence[int]]) -> str:
    """What open axes count as: `sizes: x=1,3,224,224`; empty where every size is fixed."""
    shown = " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in sizes.items())
    return f"sizes: {shown}" if shown else ""


def print_report(report: Report, console: Console, *, all_groups: bool = False) -> None:
    """The tables a person reads after `spa prune`."""
    cost = _table("", "before >", "after >", "removed >")
    for measure in report.before:
        sizes = (quantity(report.before[measure]), quantity(report.after[measure]))
        _add(cost, measure, *sizes, f"{report.removed_share(measure):.1%}")
    _print(cost, console, foot=sizes_line(report.sizes))
    print_groups(report.groups, console, all_groups=all_groups)
    print_layers(report.layers, console, on=report.outputs_on, all_layers=all_groups)
    print_outputs(report.outputs, console, on=report.outputs_on)
    print_frozen(report.frozen, console)
    print_verdict(report, console)


def print_verdict(report: Report, console: Console) -> None:
    """What verification found, in a line, and what else a user should know."""
    if report.status == NOT_COMPARED:
        reasons = "; ".join(report.missing)
        offer = f"; give {', or '.join(report.give)}" if report.give else ""
        console.print(f"not compared: valid, same inputs and outputs; {reasons}{offer}", markup=False, soft_wrap=True)
    if report.verified:
        line = "verified: valid, same inputs and outputs"
        if report.difference is not None:
            line += f"; {_distance(report)} from {report.reference}"
        if not report.exact:
            line += " (not exact by construction: units that enter a norm, mean or softmax were removed)"
        console.print(line, markup=False, soft_wrap=True)
    if moved := verdict.summary(report.outputs, report.outputs_on):
        console.print(moved, markup=False, soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _distance(report: Report) -> str:
    """How far the outputs are from the reference's."""
    if not report.difference:
        return "does not differ"
    channel = report.channel_difference
    of_channel = "" if channel is None else f" ({channel:.1e} of its channel)"
    return f"differs by {report.difference:.1e} of the largest output{of_channel}"


def print_groups(rows: Sequence[GroupRow], console: Console, *, all_groups: bool = False) -> None:
    """What goes, by kind; with `all_groups`, group by group."""
    if not rows:
        return
    if all_groups:
        table = _table("group", "kind", "units >", "removed >", "share >", "")
        for row in rows:
            off = f"off: {row.off}" if row.off else ""
            _add(table, row.name, row.kind, row.units, row.removed, f"{row.removed / row.units:.0%}", off)
    else:
        table = _table("kind", "groups >", "units >", "removed >", "share >", "")
        for kind, is_off in dict.fromkeys((row.kind, row.off is not None) for row in rows):
            mine = [row for row in rows if (row.kind, row.off is not None) == (kind, is_off)]
            units, gone = sum(row.units for row in mine), sum(row.removed for row in mine)
            hint = f"off by default, see --include {kind}" if is_off and not gone else ""
            _add(table, kind, len(mine), units, gone, f"{gone / units:.0%}", hint)
    _print(table, console)


def print_layers(
    layers: Sequence[LayerReport], console: Console, *, on: str = verdict.HELD_OUT, all_layers: bool = False
) -> None:
    """What was refitted, the layers that lost most first; with `all_layers`, in graph order and every one."""
    if not layers:
        return
    worst = sorted(layers, key=lambda layer: -(layer.predicted if isnan(layer.measured) else layer.measured))
    table = _table("refitted layer", "inputs >", "removed >", "predicted loss >", "measured loss >", "")
    for layer in layers if all_layers else worst[:WORST_LAYERS]:
        losses = (f"{layer.predicted:.2%}", "" if isnan(layer.measured) else f"{layer.measured:.2%}")
        _add(table, layer.name, layer.width, layer.removed, *losses, layer.note)
    more = "" if all_layers or len(layers) <= WORST_LAYERS else f"; {len(layers) - WORST_LAYERS} lost less: --verbose"
    _print(table, console, foot=f"loss: share of the variance of a layer's outputs, measured on {on}{more}")


def print_outputs(outputs: Mapping[str, Mapping[str, float]], console: Console, *, on: str = verdict.HELD_OUT) -> None:
    """How far the outputs moved, and on what that was measured."""
    measures = list(dict.fromkeys(measure for found in outputs.values() for measure in found))
    if not measures:
        return
    table = _table(f"output, on {on}", *(f"{measure} >" for measure in measures))
    for name, found in outputs.items():
        _add(table, name, *(f"{found[measure]:.3g}" if measure in found else "" for measure in measures))
    _print(table, console)


def print_inventory(report: Report, axes: Sequence[FrozenAxes], console: Console) -> None:
    """The tables of `spa groups`: what could go, and what stays and why."""
    table = _table("group", "kind", "units >", "params >", "inside", "")
    for row in report.groups:
        off = f"off, --include {row.kind} turns it on: {row.off}" if row.off else ""
        _add(table, row.name, row.kind, row.units, quantity(row.params), ", ".join(row.inside), off)
    if report.groups:
        _print(table, console)
    else:
        console.print("no group of units can be removed\n")
    print_frozen(report.frozen, console, most=20)
    table = _table("stays: axes that cannot shrink", "axes >", "params >", "for example")
    for entry in axes:
        _add(table, entry.reason, entry.axes, quantity(entry.params), entry.example)
    if axes:
        _print(table, console)


def print_frozen(shares: Sequence[FrozenShare], console: Console, *, most: int = 6) -> None:
    """What cannot shrink and why."""
    shown = [share for share in shares if share.params][:most]
    if not shown:
        return
    table = _table("stays: tensors with no axis to cut", "params >", "share >", "for example")
    for share in shown:
        _add(table, share.reason, quantity(share.params), f"{share.share:.1%}", share.example)
    _print(table, console)


def _table(*columns: str) -> Table:
    """A table without lines; columns that end in > hold numbers."""
    table = Table(show_edge=False, box=None, pad_edge=False)
    for column in columns:
        numbers = column.endswith(" >")
        name = column.removesuffix(" >")
        table.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    return table


def _add(table: Table, *cells: object) -> None:
    table.add_row(*(Text(str(cell)) for cell in cells))


def _print(table: Table, console: Console, *, foot: str = "") -> None:
    """The table, a line below it and an empty one; no blanks at the ends of lines, which rich fills up."""
    with console.capture() as captured:
        console.print(table)
    for line in (*captured.get().splitlines(), *filter(None, [foot]), ""):
        console.file.write(f"{line.rstrip()}\n")


# ----------------------------------------------------------------------------------------------------- rules
SHOWN = 3
"""Rules of an operator that a table of all shows."""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """Operators of a family whose axes are written alike, and the rules that the first of them gets."""

    family: str
    operators: tuple[str, ...]
    rules: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The rules without their notes."""
        return [rule.partition(" | ")[0] for rule in self.rules]

    @property
    def first(self) -> list[str]:
        """The lines that a table shows, and how many more there are."""
        more = len(self.rules) - SHOWN
        return [*self.lines[:SHOWN], *[f"and {more} more"] * (more > 0)]


def rule_rows(operator: str | None = None) -> list[RuleRow]:
    """What the operators that are known get for rules, families in alphabetical order; only `operator`, if given."""
    rules = applied()
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # (family, rules without their notes) -> operators
    for (domain, name), entry in sorted(registered().items()):
        full = f"{domain}::{name}" if domain else name
        if operator is None or operator.lower() in (name.lower(), full.lower()):
            family = entry.rule.__module__.rpartition(".")[2]
            lines = tuple(said.partition(" | ")[0] for said in rules.get(full, ()))
            found.setdefault((family, lines), []).append(full)
    rows = [RuleRow(family, tuple(names), tuple(rules.get(names[0], ()))) for (family, _), names in found.items()]
    return sorted(rows, key=lambda row: (row.family, row.operators))


def rules_markdown(rows: Sequence[RuleRow]) -> str:
    """The table of docs/operators.md."""
    lines = ["| family | operators | rules |", "|---|---|---|"]
    for row in rows:
        cell = "<br>".join(line if _is_prose(line) else f"`{line}`" for line in row.first)
        lines.append(f"| {row.family} | {', '.join(row.operators)} | {cell} |")
    return "\n".join(lines)


def _is_prose(line: str) -> bool:
    return line.startswith((REFUSED, "and "))


def print_rules(rows: Sequence[RuleRow], console: Console, *, whole: bool) -> None:
    """The rules for a person; `whole`: all of them, with their notes."""
    table = _table("operators", "rules")
    for row in rows:
        _add(table, ", ".join(row.operators), "\n".join(row.rules if whole else row.first))
    _print(table, console)
