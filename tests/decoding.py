"""A decoder with a cache run by onnxruntime: a whole sequence at once, or token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort


class Decoder:
    """A graph with input_ids, attention_mask and past_key_values.*, of a batch of one."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}

    def empty(self) -> dict[str, np.ndarray]:
        """Caches before the first token."""
        caches = {}
        for name, value in self.inputs.items():
            if name.startswith("past_key_values."):
                _, heads, _, size = value.shape
                caches[name] = np.zeros((1, heads, 0, size), np.float32)
        return caches

    def step(self, ids: list[int], caches: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (tokens, vocabulary) behind some tokens, and the caches with them."""
        past = next(iter(caches.values())).shape[2]
        feeds = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, past + len(ids)), np.int64),
            "position_ids": past + np.arange(len(ids), dtype=np.int64)[None],
        }
        feeds = {name: array for name, array in feeds.items() if name in self.inputs} | caches
        names = [value.name for value in self.session.get_outputs()]
        made = dict(zip(names, self.session.run(None, feeds), strict=True))
        behind = {name: made[name.replace("past_key_values", "present")] for name in caches}
        return made["logits"][0], behind

    def whole(self, ids: list[int]) -> np.ndarray:
        """Logits of a sequence at once, from empty caches."""
        return self.step(ids, self.empty())[0]

    def stepwise(self, ids: list[int]) -> np.ndarray:
        """The same, token by token with the caches."""
        caches, rows = self.empty(), []
        for token in ids:
            logits, caches = self.step([token], caches)
            rows.append(logits)
        return np.concatenate(rows)

    def greedy(self, ids: list[int], length: int) -> list[int]:
        """The most likely continuation up to a length, with the caches."""
        logits, caches = self.step(ids, self.empty())
        tokens = list(ids)
        while len(tokens) < length:
            tokens.append(int(logits[-1].argmax()))
            logits, caches = self.step(tokens[-1:], caches)
        return tokens
