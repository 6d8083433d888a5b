"""Gradients of graphs beside torch's own on the modules that they were exported from, and how long both take.

    python tests/benchmarks/autograd.py [ARCHITECTURE ...] [--time] [--table FILE.md]

Ten architectures of transformers, small and with random weights, in double precision; the loss is the first output
times fixed random numbers. A row: the largest difference of a gradient from torch's, relative to the largest number of
that gradient (of one next to zero, as that of a key's bias, to a millionth of the largest of all), over the parameters
that both know; the difference from finite differences (central, along one random direction of all parameters,
relative). With `--time`: resnet50 and ViT-B/16 in single precision, forward and backward in turn on one thread. Needs
torch and transformers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks.rows import commit  # noqa: E402

SEED, STEP, TURNS = 0, 1e-5, 7


def images(size: int = 32, channels: int = 3) -> Any:
    import torch

    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(SEED))


def tokens() -> Any:
    import torch

    return torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(SEED))


def built(name: str) -> tuple[Any, Any]:
    """A module and its input."""
    import torch
    import transformers as t

    torch.manual_seed(SEED)
    text = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    wide = {"intermediate_size": 64, "max_position_embeddings": 64}
    shifted = {"image_size": 32, "patch_size": 2, "embed_dim": 16}
    left_to_right = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    patches = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {
        "resnet": lambda: (
            t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2])), images()
        ),
        "regnet": lambda: (
            t.RegNetModel(t.RegNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8)),
            images(),
        ),
        "mobilenet_v2": lambda: (t.MobileNetV2Model(t.MobileNetV2Config(depth_multiplier=0.35)), images(64)),
        "convnext": lambda: (
            t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 2], num_stages=2)), images()
        ),
        "vit": lambda: (t.ViTModel(t.ViTConfig(**patches, intermediate_size=64)), images()),
        "swin": lambda: (
            t.SwinModel(t.SwinConfig(**shifted, depths=[2, 2], num_heads=[2, 4], window_size=4)), images()
        ),
        "segformer": lambda: (
            t.SegformerModel(t.SegformerConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])), images(64)
        ),
        "bert": lambda: (t.BertModel(t.BertConfig(**text, **wide)), tokens()),
        "gpt2": lambda: (t.GPT2Model(t.GPT2Config(**left_to_right)), tokens()),
        "llama": lambda: (t.LlamaModel(t.LlamaConfig(**text, **wide, num_key_value_heads=2)), tokens()),
    }  # fmt: skip
    module, x = makers[name]()
    with torch.no_grad():  # as they come, many networks let a signal fade to nothing
        for parameter in module.parameters():
            fan = parameter.numel() / parameter.shape[0] if parameter.ndim > 1 else 25.0
            parameter.copy_(torch.randn(parameter.shape) * fan**-0.5 + (1.0 if parameter.ndim == 1 else 0.0))
    return First(module.eval()), x


NAMES = ("resnet", "regnet", "mobilenet_v2", "convnext", "vit", "swin", "segformer", "bert", "gpt2", "llama")


def First(module: Any) -> Any:
    """The module's first output alone: what is exported and what is run are the same."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Any) -> Any:
            made = self.inner(x, **({"use_cache": False} if hasattr(self.inner.config, "use_cache") else {}))
            return made[0]

    return Wrapped().eval()


def graph_of(module: Any, x: Any) -> Any:
    import spa
    from spa.frontends import torch as door

    return spa.torch_module(door.trace(module, x).model)


def row_of(name: str) -> list[str]:
    module, x = built(name)
    graph = graph_of(module, x)
    module.double()
    graph.double()
    x = x.double() if x.is_floating_point() else x
    loss_of(module(x)).backward()
    loss_of(graph(x)).backward()
    own = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
    of_graph = {key: p.grad for key, p in graph.named_parameters() if p.grad is not None}
    common = [key for key in own if key in of_graph and own[key].shape == of_graph[key].shape]
    largest = {key: float(own[key].abs().max()) for key in common}
    least = 1e-6 * max(largest.values())
    worst = max(float((own[key] - of_graph[key]).abs().max()) / max(largest[key], least) for key in common)
    return [name, f"{worst:.1e}", f"{len(common)}/{len(own)}", f"{finite(graph, x):.1e}", commit()]


def loss_of(output: Any) -> Any:
    import torch

    generator = torch.Generator().manual_seed(SEED)
    return (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).mean()


def finite(graph: Any, x: Any) -> float:
    """The slope along a random direction by gradients, and by two values of the loss; relative difference."""
    import torch

    parameters = list(graph.parameters())
    generator = torch.Generator().manual_seed(SEED)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) * p.abs().mean() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss_of(graph(x)).backward()
    slope = sum(
        float((p.grad * d).sum().detach()) for p, d in zip(parameters, directions, strict=True) if p.grad is not None
    )
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * STEP * direction
            values.append(float(loss_of(graph(x))))
    measured = (values[0] - values[1]) / (2 * STEP)
    return abs(slope - measured) / (abs(measured) + 1e-30)


def times() -> list[list[str]]:
    """Forward and backward of large networks, the module and its graph in turn."""
    import torch
    import transformers as t

    torch.set_num_threads(1)
    rows = []
    sizes = {"resnet50": t.ResNetModel(t.ResNetConfig()), "vit_b_16": t.ViTModel(t.ViTConfig())}
    for name, network in sizes.items():
        module, x = First(network.eval()), images(224)
        graph = graph_of(module, x)
        seconds: dict[str, list[float]] = {"module": [], "graph": []}
        for turn in range(TURNS + 1):
            for which, each in (("module", module), ("graph", graph)):
                start = time.perf_counter()
                loss_of(each(x)).backward()
                if turn:
                    seconds[which].append(time.perf_counter() - start)
        module_s, graph_s = (statistics.median(seconds[which]) for which in ("module", "graph"))
        ratios = [g / m for g, m in zip(seconds["graph"], seconds["module"], strict=True)]
        rows.append([name, f"{module_s:.2f}", f"{graph_s:.2f}", f"{statistics.median(ratios):.2f}",
                     f"{min(ratios):.2f} to {max(ratios):.2f}", commit()])  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("architectures", nargs="*", default=NAMES)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.time:
        head = ["| network | torch s | graph s | ratio | of single turns | tree |", "|---|--:|--:|--:|---|---|"]
        rows = times()
    else:
        head = ["| architecture | from torch | parameters | from finite differences | tree |", "|---|--:|--:|--:|---|"]
        rows = []
        for name in arguments.architectures:
            rows.append(row_of(name))
            print(" | ".join(rows[-1]), flush=True)
    text = "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
    print(text)
    if arguments.table:
        with arguments.table.open("a") as file:
            file.write(f"`python tests/benchmarks/autograd.py{' --time' if arguments.time else ''}`\n\n{text}\n")


if __name__ == "__main__":
    main()
