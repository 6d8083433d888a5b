"""What the parts of a model cost on a device: `spa profile`, and the time by layer of a file.

    import spa
    profile = spa.profile("net.onnx", threads=1)       # a minute or less
    Path("device.json").write_text(profile.to_json())
    spa.prune("net.onnx", of="latency", ratio=0.3, profile=profile)

`write_job` makes a file that does the same on another machine, with Python, numpy and onnxruntime alone.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import ondevice, runtime
from spa.analysis.stored import NUMBERS
from spa.errors import UsageError
from spa.executor import is_place
from spa.feeds import Feeds
from spa.frontends.files import onnx_file
from spa.ondevice import SECONDS
from spa.options import InputShapes
from spa.passes.choose.widths import multiples
from spa.passes.latency.layers import LayerTime, layer_times
from spa.passes.latency.prediction import leave_one_out
from spa.passes.latency.variants import Settings, plan_of
from spa.presets import Progress
from spa.record import Profile, variant_of
from spa.steps import Analysis, Source, analyse, cut, load_normal
from spa.timing import check_threads, feeds_of


def profile(
    source: Source,
    *,
    threads: int | None = None,
    provider: str | None = None,
    seconds: float = SECONDS,
    inputs: InputShapes | None = None,
    feeds: Feeds | None = None,
    on: str | None = None,
    node: str | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Time a model at a dozen settings of its widths, node by node, on this machine or on a node of a cluster.

    Args:
        source: as `spa.prune` takes it; never changed.
        threads: inside an operator; by default one a core.
        provider: onnxruntime's name of a device; by default CUDA where it works, else the CPU.
        seconds: how long all runs take, about.
        inputs: shapes by input name; by default a batch of one, and what `spa.shapes.sizes` says of other open axes.
        feeds: values by input name, where random ones do not do.
        on: ray://HOST:PORT, the cluster that the node is of.
        node: the node that is timed: its name or address, or a resource that it has. It does nothing else meanwhile for
            the cluster.
        progress: called with the step and the share of it that is done.

    Raises:
        ClusterError: the cluster or the node is not there.
        ModelError: the model cannot be read or run.
        UsageError: there are fewer threads than one, the provider does not work here, or no inputs were found that the
            model runs on.
        MissingExtra: without onnxruntime.
    """
    check_threads(threads)
    runtime.require()
    say = progress or _say_nothing
    if on is not None or node is not None:
        return _on_node(source, on, node, inputs, feeds, (provider, threads, seconds), say)
    chosen = provider or (runtime.CUDA if runtime.has_cuda() else runtime.CPU)
    job = _Job.of(load_normal(source), inputs, feeds)
    with tempfile.TemporaryDirectory() as folder:

        def opened(number: int) -> str:
            path = Path(folder) / f"{number}.onnx"
            if not path.exists():
                onnx_file.save(job.model(number), path)
            return str(path)

        try:
            times = ondevice.measure(
                opened, len(job.settings.removed), dict(job.feeds), chosen, threads, seconds,
                lambda share: say("profile", share),
            )  # fmt: skip
        except RuntimeError as error:
            raise UsageError(str(error)) from error
    variants = [{"removed": r, **timing} for r, timing in zip(job.settings.removed, times, strict=True)]
    device = ondevice.device(chosen, threads)
    return Profile.of({"format": ondevice.FORMAT, "model": job.about, "device": device, "variants": variants})


def _on_node(
    source: Source, on: str | None, node: str | None, inputs: InputShapes | None, feeds: Feeds | None,
    how: tuple[str | None, int | None, float], say: Progress,
) -> Profile:  # fmt: skip
    """`profile` on a node of a cluster."""
    if on is None or node is None:
        missing, there = ("on", "node") if on is None else ("node", "on")
        raise UsageError(f"{there} has no effect without {missing}: both say where a model is timed")
    if (expected := is_place(on)) is not None:
        raise UsageError(f"on {on!r}: expected {expected}")
    from spa.onray import connected

    with connected(on) as cluster:
        job = io.BytesIO()
        write_job(source, job, inputs=inputs, feeds=feeds, progress=lambda step, share: say(step, 0.1 * share))
        return Profile.of(cluster.on_node(node, timed, job.getvalue(), *how))


def timed(job: bytes, provider: str | None, threads: int | None, seconds: float) -> dict[str, Any]:
    """The profile of a job that `write_job` wrote, on the machine that this is called on.

    Raises:
        UsageError: the provider does not work here, or the model does not run.
    """
    chosen = provider or (runtime.CUDA if runtime.has_cuda() else runtime.CPU)
    with zipfile.ZipFile(io.BytesIO(job)) as archive:
        try:
            return ondevice.run_job(archive, chosen, threads, seconds, lambda _share: None)
        except RuntimeError as error:
            raise UsageError(str(error)) from error


def write_job(
    source: Source,
    target: Path | io.BytesIO,
    *,
    inputs: InputShapes | None = None,
    feeds: Feeds | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a zip file that Python runs on another machine: ``python3 job.zip -o device.json``.

    It holds the script and models at a dozen settings of widths, whose weights repeat so that they take little room.

    Args:
        target: the file that is written.
        source, inputs, feeds, progress: as `profile` takes them.

    Raises:
        ModelError, UsageError, MissingExtra: as `profile`.
    """
    runtime.require()
    job = _Job.of(load_normal(source), inputs, feeds)
    named = {f"input_{number}": name for number, name in enumerate(job.feeds)}
    record = {"model": job.about, "feeds": named, "variants": [{"removed": dict(r)} for r in job.settings.removed]}
    arrays = io.BytesIO()
    np.savez(arrays, **{key: job.feeds[name] for key, name in named.items()})  # type: ignore[arg-type]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(ondevice.__file__, "__main__.py")
        archive.writestr(ondevice.JOB, json.dumps(record))
        archive.writestr("feeds.npz", arrays.getvalue())
        for number in range(len(job.settings.removed)):
            archive.writestr(f"{number}.onnx", onnx_file.to_bytes(repeated(job.model(number))))
            (progress or _say_nothing)("profile", (number + 1) / len(job.settings.removed))


def errors_of(profile: Profile, source: Source, *, inputs: InputShapes | None = None) -> np.ndarray:
    """(settings - 1,) how far the time of each setting is from what the others foretell, relative."""
    analysis = analyse(load_normal(source), inputs=inputs)
    return leave_one_out(profile, analysis.groups, analysis.coupling)


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown."""


class _Job:
    """What is timed: a model at several settings, and what it is fed."""

    def __init__(self, dense: ir.Model, settings: Settings, about: Mapping[str, Any], feeds: Mapping[str, np.ndarray]):
        self.dense, self.settings, self.about, self.feeds = dense, settings, about, feeds

    @classmethod
    def of(cls, dense: ir.Model, inputs: InputShapes | None, feeds: Feeds | None) -> _Job:
        analysis = analyse(dense.clone(), inputs=inputs)
        settings = Settings.of(analysis.groups, multiples(analysis.groups, "auto"))
        arrays = feeds_of(dense, {**analysis.sizes.inputs, **(inputs or {})}, feeds)
        about = {
            "name": dense.graph.name or "",
            "precision": _precision(analysis),
            "inputs": {name: list(array.shape) for name, array in arrays.items()},
            "groups": {group.name: group.size for group in analysis.groups},
        }
        return cls(_with_names(dense.clone()), settings, about, arrays)

    def model(self, number: int) -> ir.Model:
        """The model at a setting."""
        model = self.dense.clone()
        if number:
            analysis = analyse(model)
            cut(analysis, plan_of(analysis.groups, self.settings.removed[number]))
        return model


def _with_names(model: ir.Model) -> ir.Model:
    """The model with a name for each node, after its first result: the profiler's times go by names."""
    for node in model.graph:
        node.name = node.name or next((value.name for value in node.outputs if value.name), None)
    return model


def _precision(analysis: Analysis) -> str:
    """The type of most stored numbers: float, float16, int8."""
    numbers: Counter[str] = Counter()
    for value in analysis.coupling.weights:
        if value.const_value is not None and value.const_value.dtype not in NUMBERS:
            numbers[value.const_value.dtype.name.lower()] += value.const_value.size
    return numbers.most_common(1)[0][0] if numbers else ""


REPEAT = 4096
"""So many numbers of a large tensor are kept, again and again, where it is made to take little room."""


def repeated(model: ir.Model) -> ir.Model:
    """The model with its large tensors of parameters made of their first numbers, in place."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype not in NUMBERS and tensor.size > REPEAT and tensor.dtype.bitwidth >= 8:
            array = tensor.numpy()
            value.const_value = ir.Tensor(np.resize(array.reshape(-1)[:REPEAT], array.shape), name=value.name)
    return model


def layers(
    source: Source,
    *,
    threads: int | None = None,
    provider: str | None = None,
    seconds: float = 2.0,
    inputs: InputShapes | None = None,
    feeds: Feeds | None = None,
) -> list[LayerTime]:
    """The time by layer of one model on this machine, in the order in which its parts run.

    Args:
        seconds: how long all runs take, about.
        source, threads, provider, inputs, feeds: as `profile` takes them.

    Raises:
        ModelError, UsageError, MissingExtra: as `profile`.
    """
    check_threads(threads)
    runtime.require()
    dense = _with_names(load_normal(source).clone())
    chosen = provider or (runtime.CUDA if runtime.has_cuda() else runtime.CPU)
    sizes = analyse(dense.clone(), inputs=inputs).sizes.inputs
    arrays = feeds_of(dense, {**sizes, **(inputs or {})}, feeds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.onnx"
        onnx_file.save(dense, path)
        try:
            (times,) = ondevice.measure(lambda _: str(path), 1, dict(arrays), chosen, threads, seconds, lambda _: None)
        except RuntimeError as error:
            raise UsageError(str(error)) from error
    variant = variant_of({"removed": {}, **times})
    return layer_times(dense.graph, variant.units, variant.milliseconds)
