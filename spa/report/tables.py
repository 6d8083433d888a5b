"""The report of a run, as tables and sentences on a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING

from rich.console import Console

from spa import verdict
from spa.report.data import NOT_COMPARED, FrozenAxes, FrozenShare, GroupRow, Report
from spa.report.grid import add_row, new_table, print_table

if TYPE_CHECKING:
    from spa.passes.repair.sequential import LayerReport

WORST_LAYERS = 8


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
    cost = new_table("", "before >", "after >", "removed >")
    for measure in report.before:
        sizes = (quantity(report.before[measure]), quantity(report.after[measure]))
        add_row(cost, measure, *sizes, f"{report.removed_share(measure):.1%}")
    print_table(cost, console, foot=sizes_line(report.sizes))
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
        console.print(f"not compared: {_valid(report)}; {reasons}{offer}", markup=False, soft_wrap=True)
    if report.verified:
        line = f"verified: {_valid(report)}"
        if report.difference is not None:
            line += f"; {_distance(report)} from {report.reference}"
        if not report.exact:
            line += " (not exact by construction: units that enter a norm, mean or softmax were removed)"
        console.print(line, markup=False, soft_wrap=True)
    if report.perplexity is not None:
        console.print(f"perplexity {report.perplexity}", markup=False, soft_wrap=True)
    for line in report.trained:
        console.print(line, markup=False, soft_wrap=True)
    if moved := verdict.summary(report.outputs, report.outputs_on, trained=bool(report.trained)):
        console.print(moved, markup=False, soft_wrap=True)
    if report.latency is not None:
        console.print(report.latency.sentence, markup=False, soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _valid(report: Report) -> str:
    return f"valid, same inputs and outputs{' but for smaller caches' if report.resized else ''}"


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
        table = new_table("group", "kind", "units >", "removed >", "share >", "")
        for row in rows:
            off = f"off: {row.off}" if row.off else ""
            add_row(table, row.name, row.kind, row.units, row.removed, f"{row.removed / row.units:.0%}", off)
    else:
        table = new_table("kind", "groups >", "units >", "removed >", "share >", "")
        for kind, is_off in dict.fromkeys((row.kind, row.off is not None) for row in rows):
            mine = [row for row in rows if (row.kind, row.off is not None) == (kind, is_off)]
            units, gone = sum(row.units for row in mine), sum(row.removed for row in mine)
            hint = f"off by default, see --include {kind}" if is_off and not gone else ""
            add_row(table, kind, len(mine), units, gone, f"{gone / units:.0%}", hint)
    print_table(table, console)


def print_layers(
    layers: Sequence[LayerReport], console: Console, *, on: str = verdict.HELD_OUT, all_layers: bool = False
) -> None:
    """What was refitted, the layers that lost most first; with `all_layers`, in graph order and every one."""
    if not layers:
        return
    worst = sorted(layers, key=lambda layer: -(layer.predicted if isnan(layer.measured) else layer.measured))
    table = new_table("refitted layer", "inputs >", "removed >", "predicted loss >", "measured loss >", "")
    for layer in layers if all_layers else worst[:WORST_LAYERS]:
        losses = (f"{layer.predicted:.2%}", "" if isnan(layer.measured) else f"{layer.measured:.2%}")
        add_row(table, layer.name, layer.width, layer.removed, *losses, layer.note)
    more = "" if all_layers or len(layers) <= WORST_LAYERS else f"; {len(layers) - WORST_LAYERS} lost less: --verbose"
    print_table(table, console, foot=f"loss: share of the variance of a layer's outputs, measured on {on}{more}")


def print_outputs(outputs: Mapping[str, Mapping[str, float]], console: Console, *, on: str = verdict.HELD_OUT) -> None:
    """How far the outputs moved, and on what that was measured."""
    measures = list(dict.fromkeys(measure for figures in outputs.values() for measure in figures))
    if not measures:
        return
    table = new_table(f"output, on {on}", *(f"{measure} >" for measure in measures))
    for name, figures in outputs.items():
        add_row(table, name, *(f"{figures[measure]:.3g}" if measure in figures else "" for measure in measures))
    print_table(table, console)


def print_inventory(report: Report, axes: Sequence[FrozenAxes], console: Console) -> None:
    """The tables of `spa groups`: what could go, and what stays and why."""
    table = new_table("group", "kind", "units >", "params >", "inside", "")
    for row in report.groups:
        off = f"off (--include {row.kind}): {row.off}" if row.off else ""
        add_row(table, row.name, row.kind, row.units, quantity(row.params), ", ".join(row.inside), off)
    if report.groups:
        print_table(table, console)
    else:
        console.print("no group of units can be removed\n")
    print_frozen(report.frozen, console, most=20)
    table = new_table("stays: axes that cannot shrink", "axes >", "params >", "for example")
    for entry in axes:
        add_row(table, entry.reason, entry.axes, quantity(entry.params), entry.example)
    if axes:
        print_table(table, console)


def print_frozen(shares: Sequence[FrozenShare], console: Console, *, most: int = 6) -> None:
    """What cannot shrink and why."""
    shown = [share for share in shares if share.params][:most]
    if not shown:
        return
    table = new_table("stays: tensors with no axis to cut", "params >", "share >", "for example")
    for share in shown:
        add_row(table, share.reason, quantity(share.params), f"{share.share:.1%}", share.example)
    print_table(table, console)
