"""The theorem on random graphs: whatever is removed, the result is valid, as large as asked for, and exact.

    python tests/random_graphs.py --count 20000 --jobs 2 [--first SEED]

A seed makes a graph and a plan.  Each line printed is a seed that fails and why; the last line counts.

One file: a script, from a seed to the line that it prints.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

if __name__ == "__main__":  # run as a script: the project's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spa import pipeline, runtime
from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.errors import SpaError
from spa.passes.choose.tracks import find_tracks
from spa.passes.cut.masking import mask_consumers
from spa.passes.cut.rounding import shaken
from spa.passes.cut.structure import check_structure
from spa.provenance import stamp
from tests.random_blocks import IMAGE_BLOCKS, ROW_BLOCKS, SEQUENCE_BLOCKS, conv, linear
from tests.random_builder import Axis, Builder, Tensor

TOLERANCE = 1e-4  # relative to an output's largest value
OTHER_SIZES = {"N": 3, "T": 9}


class Wrong(Exception):
    """The theorem does not hold; says where."""


# ---------------------------------------------------------------------------------------------------- graphs
def random_model(seed: int) -> onnx.ModelProto:
    """A valid graph, a function of its seed alone."""
    b = Builder(seed)
    batch: Axis = "N" if b.chance(0.6) else 2
    kind = b.pick(["image", "image", "image to sequence", "sequence", "sequence", "words", "rows"])
    if kind.startswith("image"):
        side = b.pick([4, 6, 8])
        tensors = grow(b, b.input("x", (batch, b.pick([1, 3, 4]), side, b.pick([side, 4]))), IMAGE_BLOCKS)
        if kind.endswith("sequence"):
            tensors = grow(b, sequence_of(b, tensors[-1]), SEQUENCE_BLOCKS)
    elif kind == "rows":
        tensors = grow(b, b.input("x", (batch, b.width())), ROW_BLOCKS)
    else:
        steps: Axis = "T" if b.chance(0.5) else b.pick([3, 5, 7])
        start = words(b, batch, steps) if kind == "words" else b.input("x", (batch, steps, b.width()))
        tensors = grow(b, start, SEQUENCE_BLOCKS)
    finish(b, tensors)
    return b.model()


def words(b: Builder, batch: Axis, steps: Axis) -> Tensor:
    """An embedding; its table may be used again for the last layer."""
    width = b.width(multiple=2)
    identifiers = b.input("words", (batch, steps), onnx.TensorProto.INT64)
    table = b.weight(7, width, fan=1, stem="table")
    x = b.op("Gather", table, identifiers, shape=(batch, steps, width), axis=0)
    if b.chance(0.5):
        y = b.op("MatMul", mixed_to(b, x, width), b.transpose(table, 1, 0), shape=(batch, steps, 7))
        b.output(y)
    return x


def mixed_to(b: Builder, x: Tensor, width: int) -> Tensor:
    return b.activation(linear(b, x, width))


def sequence_of(b: Builder, x: Tensor) -> Tensor:
    """Pixels one after another."""
    flat = b.reshape(x, [*x.shape[:2], x.size(2) * x.size(3)])
    return b.transpose(flat, 0, 2, 1)


def grow(b: Builder, x: Tensor, blocks: Sequence[object]) -> list[Tensor]:
    """Some blocks on top of each other, with connections from earlier ones."""
    tensors = [x]
    for _ in range(int(b.rng.integers(1, 7))):
        source = tensors[-1] if b.chance(0.8) else b.pick(tensors)
        y = b.pick(blocks)(b, source)
        tensors.append(connected(b, y, tensors))
    return tensors


def connected(b: Builder, y: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """The tensor, or its sum or concatenation with an earlier one that fits."""
    axis = 1 if len(y.shape) == 4 else len(y.shape) - 1
    alike = [x for x in earlier if x.shape == y.shape]
    if alike and b.chance(0.3):
        return b.op("Add", y, b.pick(alike), shape=y.shape)
    beside = [x for x in earlier if len(x.shape) == len(y.shape) and all(
        size == its for at, (size, its) in enumerate(zip(x.shape, y.shape, strict=True)) if at != axis)]  # fmt: skip
    if beside and b.chance(0.15):
        other = b.pick(beside)
        shape = [*y.shape]
        shape[axis] = y.size(axis) + other.size(axis)
        return b.op("Concat", other, y, shape=shape, axis=axis)
    return y


def finish(b: Builder, tensors: Sequence[Tensor]) -> None:
    """One to three outputs; most behind a layer of their own, some as they are."""
    b.output(head(b, tensors[-1]))
    for _ in range(b.pick([0, 0, 1, 2])):
        tensor = b.pick(tensors[1:])
        b.output(tensor if b.chance(0.3) else head(b, tensor))


def head(b: Builder, x: Tensor) -> Tensor:
    if len(x.shape) == 4:
        if b.chance(0.3):
            return conv(b, x, 3, group=1)
        if b.chance(0.5) and x.size(1) * x.size(2) * x.size(3) <= 512:
            x = b.op("Flatten", x, shape=(x.shape[0], x.size(1) * x.size(2) * x.size(3)), axis=1)
        else:
            x = b.reduce("ReduceMean", x, [2, 3], keep=False)
    elif len(x.shape) == 3 and b.chance(0.5):
        x = b.reduce(b.pick(["ReduceMean", "ReduceMax"]), x, [1], keep=False)
    return linear(b, x, 3)


# ---------------------------------------------------------------------------------------------------- plans
def random_plan(groups: Sequence[Group], rng: np.random.Generator) -> Plan:
    """Any number of units of any groups; those that enter a norm now and then."""
    widths = rng.random() < 0.15
    share, depth = rng.choice([0.5, 0.8, 1.0]), rng.choice([0.4, 1.0])
    chosen = [group for group in groups if (group.off is None or widths) and rng.random() < share]
    tracks = find_tracks(chosen, [rng.random(group.size) for group in chosen])
    removed = {
        track.group.name: track.order[: rng.choice(track.allowed[: max(2, int(depth * len(track.allowed)))])]
        for track in tracks
    }
    return Plan.of(groups, removed)


# --------------------------------------------------------------------------------------------------- theorem
@dataclass(frozen=True)
class Outcome:
    """What a seed showed."""

    groups: int
    removed: int
    exact: bool
    compared: bool
    twice: bool


def check(proto: onnx.ModelProto, seed: int) -> Outcome:
    """Prune by a random plan and check everything that the theorem says.

    Raises:
        Wrong, SpaError: it does not hold.
    """
    rng = np.random.default_rng([seed, 1])
    onnx.checker.check_model(proto, full_check=True)
    dense = pipeline.load_normal(proto)
    pruned, masked = dense.clone(), dense.clone()
    analysis = pipeline.analyse(pruned)
    plan = random_plan(analysis.groups, rng)
    if Plan.from_json(plan.to_json()) != plan:
        raise Wrong("the plan changes on its way through JSON")
    exact = pipeline.is_exact(analysis.groups, plan)
    masks = plan.masks(analysis.groups)
    foretold = {measure: analysis.cost.of(measure, masks) for measure in ("params", "flops")}
    shapes = {str(value.name): analysis.shapes.of[value] for value in pruned.graph.inputs}
    pipeline.cut(analysis, plan)
    if notes := check_structure(dense, pruned):
        raise Wrong(f"the dense model is invalid: {notes}")
    again = pipeline.analyse(masked)
    mask_consumers(masked, again.coupling, plan.masks(again.groups))
    compared = compare(dense, masked if exact else None, pruned, shapes, seed)
    twice = rng.random() < 0.5 and check_twice(dense, plan, pruned, rng)
    if rng.random() < 0.5:
        check_cost(pruned, shapes, foretold)
    if rng.random() < 0.1:
        check_bytes(proto, plan, pruned)
    return Outcome(len(analysis.groups), sum(map(len, plan.removed.values())), exact, compared, twice)


def compare(
    dense: ir.Model, masked: ir.Model | None, pruned: ir.Model, shapes: Mapping[str, Sequence[int]], seed: int
) -> bool:
    """At two sizes of the symbolic axes: shapes are those of the dense model, values those of the masked one.

    Whether there were values to compare with.
    """
    running = {name: session(model) for name, model in (("dense", dense), ("pruned", pruned))}
    reference = None if masked is None else session(masked)
    for feeds in feeds_of(dense, shapes, seed):
        expected, actual = (runtime.run(running[name], feeds) for name in ("dense", "pruned"))
        for name, array in expected.items():
            if array.shape != actual[name].shape or array.dtype != actual[name].dtype:
                raise Wrong(
                    f"output {name} is {actual[name].shape} {actual[name].dtype}, was {array.shape} {array.dtype}"
                )
        if masked is not None:
            expected = runtime.run(reference, feeds)
            gap = difference(expected, actual)
            if gap > TOLERANCE and gap > 10 * difference(expected, runtime.run(session(shaken(masked)), feeds)):
                raise Wrong(f"differs by {gap:.1e} at { ({name: array.shape for name, array in feeds.items()}) }")
    return masked is not None


def feeds_of(model: ir.Model, shapes: Mapping[str, Sequence[int]], seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of two sizes; a flag that is an input takes both values."""
    others = {
        str(value.name): [size if isinstance(size, int) else OTHER_SIZES[str(size.value)] for size in value.shape or ()]
        for value in model.graph.inputs
    }
    for sizes, flag in ((shapes, True), (others, False)):
        feeds = runtime.random_feeds(model, shapes=sizes, seed=seed, high={"words": 7} if "words" in sizes else None)
        if "flag" in feeds:
            feeds["flag"] = np.array(flag)
        yield feeds


def session(model: ir.Model) -> Any:
    return runtime.session(model, optimize=False, threads=1)


def difference(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    gaps = [
        float(np.max(np.abs(array - actual[name]), initial=0.0)) / max(float(np.max(np.abs(array), initial=0.0)), 1e-6)
        for name, array in expected.items()
    ]
    return max(gaps) if np.isfinite(gaps).all() else np.inf


def check_cost(pruned: ir.Model, shapes: Mapping[str, Sequence[int]], foretold: Mapping[str, float]) -> None:
    """The cost that was foretold is the cost of the smaller model."""
    after = pipeline.analyse(pruned, inputs=shapes, counted={}).cost
    for measure, number in foretold.items():
        if not np.isclose(after.of(measure), number):
            raise Wrong(f"{measure}: foretold {number}, found {after.of(measure)}")


def check_twice(dense: ir.Model, plan: Plan, pruned: ir.Model, rng: np.random.Generator) -> bool:
    """Removing a part first and the rest afterwards gives the same model, where the groups are the same."""
    first = {name: [unit for unit in units if rng.random() < 0.5] for name, units in plan.removed.items()}
    step = dense.clone()
    before = pipeline.analyse(step)
    pipeline.cut(before, Plan.of(before.groups, first))
    between = pipeline.analyse(step)
    sizes = {group.name: group.size for group in between.groups}
    rest = {}
    for name, units in plan.removed.items():
        left = [unit for unit in range(plan.sizes[name]) if unit not in first[name]]
        if sizes.get(name, 0) != len(left):
            return False
        rest[name] = [left.index(unit) for unit in units if unit not in first[name]]
    pipeline.cut(between, Plan.of(between.groups, rest))
    in_steps, at_once = stored(step), stored(pruned)
    if in_steps.keys() != at_once.keys():
        raise Wrong(f"pruned in two steps, the model has other weights: {sorted(in_steps.keys() ^ at_once.keys())}")
    for name, array in at_once.items():
        if in_steps[name].shape != array.shape or not np.array_equal(in_steps[name], array):
            raise Wrong(f"pruned in two steps, {name} is {in_steps[name].shape}, else {array.shape}")
    return True


def check_bytes(proto: onnx.ModelProto, plan: Plan, pruned: ir.Model) -> None:
    """Applied as a user would, with all checks on, the plan gives the same model, byte for byte."""
    before = proto.SerializeToString()
    result = pipeline.apply_plan(proto, plan)
    if proto.SerializeToString() != before:
        raise Wrong("the source was changed")
    stamp(pruned, plan)  # as apply_plan says where a model comes from
    applied, direct = (ir.to_proto(model).SerializeToString(deterministic=True) for model in (result.model, pruned))
    if applied != direct:
        raise Wrong("the same plan gives other bytes")


def stored(model: ir.Model) -> dict[str, np.ndarray]:
    """The float weights by name."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return {
        str(value.name): value.const_value.numpy()
        for value in values
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    }


# -------------------------------------------------------------------------------------------------- long runs
def attempt(seed: int) -> tuple[int, Outcome | str]:
    """A seed and what came of it."""
    try:
        return seed, check(random_model(seed), seed)
    except SpaError as error:
        return seed, f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - a long run goes on, whatever happened
        return seed, f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.count)
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for seed, outcome in pool.map(attempt, seeds, chunksize=4):
            if isinstance(outcome, str):
                counts["wrong"] += 1
                print(f"seed {seed}: {outcome}"[:400], flush=True)
                continue
            counts["groups"] += outcome.groups
            counts["graphs that lost something"] += outcome.removed > 0
            counts["units removed"] += outcome.removed
            counts["exact and compared"] += outcome.exact and outcome.compared
            counts["pruned in two steps as well"] += outcome.twice
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if what != "wrong")
    print(f"{arguments.count} graphs: {counts['wrong']} wrong; {words}")
    sys.exit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
