"""What open axes count as, and that no count depends on the numbers that the coupling bound them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from spa import pipeline
from spa.shapes import infer_shapes
from spa.shapes.sizes import count_sizes
from tests import models

CONV = "c=Conv<strides=[2,2],pads=[1,1,1,1]>(x,k) r=Relu(c) g=GlobalAveragePool(r) f=Flatten(g) y=MatMul(f,w)"
CONV_WEIGHTS = {"k": (16, 3, 3, 3), "w": (16, 40)}
TABLE = "e=Gather(t,x) a=MatMul(e,w) r=Relu(a) y=MatMul(r,v)"
TABLE_WEIGHTS = {"t": (50, 8), "w": (8, 24), "v": (24, 4)}
SOUND = "c=Conv<strides=[4],kernel_shape=[16]>(x,k) r=Relu(c) y=Conv<kernel_shape=[1]>(r,v)"
FIXED = "c=Conv(x,k) r=Relu(c) f=Reshape(r,to) y=MatMul(f,w)"  # takes pictures of 32 by 32 alone
FIXED_WEIGHTS = {"k": (8, 3, 1, 1), "to": np.array([-1, 8 * 32 * 32]), "w": (8 * 32 * 32, 5)}
LOOKED_AHEAD = "f=ReduceMean<keepdims=0>(x,axes) y=MatMul(f,w)"


def counted(text: str, weights: Mapping[str, object], inputs: Mapping[str, Sequence[int]] | None = None) -> str:
    model = pipeline.load_normal(models.build(text, weights))  # type: ignore[arg-type]
    sizes = count_sizes(model, infer_shapes(model), inputs=inputs)
    return " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in sizes.inputs.items())


@pytest.mark.parametrize(
    ("text", "weights", "expected"),
    [
        (f"(float[n,3,h,w0] x) => (float[n,40] y) {{ {CONV} }}", CONV_WEIGHTS, "x=1,3,224,224"),
        (f"(float[n,3,96,w0] x) => (float[n,40] y) {{ {CONV} }}", CONV_WEIGHTS, "x=1,3,96,224"),
        (f"(float[n,3,64,64] x) => (float[n,40] y) {{ {CONV} }}", CONV_WEIGHTS, "x=1,3,64,64"),
        (f"(float[2,3,64,64] x) => (float[2,40] y) {{ {CONV} }}", CONV_WEIGHTS, ""),
        (f"(int64[n,t0] x) => (float[n,t0,4] y) {{ {TABLE} }}", TABLE_WEIGHTS, "x=1,128"),
        (
            f"(int64[n,t0] x) => (float[n,t0,4] y) {{ {TABLE} }}",
            {**TABLE_WEIGHTS, "w": (8, 128)} | {"v": (128, 4)},
            "x=1,128",
        ),
        (f"(float[n,1,t0] x) => (float[n,6,t1] y) {{ {SOUND} }}", {"k": (8, 1, 16), "v": (6, 8, 1)}, "x=1,1,16000"),
        (f"(float[n,3,h,w0] x) => (float[n,5] y) {{ {FIXED} }}", FIXED_WEIGHTS, "x=1,3,32,32"),
        (
            f"(float[n,t0,12] x) => (float[n,4] y) {{ {LOOKED_AHEAD} }}",
            {"axes": np.array([1]), "w": (12, 4)},
            "x=1,128,12",
        ),
    ],
)
def test_what_open_axes_count_as(text: str, weights: Mapping[str, object], expected: str) -> None:
    assert counted(text, weights) == expected


def test_what_a_caller_gives_counts() -> None:
    text = f"(float[n,3,h,w0] x) => (float[n,40] y) {{ {CONV} }}"
    assert counted(text, CONV_WEIGHTS, {"x": [4, 3, 50, 60]}) == "x=4,3,50,60"


# Positions beside stored ones, axes that are merged and split, windows, products of matrices of one batch each, loops.
ALIKE = {
    "convolutions": (f"(float[n,3,h,w0] x) => (float[n,40] y) {{ {CONV} }}", CONV_WEIGHTS),
    "tokens": (f"(int64[n,t0] x) => (float[n,t0,4] y) {{ {TABLE} }}", TABLE_WEIGHTS),
    "sound": (f"(float[n,1,t0] x) => (float[n,6,t1] y) {{ {SOUND} }}", {"k": (8, 1, 16), "v": (6, 8, 1)}),
    "a token before the others": (
        """(float[n,t0,8] x) => (float[n,t1,4] y) {
            z=ReduceMean<keepdims=1>(x,axes) c=Concat<axis=1>(z,x) a=MatMul(c,w) r=Relu(a) y=MatMul(r,v) }""",
        {"axes": np.array([1]), "w": (8, 24), "v": (24, 4)},
    ),
    "batch and positions merged": (
        "(float[n,t0,8] x) => (float[m,4] y) { f=Reshape(x,to) a=MatMul(f,w) r=Relu(a) y=MatMul(r,v) }",
        {"to": np.array([-1, 8]), "w": (8, 24), "v": (24, 4)},
    ),
    "a product of two inputs": (
        """(float[n,t0,8] x) => (float[n,t0,t0] y) {
            q=MatMul(x,w) k=MatMul(x,v) s=Transpose<perm=[0,2,1]>(k) y=MatMul(q,s) }""",
        {"w": (8, 24), "v": (8, 24)},
    ),
    "a recurrent layer": (
        "(float[t0,n,3] x) => (float[t0,1,n,4] y) { y=LSTM<hidden_size=4>(x,w,r,b) }",
        {"w": (1, 16, 3), "r": (1, 16, 4), "b": (1, 32)},
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_count_is_that_of_the_model_at_the_named_sizes(name: str) -> None:
    text, weights = ALIKE[name]
    model = pipeline.load_normal(models.build(text, weights))  # type: ignore[arg-type]
    analysis = pipeline.analyse(model)
    there = pipeline.analyse(model, inputs=analysis.sizes.inputs)
    assert analysis.sizes.inputs
    assert analysis.shapes.binding != there.shapes.binding
    assert analysis.cost.of("flops") == pytest.approx(there.cost.of("flops"), rel=1e-12)


def test_shares_do_not_depend_on_primes() -> None:
    """A wide head beside convolutions: how much of the FLOPs it has depends on the size of the picture alone."""
    weights = {**CONV_WEIGHTS, "w": (16, 4000)}
    shares, plans = [], []
    for shape, size in (("n,3,h,w0", None), ("1,3,224,224", None), ("n,3,h,w0", {"x": [1, 3, 224, 224]})):
        proto = models.build(f"(float[{shape}] x) => (float[n,4000] y) {{ {CONV} }}", weights)
        result = pipeline.prune(proto, ratio=0.3, of="flops", inputs=size, verify=False, criterion="l2")
        shares.append((result.report.removed_share("flops"), result.report.before["flops"]))
        plans.append(result.plan)
    assert plans[0] == plans[1] == plans[2]
    assert shares[0] == pytest.approx(shares[1], rel=1e-12)
    assert shares[2] == pytest.approx(shares[1], rel=1e-12)


def test_samples_say_what_their_axes_count_as() -> None:
    model = models.build(f"(float[n,3,h,w0] x) => (float[n,40] y) {{ {CONV} }}", CONV_WEIGHTS)
    x = np.random.default_rng(0).standard_normal((12, 3, 20, 24)).astype(np.float32)
    report = pipeline.prune(model, ratio=0.2, data={"x": x}, preset="fast").report
    assert report.sizes == {"x": (1, 3, 20, 24)}
    assert report.before["flops"] == 2 * (10 * 12 * 16 * 27 + 16 * 40)


def test_what_the_data_decide_counts_as_a_hundred() -> None:
    nonzero = "p=NonZero(x) q=Transpose(p) c=Cast<to=1>(q)"
    text = f"(float[9] x) => (float[k,4] y) {{ {nonzero} a=MatMul(c,w) r=Relu(a) y=MatMul(r,v) }}"
    analysis = pipeline.analyse(pipeline.load_normal(models.build(text, {"w": (1, 8), "v": (8, 4)})))
    assert analysis.cost.of("flops") == 2 * 100 * (8 + 32)
