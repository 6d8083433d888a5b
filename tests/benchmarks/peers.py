"""fmnist_resnet pruned by other libraries, as ONNX files that `recovery.py --files` trains like ours.

    python tests/benchmarks/peers.py FOLDER [--ways tp-norm tp-taylor ...] [--cuts 0.5 0.75 0.9]
    python tests/benchmarks/recovery.py --ways --files tp-norm=FOLDER/tp-norm-{cut}.onnx ...

The checkpoint of ../shared/eval is loaded into the module of torch that it was exported from, pruned step by step until
a share of the FLOPs is gone, and exported.

| way | library | what goes |
|---|---|---|
| tp-norm | torch-pruning | groups by their norms (`GroupMagnitudeImportance`), all layers together |
| tp-taylor | torch-pruning | by weights times gradients (`GroupTaylorImportance`) of 1,024 labelled images |

Needs torch and the library in an environment of their own (`pip install torch torch-pruning==1.6.1`).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from tests.benchmarks.recovery import CUTS, SCORED, TASK, training  # noqa: E402
from tests.benchmarks.zoo import SHARED  # noqa: E402

WAYS = ("tp-norm", "tp-taylor")
STEPS = 400
"""In which all channels would go; the way ends where enough FLOPs are gone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
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

    sys.path.append(str(SHARED / "eval"))
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
    torch.onnx.export(
        module, (torch.randn(2, 1, 28, 28),), str(path), opset_version=17, dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )  # fmt: skip
    return float(1 - after / before)


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
