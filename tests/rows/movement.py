"""Rows of operators that move positions about."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Row, bound, constant, given, row, weight

CUBE = (2, 3, 4)
END = np.iinfo(np.int64).max

ROWS: list[Row] = [
    row(
        "Reshape",
        [(2, 5, 12), constant([2, 5, 3, 4])],
        "a b (c d), _ -> a b c d | c=3 | d=4 | operand 1=target [a, b, c, d]",
    ),
    row(
        "Reshape",
        [(2, 5, 12), constant([0, 0, 3, -1])],
        "a b (c d), _ -> a b c d | c=3 | d=4 | operand 1=target [a, b, c, d]",
    ),
    row(
        "Reshape",
        [(2, 5, 3, 4), constant([2, 5, 12])],
        "a b c d, _ -> a b (c d) | c=3 | d=4 | operand 1=target [a, b, (c d)]",
    ),
    row(
        "Reshape",
        [(2, 6, 4, 4), constant([2, 2, 3, 16])],
        "a (b c) d e, _ -> a b c (d e) | b=2 | c=3 | d=4 | e=4 | operand 1=target [a, b, c, (d e)]",
    ),
    row(
        "Reshape", [(6, 4), constant([2, 12])], "(a b) c, _ -> a (b c) | a=2 | b=3 | c=4 | operand 1=target [a, (b c)]"
    ),
    row("Reshape", [(6, 4), constant([4, 6])], "a b, _ -> c d | frozen a b c d: reshaped across its own boundaries"),
    row("Reshape", [(2, 12), constant([-1])], "a b, _ -> (a b) | a=2 | b=12 | operand 1=target [(a b)]"),
    row("Reshape", [(2, 3), constant([1, 2, 1, 3, 1])], "a b, _ -> 1 a 1 b 1 | operand 1=target [1, a, 1, b, 1]"),
    row("Reshape", [(1,), constant(np.zeros(0))], "1, _ -> () | operand 1=target []"),
    row("Reshape", [(), constant([1, 1])], "(), _ -> 1 1 | operand 1=target [1, 1]"),
    row(
        "Reshape",
        [(0, 3), constant([3, 0])],
        "a b, _ -> c d | frozen a b c d: reshaped across its own boundaries",
        allowzero=1,
    ),
    row("Reshape", [(2, 12), bound([2, 3, 4])], "a (b c), _ -> a b c | b=3 | c=4 | operand 1=target [a, b, c]"),
    row("Flatten", [(2, 3, 4, 5)], "a b c d -> a (b c d) | b=3 | c=4 | d=5"),
    row("Flatten", [(2, 3, 4)], "a b c -> (a b) c | a=2 | b=3", axis=-1),
    row("Flatten", [(2, 3, 4)], "a b c -> 1 (a b c) | a=2 | b=3 | c=4", axis=0),
    row("Squeeze", [(2, 1, 3, 1), constant([1])], "a 1 b 1, _ -> a b 1"),
    row("Squeeze", [(2, 1, 3, 1)], "a 1 b 1 -> a b | frozen a b: a single position would be squeezed away"),
    row("Squeeze", [(2, 1, 3)], "a 1 b -> a b", opset=11, axes=[1]),
    row("Unsqueeze", [(2, 3), constant([0, 3])], "a b, _ -> 1 a b 1"),
    row("Unsqueeze", [(2, 3)], "a b -> a 1 b", opset=9, axes=[1]),
    row("Unsqueeze", [(), constant([0])], "(), _ -> 1"),
    row("Transpose", [CUBE], "a b c -> c b a"),
    row("Transpose", [CUBE], "a b c -> b a c", perm=[1, 0, 2]),
    row("Transpose", [()], "() -> ()"),
    row("Expand", [(3, 1), constant([2, 3, 4])], "b 1, _ -> a b c | operand 1=target [a, b, c]"),
    row("Expand", [(2, 3), constant([1])], "a b, _ -> a b | operand 1=target [b]"),
    row("Expand", [(2, 1), bound([2, 5])], "a 1, _ -> a b | operand 1=target [a, b]"),
    row("Expand", [(), constant([2, 3])], "(), _ -> a b | operand 1=target [a, b]"),
    row("Tile", [(2, 3), constant([1, 2])], "a b, _ -> a (rb b) | rb=2 | frozen rb: copies made by Tile"),
    row(
        "Tile", [(2, 3), constant([3, 2])], "a b, _ -> (ra a) (rb b) | ra=3 | rb=2 | frozen ra rb: copies made by Tile"
    ),
    # joining
    row("Concat", [(2, 3), (2, 4)], "a x0, a x1 -> a (x0 + x1)", axis=1),
    row("Concat", [(2, 3), (2, 3), (2, 3)], "a x0, a x1, a x2 -> a (x0 + x1 + x2)", axis=-1),
    row("Concat", [(2, 3), (2, 0), (2, 4)], "a x0, a zero1, a x2 -> a (x0 + x2)", axis=1),
    row("Concat", [(2, 1), (2, 4)], "a x0, a x1 -> a (x0 + x1)", axis=1),
    row("Concat", [(2, 3)], "x0 b -> x0 b", axis=0),
    # cutting
    row(
        "Split",
        [(2, 7), constant([3, 4])],
        "a (x0 + x1), _ -> a x0, a x1 | x0=3 | x1=4 | operand 1=[x0, x1] instead of num_outputs",
        axis=1,
    ),
    row(
        "Split",
        [(2, 6)],
        "a (x0 + x1 + x2) -> a x0, a x1, a x2 | x0=2 | x1=2 | x2=2 | attribute split=[x0, x1, x2] instead of num_outputs",
        opset=11,
        axis=1,
    ),
    row(
        "Split",
        [(2, 6)],
        "a (x0 + x1) -> a x0, a x1 | x0=2 | x1=4 | attribute split=[x0, x1] instead of num_outputs",
        opset=9,
        axis=-1,
        split=[2, 4],
    ),
    row(
        "Split",
        [(2, 6)],
        "a (x0 + x1) -> a x0, a x1 | x0=3 | x1=3 | operand 1=[x0, x1] instead of num_outputs",
        opset=13,
        axis=1,
    ),
    row(
        "Split",
        [(2, 7)],
        "a (x0 + x1) -> a x0, a x1 | x0=4 | x1=3 | operand 1=[x0, x1] instead of num_outputs",
        opset=18,
        axis=1,
        num_outputs=2,
    ),
    row(
        "Split",
        [(5, 3), constant([1, 4])],
        "(x0 + x1) b, _ -> x0 b, x1 b | x0=1 | x1=4 | operand 1=[x0, x1] instead of num_outputs",
    ),
    row(
        "Slice",
        [(2, 6, 4), constant([2]), constant([5]), constant([1])],
        "a (ba + bb + bc) c, _, _, _ -> a bb c | ba=2 | bb=3 | bc=1 | operand 1=[ba] | operand 2=[(ba + bb)]",
    ),
    row(
        "Slice",
        [(2, 6, 4)],
        "a (ba + bb + bc) c -> a bb c | ba=2 | bb=3 | bc=1 | attribute starts=[ba] | attribute ends=[(ba + bb)]",
        opset=9,
        starts=[2],
        ends=[5],
        axes=[1],
    ),
    row(
        "Slice",
        [(2, 6, 4)],
        "a (ba + bb) c -> a bb c | ba=3 | bb=3 | attribute starts=[_, ba]",
        opset=9,
        starts=[0, 3],
        ends=[2, END],
    ),
    row(
        "Slice",
        [(2, 6), constant([-3]), constant([END]), constant([-1])],
        "a (ba + bb), _, _, _ -> a bb | ba=3 | bb=3 | operand 1=back [bb]",
    ),
    row(
        "Slice",
        [(2, 6), constant([0]), constant([-2]), constant([1])],
        "a (bb + bc), _, _, _ -> a bb | bb=4 | bc=2 | operand 2=back [bc]",
    ),
    row(
        "Slice",
        [(6, 6), constant([-5, 1]), constant([5, -1])],
        "(aa + ab + ac) (ba + bb + bc), _, _ -> ab bb | aa=1 | ab=4 | ac=1 | ba=1 | bb=4 | bc=1 | operand 1=[_, ba] | operand 1=back [(ab + ac), _] | operand 2=[(aa + ab), _] | operand 2=back [_, bc]",
    ),
    row("Slice", [(2, 6), constant([0]), constant([6]), constant([1])], "a b, _, _, _ -> a b"),
    row(
        "Slice",
        [(6, 6), constant([1, 2]), constant([4, 5])],
        "(aa + ab + ac) (ba + bb + bc), _, _ -> ab bb | aa=1 | ab=3 | ac=2 | ba=2 | bb=3 | bc=1 | operand 1=[aa, ba] | operand 2=[(aa + ab), (ba + bb)]",
    ),
    row(
        "Slice",
        [(2, 6), constant([1]), constant([6]), constant([1]), constant([2])],
        "a (b (1 + 1)), _, _, _, _ -> a b | b=3 | operand 2=[(b (1 + 1))]",
    ),
    row(
        "Slice",
        [(2, 6), constant([0]), constant([END]), constant([1]), constant([3])],
        "a (b (1 + 1 + 1)), _, _, _, _ -> a b | b=2 | operand 2=[(b (1 + 1 + 1))]",
    ),
    row(
        "Slice",
        [(2, 5), constant([0]), constant([5]), constant([1]), constant([2])],
        "a b, _, _, _, _ -> a bx | frozen b bx: cut in steps, or from the end",
    ),
    row(
        "Slice",
        [(2, 3), constant([-1]), constant([-END]), constant([1]), constant([-1])],
        "a (b0 + b1 + b2), _, _, _, _ -> a (b2 + b1 + b0) | b0=1 | b1=1 | b2=1",
    ),
    row(
        "Slice",
        [(2, 6), constant([-2]), constant([-END]), constant([1]), constant([-1])],
        "a b, _, _, _, _ -> a bx | frozen b bx: cut in steps, or from the end",
    ),
    row("Slice", [(2, 6), constant([4]), constant([2]), constant([1])], "a b, _, _, _ -> a bx | bx=0"),
    row("Slice", [(2, 6), constant([6]), constant([END]), constant([1])], "a b, _, _, _ -> a bx | bx=0"),
    row(
        "Slice",
        [(2, 6), constant([0]), bound([4]), constant([1])],
        "a b, _, _, _ -> a bx | frozen b bx: positions computed at run time",
    ),
    row(
        "Slice",
        [(2, 6), given([0]), given([4]), constant([1])],
        "a b, _, _, _ -> a bx | frozen b bx: positions computed at run time",
    ),
    row(
        "Slice", [(2, 6), constant([0]), constant([4]), given([1])], "refused: operand 3 (axes) is computed at run time"
    ),
    row(
        "Slice",
        [(2, 6), constant([0]), constant([6]), constant([1]), given([1])],
        "a b, _, _, _, _ -> a bx | frozen b bx: positions computed at run time",
    ),
    row("Slice", [(2, 6), given([0]), given([4])], "a b, _, _ -> a b"),
    # picking
    row(
        "Gather",
        [weight(7, 4), given([[1, 2, 0]])],
        "a b, p0 p1 -> p0 p1 b | frozen a: looked up by index | operand 1 looks up a",
    ),
    row(
        "Gather",
        [(2, 5, 4), constant([0, 1, 2])],
        "a (p0 + p1) c, p0 -> a p0 c | p0=3 | p1=2 | operand 1 counts (p0 + p1)",
        axis=1,
    ),
    row(
        "Gather",
        [(2, 6), constant(3)],
        "a (pa + pb + pc), () -> a | pa=3 | pb=1 | pc=2 | operand 1 counts (pa + pb + pc) | result 0 holds pb",
        axis=1,
        singles=True,
        engine="",
        shapes=[(2,)],
    ),
    row(
        "Split",
        [(2, 3)],
        "a (x0 + x1 + x2) -> a 1, a 1, a 1 | x0=1 | x1=1 | x2=1 | operand 1=[x0, x1, x2] instead of num_outputs"
        " | result 0 holds x0 | result 1 holds x1 | result 2 holds x2",
        axis=1,
        num_outputs=3,
        results=3,
        singles=True,
        engine="",
        shapes=[(2, 1)] * 3,
    ),
    row(
        "Slice",
        [(2, 6), constant([4]), constant([5]), constant([1])],
        "a (ba + bb + bc), _, _, _ -> a 1 | ba=4 | bb=1 | bc=1 | operand 1=[ba] | operand 2=[(ba + bb)] | result 0 holds bb",
        singles=True,
        engine="",
        shapes=[(2, 1)],
    ),
    row(
        "Gather",
        [(2, 6), constant([3, 4, 5, 0, 1, 2])],
        "a (p0 + p1), (p1 + p0) -> a (p1 + p0) | p0=3 | p1=3 | operand 1 counts (p0 + p1)",
        axis=1,
    ),
    row(
        "Gather",
        [(2, 6), constant([0, 1, 0, 1, 4, 5])],
        "a (p0 + p1 + p2), (p0 + p0 + p2) -> a (p0 + p0 + p2) | p0=2 | p1=2 | p2=2 | operand 1 counts (p0 + p1 + p2)",
        axis=-1,
    ),
    row(
        "Gather",
        [(2, 4), constant([3, 2, 1, 0])],
        "a (p0 + p1 + p2 + p3), (p3 + p2 + p1 + p0) -> a (p3 + p2 + p1 + p0) | p0=1 | p1=1 | p2=1 | p3=1 "
        "| operand 1 counts (p0 + p1 + p2 + p3)",
        axis=1,
    ),
    row(
        "Gather",
        [(2, 4), constant([3, 2, 3, 1, 0])],
        "a b, p0 -> a p0 | frozen b: picked by a table of positions",
        axis=1,
    ),
    row(
        "Gather",
        [(2, 6), constant([-2, -1])],
        "a (p0 + p1), p1 -> a p1 | p0=4 | p1=2 | operand 1 counts (p0 + p1)",
        axis=1,
    ),
    row(
        "Gather",
        [(3, 2, 4), constant(1)],
        "(pa + 1 + pc) b c, () -> b c | pa=1 | pc=1 | operand 1 counts (pa + 1 + pc)",
    ),
    row(
        "Gather",
        [(3, 2, 4), constant([1])],
        "(pa + 1 + pc) b c, 1 -> 1 b c | pa=1 | pc=1 | operand 1 counts (pa + 1 + pc)",
    ),
    row("Gather", [(3, 2, 4), constant(-1)], "(pa + 1) b c, () -> b c | pa=2 | operand 1 counts (pa + 1)"),
    row(
        "Gather",
        [(6, 4), constant([[0, 1], [2, 3]])],
        "a b, p0 p1 -> p0 p1 b | frozen a: picked by a table of positions",
    ),
    row("Gather", [(6, 4), given(2)], "a b, () -> b | frozen a: looked up by index | operand 1 looks up a"),
    row("Gather", [(6, 4), bound([2])], "a b, p0 -> p0 b | frozen a: looked up by index | operand 1 looks up a"),
    row("Gather", [(4,), constant(2)], "(pa + 1 + pc), () -> () | pa=2 | pc=1 | operand 1 counts (pa + 1 + pc)"),
]
