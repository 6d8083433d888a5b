"""SPA: structurally prune any ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spa.version import __version__

if TYPE_CHECKING:
    from spa.adapters.ir_pass import SpaPass
    from spa.analysis.plan import Plan
    from spa.attending import heads
    from spa.device import DeviceOptions
    from spa.frontends.samples import ImageOptions
    from spa.frontends.texts import TextOptions
    from spa.gradients import finetune, torch_module
    from spa.options import PruneOptions, RunOptions
    from spa.passes.choose.budget import Budget
    from spa.passes.choose.importance import Scoring
    from spa.pipeline import apply_plan, prune
    from spa.points import SweepReport
    from spa.profiling import profile
    from spa.repair import RepairOptions
    from spa.result import PruneResult
    from spa.sweeping import sweep
    from spa.timing import bench
    from spa.training import train

__all__ = [
    "Budget",
    "DeviceOptions",
    "ImageOptions",
    "Plan",
    "PruneOptions",
    "PruneResult",
    "RepairOptions",
    "RunOptions",
    "Scoring",
    "SpaPass",
    "SweepReport",
    "TextOptions",
    "__version__",
    "apply_plan",
    "bench",
    "finetune",
    "heads",
    "profile",
    "prune",
    "sweep",
    "torch_module",
    "train",
]

_HOMES = {
    "prune": "spa.pipeline",
    "apply_plan": "spa.pipeline",
    "PruneResult": "spa.result",
    "sweep": "spa.sweeping",
    "SweepReport": "spa.points",
    "Budget": "spa.passes.choose.budget",
    "Scoring": "spa.passes.choose.importance",
    "RepairOptions": "spa.repair",
    "ImageOptions": "spa.frontends.samples",
    "TextOptions": "spa.frontends.texts",
    "RunOptions": "spa.options",
    "PruneOptions": "spa.options",
    "Plan": "spa.analysis.plan",
    "SpaPass": "spa.adapters.ir_pass",
    "torch_module": "spa.gradients",
    "finetune": "spa.gradients",
    "train": "spa.training",
    "bench": "spa.timing",
    "heads": "spa.attending",
    "profile": "spa.profiling",
    "DeviceOptions": "spa.device",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `import spa` alone stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spa' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
