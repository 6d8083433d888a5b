"""fmnist_resnet trained and pruned in one run by HESSO, the optimiser of only_train_once 3.0.1; `peers.py` calls it.

Ten epochs by labels on the images that `spa.finetune` would learn from, with the batches, rates and limit of the
gradient's norm of `recovery.py`. As in the library's own example, a tenth of the steps goes by before units are chosen,
the next tenth makes them zero, in ten turns, and the rest trains what is left. The optimiser is its variant of AdamW;
the normalisations take their statistics from the batches.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from spa.gradients.pace import Pace
from spa.gradients.samples import EVERY
from tests.benchmarks.peers import checkpoint, export, gone_from, split
from tests.benchmarks.recovery import BATCH, RATE

EPOCHS, STEPS = 10, -(-(60_000 - 60_000 // EVERY) // BATCH)
"""Of a run, and steps of each."""
SHORT, TRIES, AIM, NEAR = 40, 5, 0.005, 0.01
"""Steps of a second epoch in short; full ones at most; the share of the FLOPs beyond the cut that is aimed at, and that
ends the trying."""
EXPORTER = "torch.onnx._internal.torchscript_exporter"
"""Where torch 2.9 moved what the library looks for in `torch.onnx`."""


def trained(cut: float, path: Path) -> float:
    """Run it and write what is left; the share of the FLOPs that is gone. Where `cut` is not met, no file is written.

    The library takes a share of the units. Which one that is, is found by trying: with a second epoch in short, then in
    full, after which no more go. The FLOPs left are about as the square of the units left, but which stay turns out
    otherwise each time: where no try ends near the cut, the one that took least beyond it goes on.
    """
    path.unlink(missing_ok=True)
    tried, share, gone = path.with_suffix(".tried.onnx"), 0.0, 0.0
    subnets: dict[float, tuple[Any, Any]] = {}
    for phase in (SHORT, SHORT, *[STEPS] * TRIES):
        share = 1 - (1 - share) * ((1 - cut - AIM) / (1 - gone)) ** 0.5
        run = Run(share, phase, begun())
        learn(run.module, run.optimizer, STEPS, STEPS + phase)
        small = run.smaller()
        export(small[0].eval(), tried)
        gone = gone_from(tried)
        print(f"{share:.4f} of the units in {phase} steps: {gone:.1%} of the FLOPs", file=sys.stderr, flush=True)
        if phase == STEPS and gone >= cut:
            subnets[gone] = small
            if gone <= cut + NEAR:
                break
    tried.unlink()
    if not subnets:
        return gone
    module, optimizer = subnets[min(subnets)]
    learn(module, optimizer, 2 * STEPS, EPOCHS * STEPS)
    export(module.eval(), path)
    return min(subnets)


@functools.cache
def begun() -> Run:
    """The first epoch, in which no unit goes: the same for all cuts."""
    run = Run()
    learn(run.module, run.optimizer, 0, STEPS)
    return run


def learn(module: Any, optimizer: Any, start: int, stop: int) -> None:
    """The steps from one number on to another."""
    import torch

    from spa.gradients.epochs import LARGEST_STEP

    module.train()
    (images, labels), _ = split()
    for done in range(start, stop):
        epoch, step = divmod(done, STEPS)
        order = np.random.default_rng([0, epoch]).permutation(len(images))[step * BATCH :][:BATCH]
        logits = module(torch.from_numpy(images[order]).to(memory_format=torch.channels_last))
        module.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[order])).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), LARGEST_STEP)
        for group in optimizer.param_groups:
            group["lr"] = Pace.of(RATE).rate(done / (EPOCHS * STEPS))
        optimizer.step()


class Run:
    """The checkpoint and its optimiser, before or after units go.

    Args:
        share: of the units, that go after the first epoch; which, the library chooses by five criteria.
        phase: steps in which they go.
        begun: after how many steps and with which weights and moments it starts; None: at the checkpoint.
    """

    def __init__(self, share: float = 0.0, phase: int = STEPS, begun: Run | None = None) -> None:
        self.module = checkpoint()
        self.optimizer = graph_of(self.module).hesso(
            variant="adamw", lr=RATE, weight_decay=0.0, target_group_sparsity=share, start_pruning_step=STEPS,
            pruning_steps=phase, pruning_periods=10,
        )  # fmt: skip
        if begun is None:
            return
        self.module.load_state_dict(begun.module.state_dict())
        self.optimizer.num_steps = begun.optimizer.num_steps
        for mine, kept in zip(self.moments(), begun.moments(), strict=True):
            for name, (moments, key) in mine.items():
                others, other = kept[name]
                moments[key] = others[other].clone()

    def moments(self) -> tuple[dict[str, tuple[dict[str, Any], str]], ...]:
        """The first and the second ones: by the names of parameters, where the library has each."""
        groups = [(at, entry["p_names"]) for at, entry in enumerate(self.optimizer.param_groups)]
        return tuple(
            {
                name: (
                    getattr(self.optimizer, f"{order}_moment_grads"),
                    f"grad_{order}_moment_buffer_group_{at}_param_{n}",
                )
                for at, names in groups
                for n, name in enumerate(names)
            }
            for order in ("first", "second")
        )

    def smaller(self) -> tuple[Any, Any]:
        """The network without the units that are zero, and what goes on training it.

        They stay zero and pass nothing on: the other weights move as they would with them, but for what their gradients
        add to the norm that is limited. HESSO without units to drive is AdamW, and the library does not trace networks
        in which a layer has one unit.
        """
        import torch

        places = copy.deepcopy(self.module)  # every weight says where it is, from 1 on; those of such units are 0
        for parameter in places.parameters():
            numbers = torch.arange(1.0, parameter.numel() + 1).view_as(parameter)
            parameter.data = numbers * (parameter.data != 0)
        kept_places = {name: parameter.data.long() - 1 for name, parameter in without_zeros(places).named_parameters()}
        module = without_zeros(copy.deepcopy(self.module))
        optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.0)
        for name, parameter in module.named_parameters():
            first, second = (kept[name][0][kept[name][1]].flatten()[kept_places[name]] for kept in self.moments())
            steps = torch.tensor(float(self.optimizer.num_steps))
            optimizer.state[parameter] = {"step": steps, "exp_avg": first, "exp_avg_sq": second}
        return module, optimizer


def without_zeros(module: Any) -> Any:
    """It, in place, without the units whose weights are all zero."""
    with tempfile.TemporaryDirectory() as folder:
        graph_of(module).construct_subnet(out_dir=folder, save_full_group_sparse_model=False)
    return module


def graph_of(module: Any) -> Any:
    """The library's view of it; its optimiser asks for a CUDA device, also where there is none."""
    import torch

    sys.modules.setdefault("torch.onnx._globals", importlib.import_module(f"{EXPORTER}._globals"))
    torch.onnx._optimize_graph = importlib.import_module(f"{EXPORTER}.utils")._optimize_graph
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor: tensor
    return importlib.import_module("only_train_once").OTO(module.eval(), torch.randn(2, 1, 28, 28))
