"""Fine-tuning a pruned model: it learns to answer as the dense one does, without labels unless they are given.

    import spa
    result = spa.finetune("pruned.onnx", teacher="dense.onnx", data="samples.npz", minutes=5)
    print(result.report.before, "->", result.report.after)      # loss on samples that no step saw
    result.save("tuned.onnx")

Distillation (Hinton et al. 2015) is the default: a KL divergence where an output holds or may hold probabilities, else
the share of its variance that is lost. Every sixth sample is held out; the state that does best on those is kept, and
what came in is one of the candidates. With `train=("biases", "norms", "scales")` only vectors are trained, about 0.3 %
of the parameters (PERP, Zimmer et al. 2023). Normalisations keep their running statistics.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa import runtime
from spa.analysis.group import Group
from spa.analysis.unread import cache_pairs
from spa.errors import DataError, UsageError, VerificationError
from spa.fields import takes_options
from spa.frontends.files import onnx_file
from spa.gradients.epochs import Job
from spa.gradients.losses import Labelled, Loss, Together, own
from spa.gradients.module import GraphModule, Source
from spa.gradients.options import FinetuneOptions, TrainOptions
from spa.gradients.outcome import FinetuneReport
from spa.gradients.placing import placed
from spa.gradients.samples import Split, samples_of
from spa.gradients.teaching import distillation
from spa.passes.normalize.normalize import normalize
from spa.passes.repair.foretelling import perplexity
from spa.presets import Progress

CLOSE = 1e-3
"""How far onnxruntime may be from torch on the result, relative to the largest output."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The tuned model.

    Attributes:
        model: the graph that came in, with other weights.
        report: losses before and after, on samples held out, and how the training went.
    """

    model: ir.Model
    report: FinetuneReport

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `path`; the target appears whole or not at all.

        Raises:
            UsageError: the target cannot be written, or the model was read from it.
            ModelError: a file that the model was read from has changed since.
        """
        onnx_file.save(self.model, path)


@takes_options(FinetuneOptions)
def finetune(
    pruned: Source, *, teacher: Source | None = None, progress: Progress | None = None, **options: Any
) -> FinetuneResult:
    """Train a pruned model's weights; the graph stays as it is.

    Args:
        pruned: a path, `onnx.ModelProto`, `onnx_ir.Model` or onnx-graphsurgeon graph; never changed.
        teacher: the dense model, whose outputs are learned, beside labels or a loss of your own where those are given;
            needed unless they are.
        progress: called with the step and the share (0..1) of it that is done.
        options: as follows.

    Raises:
        MissingExtra: torch or lightning-fabric, which the extra torch brings, is not installed.
        UsageError, DataError: an option or the samples are wrong, or there is nothing to learn from.
        ModelError: a model is not valid, or an operator has no gradient here; names it.
        VerificationError: onnxruntime does not compute what torch does on the result.
    """
    asked = FinetuneOptions(**options)
    model = onnx_file.load(pruned)
    dense = None if teacher is None else onnx_file.load(teacher)
    samples = samples_of(asked, model)
    if dense is not None and asked.labels is None and asked.loss is None and not asked.alone:
        samples = samples.topped_up(normalize(dense.clone()))
    loss, samples = _loss(asked, model, dense, samples)
    return _trained(Job(model, samples, loss, asked), progress)


def fit(
    model: ir.Model, samples: Split, asked: TrainOptions, groups: Sequence[Group], *, progress: Progress | None = None
) -> FinetuneResult:
    """Train a model by labels or a loss of one's own; normalisations take the statistics of batches, and learn them.

    Args:
        groups: whose units are made sparse, where that is asked for.

    Raises:
        UsageError: there is nothing to train, or to make sparse.
        ModelError: an operator has no gradient here; names it.
        VerificationError: onnxruntime does not compute what torch does on the result.
    """
    samples = replace(samples, batch_size=asked.batch_size or samples.batch_size)
    loss, samples = _loss(asked, model, None, samples)
    return _trained(Job(model, samples, loss, asked, training=True, groups=groups), progress)


def _trained(job: Job, progress: Progress | None) -> FinetuneResult:
    """The model with the weights that it learned, which onnxruntime computes as torch does."""
    outcome = placed(job, progress or _say_nothing)
    student = GraphModule(job.model, seed=job.asked.seed).eval()
    student.load_state_dict(outcome.weights)
    model = student.to_onnx()
    _verify(model, student, job.samples)
    held_out = job.samples.calibration.held_out
    foretold = None if held_out is None else perplexity(job.model, model, held_out)
    return FinetuneResult(model, replace(outcome.report, perplexity=foretold))


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown."""


def _loss(asked: FinetuneOptions, model: ir.Model, dense: ir.Model | None, samples: Split) -> tuple[Loss, Split]:
    """What is made small, and the samples with what it takes beside them."""
    parts: list[Loss] = []
    if dense is not None:
        names, own_names = (_answers(each.graph) for each in (dense, model))
        if names != own_names:
            raise DataError(f"the teacher gives {', '.join(names)}, the pruned model {', '.join(own_names)}")
        taught, samples = distillation(dense, samples, sized=asked.batch_size is not None)
        parts.append(taught)
    if asked.loss is not None:
        parts.append(own(asked.loss))
    elif asked.labels is not None:
        parts.append(Labelled(asked.labels))
    if not parts:
        raise UsageError("nothing to learn from: give the dense model as teacher, labels, or a loss of your own")
    return parts[0] if len(parts) == 1 else Together(parts), samples


def _answers(graph: ir.Graph) -> list[str]:
    """The outputs but for caches, of which a cut may take those of a layer."""
    caches = cache_pairs(graph)
    return [str(value.name) for value in graph.outputs if value not in caches]


def _verify(model: ir.Model, student: GraphModule, samples: Split) -> None:
    """Run the result in onnxruntime beside torch.

    Raises:
        VerificationError: an output is not the same.
    """
    feeds = student.feeds_of(next(samples.held_out()))
    outputs = runtime.run(runtime.session(model, optimize=False), feeds)
    with torch.no_grad():
        expected = student.outputs(feeds)
    for name, tensor in expected.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        wanted = tensor.float().numpy()
        gap = np.abs(wanted - outputs[name].astype(np.float32)).max(initial=0.0)
        scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
        limit = CLOSE if tensor.dtype == torch.float32 else 50 * CLOSE
        if not gap / scale <= limit:
            raise VerificationError(
                f"onnxruntime differs from torch by {gap / scale:.1e} of the largest {name!r}, more than {limit:g}"
            )


__all__ = ["FinetuneOptions", "FinetuneReport", "FinetuneResult", "finetune"]
