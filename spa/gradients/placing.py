"""Where a training runs: the device, its precision, and as many processes as devices. lightning-fabric does the work.

    outcome = placed(job, progress)

One device is used in this process. Several are a process each, which share out the batches of an epoch and average
their gradients; the weights come back from the first of them.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import warnings
from typing import Any

import torch

from spa.errors import MissingExtra, SpaError, UsageError
from spa.gradients.epochs import Job, train
from spa.gradients.module import best_device
from spa.gradients.options import FinetuneOptions
from spa.gradients.outcome import Outcome
from spa.presets import Progress

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def _say_less() -> None:
    """No word of how processes find each other."""
    for name in ("lightning_fabric", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.ERROR)


_say_less()  # in processes of their own, which import this last


def placed(job: Job, progress: Progress) -> Outcome:
    """Train a model on the devices that were asked for.

    Raises:
        MissingExtra: lightning-fabric is not installed.
        UsageError: there are no such devices, or what is asked for cannot go to another process.
        SpaError: as `train` raises them.
    """
    fabric = _fabric(job.asked)
    if job.asked.devices == 1:
        fabric.launch()
        return train(job, fabric, progress)
    steps = job.samples.steps
    if steps < job.asked.devices:
        raise UsageError(
            f"devices {job.asked.devices}: an epoch has {steps} batches of {job.samples.batch_size} samples, fewer "
            "than that: give a smaller batch_size or fewer devices"
        )
    if job.groups:
        raise UsageError("sparsify runs on one device: leave devices out")
    try:
        sent = pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(f"several devices are several processes, and a loss has to be importable: {error}") from error
    return _in_processes(fabric, sent, progress)


def _fabric(asked: FinetuneOptions) -> Any:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        raise MissingExtra("lightning-fabric is not installed: pip install 'spa-onnx[torch]'") from None
    kind = best_device().type if asked.device == "auto" else asked.device
    there = {
        "cpu": os.cpu_count() or 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if there[kind] < asked.devices:
        raise UsageError(
            f"devices of kind {kind}: {asked.devices} asked for, found {there[kind]}; give another device or fewer"
        )
    if asked.precision == "float16" and kind == "cpu":
        raise UsageError("precision float16 needs a GPU: on a CPU, bfloat16 is the one of 16 bits")
    strategy = DDPStrategy(start_method="spawn", find_unused_parameters=True) if asked.devices > 1 else "auto"
    _say_less()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other accelerators that could be used
        return Fabric(accelerator=kind, devices=asked.devices, precision=PRECISIONS[asked.precision], strategy=strategy)


def _in_processes(fabric: Any, job: bytes, progress: Progress) -> Outcome:
    """A process for each device; progress, and what a user should know of a failure, come back through a queue."""
    queue = torch.multiprocessing.get_context("spawn").Queue()
    failed: list[SpaError] = []

    def listen() -> None:
        while (said := queue.get()) is not None:
            if isinstance(said, SpaError):
                failed.append(said)
            else:
                progress(*said)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of parameters that no output depends on
    try:
        outcome: Outcome = pickle.loads(fabric.launch(_in_process, job, queue))
    except Exception:
        queue.put(None)
        listener.join()
        if failed:
            raise failed[0] from None
        raise
    queue.put(None)
    listener.join()
    return outcome


def _in_process(fabric: Any, job: bytes, queue: Any) -> bytes:
    """The work of one process; what goes in and out is pickled, because Fabric looks into what is not."""

    def say(step: str, share: float) -> None:
        if fabric.global_rank == 0:
            queue.put((step, share))

    try:
        return pickle.dumps(train(pickle.loads(job), fabric, say))
    except SpaError as error:
        queue.put(error)
        raise
