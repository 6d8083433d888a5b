"""Describe each head by where its attention goes, as means over queries.

| | |
|---|---|
| first | to the first token: an attention sink (Xiao et al., Efficient Streaming Language Models, 2024) |
| previous | to the token before |
| entropy | of its attention, in nats |
| retrieval | in the second half of a sequence that is said twice, to the token behind the same one in the first half |

The last is the score of induction heads (Olsson et al., In-context Learning and Induction Heads, 2022), by which heads
are found that look up what was said (Wu et al., Retrieval Head, 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Habits:
    """Sums over queries so far, (heads,) each."""

    sums: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, probabilities: np.ndarray) -> None:
        """Count what heads do on ordinary samples.

        Args:
            probabilities: (heads, samples, queries, keys).
        """
        heads, samples, queries, keys = probabilities.shape
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(probabilities > 0, np.log(probabilities), 0.0)
        self._put("entropy", -(probabilities * logs).sum((1, 2, 3)), samples * queries)
        if queries == keys > 1:
            rows = np.arange(1, queries)
            self._put("first", probabilities[:, :, rows, 0].sum((1, 2)), samples * len(rows))
            self._put("previous", probabilities[:, :, rows, rows - 1].sum((1, 2)), samples * len(rows))
        elif keys > 1:
            self._put("first", probabilities[..., 0].sum((1, 2)), samples * queries)
        assert heads == len(self.sums["entropy"])

    def add_repeated(self, probabilities: np.ndarray) -> None:
        """Count what heads do where the second half of each sample repeats the first."""
        _, samples, queries, keys = probabilities.shape
        if queries != keys or queries % 2:
            return
        half = queries // 2
        rows = np.arange(half, queries)
        looked = probabilities[:, :, rows, rows - half + 1]
        self._put("retrieval", looked.sum((1, 2)), samples * half)

    def _put(self, name: str, numbers: np.ndarray, count: int) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + numbers.astype(np.float64)
        self.counts[name] = self.counts.get(name, 0.0) + count

    def mean(self, name: str) -> np.ndarray | None:
        """(heads,) a mean over all queries; None: it was not counted."""
        return self.sums[name] / self.counts[name] if name in self.sums else None


def repeated(vocabulary: int, length: int, count: int, seed: int = 0) -> np.ndarray:
    """(count, length) token numbers drawn at random, of which the second half is the first again."""
    half = np.random.default_rng(seed).integers(0, vocabulary, (count, -(-length // 2)))
    return np.concatenate([half, half], axis=1)[:, :length]
