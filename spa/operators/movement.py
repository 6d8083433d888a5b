"""Operators that move positions about and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from spa.notation.operation import Moves, Operation, Refusal, Shape, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Positions, Rule, Sizes, rule
from spa.operators.sizes import elements_do_not_fit, expanded, index_is_out_of_range, reshaped, sliced

COMPUTED = "positions computed at run time"
MISALIGNED = "reshaped across its own boundaries"
MAX_RUNS = 2048  # a selection in more pieces than this freezes its axis


# -------------------------------------------------------------------------------------------------- reshape
@operator("Flatten", "Squeeze", "Unsqueeze", moves=Moves.FIRST)
@operator("Reshape", moves=Moves.FIRST, contradicts=elements_do_not_fit, completes=reshaped)
def reshape(operation: Operation) -> Rule:
    """The same positions in the same order under other axes: derived from the two shapes."""
    others = ", _" * (len(operation.inputs) - 1)
    patterns = regroup(operation.shape(0), operation.result())
    if patterns is None:
        rank = len(operation.shape(0))
        names = letters(rank + len(operation.result()))
        line = f"{pattern(names[:rank])}{others} -> {pattern(names[rank:])}"
        return rule(line, frozen={" ".join(names): MISALIGNED})
    before, after, sizes = patterns
    follows: tuple[Sizes, ...] = ()
    frozen = {}
    if operation.name == "Squeeze" and not operation.has(1) and "axes" not in operation.attributes:
        stays = " ".join(term for term in after if term != "1")
        frozen = {stays: "a single position would be squeezed away"} if stays else {}
    if operation.name == "Reshape":
        follows = (Sizes(1, tuple(parse_terms(" ".join(after))), markers=True),)
    line = f"{pattern(before)}{others} -> {pattern(after)}"
    return rule(line, sizes=sizes, frozen=frozen, follows=follows)


@lru_cache(maxsize=4096)
def regroup(before: Shape, after: Shape) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int]] | None:
    """Terms for the axes of two shapes of the same positions, and sizes of names in products.

    None if the boundaries of the two do not align.
    """
    if 0 in before or 0 in after:
        return None
    sizes: dict[str, int] = {}
    sides: tuple[list[list[str]], list[list[str]]] = ([[] for _ in before], [[] for _ in after])
    at, remaining = [0, 0], [1, 1]
    shapes = (before, after)
    names = iter(letters(len(before) + len(after) + 1))
    # walk both shapes from the major side, cutting off the largest factor both share
    while True:
        for side in (0, 1):
            while remaining[side] == 1 and at[side] < len(shapes[side]):
                remaining[side] = shapes[side][at[side]]
                at[side] += 1
        if remaining[0] == 1 or remaining[1] == 1:
            break
        step = min(remaining)
        if max(remaining) % step:
            return None
        name = next(names)
        sizes[name] = step
        for side in (0, 1):
            sides[side][at[side] - 1].append(name)
            remaining[side] //= step
    if remaining != [1, 1] or at != [len(before), len(after)]:
        return None
    texts = [tuple(_product_text(terms) for terms in side) for side in sides]
    inside = {name for side in sides for terms in side if len(terms) > 1 for name in terms}
    return texts[0], texts[1], {name: size for name, size in sizes.items() if name in inside}


def _product_text(names: Sequence[str]) -> str:
    return "1" if not names else names[0] if len(names) == 1 else f"({' '.join(names)})"


@operator("Transpose", moves=Moves.FIRST, permutes="perm")
def transpose(operation: Operation) -> Rule:
    """`a b c -> c b a`."""
    names = letters(len(operation.shape(0)))
    order = operation.attribute("perm") or range(len(names))[::-1]
    return rule(f"{' '.join(names) or '()'} -> {' '.join(names[axis] for axis in order) or '()'}")


@operator("Expand", moves=Moves.FIRST, completes=expanded)
def expand(operation: Operation) -> Rule:
    """Axes of length one are repeated; the target lists the result's sizes."""
    shape, result = operation.shape(0), operation.result()
    names = letters(len(result))
    padded = (1,) * (len(result) - len(shape)) + shape
    operand = ["1" if size == 1 else name for size, name in zip(padded, names, strict=True)][len(result) - len(shape) :]
    follows: tuple[Sizes, ...] = ()
    if operation.has(1):
        asked = operation.shape(1)[0]
        follows = (Sizes(1, tuple(parse_terms(" ".join(names[len(names) - asked :]))), markers=True),)
    return rule(f"{' '.join(operand) or '()'}, _ -> {' '.join(names) or '()'}", follows=follows)


@operator("Tile", moves=Moves.FIRST)
def tile(operation: Operation) -> Rule:
    """Each axis is repeated as a whole: `a -> (r a)`."""
    names = letters(len(operation.shape(0)), avoid="r")
    repeats = [big // small if small else 1 for small, big in zip(operation.shape(0), operation.result(), strict=True)]
    result = [name if times == 1 else f"(r{name} {name})" for name, times in zip(names, repeats, strict=True)]
    repeated = {f"r{name}": times for name, times in zip(names, repeats, strict=True) if times != 1}
    frozen = {" ".join(repeated): "copies made by Tile"} if repeated else {}
    return rule(f"{' '.join(names)}, _ -> {' '.join(result)}", sizes=repeated, frozen=frozen)


# ------------------------------------------------------------------------------------------ joining, cutting
@operator("Concat", moves=Moves.ALL)
def concat(operation: Operation) -> Rule:
    """`n a, n b -> n (a + b)`."""
    axis = operation.axis()
    rank = len(operation.shape(0))
    names = letters(rank, avoid="x")
    present = [position for position in range(len(operation.inputs)) if operation.shape(position)[axis]]
    pieces = {position: f"x{position}" for position in present}
    lines = []
    for position in range(len(operation.inputs)):
        own = list(names)
        own[axis] = pieces.get(position, f"zero{position}")
        lines.append(" ".join(own))
    joined = " + ".join(pieces.values())
    names[axis] = f"({joined})" if len(pieces) > 1 else joined
    return rule(f"{', '.join(lines)} -> {' '.join(names)}")


@operator("Split", moves=Moves.FIRST)
def split(operation: Operation) -> Rule:
    """`n (a + b) -> n a, n b`."""
    axis = operation.axis(0)
    names = letters(len(operation.shape(0)), avoid="x")
    pieces = [f"x{k}" for k in range(len(operation.outputs))]
    sizes = {piece: operation.result(k)[axis] for k, piece in enumerate(pieces)}
    whole = [*names]
    whole[axis] = f"({' + '.join(pieces)})" if len(pieces) > 1 else pieces[0]
    alone = {piece for piece in pieces if operation.singles and len(pieces) > 1 and sizes[piece] == 1}
    terms = ["1" if piece in alone else piece for piece in pieces]
    results = [" ".join([*names[:axis], term, *names[axis + 1 :]]) for term in terms]
    holds = tuple((k, piece) for k, piece in enumerate(pieces) if piece in alone)
    target: int | str = "split" if operation.version < 13 else 1
    follows = (Sizes(target, tuple(parse_terms(" ".join(pieces))), instead="num_outputs"),)
    others = ", _" * (len(operation.inputs) - 1)
    return rule(f"{' '.join(whole)}{others} -> {', '.join(results)}", sizes=sizes, follows=follows, holds=holds)


@operator("Slice", moves=Moves.FIRST, completes=sliced)
def slice_(operation: Operation) -> Rule:
    """`n (a + b + c) -> n b` for each axis that is cut."""
    shape, result = operation.shape(0), operation.result()
    rank = len(shape)
    axes = _numbers_if_known(operation, 3, "axes")
    starts, ends = operation.numbers(1, "starts"), operation.numbers(2, "ends")
    if axes is None:
        axes = list(range(operation.shape(1)[0] if starts is None else len(starts)))
    names = letters(rank)
    before, after = list(names), list(names)
    sizes: dict[str, int] = {}
    frozen: dict[str, str] = {}
    edits: list[list[str]] = [[], []]
    holds: tuple[tuple[int, str], ...] = ()
    steps = operation.numbers(4, "steps") if operation.has(4) else [1] * len(axes)
    for at, axis in enumerate(a % rank for a in axes):
        name = names[axis]
        if starts is None or ends is None or steps is None:
            if shape[axis] != result[axis] or steps is None:
                after[axis] = name + "x"
                frozen[f"{name} {name}x"] = COMPUTED
            edits = [[*edit, "_"] for edit in edits]
            continue
        cut = _slice_terms(name, shape[axis], starts[at], ends[at], steps[at])
        if cut is None:
            after[axis] = name + "x"
            frozen[f"{name} {name}x"] = "cut in steps, or from the end"
            edits = [[*edit, "_"] for edit in edits]
            continue
        before[axis], after[axis], new_sizes, start, end = cut
        if operation.singles and new_sizes.get(name + "b") == 1 and shape[axis] > 1:
            after[axis] = "1"
            holds = (*holds, (0, name + "b"))
        sizes |= new_sizes
        edits[0].append(start)
        edits[1].append(end)
    follows = _slice_follows(operation, edits)
    others = ", _" * (len(operation.inputs) - 1)
    line = f"{' '.join(before)}{others} -> {' '.join(after)}"
    return rule(line, sizes=sizes, frozen=frozen, follows=follows, holds=holds)


def _numbers_if_known(operation: Operation, position: int, attribute: str) -> list[int] | None:
    if attribute in operation.attributes or position in operation.constants:
        return operation.numbers(position, attribute)
    if operation.has(position):
        raise Refusal(f"operand {position} ({attribute}) is computed at run time")
    return None


def _slice_terms(
    name: str, size: int, start: int, end: int, step: int
) -> tuple[str, str, dict[str, int], str, str] | None:
    """(operand term, result term, sizes, new start, new end) of one sliced axis; None: nothing regular."""
    first, last, _ = slice(start, end, step).indices(size)
    if step == 1:
        first, last = min(first, size), max(first, last)
        if first == last and size:  # nothing is taken, whatever goes
            return name, name + "x", {name + "x": 0}, "_", "_"
        pieces = [("a", first), ("b", last - first), ("c", size - last)]
        there = [(name + tag, length) for tag, length in pieces if length]
        if len(there) < 2:
            return name, name, {}, "_", "_"
        names = [piece for piece, _ in there]
        at = names.index(name + "b")
        head = _sum_text(names[at:], "-") if start < 0 else _sum_text(names[:at])
        tail = _sum_text(names[at + 1 :], "-") if end < 0 else _sum_text(names[: at + 1])
        return _sum_text(names), name + "b", dict(there), head if first else "_", tail if last < size else "_"
    if step > 1 and size % step == 0 and 0 <= first < step and len(range(first, last, step)) == size // step:
        # every step-th position of an axis made of steps: "(m (1 + 1)) -> m"
        whole = f"({name} ({' + '.join(['1'] * step)}))"
        return whole, name, {name: size // step}, "_", whole
    if step == -1 and len(range(first, last, step)) == size <= MAX_RUNS:  # turned round; both ends lie beyond the axis
        terms = [f"{name}{k}" for k in range(size)]
        return _sum_text(terms), _sum_text(terms[::-1]), dict.fromkeys(terms, 1), "_", "_"
    return None


def _slice_follows(operation: Operation, edits: list[list[str]]) -> tuple[Sizes, ...]:
    """The starts and ends that follow; those that count from the end of their axis are marked with a minus."""
    targets: list[int | str] = ["starts", "ends"] if "starts" in operation.attributes else [1, 2]
    sizes = []
    for target, texts in zip(targets, edits, strict=True):
        for back in (False, True):
            terms = [None if text == "_" or text.startswith("-") != back else text.lstrip("-") for text in texts]
            if any(terms):
                parsed = tuple(None if text is None else parse_terms(text)[0] for text in terms)
                sizes.append(Sizes(target, parsed, back=back))
    return tuple(sizes)


# ------------------------------------------------------------------------------------------------ selecting
@operator("Gather", moves=Moves.FIRST, contradicts=index_is_out_of_range)
def gather(operation: Operation) -> Rule:
    """Positions of one axis, picked by a constant (they follow) or at run time (the axis stays)."""
    axis = operation.axis(0)
    data, picked = operation.shape(0), operation.shape(1)
    names = letters(len(data), avoid="p")
    before, after = names[:axis], names[axis + 1 :]
    chosen = operation.constants.get(1)
    selection = (
        None
        if chosen is None or chosen.ndim > 1
        else pieces_of(chosen.reshape(-1), data[axis], "p", "pb" if operation.singles else "1")
    )
    if selection is None:
        index = [f"p{k}" for k in range(len(picked))]
        line = f"{' '.join(names)}, {' '.join(index) or '()'} -> {' '.join([*before, *index, *after]) or '()'}"
        reason = "looked up by index" if chosen is None else "picked by a table of positions"
        looks = ((1, names[axis]),) if chosen is None else ()
        return rule(line, frozen={names[axis]: reason}, looks=looks)
    whole, part, sizes = selection
    operand = " ".join([*before, whole, *after])
    follows = (Positions(1, parse_terms(whole)[0]),)
    holds = ((0, "pb"),) if operation.singles and "pb" in sizes else ()
    if picked == ():
        line = f"{operand}, () -> {' '.join([*before, *after]) or '()'}"
        return rule(line, sizes=sizes, follows=follows, holds=holds)
    line = f"{operand}, {part} -> {' '.join([*before, part, *after])}"
    return rule(line, sizes=sizes, follows=follows, holds=holds)


def pieces_of(chosen: np.ndarray, size: int, name: str, single: str = "1") -> tuple[str, str, dict[str, int]] | None:
    """Terms for an axis and for a selection of its positions, cut where the selection jumps; None: too often."""
    if size == 0:
        return None
    if not chosen.size:  # nothing is taken, whatever goes
        return name + "a", name + "b", {name + "b": 0}
    positions = [int(p) % size for p in chosen]
    if chosen.size == 1:  # one position: it cannot go, unless it has a name
        there = [(name + "a", positions[0]), (single, 1), (name + "c", size - positions[0] - 1)]
        terms = [term for term, length in there if length]
        return _sum_text(terms), "1", {term: length for term, length in there if length and term != "1"}
    jumps = [k for k in range(1, len(positions)) if positions[k] != positions[k - 1] + 1]
    starts = [0, *jumps]
    runs = [(positions[s], positions[e - 1] + 1) for s, e in zip(starts, [*jumps, len(positions)], strict=True)]
    cuts = sorted({0, size, *(bound for run in runs for bound in run)})
    if len(cuts) > MAX_RUNS:
        return None
    sizes = {f"{name}{k}": end - start for k, (start, end) in enumerate(pairwise(cuts))}
    if set(sizes.values()) == {1} and len(set(positions)) < len(positions):  # a table, looked up again and again
        return None
    at = {start: k for k, start in enumerate(cuts)}
    chosen_terms = [f"{name}{k}" for start, end in runs for k in range(at[start], at[end])]
    return _sum_text(list(sizes)), _sum_text(chosen_terms), sizes


def _sum_text(terms: Sequence[str], sign: str = "") -> str:
    return sign + (terms[0] if len(terms) == 1 else f"({' + '.join(terms)})")
