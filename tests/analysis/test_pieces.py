"""Pieces of one axis: addends of the same sums that stand nowhere else."""

from __future__ import annotations

import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.pieces import gather_pieces, pieces_of_axes
from spa.notation.dims import Factor, total


def coupled(*axes: Factor) -> Coupling:
    return Coupling(axes={ir.Value(name="x"): axes})


def test_pieces_that_share_their_sums_are_of_one_axis() -> None:
    first, second, stays = Factor(3), Factor(5), Factor(2)
    assert pieces_of_axes(coupled(total(first, second, stays)), [first, second]) == [[first, second]]
    both = coupled(total(first, second), total(second, first))
    assert pieces_of_axes(both, [first, second]) == [[first, second]]
    assert gather_pieces([first, second], [[first, second]]) == [{first: 0, second: 3}]


def test_one_piece_is_no_pieces() -> None:
    """Beside it stands what stays, so that the axis is never empty."""
    piece, single, stays = Factor(3), Factor(1), Factor(2)
    assert pieces_of_axes(coupled(total(piece, stays)), [piece]) == []
    assert pieces_of_axes(coupled(total(single, stays)), [single]) == []


def test_what_stands_alone_somewhere_is_no_piece() -> None:
    first, second = Factor(3), Factor(5)
    assert pieces_of_axes(coupled(total(first, second), second), [first, second]) == []
