"""Experts: units of a router, of stacked weights and of one-hot numbers; gone, they are logits at minus infinity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import spa
from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.steps import analyse, load_normal

WIDTH, FFN, EXPERTS, CHOSEN = 6, 10, 8, 2
MICROSOFT = "com.microsoft"


class Built:
    """x (n, WIDTH) -> router -> experts -> head -> y (n, 5)."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, np.ndarray] = {"router": self.weight(WIDTH, EXPERTS), "head": self.weight(WIDTH, 5)}
        self.outputs = {"y": onnx.TensorProto.FLOAT}

    def weight(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-2]))

    def add(self, operator: str, inputs: str, outputs: str, **attributes: object) -> None:
        self.nodes.append(onnx.helper.make_node(operator, inputs.split(), outputs.split(), **attributes))  # type: ignore[arg-type]

    def model(self) -> onnx.ModelProto:
        self.add("MatMul", "mixed head", "y")
        value = onnx.helper.make_tensor_value_info
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in self.stored.items()]
        inputs = [value("x", onnx.TensorProto.FLOAT, ["n", WIDTH])]
        outputs = [value(name, kind, ["n", None]) for name, kind in self.outputs.items()]
        graph = onnx.helper.make_graph(self.nodes, "mixture", inputs, outputs, tensors)
        opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(MICROSOFT, 1)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def routed(self, *, normalised: bool) -> None:
        """The scores and the numbers of the experts that each sample goes to: gate, number (n, CHOSEN)."""
        self.stored |= {"k": np.array([CHOSEN], np.int64), "last": np.array([-1], np.int64)}
        self.add("MatMul", "x router", "logits")
        self.add("Softmax", "logits", "scores", axis=-1)
        self.add("TopK", "scores k", "best number")
        if normalised:
            self.add("ReduceSum", "best last", "total")
            self.add("Div", "best total", "gate")
        else:
            self.add("Identity", "best", "gate")

    def stacked(self, *, lookup: str) -> None:
        """Weights of all experts in one tensor, looked up by number, and batched products."""
        self.stored |= {"up": self.weight(EXPERTS, WIDTH, FFN), "down": self.weight(EXPERTS, FFN, WIDTH)}
        self.stored |= {
            "two": np.array([1, 2], np.int64),
            "row": np.array([2], np.int64),
            "one": np.array([1], np.int64),
        }
        index = "number"
        if lookup == "GatherND":
            self.add("Unsqueeze", "number last", "numbers")
            index = "numbers"
        self.add(lookup, f"up {index}", "ups")
        self.add(lookup, f"down {index}", "downs")
        self.add("Unsqueeze", "x two", "rows")
        self.add("MatMul", "rows ups", "hidden")
        self.add("Relu", "hidden", "act")
        self.add("MatMul", "act downs", "made")
        self.add("Squeeze", "made row", "given")
        self.add("Unsqueeze", "gate last", "gates")
        self.add("Mul", "given gates", "weighed")
        self.add("ReduceSum", "weighed one", "mixed", keepdims=0)


def by_gather(lookup: str = "Gather", *, normalised: bool = True) -> Built:
    built = Built()
    built.routed(normalised=normalised)
    built.stacked(lookup=lookup)
    return built


def by_one_hot() -> Built:
    """Every expert runs on every sample, and one-hot numbers say what counts."""
    built = Built()
    built.routed(normalised=True)
    built.stored |= {"up": built.weight(EXPERTS, WIDTH, FFN), "down": built.weight(EXPERTS, FFN, WIDTH)}
    built.stored |= {"depth": np.array(EXPERTS, np.int64), "off_on": np.array([0, 1], np.float32)}
    built.add("OneHot", "number depth off_on", "marks", axis=-1)
    built.add("Einsum", "marks gate", "share", equation="nke,nk->ne")
    built.add("Einsum", "x up", "hidden", equation="nw,ewf->nef")
    built.add("Relu", "hidden", "act")
    built.add("Einsum", "act down share", "mixed", equation="nef,efw,ne->nw")
    return built


def by_table() -> Built:
    """As `by_one_hot`, the numbers compared with a table of all of them, as torch.export writes one_hot."""
    built = by_one_hot()
    at = next(number for number, node in enumerate(built.nodes) if node.op_type == "OneHot")
    del built.nodes[at], built.stored["depth"], built.stored["off_on"]
    later, built.nodes = built.nodes[at:], built.nodes[:at]
    built.stored["all"] = np.arange(EXPERTS)
    built.add("Unsqueeze", "number last", "numbers")
    built.add("Equal", "numbers all", "same")
    built.add("Cast", "same", "marks", to=onnx.TensorProto.FLOAT)
    built.nodes += later
    return built


def fused() -> Built:
    built = Built()
    built.stored |= {"up": built.weight(EXPERTS, FFN, WIDTH), "down": built.weight(EXPERTS, WIDTH, FFN)}
    built.stored |= {"b": built.weight(EXPERTS, FFN), "c": built.weight(EXPERTS, WIDTH)}
    built.add("MatMul", "x router", "logits")
    built.add(
        "MoE", "x logits up b down c", "mixed", domain=MICROSOFT, k=CHOSEN, activation_type="relu",
        normalize_routing_weights=1,
    )  # fmt: skip
    return built


def packed() -> Built:
    """As `fused`, with weights of four bits."""
    built = Built()
    for name, scale, outputs, inputs in (("up", "up_scale", FFN, WIDTH), ("down", "down_scale", WIDTH, FFN)):
        built.stored[name] = built.rng.integers(0, 256, (EXPERTS, outputs, inputs // 2), np.uint8)
        built.stored[scale] = np.full((EXPERTS, outputs), 0.1, np.float32)
    built.stored |= {"b": built.weight(EXPERTS, FFN), "c": built.weight(EXPERTS, WIDTH)}
    built.add("MatMul", "x router", "logits")
    built.add(
        "QMoE", "x logits up up_scale b down down_scale c", "mixed", domain=MICROSOFT, k=CHOSEN,
        activation_type="relu", normalize_routing_weights=1,
    )  # fmt: skip
    return built


MIXTURES: dict[str, Callable[[], Built]] = {
    "Gather": by_gather,
    "GatherND": lambda: by_gather("GatherND"),
    "scores that are not normalised again": lambda: by_gather(normalised=False),
    "one-hot": by_one_hot,
    "compared with a table": by_table,
    "one operator": fused,
    "one operator of few bits": packed,
}


def _group(model: onnx.ModelProto) -> Group:
    (experts,) = [group for group in analyse(load_normal(model)).groups if group.kind == "experts"]
    return experts


def _answers(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def _barred(built: Built, gone: list[int]) -> onnx.ModelProto:
    """The same mixture, whose router gives some experts minus infinity."""
    bar = np.zeros(EXPERTS, np.float32)
    bar[gone] = -np.inf
    built.stored["bar"] = bar
    at = next(number for number, node in enumerate(built.nodes) if node.output[0] == "logits")
    built.nodes[at].output[0] = "free"
    built.nodes.insert(at + 1, onnx.helper.make_node("Add", ["free", "bar"], ["logits"]))
    return built.model()


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_are_gone_are_logits_at_minus_infinity(name: str) -> None:
    gone = [1, 4, 6]
    dense = MIXTURES[name]().model()
    group = _group(dense)
    assert (group.size, group.least) == (EXPERTS, CHOSEN)
    assert group.off is not None
    result = spa.apply_plan(dense, Plan.of([group], {group.name: gone}))
    assert result.report.verified
    assert result.report.exact
    assert "minus infinity" in result.report.reference
    x = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32)
    actual, expected = _answers(ir.to_proto(result.model), x), _answers(_barred(MIXTURES[name](), gone), x)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(expected - _answers(dense, x)).max() > 1e-2
    assert result.model.graph.initializers["router"].shape == (WIDTH, EXPERTS - len(gone))
    assert result.model.graph.initializers["up"].shape is not None
    assert result.model.graph.initializers["up"].shape[0] == EXPERTS - len(gone)


def test_they_go_when_they_are_asked_for_and_as_many_stay_as_are_chosen() -> None:
    dense = by_gather().model()
    assert _group(dense).name not in spa.prune(dense, ratio=0.1, weights=True).plan.removed
    result = spa.prune(dense, ratio=0.7, include="experts", only="experts", weights=True, min_keep=0.0, align=1)
    assert result.model.graph.initializers["up"].shape == (CHOSEN, WIDTH, FFN)
    assert result.report.verified


def _counted(built: Built) -> None:
    built.stored["shift"] = np.array(1, np.int64)
    built.add("Add", "number shift", "counted")
    built.outputs["counted"] = onnx.TensorProto.INT64


def _shown(built: Built) -> None:
    built.outputs["number"] = onnx.TensorProto.INT64


def _how_many(built: Built) -> None:
    built.add("Shape", "x", "sizes")
    built.add("Gather", "sizes zero", "rows_")
    built.stored |= {"zero": np.array([0], np.int64), "most": np.array([CHOSEN], np.int64)}
    built.add("Min", "rows_ most", "k_")
    next(node for node in built.nodes if node.op_type == "TopK").input[1] = "k_"
    built.nodes = built.nodes[-3:] + built.nodes[:-3]


@pytest.mark.parametrize("spoil", [_counted, _shown, _how_many])
def test_they_stay_where_their_numbers_say_more(spoil: Callable[[Built], None]) -> None:
    built = by_gather()
    spoil(built)
    groups = analyse(load_normal(built.model())).groups
    assert not any(group.kind == "experts" for group in groups)
    assert not any(piece.value.name == "router" for group in groups for piece in group.slices)
