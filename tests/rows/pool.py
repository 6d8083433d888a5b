"""Rows of operators over positions of an image."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Row, Tensor, bound, constant, given, random, row

IMAGE = (2, 3, 6, 6)


def scales(*numbers: float) -> Tensor:
    return constant(numbers, np.float32)


ROWS: list[Row] = [
    row(
        "AveragePool",
        [IMAGE],
        "n c *s -> n c *t | frozen s t: positions of a sliding window | linear 0",
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    row(
        "AveragePool",
        [(2, 3, 8)],
        "n c *s -> n c *t | frozen s t: positions of a sliding window | linear 0",
        opset=9,
        kernel_shape=[3],
        pads=[1, 1],
    ),
    row("LpPool", [IMAGE], "n c *s -> n c *t | frozen s t: positions of a sliding window", kernel_shape=[2, 2]),
    row(
        "MaxPool",
        [IMAGE],
        "n c *s -> n c *t | frozen s t: positions of a sliding window",
        kernel_shape=[3, 3],
        auto_pad="SAME_UPPER",
    ),
    row(
        "MaxPool",
        [IMAGE],
        "n c *s -> n c *t, n c *t | frozen s t: positions of a sliding window | frozen n c: the indices count through all axes",
        kernel_shape=[2, 2],
    ),
    row(
        "MaxUnpool",
        [(1, 1, 2, 2), given([[[[5, 7], [13, 15]]]])],
        "n c *s, n c *s -> n c *t | frozen s t: positions of a sliding window | frozen n c: the indices count through all axes",
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    row(
        "MaxUnpool",
        [(1, 1, 2, 2), given([[[[5, 7], [13, 15]]]]), constant([1, 1, 5, 5])],
        "n c *s, n c *s, _ -> n c *t | frozen s t: positions of a sliding window | frozen n c: the indices count through all axes",
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    row("GlobalAveragePool", [IMAGE], "n c *s -> n c 1 1 | statistic s: enters a mean | linear 0"),
    row("GlobalMaxPool", [(2, 3, 6)], "n c *s -> n c 1 | statistic s: enters a maximum"),
    row("GlobalLpPool", [IMAGE], "n c *s -> n c 1 1"),
    row("LRN", [(2, 5, 4, 4)], "n c *s -> n c *s | statistic c: enters a sum over neighbouring channels", size=3),
    row(
        "MaxRoiPool",
        [IMAGE, given([[0, 0, 0, 3, 3], [1, 1, 1, 5, 5], [0, 2, 2, 5, 5]], np.float32)],
        "n c *s, r f -> r c *t | frozen n s f t: positions that regions of interest are cut from",
        pooled_shape=[2, 2],
    ),
    row(
        "RoiAlign",
        [IMAGE, given([[0, 0, 3, 3], [1, 1, 5, 5], [2, 2, 5, 5]], np.float32), given([0, 1, 0])],
        "n c *s, r f, r -> r c *t | frozen n s f t: positions that regions of interest are cut from",
        output_height=2,
        output_width=2,
    ),
    row(
        "GridSample",
        [IMAGE, random(2, 4, 5, 2)],
        "n c *s, n *t f -> n c *t | frozen s f: positions of an image that is resampled",
    ),
    row(
        "GridSample",
        [IMAGE, random(2, 4, 5, 2)],
        "n c *s, n *t f -> n c *t | frozen s f: positions of an image that is resampled",
        opset=16,
        mode="nearest",
    ),
    row(
        "AffineGrid",
        [(2, 2, 3), constant([2, 3, 5, 6])],
        "n f h, _ -> n *t f | frozen f h t: coordinates | operand 1=[n, _, _, _]",
    ),
    # resampling
    row(
        "Resize",
        [IMAGE, None, scales(1, 1, 2, 2)],
        "a b c d, _, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        mode="nearest",
    ),
    row(
        "Resize",
        [IMAGE, None, None, constant([2, 3, 9, 6])],
        "a b c d, _, _, _ -> a b cx d | frozen c cx: positions of an image that is resampled | operand 3=[a, b, _, d] | linear 0",
        mode="linear",
    ),
    row(
        "Resize",
        [IMAGE, None, None, constant([9, 12])],
        "a b c d, _, _, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        axes=[2, 3],
        mode="cubic",
    ),
    row(
        "Resize",
        [IMAGE, None, None, constant([9, 12])],
        "a b c d, _, _, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        axes=[2, 3],
        keep_aspect_ratio_policy="not_smaller",
    ),
    row(
        "Resize",
        [IMAGE, None, None, constant([2, 3, 12, 12])],
        "a b c d, _, _, _ -> ax bx cx dx | frozen a ax b bx c cx d dx: positions of an image that is resampled | linear 0",
        keep_aspect_ratio_policy="not_larger",
    ),
    row(
        "Resize",
        [IMAGE, constant(np.zeros(0), np.float32), scales(1, 1, 0.5, 0.5)],
        "a b c d, _, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        opset=11,
        mode="linear",
    ),
    row(
        "Resize",
        [IMAGE, scales(1, 1, 2, 2)],
        "a b c d, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        opset=10,
    ),
    row(
        "Resize",
        [IMAGE, None, scales(1, 1.2, 1, 1)],
        "a b c d, _, _ -> a bx c d | frozen b bx: positions of an image that is resampled | linear 0",
    ),
    row(
        "Resize",
        [IMAGE, None, given([1, 1, 2, 2], np.float32)],
        "a b c d, _, _ -> ax bx cx dx | frozen a ax b bx c cx d dx: positions of an image that is resampled | linear 0",
    ),
    row(
        "Resize",
        [IMAGE, None, bound([1, 1, 2, 2], np.float32)],
        "a b c d, _, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
    ),
    row(
        "Resize",
        [IMAGE, scales(0, 0, 0.2, 0, 1, 1, 0.8, 1), None, constant([2, 3, 6, 6])],
        "a b c d, _, _, _ -> a b cx d | frozen c cx: positions of an image that is resampled | operand 3=[a, b, _, d]",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    row(
        "Resize",
        [IMAGE, given([0, 0, 0, 0, 1, 1, 1, 1], np.float32), None, constant([2, 3, 9, 9])],
        "a b c d, _, _, _ -> ax bx cx dx | frozen a ax b bx c cx d dx: positions of an image that is resampled",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    row(
        "Upsample",
        [IMAGE, scales(1, 1, 2, 2)],
        "a b c d, _ -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        opset=9,
    ),
    row(
        "Upsample",
        [IMAGE],
        "a b c d -> a b cx dx | frozen c cx d dx: positions of an image that is resampled | linear 0",
        opset=8,
        engine="",
        shapes=[(2, 3, 12, 12)],
        scales=[1.0, 1.0, 2.0, 2.0],
    ),
    # padding
    row("Pad", [(2, 4), constant([0, 2, 0, 3])], "a b, _ -> a (bp + b + bq) | bp=2 | bq=3 | operand 1=[_, bp, _, bq]"),
    row(
        "Pad",
        [(2, 4), constant([0, 0, 0, 3]), constant(1, np.float32)],
        "a b, _, _ -> a (b + bq) | bq=3 | operand 1=[_, _, _, bq]",
    ),
    row(
        "Pad",
        [(2, 3, 4), constant([1, 2]), None, constant([-1])],
        "a b c, _, _, _ -> a b (cp + c + cq) | cp=1 | cq=2 | operand 1=[cp, cq]",
    ),
    row("Pad", [(2, 3, 4), constant([0, 0, 0, 0, 0, 0])], "a b c, _ -> a b c"),
    row(
        "Pad",
        [(2, 4)],
        "a b -> a (bp + b + bq) | bp=2 | bq=3 | attribute pads=[_, bp, _, bq]",
        opset=9,
        pads=[0, 2, 0, 3],
    ),
    row(
        "Pad",
        [(2, 4), constant([0, 2, 0, 2])],
        "a b, _ -> a bx | frozen b bx: padded with its own positions, or cut",
        mode="reflect",
    ),
    row(
        "Pad",
        [(2, 4), constant([0, 2, 0, 2])],
        "a b, _ -> a bx | frozen b bx: padded with its own positions, or cut",
        opset=19,
        mode="wrap",
    ),
    row(
        "Pad", [(2, 4), constant([0, -1, 0, 3])], "a b, _ -> a bx | frozen b bx: padded with its own positions, or cut"
    ),
    row("Pad", [(2, 4), bound([0, 2, 0, 3])], "a b, _ -> a bx | frozen b bx: positions computed at run time"),
    row("Pad", [(2, 4), given([0, 2, 0, 3])], "a b, _ -> ax bx | frozen a ax b bx: positions computed at run time"),
    row(
        "Pad",
        [(2, 4), constant([0, 2, 0, 3]), None, given([0, 1])],
        "refused: operand 3 (axes) is computed at run time",
    ),
    row(
        "CenterCropPad",
        [(2, 6, 4), constant([4, 4])],
        "a b c, _ -> a bx c | frozen b bx: cut or padded | operand 1=[_, c]",
        axes=[1, 2],
    ),
    row("CenterCropPad", [(2, 6), constant([3, 6])], "a b, _ -> ax b | frozen a ax: cut or padded | operand 1=[_, b]"),
    # blocks of pixels
    row(
        "DepthToSpace",
        [(2, 12, 3, 3)],
        "n (p q c) h w -> n c (h p) (w q) | p=2 | q=2 | frozen p q: positions inside a block of pixels",
        blocksize=2,
    ),
    row(
        "DepthToSpace",
        [(2, 12, 3, 3)],
        "n (c p q) h w -> n c (h p) (w q) | p=2 | q=2 | frozen p q: positions inside a block of pixels",
        blocksize=2,
        mode="CRD",
    ),
    row(
        "SpaceToDepth",
        [(2, 3, 4, 6)],
        "n c (h p) (w q) -> n (p q c) h w | p=2 | q=2 | frozen p q: positions inside a block of pixels",
        blocksize=2,
    ),
    row(
        "SpaceToDepth",
        [(2, 3, 4, 6)],
        "n c (h p) (w q) -> n (c p q) h w | p=2 | q=2 | frozen p q: positions inside a block of pixels",
        opset=28,
        engine="reference",
        blocksize=2,
        mode="CRD",
    ),
    row(
        "Col2Im",
        [(2, 12, 9), constant([4, 4]), constant([2, 2])],
        "n (c k) l, _, _ -> n c *t | c=3 | frozen k l t: positions of a sliding window",
    ),
]
