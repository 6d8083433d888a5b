"""A folder as onnxruntime-genai takes it, with a toy decoder: `python -m models.folder FOLDER`.

model.onnx with its data, genai_config.json, config.json and a tokenizer of single bytes. The graph is laid out as the
exporters of language models lay it out: GroupQueryAttention with past and present keys and values, rotary positions
inside, root-mean-square norms joined with the residual sums, a gated MLP. Weights are seeded, or trained by the caller.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
BYTES = 256
BEGIN, END = BYTES, BYTES + 1
"""Of the vocabulary: the bytes first, then what begins and what ends a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of a toy decoder; `vocabulary` holds the bytes, two tokens of its own, and what nobody writes."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    ffn: int = 128
    length: int = 128
    vocabulary: int = BYTES + 2


class _Graph:
    def __init__(self, sizes: Sizes, seed: int) -> None:
        self.sizes, self.rng = sizes, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, to: str | list[str], **attributes: Any) -> str:
        outputs = [to] if isinstance(to, str) else to
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=f"node/{outputs[0]}", **attributes))
        return outputs[0]

    def store(self, name: str, array: Any) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def matrix(self, name: str, rows: int, columns: int) -> str:
        return self.store(name, (self.rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32))

    def product(self, data: str, name: str, rows: int, columns: int) -> str:
        return self.add("MatMul", data, self.matrix(f"{name}.weight", rows, columns), to=f"{name}/MatMul")

    def scale(self, name: str) -> str:
        return self.store(name, (1 + 0.1 * self.rng.standard_normal(self.sizes.width)).astype(np.float32))


def _lengths(graph: _Graph) -> None:
    """What GroupQueryAttention is told of the sequences: the last position of each, and the longest length."""
    graph.add("ReduceSum", "attention_mask", graph.store("axis1", [1]), to="mask/sum", keepdims=1)
    graph.add("Sub", "mask/sum", graph.store("one", [1]), to="mask/last")
    graph.add("Cast", "mask/last", to="seqlens_k", to_=TensorProto.INT32)
    graph.add("Shape", "attention_mask", to="mask/shape")
    graph.add("Gather", "mask/shape", graph.store("index1", np.int64(1)), to="mask/length", axis=0)
    graph.add("Cast", "mask/length", to="total_sequence_length", to_=TensorProto.INT32)


def _attention(graph: _Graph, normed: str, layer: int) -> str:
    sizes, name = graph.sizes, f"model.layers.{layer}.attn"
    inside, shared = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    query = graph.product(normed, f"{name}.q_proj", sizes.width, inside)
    key = graph.product(normed, f"{name}.k_proj", sizes.width, shared)
    value = graph.product(normed, f"{name}.v_proj", sizes.width, shared)
    cache = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    graph.add(
        "GroupQueryAttention", query, key, value, *cache, "seqlens_k", "total_sequence_length", "cos_cache",
        "sin_cache", to=[f"{name}/out", f"present.{layer}.key", f"present.{layer}.value"], domain=MICROSOFT,
        num_heads=sizes.heads, kv_num_heads=sizes.kv_heads, scale=sizes.head_size**-0.5, do_rotary=1,
        rotary_interleaved=0, local_window_size=-1,
    )  # fmt: skip
    return graph.product(f"{name}/out", f"{name}.o_proj", inside, sizes.width)


def _mlp(graph: _Graph, normed: str, layer: int) -> str:
    sizes, name = graph.sizes, f"model.layers.{layer}.mlp"
    gate = graph.product(normed, f"{name}.gate_proj", sizes.width, sizes.ffn)
    up = graph.product(normed, f"{name}.up_proj", sizes.width, sizes.ffn)
    sigmoid = graph.add("Sigmoid", gate, to=f"{name}/sigmoid")
    silu = graph.add("Mul", gate, sigmoid, to=f"{name}/silu")
    return graph.product(graph.add("Mul", silu, up, to=f"{name}/hidden"), f"{name}.down_proj", sizes.ffn, sizes.width)


def graph_of(sizes: Sizes, *, seed: int = 0) -> onnx.ModelProto:
    """The decoder: input_ids, attention_mask, past_key_values.N.key and .value to logits, present.N.key and .value."""
    graph = _Graph(sizes, seed)
    half = sizes.head_size // 2
    angle = np.arange(sizes.length)[:, None] / 10000.0 ** (np.arange(half) / half)[None, :]
    graph.store("cos_cache", np.cos(angle).astype(np.float32))
    graph.store("sin_cache", np.sin(angle).astype(np.float32))
    _lengths(graph)
    table = graph.store(
        "model.embed_tokens.weight", graph.rng.standard_normal((sizes.vocabulary, sizes.width)).astype(np.float32)
    )
    stream = graph.add("Gather", table, "input_ids", to="embedded")
    scale = graph.scale("model.layers.0.input_layernorm.weight")
    normed = graph.add("SimplifiedLayerNormalization", stream, scale, to="normed.0", axis=-1, epsilon=1e-5)
    for layer in range(sizes.layers):
        for number, part in enumerate((_attention, _mlp)):
            made, name = part(graph, normed, layer), f"model.layers.{layer}.norm.{number}"
            summed = f"{name}/sum"
            normed = graph.add(
                "SkipSimplifiedLayerNormalization", stream, made, graph.scale(f"{name}.weight"),
                to=[f"{name}/out", "", "", summed], domain=MICROSOFT, epsilon=1e-5,
            )  # fmt: skip
            stream = summed
    graph.add("MatMul", normed, graph.matrix("lm_head.weight", sizes.width, sizes.vocabulary), to="logits")
    return _model(graph)


def _model(graph: _Graph) -> onnx.ModelProto:
    sizes = graph.sizes
    for node in graph.nodes:
        for attribute in node.attribute:
            attribute.name = attribute.name.rstrip("_")
    ids = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
    ids += [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]

    def states(name: str, length: str) -> list[onnx.ValueInfoProto]:
        shape: list[str | int] = ["batch_size", sizes.kv_heads, length, sizes.head_size]
        return [
            helper.make_tensor_value_info(f"{name}.{layer}.{part}", TensorProto.FLOAT, shape)
            for layer in range(sizes.layers)
            for part in ("key", "value")
        ]

    logits: list[str | int] = ["batch_size", "sequence_length", sizes.vocabulary]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)]
    proto = helper.make_graph(
        graph.nodes, "main_graph", [*ids, *states("past_key_values", "past_sequence_length")],
        [*outputs, *states("present", "total_sequence_length")], graph.stored,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=10)


def genai_config(sizes: Sizes, *, filename: str = "model.onnx") -> dict[str, Any]:
    """What onnxruntime-genai reads."""
    decoder = {
        "session_options": {"provider_options": []},
        "filename": filename,
        "head_size": sizes.head_size,
        "hidden_size": sizes.width,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
    }
    words = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END, "vocab_size": sizes.vocabulary}
    return {
        "model": {"context_length": sizes.length, "type": "llama", "decoder": decoder, **words},
        "search": {"do_sample": False, "max_length": sizes.length, "past_present_share_buffer": False},
    }


def config(sizes: Sizes) -> dict[str, Any]:
    """What transformers and optimum read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.width,
        "intermediate_size": sizes.ffn,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": sizes.length,
        "vocab_size": sizes.vocabulary,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }


def _letters() -> list[str]:
    """A printable letter for every byte, as byte-level tokenizers write them."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(BYTES)]


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: byte-level, no merges; a text begins with its own token."""
    added = [
        {"id": number, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, word in ((BEGIN, "<s>"), (END, "</s>"))
    ]
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())} | {"<s>": BEGIN, "</s>": END}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    begins: list[dict[str, Any]] = [{"SpecialToken": {"id": "<s>", "type_id": 0}}]
    whole: dict[str, Any] = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*begins, whole],
            "pair": [*begins, whole, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BEGIN], "tokens": ["<s>"]}},
        },
        "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip


def build(folder: Path, sizes: Sizes | None = None, *, seed: int = 0, genai: bool = True) -> Path:
    """Write the folder; without `genai` as optimum writes it, without genai_config.json."""
    sizes = Sizes() if sizes is None else sizes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    model = graph_of(sizes, seed=seed)
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    written: dict[str, Any] = {
        "config.json": config(sizes),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>",
            "unk_token": "</s>", "add_bos_token": True, "add_prefix_space": False,
            "model_max_length": sizes.length,
        },
        "generation_config.json": {"bos_token_id": BEGIN, "eos_token_id": END},
    }  # fmt: skip
    if genai:
        written["genai_config.json"] = genai_config(sizes)
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    """Write a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimum", action="store_true", help="without genai_config.json")
    arguments = parser.parse_args()
    folder = build(arguments.folder, seed=arguments.seed, genai=not arguments.optimum)
    sys.stdout.write(f"wrote {folder}\n")


if __name__ == "__main__":
    main()
