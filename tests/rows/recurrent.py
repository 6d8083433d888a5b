"""Rows of recurrent layers."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Row, given, row, weight

DATA = (5, 2, 3)
LENGTHS = given([5, 3], np.int32)

ROWS: list[Row] = [
    row(
        "LSTM",
        [DATA, weight(1, 16, 3), weight(1, 16, 4)],
        "t n i, d (g h) i, d (g h) h -> t d n h, d n h, d n h | g=4 | frozen g: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 0, back 0, inside",
        hidden_size=4,
    ),
    row(
        "LSTM",
        [DATA, weight(1, 16, 3), weight(1, 16, 4), weight(1, 32), LENGTHS],
        "t n i, d (g h) i, d (g h) h, d (b h), n -> t d n h | g=4 | b=8 | frozen g b: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 0, back 1, inside",
        hidden_size=4,
        direction="reverse",
    ),
    row(
        "LSTM",
        [DATA, weight(2, 16, 3), weight(2, 16, 4), weight(2, 32), None, (2, 2, 4), (2, 2, 4), weight(2, 12)],
        "t n i, d (g h) i, d (g h) h, d (b h), _, d n h, d n h, d (p h) -> t d n h, d n h, d n h | g=4 | b=8 | p=3 | frozen g b p: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 0, back 0 1, inside",
        opset=14,
        hidden_size=4,
        direction="bidirectional",
    ),
    row(
        "LSTM",
        [(2, 5, 3), weight(1, 16, 3), weight(1, 16, 4)],
        "n t i, d (g h) i, d (g h) h -> n t d h, n d h, n d h | g=4 | frozen g: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 1, back 0, inside",
        engine="reference",
        hidden_size=4,
        layout=1,
    ),
    row(
        "GRU",
        [DATA, weight(1, 12, 3), weight(1, 12, 4), weight(1, 24)],
        "t n i, d (g h) i, d (g h) h, d (b h) -> t d n h, d n h | g=3 | b=6 | frozen g b: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside",
        hidden_size=4,
    ),
    row(
        "GRU",
        [DATA, weight(2, 12, 3), weight(2, 12, 4), weight(2, 24), LENGTHS, (2, 2, 4)],
        "t n i, d (g h) i, d (g h) h, d (b h), n, d n h -> t d n h, d n h | g=3 | b=6 | frozen g b: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 0, back 0 1, inside",
        opset=9,
        hidden_size=4,
        linear_before_reset=1,
        direction="bidirectional",
    ),
    row(
        "RNN",
        [DATA, weight(1, 4, 3), weight(1, 4, 4), weight(1, 8)],
        "t n i, d h i, d h h, d (b h) -> t d n h, d n h | b=2 | frozen b: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d h i | macs t n d h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 0, back 0, inside",
        hidden_size=4,
        activations=["Relu"],
    ),
    row(
        "RNN",
        [DATA, weight(1, 4, 3), weight(1, 4, 4), None, None, (1, 2, 4)],
        "t n i, d h i, d h h, _, _, d n h -> t d n h | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d h i | macs t n d h h | operand 2 sums over axis 2 | product 0 x 1 + 3, part 0 of 2, inside | product before x 2 + 3, part 1 of 2, steps 0, back 0, inside",
        opset=14,
        hidden_size=4,
        clip=0.5,
    ),
]
