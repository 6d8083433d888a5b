"""Small networks of features, tables and tokens, trained in seconds: what people have who have no pictures.

    python -m models.trained NAME FILE.onnx          needs torch; those on real tables scikit-learn too

Data are made here or come with scikit-learn; each network is trained with weight decay, as networks are, and told apart
from the others by what its inputs are: their size, whether they are correlated, whether most are zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from models.made_data import bags, table, utterances
from models.training import (
    Graph,
    Trained,
    accuracy,
    agreement,
    classifier,
    explained,
    linear,
    parameters_of,
    recall,
    through,
    train,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ networks
def wake_word(seed: int = 0, *, decay: float = 1.0, steps: int = 4000) -> Trained:
    """Embedded frames of sound, flattened, to whether one word was said: (1, 16, 96), one sample a run.

    Trained for so long that weight decay empties the units that no data need.
    """
    import torch

    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    spectra, classes = utterances(6000, 4, generator)
    project = np.random.default_rng(80).standard_normal((2, 96, 96)) / 9.8
    frames = 16.0 * np.tanh(0.5 * (spectra - spectra.mean((0, 1))) @ project[0]) @ project[1]
    x, t = torch.tensor(frames, dtype=torch.float32), torch.tensor(classes == 0)
    layers = linear(16 * 96, 128, 128, 1)
    fit = torch.tensor(generator.permutation(6000))
    weight = 5.0 * t + 1.0
    train(parameters_of(layers), lambda at: (torch.nn.functional.binary_cross_entropy_with_logits(
        through(layers, x[fit[at]].flatten(1) / 16.0)[:, 0], t[fit[at]].float(), weight=weight[fit[at]])),
        4500, seed=seed, decay=decay, steps=steps)  # fmt: skip
    layers[0].weight.data /= 16.0
    graph = Graph()
    graph.dense(graph.node("Flatten", "x"), layers, output="y")
    test = fit[4500:].numpy()
    model = graph.model({"x": (1, 16, 96)}, (1, 1))
    return Trained(model, {"x": frames[test].astype(np.float32)}, classes[test] == 0, recall, one_by_one=True)


def wake_word_early(seed: int = 0) -> Trained:
    """The same, stopped before units are empty."""
    return wake_word(seed, decay=0.3, steps=1500)


def wake_word_late(seed: int = 0) -> Trained:
    """The same, with more decay."""
    return wake_word(seed, decay=3.0)


def commands(seed: int = 0) -> Trained:
    """Log-mel frames through convolutions over time to ten words: (n, 40, 24)."""
    import torch

    generator = np.random.default_rng(seed + 10)
    torch.manual_seed(seed)
    spectra, classes = utterances(8000, 9, generator, frames=24, bins=40)
    x, t = torch.tensor(spectra.transpose(0, 2, 1), dtype=torch.float32), torch.tensor(classes)
    fit = torch.tensor(generator.permutation(8000))
    layers = [torch.nn.Conv1d(40, 64, 5, padding=2), torch.nn.Conv1d(64, 96, 5, padding=2, stride=2)]
    head = linear(96, 64, 10)

    def run(read: Any) -> Any:
        return through(head, layers[1](layers[0](read).relu()).relu().mean(-1))

    train(parameters_of(layers, head), lambda at: torch.nn.functional.cross_entropy(run(x[fit[at]]), t[fit[at]]),
          6000, seed=seed, steps=1200)  # fmt: skip
    graph, read = Graph(), "x"
    for layer in layers:
        read = graph.node("Relu", graph.node("Conv", read, graph.weight(layer.weight), graph.weight(layer.bias),
                                             pads=[2, 2], strides=list(layer.stride)))  # fmt: skip
    graph.dense(graph.node("Flatten", graph.node("ReduceMean", read, axes=[-1])), head, output="y")
    test = fit[6000:].numpy()
    return Trained(graph.model({"x": ("n", 40, 24)}, ("n", 10)), {"x": x[test].numpy()}, classes[test], accuracy)


def speaker(seed: int = 0) -> Trained:
    """Two utterances through one tower to unit vectors, and how alike these are: (n, 16, 40) each."""
    import torch

    generator = np.random.default_rng(seed + 20)
    torch.manual_seed(seed)
    spectra, classes = utterances(6000, 12, generator, bins=40)
    spectra, classes = spectra[:3000], classes[:3000]
    x = torch.tensor(spectra, dtype=torch.float32).flatten(1)
    partner = np.array([generator.choice(np.flatnonzero((classes == label) == (at % 2 == 0)))
                        for at, label in enumerate(classes)])  # fmt: skip
    same = torch.tensor(np.where(classes == classes[partner], 1.0, -1.0), dtype=torch.float32)
    fit = torch.tensor(generator.permutation(3000))
    layers = linear(640, 128, 96, 32)

    def run(left: Any, right: Any) -> Any:
        left, right = (torch.nn.functional.normalize(through(layers, side), dim=1) for side in (left, right))
        return (left * right).sum(1) - 0.5

    train(parameters_of(layers), lambda at: torch.nn.functional.softplus(
        -8.0 * same[fit[at]] * run(x[fit[at]], x[partner][fit[at]])).mean(), 2250, seed=seed)  # fmt: skip
    graph = Graph()
    stored = [(graph.weight(layer.weight), graph.weight(layer.bias)) for layer in layers]
    towers = []
    for name in ("left", "right"):
        read = graph.node("Flatten", name)
        for number, (weight, bias) in enumerate(stored):
            read = graph.node("Gemm", read, weight, bias, transB=1)
            read = read if number == 2 else graph.node("Relu", read)
        towers.append(graph.node("LpNormalization", read, axis=1))
    alike = graph.node("ReduceSum", graph.node("Mul", *towers), graph.weight(np.array([1])), keepdims=0)
    graph.node("Sub", alike, graph.weight(np.float32(0.5)), output="y")
    test = fit[2250:].numpy()
    feeds = {"left": spectra[test].astype(np.float32), "right": spectra[partner[test]].astype(np.float32)}
    model = graph.model({"left": ("n", 16, 40), "right": ("n", 16, 40)}, ("n",))
    return Trained(model, feeds, same[test].numpy(), agreement)


def topics(seed: int = 0) -> Trained:
    """Texts as counts of words to their topic: (n, 600), most of them zero."""
    texts, classes = bags(6000, np.random.default_rng(seed + 30))
    counts = np.zeros((6000, 600))
    np.add.at(counts, (np.arange(6000)[:, None], texts), 1.0)
    return classifier(counts, classes, (96, 64), seed=seed)


def mean_of_words(seed: int = 0) -> Trained:
    """Texts as whole numbers through embeddings and their mean to a topic: (n, 40)."""
    import torch

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed + 40)
    texts, classes = bags(8000, generator)
    x, t = torch.tensor(texts), torch.tensor(classes)
    table_, layers = torch.nn.Embedding(600, 64), linear(64, 96, 6)
    train(parameters_of(table_, layers), lambda at: torch.nn.functional.cross_entropy(
        through(layers, table_(x[at]).mean(1)), t[at]), 6000, seed=seed, rate=1e-2)  # fmt: skip
    graph = Graph()
    read = graph.node("Gather", graph.weight(table_.weight), "x")
    graph.dense(graph.node("ReduceMean", read, axes=[1], keepdims=0), layers, output="y")
    model = graph.model({"x": ("n", 40)}, ("n", 6), integers=True)
    return Trained(model, {"x": texts[6000:]}, classes[6000:], accuracy)


def clusters(seed: int = 0) -> Trained:
    """A table of few useful columns to three classes: (n, 40)."""
    data, classes = table(6000, np.random.default_rng(seed + 50))
    return classifier(data, classes, (64, 64), seed=seed)


def units(seed: int = 0) -> Trained:
    """The same in units of their own, from thousandths to thousands: (1, 40), one sample a run."""
    data, classes = table(6000, np.random.default_rng(seed + 51))
    scales = 10.0 ** np.random.default_rng(81).uniform(-3, 3, data.shape[1])
    return classifier((data + 3.0) * scales, classes, (128, 64), seed=seed, one_by_one=True)


def house_prices(seed: int = 0) -> Trained:
    """A smooth function of five of ten numbers from 0 to 1 (Friedman 1991): (n, 10)."""
    import torch

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed + 60)
    data = generator.uniform(size=(6000, 10))
    wanted = (10 * np.sin(np.pi * data[:, 0] * data[:, 1]) + 20 * (data[:, 2] - 0.5) ** 2 + 10 * data[:, 3]
              + 5 * data[:, 4])  # fmt: skip
    layers = linear(10, 128, 64, 1)
    x, t = (torch.tensor(part, dtype=torch.float32) for part in (data, wanted))
    train(parameters_of(layers), lambda at: ((through(layers, x[at])[:, 0] - t[at]) ** 2).mean(), 4500, seed=seed,
          rate=5e-3)  # fmt: skip
    graph = Graph()
    graph.dense("x", layers, output="y")
    model = graph.model({"x": ("n", 10)}, ("n", 1))
    return Trained(model, {"x": data[4500:].astype(np.float32)}, wanted[4500:], explained)


def restored(seed: int = 0) -> Trained:
    """An autoencoder of frames of spectra, by which what is unusual is told: (n, 96)."""
    import torch

    torch.manual_seed(seed)
    spectra, _ = utterances(3000, 6, np.random.default_rng(seed + 70))
    rows = spectra.reshape(-1, 96)[::4]
    x = torch.tensor(rows, dtype=torch.float32)
    layers = linear(96, 96, 24, 96, 96)
    train(parameters_of(layers), lambda at: ((through(layers, x[at]) - x[at]) ** 2).mean(), 9000, seed=seed)
    graph = Graph()
    graph.dense("x", layers, output="y")
    model = graph.model({"x": ("n", 96)}, ("n", 96))
    return Trained(model, {"x": rows[9000:].astype(np.float32)}, rows[9000:], explained)


def _bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")()
    return np.asarray(loaded.data, np.float64), np.asarray(loaded.target)


def digits(seed: int = 0) -> Trained:
    """Real digits of 8 x 8 numbers from 0 to 16, flattened: (n, 64)."""
    return classifier(*_bundled("digits"), (128, 64), seed=seed)


def tumours(seed: int = 0) -> Trained:
    """Thirty real measurements in units of their own: (n, 30)."""
    return classifier(*_bundled("breast_cancer"), (64, 64), seed=seed, steps=600)


def wine(seed: int = 0) -> Trained:
    """Thirteen real measurements in units of their own: (n, 13)."""
    return classifier(*_bundled("wine"), (64, 32), seed=seed, steps=500)


NETWORKS: dict[str, Callable[..., Trained]] = {
    network.__name__: network
    for network in (
        wake_word, wake_word_early, wake_word_late, commands, speaker, topics, mean_of_words, clusters, units,
        house_prices, restored, digits, tumours, wine,
    )
}  # fmt: skip


def main() -> None:
    """Write one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    onnx.save(NETWORKS[arguments.name](arguments.seed).model, arguments.file)


if __name__ == "__main__":
    main()
