"""Operators over positions of an image: pooling, resampling, padding, blocks of pixels."""

from __future__ import annotations

import numpy as np

from spa.notation.operation import Operation, Refusal, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.linear import WINDOW, text_of
from spa.operators.movement import COMPUTED
from spa.operators.reduce import ZEROS_COUNT
from spa.operators.sizes import listed_in, reflects_too_far, window_is_too_wide

RESAMPLED = "positions of an image that is resampled"
ADDRESSED = "the indices count through all axes"
REGION = "positions that regions of interest are cut from"


@operator("AveragePool", "LpPool", contradicts=window_is_too_wide)
def pool(operation: Operation) -> Rule:
    """`n c *s -> n c *t`; means are linear."""
    linear = ((0,),) if operation.name == "AveragePool" else ()
    return rule("n c *s -> n c *t", frozen={"s t": WINDOW}, linear=linear)


@operator("MaxPool", contradicts=window_is_too_wide)
def max_pool(operation: Operation) -> Rule:
    """`n c *s -> n c *t`; with indices, `n c *s -> n c *t, n c *t`, and these count through n and c."""
    if len(operation.outputs) < 2 or operation.outputs[1] is None:
        return pool(operation)
    return rule("n c *s -> n c *t, n c *t", frozen={"s t": WINDOW, "n c": ADDRESSED})


@operator("MaxUnpool", completes=listed_in(2))
def max_unpool(operation: Operation) -> Rule:
    """`n c *s, n c *s -> n c *t`."""
    others = ", _" * (len(operation.inputs) - 2)
    return rule(f"n c *s, n c *s{others} -> n c *t", frozen={"s t": WINDOW, "n c": ADDRESSED})


GLOBAL = {"GlobalAveragePool": ZEROS_COUNT["ReduceMean"], "GlobalMaxPool": ZEROS_COUNT["ReduceMax"]}


@operator("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def global_pool(operation: Operation) -> Rule:
    """`n c *s -> n c 1 1`."""
    result = pattern(["n", "c", *["1"] * (len(operation.shape(0)) - 2)])
    statistic = {"s": GLOBAL[operation.name]} if operation.name in GLOBAL else {}
    linear = ((0,),) if operation.name == "GlobalAveragePool" else ()
    return rule(f"n c *s -> {result}", statistic=statistic, linear=linear)


@operator("LRN")
def local_response_norm(_: Operation) -> Rule:
    """`n c *s -> n c *s`: each channel is divided by a sum over its neighbours."""
    return rule("n c *s -> n c *s", statistic={"c": "enters a sum over neighbouring channels"})


@operator("MaxRoiPool", "RoiAlign")
def region_pool(operation: Operation) -> Rule:
    """`n c *s, r f, r -> r c *t`: the regions r lie anywhere in the batch."""
    batch = ", r" if operation.has(2) else ""
    return rule(f"n c *s, r f{batch} -> r c *t", frozen={"n s f t": REGION})


@operator("GridSample")
def grid_sample(_: Operation) -> Rule:
    """`n c *s, n *t f -> n c *t`: the grid holds the coordinates f of each position t."""
    return rule("n c *s, n *t f -> n c *t", frozen={"s f": RESAMPLED})


@operator("AffineGrid")
def affine_grid(operation: Operation) -> Rule:
    """`n f h, _ -> n *t f`; the sizes begin with n."""
    size = operation.shape(1)[0]
    names = (parse_terms("n")[0], *[None] * (size - 1))
    return rule("n f h, _ -> n *t f", frozen={"f h t": "coordinates"}, follows=(Sizes(1, names),))


# ------------------------------------------------------------------------------------------------ resampling
@operator("Resize", "Upsample")
def resize(operation: Operation) -> Rule:
    """`n c s t, _ -> n c sx tx`: axes of scale one pass, the others are resampled."""
    shape, result = operation.shape(0), operation.result()
    axes = [axis % len(shape) for axis in operation.attribute("axes") or range(len(shape))]
    names = letters(len(shape), avoid="x")
    still = [name for axis, name in enumerate(names) if axis not in axes or shape[axis] == result[axis]]
    still = [name for name in still if name not in _rescaled(operation, names, axes)]
    after = [name if name in still else name + "x" for name in names]
    moved = " ".join(f"{name} {name}x" for name in names if name not in still)
    follows: tuple[Sizes, ...] = ()
    if operation.has(3) and any(names[axis] in still for axis in axes):
        sizes = (parse_terms(names[axis])[0] if names[axis] in still else None for axis in axes)
        follows = (Sizes(3, tuple(sizes)),)
    others = ", _" * (len(operation.inputs) - 1)
    filled = text_of(operation, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
    return rule(
        f"{pattern(names)}{others} -> {pattern(after)}",
        frozen={moved: RESAMPLED} if moved else {},
        follows=follows,
        linear=() if filled else ((0,),),
    )


def _rescaled(operation: Operation, names: list[str], axes: list[int]) -> list[str]:
    """Axes whose positions are resampled although their length may stay."""
    all_listed = [names[axis] for axis in axes]
    if text_of(operation, "keep_aspect_ratio_policy", "stretch") != "stretch" and operation.has(3):
        return all_listed
    rescaled: list[str] = []
    if text_of(operation, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        region = _content(operation, 1)
        if region is None:
            return all_listed
        ends = region.reshape(2, -1)
        rescaled += [name for name, start, end in zip(all_listed, *ends, strict=True) if (start, end) != (0, 1)]
    position = 2 if operation.name == "Resize" and operation.version > 10 else 1
    scales = operation.attribute("scales")
    if scales is None and operation.has(position) and operation.shape(position) != (0,):
        scales = _content(operation, position)
        if scales is None:
            return all_listed
    return rescaled + [
        name for name, scale in zip(all_listed, [] if scales is None else scales, strict=False) if scale != 1
    ]


def _content(operation: Operation, position: int) -> np.ndarray | None:
    return operation.constants.get(position, operation.bound.get(position))


# --------------------------------------------------------------------------------------------------- padding
@operator("Pad", contradicts=reflects_too_far)
def pad(operation: Operation) -> Rule:
    """`n c -> n (p + c + q)`: what a constant pads with can go again; other modes repeat positions."""
    shape, result = operation.shape(0), operation.result()
    axes = _listed(operation, 3, len(shape))
    pads = operation.numbers(1, "pads")
    names = letters(len(shape), avoid="pqx")
    after = list(names)
    sizes: dict[str, int] = {}
    frozen: dict[str, str] = {}
    starts: list[str] = ["_"] * len(axes)
    ends = list(starts)
    for at, axis in enumerate(axes):
        name = names[axis]
        known = pads if pads is not None else _content(operation, 1)
        before, behind = (None, None) if known is None else (int(known[at]), int(known[at + len(axes)]))
        if before == behind == 0:
            continue
        if (
            pads is None
            or before is None
            or behind is None
            or min(before, behind) < 0
            or text_of(operation, "mode", "constant") != "constant"
        ):
            after[axis] = name + "x"
            frozen[f"{name} {name}x"] = COMPUTED if pads is None else "padded with its own positions, or cut"
            continue
        there = {name + "p": before, name: shape[axis], name + "q": behind}
        pieces = [piece for piece, size in there.items() if size]
        after[axis] = f"({' + '.join(pieces)})" if len(pieces) > 1 else pieces[0]
        sizes |= {piece: size for piece, size in there.items() if size and piece != name}
        starts[at], ends[at] = name + "p" if before else "_", name + "q" if behind else "_"
    terms = tuple(None if text == "_" else parse_terms(text)[0] for text in (*starts, *ends))
    target: int | str = "pads" if "pads" in operation.attributes else 1
    others = ", _" * (len(operation.inputs) - 1)
    assert len(result) == len(shape)
    return rule(
        f"{pattern(names)}{others} -> {pattern(after)}",
        sizes=sizes,
        frozen=frozen,
        follows=(Sizes(target, terms),) if any(terms) else (),
    )


def _listed(operation: Operation, position: int, rank: int) -> list[int]:
    """The axes that an optional operand lists; all of them without it."""
    if not operation.has(position):
        return list(range(rank))
    axes = operation.numbers(position)
    if axes is None:
        raise Refusal(f"operand {position} (axes) is computed at run time")
    return [axis % rank for axis in axes]


@operator("CenterCropPad")
def center_crop_pad(operation: Operation) -> Rule:
    """`a b, _ -> a bx`: axes that keep their length pass, the others are cut or padded."""
    shape, result = operation.shape(0), operation.result()
    names = letters(len(shape), avoid="x")
    after = [name if old == new else name + "x" for name, old, new in zip(names, shape, result, strict=True)]
    moved = " ".join(f"{name} {new}" for name, new in zip(names, after, strict=True) if name != new)
    axes = [axis % len(shape) for axis in operation.attribute("axes") or range(len(shape))]
    terms = tuple(parse_terms(names[axis])[0] if names[axis] == after[axis] else None for axis in axes)
    return rule(
        f"{pattern(names)}, _ -> {pattern(after)}",
        frozen={moved: "cut or padded"} if moved else {},
        follows=(Sizes(1, terms),) if any(terms) else (),
    )


# ---------------------------------------------------------------------------------------------------- blocks
BLOCK = "positions inside a block of pixels"


@operator("DepthToSpace", "SpaceToDepth")
def blocks(operation: Operation) -> Rule:
    """`n (p q c) h w -> n c (h p) (w q)`, or the way back; mode CRD has `(c p q)`."""
    size = int(operation.attribute("blocksize"))
    depth = "(c p q)" if text_of(operation, "mode", "DCR") == "CRD" else "(p q c)"
    sides = [f"n {depth} h w", "n c (h p) (w q)"]
    if operation.name == "SpaceToDepth":
        sides.reverse()
    return rule(" -> ".join(sides), sizes={"p": size, "q": size}, frozen={"p q": BLOCK})


@operator("Col2Im")
def columns_to_image(operation: Operation) -> Rule:
    """`n (c k) l, _, _ -> n c *t`: the blocks k are summed into the image."""
    channels = operation.result()[1]
    return rule("n (c k) l, _, _ -> n c *t", sizes={"c": channels}, frozen={"k l t": WINDOW})
