"""Small graphs from ONNX text, coupled and grouped, for the tests of what comes after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from spa.analysis.cost import Cost, measure
from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.analysis.group import Frozen, Group, find_frozen, find_groups
from spa.shapes import infer_shapes

HEADER = '<ir_version: 10, opset_import: ["" : 20]> graph '

Weights = Mapping[str, np.ndarray | ir.TensorProtocol | tuple[int, ...]]


@dataclass(frozen=True)
class Grouped:
    """A graph and what is known of it."""

    model: ir.Model
    coupling: Coupling
    groups: list[Group]
    cost: Cost
    frozen: list[Frozen]

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def weight(self, name: str) -> np.ndarray:
        tensor = self.model.graph.initializers[name].const_value
        assert tensor is not None
        return tensor.numpy()


def grouped(text: str, weights: Weights, *, seed: int = 0) -> Grouped:
    """Couple the graph `(inputs) => (outputs) { nodes }`; a weight given by its shape is filled at random."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, content in weights.items():
        array = random.standard_normal(content).astype(np.float32) if isinstance(content, tuple) else content
        tensors[name] = ir.tensor(array, name=name) if isinstance(array, np.ndarray) else array
    proto = onnx.parser.parse_model(HEADER + text)
    for name, tensor in tensors.items():
        proto.graph.initializer.add(name=name, data_type=tensor.dtype, dims=tensor.shape.numpy())
    model = ir.from_proto(proto)
    for name, tensor in tensors.items():
        model.graph.initializers[name].const_value = tensor
    coupling = couple(model, infer_shapes(model))
    return Grouped(model, coupling, find_groups(coupling), measure(coupling), find_frozen(coupling))


# ------------------------------------------------------------------------------------------------- the graphs
MLP = "(float[2,8] x) => (float[2,4] y) { a=MatMul(x,w1) b=Add(a,b1) c=Relu(b) y=MatMul(c,w2) }"


def mlp(*, units: int = 6, seed: int = 0) -> Grouped:
    """One group, `w1:1`: `w1` and `b1` make its units, `w2` reads them."""
    return grouped(MLP, {"w1": (8, units), "b1": (units,), "w2": (units, 4)}, seed=seed)


def chain(*widths: int, seed: int = 0) -> Grouped:
    """A group for each inner width, `w0:1`, `w1:1` ..."""
    last = len(widths) - 2
    steps = [f"a{k}=MatMul({f'r{k - 1}' if k else 'x'},w{k}) r{k}=Relu(a{k})" for k in range(last)]
    nodes = " ".join([*steps, f"y=MatMul(r{last - 1},w{last})"])
    text = f"(float[2,{widths[0]}] x) => (float[2,{widths[-1]}] y) {{ {nodes} }}"
    return grouped(text, {f"w{k}": (widths[k], widths[k + 1]) for k in range(last + 1)}, seed=seed)


def residual(*, width: int = 8, inner: int = 6, seed: int = 0) -> Grouped:
    """Convolutions: `c0:0` runs along a residual connection around `c1` and `c2`, `c1:0` is inside it."""
    text = """(float[1,3,9,9] x) => (float[1,4,5,5] y) {
        s=Conv(x,c0,d0) a=Conv<pads=[1,1,1,1]>(s,c1,d1) r=Relu(a) b=Conv<pads=[1,1,1,1]>(r,c2,d2)
        z=Add(s,b) y=Conv(z,c3) }"""
    weights = {
        "c0": (width, 3, 3, 3), "d0": (width,), "c1": (inner, width, 3, 3), "d1": (inner,),
        "c2": (width, inner, 3, 3), "d2": (width,), "c3": (4, width, 3, 3),
    }  # fmt: skip
    return grouped(text, weights, seed=seed)


def attention(*, heads: int = 3, head_dim: int = 4, seed: int = 0) -> Grouped:
    """`wq:1` are heads; inside them `wq:1#2` is the head_dim of queries and keys, `wv:1` that of values."""
    text = f"""(float[1,5,8] x) => (float[1,5,8] y) {{
        s=Constant<value_ints=[1,5,{heads},{head_dim}]>() t=Constant<value_ints=[1,5,{heads * head_dim}]>()
        q0=MatMul(x,wq) k0=MatMul(x,wk) v0=MatMul(x,wv) q1=Reshape(q0,s) k1=Reshape(k0,s) v1=Reshape(v0,s)
        q=Transpose<perm=[0,2,1,3]>(q1) k=Transpose<perm=[0,2,3,1]>(k1) v=Transpose<perm=[0,2,1,3]>(v1)
        a=MatMul(q,k) p=Softmax<axis=-1>(a) c0=MatMul(p,v) c1=Transpose<perm=[0,2,1,3]>(c0) c=Reshape(c1,t)
        y=MatMul(c,wo) }}"""
    width = heads * head_dim
    return grouped(text, {"wq": (8, width), "wk": (8, width), "wv": (8, width), "wo": (width, 8)}, seed=seed)


def shuffled(*, seed: int = 0) -> Grouped:
    """Six channels, shuffled in two groups and split in two: the factors are cut down to single positions."""
    text = """(float[1,4,5,5] x) => (float[1,2,5,5] y) {
        s=Constant<value_ints=[1,2,3,5,5]>() t=Constant<value_ints=[1,6,5,5]>()
        a=Conv(x,c0) b=Reshape(a,s) c=Transpose<perm=[0,2,1,3,4]>(b) d=Reshape(c,t) e, f=Split<axis=1,num_outputs=2>(d)
        g=Conv(e,c1) h=Conv(f,c2) y=Add(g,h) }"""
    return grouped(text, {"c0": (6, 4, 1, 1), "c1": (2, 3, 1, 1), "c2": (2, 3, 1, 1)}, seed=seed)


def normed(*, seed: int = 0) -> Grouped:
    """`w0:1` enters a layer norm of its own (a width, opened where need is); `w1:1` is a hidden width behind."""
    text = """(float[2,8] x) => (float[2,4] y) {
        a=MatMul(x,w0) n=LayerNormalization(a,g,h) b=MatMul(n,w1) r=Relu(b) y=MatMul(r,w2) }"""
    return grouped(text, {"w0": (8, 10), "g": (10,), "h": (10,), "w1": (10, 6), "w2": (6, 4)}, seed=seed)


def streamed(*, seed: int = 0) -> Grouped:
    """`w0:1` is a residual stream under a layer norm (a width, off by default); `w1:1` is a hidden width beside it."""
    text = """(float[2,8] x) => (float[2,4] y) {
        a=MatMul(x,w0) n=LayerNormalization(a,g,h) b=MatMul(n,w1) r=Relu(b)
        c=MatMul(r,w2) z=Add(a,c) y=MatMul(z,w3) }"""
    weights = {"w0": (8, 10), "g": (10,), "h": (10,), "w1": (10, 6), "w2": (6, 10), "w3": (10, 4)}
    return grouped(text, weights, seed=seed)


def batch_normed(*, scales: tuple[float, ...] = (0.5, -2.0, 1.0), seed: int = 0) -> Grouped:
    """`c0:0` is followed by a batch normalisation with the given scales, `c1:0` by none."""
    units = len(scales)
    text = """(float[1,3,6,6] x) => (float[1,2,6,6] y) {
        a=Conv(x,c0) b=BatchNormalization(a,g,h,m,v) r=Relu(b) c=Conv(r,c1) d=Relu(c) y=Conv(d,c2) }"""
    weights: Weights = {
        "c0": (units, 3, 1, 1), "g": np.array(scales, np.float32), "h": (units,), "m": (units,),
        "v": np.linspace(1, 900, units, dtype=np.float32), "c1": (5, units, 1, 1), "c2": (2, 5, 1, 1),
    }  # fmt: skip
    return grouped(text, weights, seed=seed)
