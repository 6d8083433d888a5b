"""From each framework and back: one row for each architecture and exporter.

    python tests/benchmarks/frameworks.py [PATTERN ...] [--rows rows.jsonl]      # adds what this environment can run
    python tests/benchmarks/frameworks.py --table rows.jsonl > tests/benchmarks/frameworks.md

A row says: whether the framework's exporter takes the model, the largest difference of the export from the framework,
how much `--ratio 0.3` removed and whether the pruned graph is exact, and whether the smaller model is back in the
framework, with the largest difference from the pruned graph. Weights are random; widths are the architecture's own, or
small ones where the name says so.

One file: a script, with the architectures that it tries.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import spa
from spa.adapters import restore
from spa.errors import SpaError
from spa.frontends.exporting.exported import difference, run_model
from tests.benchmarks.rows import Rows

RATIO = 0.3
LIMIT = 1e-4
HEAD = (
    "`python tests/benchmarks/frameworks.py`, then `--table`; ratio 0.3, limit 1e-4 of the largest output. `exact` is "
    "the difference of the pruned graph from the dense one with the removed units read as zero, `back` that of the "
    "framework's smaller model from its pruned graph."
)
COLUMNS = ("framework", "architecture", "exporter", "exported", "pruned", "exact", "back", "passes", "remarks")


# ------------------------------------------------------------------------------------------------------- models
def torchvision(name: str, size: int) -> Callable[[], Any]:
    def make() -> Any:
        import torch
        import torchvision.models as zoo

        torch.manual_seed(0)
        model = getattr(zoo, name)(weights=None)
        for parameter in model.parameters():  # some start as zeros, behind which nothing could be seen
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
        return model, torch.randn(1, 3, size, size)

    return make


def transformer(name: str, config: str, **numbers: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torch
        import transformers

        torch.manual_seed(0)
        return getattr(transformers, name)(getattr(transformers, config)(**numbers)).eval(), None

    return make


def torch_lstm() -> Any:
    import torch

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Linear(24, 48)
            self.lstm = torch.nn.LSTM(48, 64, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(self.embed(x))[0])

    torch.manual_seed(0)
    return Tagger(), torch.randn(2, 7, 24)


def keras_application(name: str, size: int) -> Callable[[], Any]:
    def make() -> Any:
        import keras

        keras.utils.set_random_seed(0)
        options = {"weights": None, "input_shape": (size, size, 3), "classifier_activation": None}
        model = getattr(keras.applications, name)(**options)
        for variable in model.trainable_variables:
            variable.assign(variable + 0.02 * keras.random.normal(variable.shape, seed=0))
        return model, None

    return make


def keras_transformer() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    start = keras.Input((12,), dtype="int32")
    x = layers.Embedding(100, 64)(start)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 16)(x, x)]))
        inner = layers.Dense(256, activation="gelu")(x)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(64)(inner)]))
    return keras.Model(start, layers.Dense(2)(layers.GlobalAveragePooling1D()(x))), None


def keras_lstm() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    start = keras.Input((7, 24))
    x = layers.LSTM(64)(layers.Dense(48)(start))
    return keras.Model(start, layers.Dense(10)(x)), None


def nnx_resnet() -> Any:
    import jax
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, width: int, rngs: nnx.Rngs) -> None:
            self.first = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)
            self.second = nnx.Conv(width, width, (3, 3), rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return x + self.second(jax.nn.relu(self.norm(self.first(x))))

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.stem = nnx.Conv(3, 32, (3, 3), strides=(2, 2), rngs=rngs)
            self.one, self.two = Block(32, rngs), Block(32, rngs)
            self.head = nnx.Linear(32, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.two(self.one(jax.nn.relu(self.stem(x)))).mean((1, 2)))

    return Net(nnx.Rngs(0)), noise(2, 16, 16, 3)


def nnx_transformer() -> Any:
    import jax
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, width: int, rngs: nnx.Rngs) -> None:
            self.norm = nnx.LayerNorm(width, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = x + self.attention(self.norm(x))
            return x + self.down(jax.nn.gelu(self.up(x)))

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.one, self.two = Block(32, rngs), Block(32, rngs)
            self.head = nnx.Linear(32, 5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.two(self.one(x)))

    return Net(nnx.Rngs(0)), noise(2, 9, 32)


def linen_cnn() -> Any:
    import jax
    from flax import linen

    class Net(linen.Module):
        first: int = 32
        second: int = 48

        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.relu(linen.Conv(self.first, (3, 3))(x))
            x = linen.relu(linen.Conv(self.second, (3, 3))(x))
            return linen.Dense(10)(x.mean((1, 2)))

    net, x = Net(), noise(2, 12, 12, 3)
    return (net, net.init(jax.random.PRNGKey(0), x)), x


def equinox_mlp() -> Any:
    import equinox
    import jax

    return equinox.nn.MLP(16, 4, 64, 3, key=jax.random.PRNGKey(0)), noise(16)


def plain_attention() -> Any:
    import jax
    import jax.numpy as jnp

    def apply(p: Any, x: Any) -> Any:
        q, k, v = (jnp.einsum("bnd,dhe->bnhe", x, p[name]) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bnhe,bmhe->bhnm", q, k) / 4.0)
        x = x + jnp.einsum("bhnm,bmhe,hed->bnd", weights, v, p["out"])
        return jax.nn.relu(x @ p["up"]) @ p["down"]

    shapes: dict[str, tuple[int, ...]] = {
        "query": (32, 4, 8),
        "key": (32, 4, 8),
        "value": (32, 4, 8),
        "out": (4, 8, 32),
    }
    shapes |= {"up": (32, 96), "down": (96, 10)}
    keys = jax.random.split(jax.random.PRNGKey(0), len(shapes))
    tree = {name: jax.random.normal(key, shape) * 0.2 for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
    return (apply, tree), noise(2, 6, 32)


def noise(*shape: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


SMALL = {"hidden_size": 128, "num_attention_heads": 8, "num_hidden_layers": 2, "intermediate_size": 512}
BERT = transformer("BertForSequenceClassification", "BertConfig", **SMALL, vocab_size=1000)
GPT2 = transformer("GPT2LMHeadModel", "GPT2Config", n_embd=128, n_layer=2, n_head=8, vocab_size=500, n_positions=64)
LLAMA = transformer("LlamaForCausalLM", "LlamaConfig", **SMALL, num_key_value_heads=4, vocab_size=500)
VIT = transformer("ViTForImageClassification", "ViTConfig", **SMALL, image_size=32, patch_size=8)
VISION = {
    "ResNet-18": ("resnet18", 64),
    "ResNet-50": ("resnet50", 64),
    "MobileNetV2": ("mobilenet_v2", 64),
    "EfficientNet-B0": ("efficientnet_b0", 64),
    "DenseNet-121": ("densenet121", 64),
    "ConvNeXt-T": ("convnext_tiny", 64),
    "ViT-B/32": ("vit_b_32", 224),
    "Swin-T": ("swin_t", 64),
}
LANGUAGE = {"BERT (small)": BERT, "GPT-2 (small)": GPT2, "Llama, GQA (small)": LLAMA, "ViT (small)": VIT}
KERAS = {
    "ResNet-50": keras_application("ResNet50", 64),
    "MobileNetV2": keras_application("MobileNetV2", 64),
    "EfficientNet-B0": keras_application("EfficientNetB0", 64),
    "DenseNet-121": keras_application("DenseNet121", 64),
    "ConvNeXt-T": keras_application("ConvNeXtTiny", 64),
    "Transformer (small)": keras_transformer,
    "LSTM": keras_lstm,
}
JAX = {
    "ResNet, nnx (small)": nnx_resnet,
    "Transformer, nnx (small)": nnx_transformer,
    "CNN, linen (small)": linen_cnn,
    "MLP, equinox": equinox_mlp,
    "Attention, plain function": plain_attention,
}


def all_cells() -> list[tuple[str, str, str, Callable[[], Any]]]:
    """(framework, architecture, exporter, maker)."""
    cells: list[tuple[str, str, str, Callable[[], Any]]] = []
    for exporter in ("torchscript", "dynamo"):
        cells += [("torch", name, exporter, torchvision(*model)) for name, model in VISION.items()]
        cells += [("torch", name, exporter, make) for name, make in LANGUAGE.items()]
        cells.append(("torch", "LSTM", exporter, torch_lstm))
    cells += [("huggingface", name, "dynamo", make) for name, make in LANGUAGE.items()]
    cells += [("keras", name, "tf2onnx", make) for name, make in KERAS.items()]
    cells += [("jax", name, "jax2onnx", make) for name, make in JAX.items()]
    return cells


# ------------------------------------------------------------------------------------------------------ one cell
def measure(framework: str, exporter: str, make: Callable[[], Any]) -> dict[str, Any]:
    frontend = importlib.import_module(f"spa.frontends.{framework}")
    row: dict[str, Any] = {"exported": None, "pruned": None, "exact": None, "back": None, "remarks": []}
    model, inputs = make()
    if framework == "torch" and inputs is None:  # a transformers model as any other module
        inputs = dict(importlib.import_module("spa.frontends.huggingface").example_inputs(model))
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
    chosen = {"exporter": exporter} if framework == "torch" else {}
    try:
        graph = frontend.export(model, inputs, **chosen)
        row["exported"] = True
        result = spa.prune(graph, ratio=RATIO, weights=True)
        row["pruned"] = round(result.report.removed_share("params"), 3)
        row["exact"] = result.report.difference
    except SpaError as error:
        row["remarks"].append(f"{'pruning' if row['exported'] else 'export'}: {error}")
    try:
        restored = restore.prune(Chosen(frontend, chosen), model, inputs, ratio=RATIO, even=framework == "huggingface")
        traced = frontend.trace(restored.source, inputs, **chosen)
        row["back"] = difference(
            frontend.run(restored.source, inputs), run_model(restored.result.model, traced.feeds, what="")
        )
        row["remarks"] += [note for note in restored.result.report.notes if note.startswith("left alone")]
    except SpaError as error:
        row["remarks"].append(f"back: {error}")
    return row


class Chosen:
    """A frontend with an exporter chosen."""

    def __init__(self, frontend: Any, options: dict[str, Any]) -> None:
        self.frontend, self.options = frontend, options

    def trace(self, source: Any, inputs: Any) -> Any:
        return self.frontend.trace(source, inputs, **self.options)

    def rebuild(self, *arguments: Any) -> Any:
        return self.frontend.rebuild(*arguments)


def passes(row: dict[str, Any]) -> bool:
    return bool(row["exported"]) and all(row[key] is not None and row[key] <= LIMIT for key in ("exact", "back"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="of 'framework/architecture/exporter'")
    parser.add_argument("--rows", type=Path, default=Path("frameworks.jsonl"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(Rows(arguments.table, "framework", "architecture", "exporter").all))
        return
    rows = Rows(arguments.rows, "framework", "architecture", "exporter")
    logging.getLogger("spa").setLevel(logging.ERROR)
    for framework, architecture, exporter, make in all_cells():
        name = f"{framework}/{architecture}/{exporter}"
        if not any(fnmatch.fnmatch(name, pattern) for pattern in arguments.patterns or ["*"]):
            continue
        start = time.perf_counter()
        try:
            row = measure(framework, exporter, make)
        except ImportError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
            continue
        except Exception as error:  # noqa: BLE001 - a crash is a row too
            row = {"exported": None, "pruned": None, "exact": None, "back": None}
            row["remarks"] = [f"crash: {type(error).__name__}: {error}"]
        row |= {"framework": framework, "architecture": architecture, "exporter": exporter}
        row["seconds"] = round(time.perf_counter() - start)
        print(json.dumps(row), flush=True)
        rows.add(row)
        gc.collect()


def table(rows: list[dict[str, Any]]) -> str:
    known = {(row["framework"], row["architecture"], row["exporter"]): row for row in rows}
    order = [cell[:3] for cell in all_cells()]
    chosen = [known[key] for key in order if key in known]
    able = [row for row in chosen if row["exported"] or not str(row["remarks"]).startswith("['export")]
    good = sum(passes(row) for row in able)
    lines = [
        HEAD,
        "",
        f"{good} of {len(able)} cells that the framework can export pass ({good / max(1, len(able)):.0%}).",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for row in chosen:
        remarks = "; ".join(" ".join(text.split())[:160] for text in row["remarks"]).replace("|", "/")
        cells = [row["framework"], row["architecture"], row["exporter"], "yes" if row["exported"] else "NO"]
        cells.append("-" if row["pruned"] is None else f"{row['pruned']:.1%}")
        cells += ["-" if row[key] is None else f"{row[key]:.0e}" for key in ("exact", "back")]
        lines.append(f"| {' | '.join([*cells, 'yes' if passes(row) else 'NO', remarks])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
