"""Show what each head of a model does (`spa heads`), and find the heads that `--protect retrieval` keeps.

    import spa
    report = spa.heads("llama-onnx", data="texts.jsonl")
    max(report.rows, key=lambda row: row.retrieval or 0.0)

`spa.passes.heads.habits` defines the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.cost import MEASURES
from spa.analysis.group import Group
from spa.clock import Progress
from spa.errors import DataError, NothingToPrune, UsageError
from spa.given import calibration
from spa.options import InputShapes, PruneOptions
from spa.passes.choose.budget import OUTLIERS, Budget, protection
from spa.passes.heads.attentions import Attention, find_attentions
from spa.passes.heads.experts import Load, expert_loads, mixtures_of
from spa.passes.heads.habits import Habits, repeated
from spa.passes.heads.probabilities import Probabilities
from spa.passes.repair.groundwork import Groundwork
from spa.passes.samples.calibrate import Calibration
from spa.passes.secondorder import far_out
from spa.repair import RepairOptions
from spa.shapes.decoder import Decoder
from spa.shared import Shared
from spa.steps import Analysis, Source, analyse, load_normal

SAMPLES, SEQUENCES = 32, 8
"""Samples that are looked at, and made-up sequences that say everything twice."""

EXPERT_SAMPLES, AT_ONCE = 256, 8
"""Samples on which experts are looked at, and how many run at a time."""

LENGTHS = (128, 64, 32, 16)
"""Tokens of a sequence: as many as the model takes."""

KINDS = ("heads", "kv_heads")


@dataclass(frozen=True, slots=True)
class HeadRow:
    """One head of one attention.

    Attributes:
        attention: what the graph calls it.
        head: its number there.
        first, previous, retrieval: shares (0..1) of its attention, means over queries (`spa.passes.heads.habits`);
            None: not told.
        entropy: of its attention, in nats, the mean over queries; None: not told.
        importance: by how much the relative squared error of its readers grows, summed over them, as it goes, in the
            order in which heads would go; None: it was not measured, or it is the last to go.
        group, unit: what goes with it (`spa groups`); None: it cannot go.
    """

    attention: str
    head: int
    first: float | None = None
    previous: float | None = None
    entropy: float | None = None
    retrieval: float | None = None
    importance: float | None = None
    group: str | None = None
    unit: int | None = None


@dataclass(frozen=True, slots=True)
class HeadsReport:
    """The heads of a model, in graph order.

    Attributes:
        rows: a head each.
        experts: what each expert does, with samples only.
        notes: what was not told, and why.
    """

    rows: Sequence[HeadRow]
    experts: Sequence[Load] = ()
    notes: Sequence[str] = field(default_factory=list)


def heads(
    source: Source,
    *,
    data: Any = None,
    inputs: InputShapes | None = None,
    importance: bool = True,
    progress: Progress | None = None,
) -> HeadsReport:
    """What each head of a model does, on samples and, of a language model, on made-up sequences that repeat themselves.

    Args:
        source: as `spa.prune` takes it; never changed.
        data: as `spa.prune` takes it; None: of a language model the made-up sequences alone.
        inputs: shapes to analyse with, by input name.
        importance: whether it is measured what the readers of heads lose without them; takes samples.
        progress: called with the name of each step before it.

    Raises:
        ModelError: the source is no valid model.
        UsageError: no attention is found, or there are no samples and it is no language model.
        DataError: the samples do not fit the model.
        MissingExtra: onnxruntime is not installed.
    """
    runtime.require()
    say = progress or (lambda _step: None)
    model = load_normal(source)
    analysis = analyse(model, inputs=inputs)
    attentions = find_attentions(analysis.coupling)
    mixtures = any(group.barred for group in analysis.groups)
    if not attentions and not mixtures:
        raise UsageError(
            "no attention was found: no softmax weighs computed values, and no operator does both; nor are experts"
        )
    samples = None if data is None else calibration(RepairOptions(data=data), model)
    probabilities = Probabilities(model, analysis.coupling, attentions)
    say("look")
    few = None if samples is None else samples.first(SAMPLES)
    habits = _habits(probabilities, few, needles(model))
    say("importance")
    losses, notes = _importance(model, samples, analysis, inputs) if importance and samples is not None else ({}, [])
    loads = [] if samples is None else _loads(analysis, samples)
    rows = [row for each in attentions for row in _rows(each, habits[each.name], losses, analysis.groups)]
    notes += [f"{name}: {said}" for name, said in probabilities.notes.items()]
    return HeadsReport(rows, loads, notes)


def _loads(analysis: Analysis, samples: Calibration) -> list[Load]:
    batches = samples.first(EXPERT_SAMPLES).batches(samples.batch_size or AT_ONCE)
    return expert_loads(analysis.model, analysis.coupling, analysis.groups, batches)


def needles(model: ir.Model) -> list[dict[str, np.ndarray]]:
    """Made-up sequences that say everything twice, as a language model takes them; none for another model."""
    decoder = Decoder.of(model.graph)
    vocabulary = None if decoder is None else _vocabulary(model, decoder)
    if decoder is None or vocabulary is None:
        return []
    count, run = decoder.batch or 1, partial(runtime.run, runtime.session(model, optimize=True))
    for length in LENGTHS if decoder.length is None else (decoder.length,):
        ids = repeated(vocabulary, length, max(count, SEQUENCES // count * count))
        batches = [decoder.feeds(ids[at : at + count]) for at in range(0, len(ids), count)]
        try:
            run(batches[0])
        except DataError:  # more tokens than it has positions
            continue
        return batches if length % 2 == 0 else []
    return []


def _vocabulary(model: ir.Model, decoder: Decoder) -> int | None:
    """How many tokens there are: the scores of the next one, or the rows of the table that they are looked up in."""
    outputs = {str(value.name): value for value in model.graph.outputs}
    scores = None if decoder.scores is None else outputs[decoder.scores].shape
    if scores is not None and isinstance(scores[-1], int):
        return scores[-1]
    for use in decoder.tokens.uses():
        table = use.node.inputs[0]
        if use.idx == 1 and table is not None and table.const_value is not None:
            return int(table.const_value.shape.numpy()[0])
    return None


def _habits(
    probabilities: Probabilities, samples: Calibration | None, twice: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Habits]:
    if samples is None and not twice:
        raise UsageError("what heads do is seen on samples: give data; only language models make up their own")
    habits = {attention.name: Habits() for attention in probabilities.attentions}
    for batch in [] if samples is None else samples.batches(samples.batch_size or 1):
        for attention, array in probabilities.of(batch):
            habits[attention.name].add(array)
    for sequence in twice:
        for attention, array in probabilities.of(sequence):
            if samples is None:
                habits[attention.name].add(array)
            habits[attention.name].add_repeated(array)
    return habits


def _rows(
    attention: Attention, habits: Habits, losses: Mapping[tuple[str, int], float], groups: Sequence[Group]
) -> list[HeadRow]:
    means = {name: habits.mean(name) for name in ("first", "previous", "entropy", "retrieval")}
    units: dict[int, tuple[str, int]] = {}
    for group in groups:
        for unit, mine in attention.units(group).items() if group.kind in KINDS else ():
            for head in mine:
                units.setdefault(head, (group.name, unit))
    count = max([attention.count, *(len(mean) for mean in means.values() if mean is not None)])
    rows = []
    for head in range(count):
        told = {name: float(mean[head]) for name, mean in means.items() if mean is not None}
        name, number = units.get(head, (None, None))
        importance = None if name is None or number is None else losses.get((name, number))
        rows.append(HeadRow(attention.name, head, **told, importance=importance, group=name, unit=number))
    return rows


def _importance(
    model: ir.Model, samples: Calibration, analysis: Analysis, inputs: InputShapes | None
) -> tuple[dict[tuple[str, int], float], list[str]]:
    """What is lost as each unit of each group of heads goes, by name and unit; notes."""
    names = [group.name for group in analysis.groups if group.kind in KINDS]
    if not names:
        return {}, ["importance is not told: no heads could go"]
    budget = Budget(ratio=0.5, of=MEASURES[0], include=tuple(names), only=tuple(names))
    try:
        groundwork = Groundwork.of(model, samples, budget, preset="fast", inputs=inputs)
    except (NothingToPrune, DataError) as error:
        return {}, [f"importance is not told: {error}"]
    losses = {}
    for name, curve in groundwork.curves.items():
        for unit, loss in zip(curve.order, np.diff(curve.losses), strict=True):
            losses[name, int(unit)] = float(loss)
    return losses, []


# ---------------------------------------------------------------------------------------------------- protecting
def protected(dense: ir.Model, options: PruneOptions, shared: Shared) -> tuple[PruneOptions, str]:
    """The options with the units kept that hold protected heads, or are super experts; what a user should know of it.

    Raises:
        UsageError: the model has none of what is to be protected, or there are no samples that would tell.
    """
    assert options.budget.protect is not None
    what, least = protection(options.budget.protect)
    if what == OUTLIERS:
        kept = shared.once("protected", lambda: _super_experts(dense, options, shared))
        said = f"protected: {sum(map(len, kept.values()))} super experts, whose outputs are extreme"
    else:
        kept = shared.once("protected", lambda: _retrieval_units(dense, options.run.inputs, least))
        count = sum(map(len, kept.values()))
        said = f"protected: {count} units of heads that look up what was said before, with a score of {least:g} or more"
    listed = "; ".join(f"{', '.join(map(str, units))} of {name}" for name, units in list(kept.items())[:4])
    said += f" ({listed}{'; ...' if len(kept) > 4 else ''})" if kept else ""
    return replace(options, budget=replace(options.budget, kept=kept)), said


def _super_experts(dense: ir.Model, options: PruneOptions, shared: Shared) -> dict[str, list[int]]:
    """The experts, by group, that add extreme numbers to tokens: of the samples, else of sequences that are made up."""
    analysis = analyse(dense.clone(), inputs=options.run.inputs)
    if not any(group.barred for group in analysis.groups):
        raise UsageError("protect outliers is for mixtures of experts, and no choice among experts was found that may "
                         "become smaller: spa groups lists what stays, and why")  # fmt: skip
    repair, batches = options.repair, needles(dense)
    if repair.has_samples and not repair.own_samples:
        samples = shared.once("samples", lambda: calibration(repair, dense, labels=options.learning.labels))
        batches = samples.first(EXPERT_SAMPLES).batches(samples.batch_size or AT_ONCE)
    if not batches:
        raise UsageError("protect outliers looks at what experts add to tokens: give data")
    mixtures = mixtures_of(analysis.model, analysis.coupling, analysis.groups, batches)
    outliers = zip(mixtures, far_out([each for _, each in mixtures]), strict=True)
    return {group.name: units for (group, _), units in outliers if units}


def _retrieval_units(dense: ir.Model, inputs: InputShapes | None, least: float) -> dict[str, list[int]]:
    """The units, by group, that hold a head whose retrieval score is at least so high."""
    analysis = analyse(dense.clone(), inputs=inputs)
    attentions, twice = find_attentions(analysis.coupling), needles(dense)
    if not attentions or not twice:
        why = "has no attention" if not attentions else "is not known to take tokens, or takes an odd number"
        raise UsageError(
            "protect retrieval is for language models: it looks at what heads do in a sequence of tokens that repeats "
            f"itself, and this model {why}"
        )
    habits = _habits(Probabilities(analysis.model, analysis.coupling, attentions), None, twice)
    kept: dict[str, set[int]] = {}
    for attention in attentions:
        scores = habits[attention.name].mean("retrieval")
        for group in analysis.groups if scores is not None else ():
            for unit, mine in attention.units(group).items():
                if scores is not None and scores[mine].max() >= least:
                    kept.setdefault(group.name, set()).add(unit)
    return {name: sorted(units) for name, units in kept.items()}
