from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spa.adapters import restore
from spa.errors import UsageError
from spa.frontends import jax as frontend
from spa.frontends.exporting.exported import difference, run_model
from spa.frontends.exporting.jax_sources import open_source

jax = pytest.importorskip("jax", reason="the extra jax is not installed")
pytest.importorskip("jax2onnx", reason="the extra jax is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # jax's own

X = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
IMAGES = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)
KEY = 0


def plain() -> Any:
    keys = jax.random.split(jax.random.PRNGKey(KEY), 2)
    parameters = {"up": jax.random.normal(keys[0], (8, 32)), "down": [jax.random.normal(keys[1], (32, 4))]}
    return (lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"][0], parameters), X


def equinox_mlp() -> Any:
    equinox = pytest.importorskip("equinox")
    return equinox.nn.MLP(8, 4, 32, 2, key=jax.random.PRNGKey(KEY)), X[0]


def linen_mlp() -> Any:
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        hidden: int = 32

        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(4)(linen.relu(linen.Dense(self.hidden)(x)))

    return (Net(), Net().init(jax.random.PRNGKey(KEY), X)), X


def nnx_net() -> Any:
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(3, 16, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(16, use_running_average=True, rngs=rngs)
            self.mix = nnx.Linear(16, 8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(4, 8, decode=False, rngs=rngs)
            self.out = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jax.nn.relu(self.norm(self.conv(x)))
            x = self.mix(x.reshape(x.shape[0], -1, x.shape[-1]))
            return self.out(x + self.attention(x))

    return Net(nnx.Rngs(KEY)), IMAGES


@pytest.mark.parametrize("make", [plain, equinox_mlp, linen_mlp, nnx_net])
def test_there_and_back(make: Any) -> None:
    source, inputs = make()
    assert frontend.export(source, inputs).graph.initializers
    restored = restore.prune(frontend, source, inputs, ratio=0.3)
    assert type(restored.source) is type(source)
    sizes = [sum(np.size(leaf) for leaf in open_source(each).leaves) for each in (restored.source, source)]
    assert sizes[0] < 0.75 * sizes[1]
    feeds = frontend.trace(restored.source, inputs).feeds
    expected = run_model(restored.result.model, feeds, what="the pruned graph")
    assert difference(frontend.run(restored.source, inputs), expected) < 1e-5


def test_a_function_without_parameters_can_be_exported_only() -> None:
    assert frontend.export(lambda x: jax.numpy.tanh(x), X).graph
    with pytest.raises(UsageError, match="no parameters to prune"):
        frontend.prune(lambda x: jax.numpy.tanh(x), X, ratio=0.3)


def test_with_samples_the_smaller_model_is_repaired() -> None:
    model, example = nnx_net()
    samples = np.random.default_rng(1).standard_normal((64, *example.shape[1:])).astype(np.float32)
    expected = np.asarray(model(samples))
    off = []
    for options in ({}, {"data": samples, "preset": "fast"}):
        smaller = frontend.prune(model, example, ratio=0.3, **options)
        off.append(float(np.linalg.norm(np.asarray(smaller(samples)) - expected)))
    assert off[1] < 0.9 * off[0]  # white noise through 16 channels: none makes up for another
