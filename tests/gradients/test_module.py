from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import runtime  # noqa: E402
from spa.errors import DataError, ModelError  # noqa: E402
from spa.frontends.files import onnx_file  # noqa: E402

RNG = np.random.default_rng(0)


def model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    return proto


def stored(model: ir.Model, name: str) -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def mlp(dtype: type = np.float32) -> onnx.ModelProto:
    kind = "float" if dtype is np.float32 else "float16"
    proto = model(
        f"g ({kind}[n, 4] x) => ({kind}[n, 2] y) {{ a = MatMul(x, w) h = Relu(a) y = Gemm(h, v, c) }}",
        w=RNG.standard_normal((4, 8)).astype(dtype),
        v=RNG.standard_normal((8, 2)).astype(dtype),
        c=RNG.standard_normal(2).astype(dtype),
    )
    for tensor, name in zip(proto.graph.initializer, ("layer.0.weight", "layer.1.weight", "c"), strict=True):
        for node in proto.graph.node:
            node.input[:] = [name if operand == tensor.name else operand for operand in node.input]
        tensor.name = name
    return proto


def test_parameters_have_the_initializers_names() -> None:
    module = spa.torch_module(mlp())
    assert set(dict(module.named_parameters())) == {"layer.0.weight", "layer.1.weight", "c"}
    assert not module.training
    other = spa.torch_module(mlp())
    other.load_state_dict(module.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(other(x), module(x=x))
    assert torch.equal(other({"x": x}), module.outputs({"x": x.numpy()})["y"])


def test_names_that_torch_refuses_are_kept() -> None:
    proto = model(
        "g (float[n, 2] x) => (float[n, 2] y) { p = Add(x, w) y = Mul(p, v) }",
        w=np.ones(2, np.float32),
        v=np.full(2, 3.0, np.float32),
    )
    for tensor, operand, name in zip(proto.graph.initializer, (0, 1), ("forward", "forward..x"), strict=True):
        proto.graph.node[operand].input[1] = tensor.name = name
    module = spa.torch_module(proto)
    assert set(module.state_dict()) == {"forward", "forward..x"}
    assert module.load_state_dict(module.state_dict()).missing_keys == []
    assert torch.equal(module(torch.ones(1, 2)), torch.full((1, 2), 6.0))


def test_a_step_of_training_comes_back_as_onnx() -> None:
    proto = mlp()
    module = spa.torch_module(proto)
    optimizer = torch.optim.SGD([module.get_parameter("c")], lr=0.1)
    module(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    after = module.to_onnx()
    before = {tensor.name: tensor.raw_data for tensor in proto.graph.initializer}
    assert stored(after, "layer.0.weight").tobytes() == before["layer.0.weight"]
    assert stored(after, "c").tobytes() != before["c"]
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    session = runtime.session(after, optimize=False)
    np.testing.assert_allclose(runtime.run(session, {"x": x})["y"], module(torch.from_numpy(x)).detach(), rtol=1e-5)


def test_weights_in_constant_nodes_are_parameters_and_come_back() -> None:
    proto = mlp()
    first = proto.graph.initializer[0]
    node = onnx.helper.make_node("Constant", [], [first.name], value=onnx.numpy_helper.from_array(
        onnx.numpy_helper.to_array(first)))  # fmt: skip
    del proto.graph.initializer[0]
    proto.graph.node.insert(0, node)
    module = spa.torch_module(proto)
    weight = dict(module.named_parameters())["layer.0.weight"]
    with torch.no_grad():
        weight.mul_(2.0)
    constant = next(node for node in module.to_onnx().graph if node.op_type == "Constant")
    np.testing.assert_array_equal(constant.attributes["value"].as_tensor().numpy(), weight.detach().numpy())


def test_running_statistics_are_no_parameters_and_move_in_training_alone() -> None:
    proto = model(
        "g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) { y = BatchNormalization(x, s, b, m, v) }",
        s=np.ones(3, np.float32),
        b=np.zeros(3, np.float32),
        m=np.zeros(3, np.float32),
        v=np.ones(3, np.float32),
    )
    module = spa.torch_module(proto)
    assert set(dict(module.named_parameters())) == {"s", "b"}
    x = torch.randn(8, 3, 4, 4) * 3 + 5
    module(x)
    assert torch.equal(module.get_buffer("m"), torch.zeros(3))
    module.train()
    assert float(module(x).detach().mean().abs()) < 1e-5
    assert float(module.get_buffer("m").mean()) == pytest.approx(0.1 * float(x.mean()), rel=1e-4)
    assert not np.array_equal(stored(module.to_onnx(), "m").numpy(), np.zeros(3))


def test_masks_with_infinity_and_single_numbers_are_no_parameters() -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    proto = model(
        "g (float[n, 4, 4] x) => (float[n, 4, 4] y) { a = Mul(x, half) y = Add(a, mask) }",
        mask=mask,
        half=np.array(0.5, np.float32),
    )
    module = spa.torch_module(proto)
    assert not list(module.parameters())
    x = RNG.standard_normal((2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(module(torch.from_numpy(x)), x * np.float32(0.5) + mask)


def test_dropout_drops_in_training_alone_and_by_the_seed() -> None:
    proto = model("g (float[n, 64] x) => (float[n, 64] y) { y = Dropout(x, ratio) }", ratio=np.array(0.5, np.float32))
    x = torch.ones(4, 64)
    drawn = [spa.torch_module(proto, seed=seed).train()(x) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert set(drawn[0].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(spa.torch_module(proto)(x), x)


def test_gradients_pass_through_the_rounds_of_a_loop() -> None:
    body = onnx.parser.parse_graph(
        "body (int64 i, bool c, float[2, 2] h) => (bool go, float[2, 2] next) { go = Identity(c) next = MatMul(h, w) }"
    )
    proto = model("g (float[2, 2] x) => (float[2, 2] y) { y = Identity(x) }", w=np.eye(2, dtype=np.float32) * 2)
    proto.graph.initializer.extend(
        [onnx.numpy_helper.from_array(np.array(3), "n"), onnx.numpy_helper.from_array(np.array(True), "yes")]
    )
    del proto.graph.node[:]
    proto.graph.node.append(onnx.helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body))
    module = spa.torch_module(proto)
    x = torch.eye(2)
    made = module(x)
    assert torch.equal(made, 8 * torch.eye(2))
    made.diagonal().sum().backward()
    assert torch.allclose(module.get_parameter("w").grad, 3 * 4 * torch.eye(2))  # of w^3


def test_half_precision_stays_half() -> None:
    module = spa.torch_module(mlp(np.float16))
    made = module(torch.ones(2, 4, dtype=torch.float16))
    assert made.dtype == torch.float16
    with torch.no_grad():
        module.get_parameter("c").add_(1.0)
    assert stored(module.to_onnx(), "c").dtype.name == "FLOAT16"


def test_quantised_activations_pass_a_gradient() -> None:
    proto = model(
        "g (float[n, 4] x) => (float[n, 2] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
        " y = MatMul(d, w) }",
        s=np.array(0.1, np.float32),
        z=np.array(128, np.uint8),
        w=RNG.standard_normal((4, 2)).astype(np.float32),
    )
    x = torch.randn(3, 4, requires_grad=True)
    module = spa.torch_module(proto)
    module(x).sum().backward()
    assert torch.allclose(x.grad, module.get_parameter("w").detach().sum(1).expand(3, 4))


def test_integer_products_take_double_precision() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[2, 3] x) => (float[2, 4] y)'
        " <int8[3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -12}>"
        " { q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) f = Cast<to = 1>(i) y = Mul(f, s) }"
    )
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    single = spa.torch_module(model)(x)
    double = spa.torch_module(model).double()(x.double())
    torch.testing.assert_close(double.float(), single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [({}, "no value for input 'x'"), ({"x": torch.ones(1, 4), "z": torch.ones(1)}, "no input 'z'")],
)
def test_wrong_feeds_are_named(feeds: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        spa.torch_module(mlp()).outputs(feeds)


def test_a_node_that_cannot_be_computed_is_named() -> None:
    with pytest.raises(ModelError, match="MatMul 'a'"):
        spa.torch_module(mlp())(torch.ones(1, 5))


def test_operators_without_an_implementation_are_all_named() -> None:
    proto = model("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    proto.graph.node[0].domain, proto.graph.node[0].op_type = "my.own", "Fancy"
    proto.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    with pytest.raises(ModelError, match=r"my\.own::Fancy \(1\)"):
        spa.torch_module(onnx_file.load(proto))
