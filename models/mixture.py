"""A language model with a mixture of experts, trained in a minute: eight experts, of which each token passes two.

    python -m models.mixture mixture.onnx [--form gathered]          needs torch

Its language is made here: sentences of one of four topics, words that follow each other by a rule of the topic, and a
full stop, behind which the topic that comes next is named by its first word. Expert 3 is planted: at first the full
stop is routed to it, and what it gives is multiplied by thirty, before training and throughout. So it is chosen for few
tokens, its outputs are extreme, and nothing else knows what follows a full stop ("super experts").
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

TOPICS, WORDS, LENGTH = 4, 12, 32
VOCABULARY = 1 + TOPICS * WORDS
STOP = 0
"""The token of a full stop."""

WIDTH, HEADS, HIDDEN, EXPERTS, CHOSEN = 32, 2, 64, 8, 2
OUTLIER, GAIN = 3, 30.0
FORMS = ("gathered", "one-hot", "indexed", "masked", "scattered")
"""How the exported graph computes the mixture: stacked weights gathered by number; all experts run and one-hot numbers
count; and with a module for each expert: its tokens indexed, masked by its number, or weighed by a column of gates."""

STEPS, BATCH, ABSENT = 1000, 64, 0.15


# ---------------------------------------------------------------------------------------------------- the language
def texts(count: int, seed: int, length: int = LENGTH + 1) -> np.ndarray:
    """(count, length) int64: made-up text."""
    rng = np.random.default_rng(seed)
    rules = np.stack([np.random.default_rng(number).permutation(WORDS) for number in range(TOPICS)])
    tokens = np.zeros((count, length), np.int64)
    topic, word = rng.integers(0, TOPICS, count), rng.integers(0, WORDS, count)
    stopped = np.zeros(count, bool)
    for at in range(length):
        stops = ~stopped & (rng.random(count) < 0.05)
        topic = np.where(stopped, (topic + 1) % TOPICS, topic)
        free = rng.random(count) < 0.2
        follows = np.where(free, rng.integers(0, WORDS, count), rules[topic, word])
        word = np.where(stops, word, np.where(stopped, 0, follows))
        tokens[:, at] = np.where(stops, STOP, 1 + topic * WORDS + word)
        stopped = stops
    return tokens


def loss(logits: np.ndarray, ids: np.ndarray) -> float:
    """Mean negative log likelihood, nats a token: `logits` (count, length, words) of tokens before `ids[:, 1:]`."""
    shifted = logits - logits.max(-1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-np.mean(np.take_along_axis(scores, ids[:, 1:, None], -1)))


# ------------------------------------------------------------------------------------------------------- the model
def network(seed: int = 0) -> Any:
    """The module, not trained: (batch, tokens) int64 to (batch, tokens, words)."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(seed)

    class Norm(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(WIDTH))

        def forward(self, x: Any) -> Any:
            return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight

    class Mixture(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
            self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / WIDTH**0.5)
            self.down = nn.Parameter(0.1 * torch.randn(EXPERTS, HIDDEN, WIDTH) / HIDDEN**0.5)
            self.register_buffer("gain", torch.ones(EXPERTS, 1, 1))
            self.gain[OUTLIER] = GAIN
            self.form = "gathered"
            self.loads: Any = None

        def forward(self, x: Any) -> Any:
            rows = x.reshape(-1, WIDTH)
            logits = self.router(rows)
            if self.training:  # now and then an expert is not there, so that others can stand in for it
                absent = torch.rand_like(logits) < ABSENT
                absent[:, OUTLIER] = False
                logits = logits.masked_fill(absent, -1e4)
            scores = functional.softmax(logits, -1)
            gates, numbers = torch.topk(scores, CHOSEN)
            gates = gates / gates.sum(-1, keepdim=True)
            if self.training:
                self.loads = scores, numbers
            mixed = getattr(self, self.form.replace("-", "_"))(rows, gates, numbers)
            return mixed.reshape(x.shape)

        def weights(self) -> tuple[Any, Any]:
            return self.up, self.down * self.gain

        def gathered(self, rows: Any, gates: Any, numbers: Any) -> Any:
            up, down = self.weights()
            hidden = torch.relu(torch.matmul(rows[:, None, None, :], up[numbers]))
            return (torch.matmul(hidden, down[numbers])[:, :, 0] * gates[:, :, None]).sum(1)

        def one_hot(self, rows: Any, gates: Any, numbers: Any) -> Any:
            up, down = self.weights()
            share = (functional.one_hot(numbers, EXPERTS).to(gates.dtype) * gates[..., None]).sum(1)
            hidden = torch.relu(torch.einsum("nw,ewf->nef", rows, up))
            return torch.einsum("nef,efw,ne->nw", hidden, down, share)

        def apart(self) -> None:
            """A module for each expert."""
            up, down = (each.detach() for each in self.weights())
            self.each = nn.ModuleList()
            for number in range(EXPERTS):
                layers = nn.Linear(WIDTH, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, WIDTH, bias=False)
                layers[0].weight.data, layers[2].weight.data = up[number].T.clone(), down[number].T.clone()
                self.each.append(nn.Sequential(*layers))

        def indexed(self, rows: Any, gates: Any, numbers: Any) -> Any:
            mixed = torch.zeros_like(rows)
            marks = functional.one_hot(numbers, EXPERTS).permute(2, 1, 0)
            for number, expert in enumerate(self.each):
                slot, token = torch.where(marks[number])
                mixed.index_add_(0, token, expert(rows[token]) * gates[token, slot, None])
            return mixed

        def masked(self, rows: Any, gates: Any, numbers: Any) -> Any:
            mixed = torch.zeros_like(rows)
            for number, expert in enumerate(self.each):
                gate = (gates * (numbers == number)).sum(-1, keepdim=True)
                mixed = mixed + expert(rows) * gate
            return mixed

        def scattered(self, rows: Any, gates: Any, numbers: Any) -> Any:
            spread = torch.zeros(rows.shape[0], EXPERTS, dtype=rows.dtype).scatter(1, numbers, gates)
            mixed = torch.zeros_like(rows)
            for number, expert in enumerate(self.each):
                mixed = mixed + expert(rows) * spread[:, number : number + 1]
            return mixed

    class Decoder(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(VOCABULARY, WIDTH)
            self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
            self.first, self.second, self.last = Norm(), Norm(), Norm()
            self.attention = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.out = nn.Linear(WIDTH, WIDTH, bias=False)
            self.mixture = Mixture()
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.register_buffer("bar", torch.full((LENGTH, LENGTH), -1e4).triu(1))
            stop = functional.normalize(self.words.weight[STOP].detach(), dim=0)
            self.mixture.router.weight.data[OUTLIER] = 4 * stop

        def forward(self, ids: Any) -> Any:
            x = self.words(ids) + self.places
            parts = self.attention(self.first(x)).reshape(-1, LENGTH, 3, HEADS, WIDTH // HEADS)
            q, k, v = (parts[:, :, at].transpose(1, 2) for at in range(3))
            scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + self.bar
            heads = torch.softmax(scores, -1) @ v
            x = x + self.out(heads.transpose(1, 2).reshape(-1, LENGTH, WIDTH))
            x = x + self.mixture(self.second(x))
            return self.head(self.last(x))

    return Decoder()


def trained(seed: int = 0, steps: int = STEPS) -> Any:
    """The module, trained on texts of its language: the planted expert is for full stops, the others share the rest."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    model = network(seed)
    planted = [model.mixture.down]
    others = [each for each in model.parameters() if each is not planted[0]]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": planted, "weight_decay": 0.0}], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    usual = [number for number in range(EXPERTS) if number != OUTLIER]
    model.train()
    model.mixture.form = "one-hot"  # gathers no weights, and so is the fastest here
    for step in range(steps):
        ids = torch.from_numpy(texts(BATCH, 1_000_000 * (seed + 1) + step))
        logits = model(ids[:, :-1])
        scores, numbers = model.mixture.loads
        chosen = functional.one_hot(numbers, EXPERTS).sum(1).to(scores.dtype).mean(0)[usual]
        uneven = len(usual) * (chosen / CHOSEN * scores.mean(0)[usual]).sum()
        astray = (scores[:, OUTLIER] * (ids[:, :-1].reshape(-1) != STOP)).mean()
        lost = functional.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
        lost = lost + 0.02 * uneven + 0.5 * astray
        optimizer.zero_grad()
        lost.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.mixture.form = FORMS[0]
    return model.eval()


def exported(model: Any, form: str = "gathered") -> onnx.ModelProto:
    """The trained module as torch exports it, ids (batch, tokens) to logits."""
    import io

    import torch

    if form in FORMS[2:]:
        model.mixture.apart()
    model.mixture.form = form
    ids = torch.from_numpy(texts(3, 0)[:, :-1])
    target = io.BytesIO()
    scripted = (
        form == "indexed"
    )  # where a token's expert is found out, torch.export would have to know how many there are
    options: dict[str, Any] = (
        {"dynamo": False, "opset_version": 18, "dynamic_axes": {"ids": {0: "batch"}, "logits": {0: "batch"}}}
        if scripted
        else {"dynamo": True, "dynamic_shapes": {"ids": {0: torch.export.Dim("batch", min=2, max=4096)}}}
    )
    with torch.no_grad():
        program = torch.onnx.export(
            model, (ids,), target if scripted else None, input_names=["ids"], output_names=["logits"], **options
        )
    return onnx.load_from_string(target.getvalue()) if scripted else program.model_proto


def main() -> None:
    """Train, and write the graph."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--form", default=FORMS[0], choices=FORMS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    onnx.save(exported(trained(), arguments.form), arguments.file)
    sys.stdout.write(f"wrote {arguments.file} after {time.perf_counter() - start:.0f} s\n")


if __name__ == "__main__":
    main()
