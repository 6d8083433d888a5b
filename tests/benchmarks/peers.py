"""fmnist_resnet pruned by other libraries, as ONNX files that `recovery.py --files` trains like ours.

    python tests/benchmarks/peers.py FOLDER [--ways tp-norm tp-taylor ...] [--cuts 0.5 0.75 0.9]
    python tests/benchmarks/recovery.py --ways --files tp-norm=FOLDER/tp-norm-{cut}.onnx ...

The checkpoint of ../shared/eval is loaded into the module of torch that it was exported from, pruned step by step until
a share of the FLOPs is gone, and exported.

| way | library | what goes |
|---|---|---|
| tp-norm | torch-pruning | groups by their norms (`GroupMagnitudeImportance`), all layers together |
| tp-taylor | torch-pruning | by weights times gradients (`GroupTaylorImportance`) of 1,024 labelled images |
| fastnas | nvidia-modelopt | widths by what each layer alone adds to the loss of 2,000 held-out images |
| hesso | only-train-once | what its optimiser makes zero in a run of ten epochs (`hesso.py`): `--trained hesso=10` |

Each needs torch, spa's own needs and the library in an environment of its own; `pip install torch` and
torch-pruning==1.6.1; nvidia-modelopt==0.47.0 "torchprofile<0.1" requests huggingface_hub; only-train-once==3.0.1.
FastNAS keeps what it measured in FOLDER/fastnas.pth, for the other cuts.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from spa.gradients.samples import EVERY  # noqa: E402
from tests.benchmarks.recovery import CUTS, SCORED, TASK, removed, training  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

WAYS = ("tp-norm", "tp-taylor", "fastnas", "hesso")
STEPS = 400
"""In which all channels would go; the way ends where enough FLOPs are gone."""
DIVISOR, JUDGED, CALIBRATED = 4, 2000, 5000
"""Of FastNAS: widths are multiples; held-out images that each width is judged by; images that normalisations take
statistics of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS[:2])
    parser.add_argument("--cuts", type=float, nargs="*", default=CUTS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    for way in arguments.ways:
        for cut in arguments.cuts:
            path = arguments.folder / f"{way}-{cut}.onnx"
            gone = pruned(way, cut, path)
            missed = "" if path.exists() else f", not {cut:.0%}: no file"
            print(path, f"{gone:.1%} of the FLOPs removed{missed}", flush=True)


def checkpoint() -> Any:
    """The module of torch with the weights of the task's file."""
    import torch

    train_fmnist: Any = importlib.import_module("train_fmnist")

    graph = onnx.load(SHARED / "eval" / "models" / f"{TASK}.onnx").graph
    weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    for node in graph.node:  # of equal tensors, as biases of norms that are summed are, the exporter kept one
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    module = train_fmnist.resnet()
    state = module.state_dict()
    missing = [name for name in state if name not in weights and not name.endswith("num_batches_tracked")]
    assert not missing, missing
    module.load_state_dict({name: weights.get(name, tensor) for name, tensor in state.items()})
    return module.eval()


def pruned(way: str, cut: float, path: Path) -> float:
    """Prune and export; the share of the FLOPs that is gone. Where `cut` is not reached, no file is written."""
    import torch

    find_tasks()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    if way == "hesso":
        from tests.benchmarks.hesso import trained

        return trained(cut, path)
    return fastnas(cut, path) if way == "fastnas" else by_steps(way, cut, path)


def by_steps(way: str, cut: float, path: Path) -> float:
    """Torch-Pruning, a step after another."""
    import torch
    import torch_pruning

    module, example = checkpoint(), torch.randn(1, 1, 28, 28)
    taylor = way == "tp-taylor"
    importance = (torch_pruning.importance.GroupTaylorImportance if taylor
                  else torch_pruning.importance.GroupMagnitudeImportance)()  # fmt: skip
    pruner = torch_pruning.pruner.BasePruner(
        module, example, importance, global_pruning=True, pruning_ratio=1.0, iterative_steps=STEPS,
        ignored_layers=[layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)],
    )  # fmt: skip
    before, _ = torch_pruning.utils.count_ops_and_params(module, example)
    after = before
    for _ in range(STEPS):
        if taylor:
            _gradients(module)
        pruner.step()
        after, _ = torch_pruning.utils.count_ops_and_params(module, example)
        if after <= (1 - cut) * before:
            break
    else:
        path.unlink(missing_ok=True)
        return float(1 - after / before)
    export(module, path)
    return float(1 - after / before)


def fastnas(cut: float, path: Path) -> float:
    """ModelOpt's search, whose budget of FLOPs, as it counts them, shrinks until the file is as small as `cut` says.

    Once it has sorted the units, ModelOpt 0.47 calibrates normalisations in copies that it drops. So their statistics
    are those of the batch where a width is judged, and of training images in the end. Widths are judged by the
    cross-entropy: by accuracy many are as good as all, and 61 % of the FLOPs went where 50 % were asked for.
    """
    import modelopt.torch.prune as pruning
    import torch

    (images, _), (unseen, labels) = split()
    judged = torch.from_numpy(unseen[:JUDGED]), torch.from_numpy(labels[:JUDGED])
    rules = pruning.fastnas.FastNASConfig()
    for kind in ("nn.Conv2d", "nn.BatchNorm2d", "nn.Linear"):
        rule = rules[kind]["*"]
        rule["channel_divisor" if "channel_divisor" in rule else "feature_divisor"] = DIVISOR
    config = {
        "score_func": lambda network: score(network, *judged), "verbose": False,
        "checkpoint": str(path.with_name("fastnas.pth")),
    }  # fmt: skip
    gone, share = 0.0, 1 - cut
    while gone < cut:
        budget = {"flops": f"{100 * share:.2f}%"}
        module, _ = pruning.prune(checkpoint(), [("fastnas", rules)], budget, torch.randn(1, 1, 28, 28), config)
        calibrate(module, torch.from_numpy(images[:CALIBRATED]))
        export(module, path)
        gone, share = gone_from(path), share - 0.005
    return gone


def score(module: Any, images: Any, labels: Any) -> float:
    """How well it does, with each batch's own statistics."""
    import torch

    norms_learn(module.eval())
    with torch.no_grad():
        logits = torch.cat([module(part) for part in images.split(250)])
    return -float(torch.nn.functional.cross_entropy(logits, labels))


def calibrate(module: Any, images: Any) -> None:
    """Give normalisations the mean statistics of the batches of some images."""
    import torch

    for norm in norms_learn(module.eval()):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for part in images.split(250):
            module(part)
    for norm in norms_learn(module):
        norm.momentum = 0.1
    module.eval()


def norms_learn(module: Any) -> list[Any]:
    """Its normalisations, which take statistics from what they see from now on."""
    import torch

    return [layer.train() for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


def export(module: Any, path: Path) -> None:
    """As the checkpoint was, with its normalisations kept apart."""
    import torch

    torch.onnx.export(
        module, (torch.randn(2, 1, 28, 28),), str(path), opset_version=17, dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )  # fmt: skip


def gone_from(path: Path) -> float:
    """The share of the checkpoint's FLOPs that a file lacks, counted by spa."""
    return removed(SHARED / "eval" / "models" / f"{TASK}.onnx", path)["flops"]


@functools.cache
def split() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images and labels that `spa.finetune` would learn from, and those that it would hold out."""
    images, labels = training(60_000)
    held_out = np.arange(len(images)) % EVERY == EVERY - 1
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def _gradients(module: Any) -> None:
    """Those of the cross-entropy of labels of training images."""
    import torch

    images, labels = training(SCORED)
    module.zero_grad()
    for at in range(0, SCORED, 256):
        logits = module(torch.from_numpy(images[at : at + 256]))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[at : at + 256])).backward()


if __name__ == "__main__":
    main()
