"""An ONNX graph as a `torch.nn.Module`: the same numbers as onnxruntime, and gradients.

    import spa
    module = spa.torch_module("model.onnx")            # parameters carry the initializers' names
    loss = module(images).logsumexp(-1).sum()
    loss.backward()
    smaller = module.to_onnx()                         # the file again, with the weights as they are now

torch is an extra (`pip install 'spa-onnx[torch]'`); nothing else in SPA imports this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spa.errors import MissingExtra

if TYPE_CHECKING:
    from spa.gradients.criteria import criterion, criterion_of_module
    from spa.gradients.module import GraphModule, torch_module
    from spa.gradients.regrowing import regrowth
    from spa.gradients.restarting import restart
    from spa.gradients.samples import Split, samples_of
    from spa.gradients.tuning import FinetuneReport, FinetuneResult, finetune, fit

__all__ = [
    "FinetuneReport", "FinetuneResult", "GraphModule", "Split", "criterion", "criterion_of_module", "finetune", "fit",
    "regrowth", "require", "restart", "samples_of", "torch_module",
]  # fmt: skip

_HOMES = {
    "FinetuneReport": "spa.gradients.tuning",
    "FinetuneResult": "spa.gradients.tuning",
    "GraphModule": "spa.gradients.module",
    "Split": "spa.gradients.samples",
    "criterion": "spa.gradients.criteria",
    "criterion_of_module": "spa.gradients.criteria",
    "finetune": "spa.gradients.tuning",
    "fit": "spa.gradients.tuning",
    "regrowth": "spa.gradients.regrowing",
    "restart": "spa.gradients.restarting",
    "samples_of": "spa.gradients.samples",
    "torch_module": "spa.gradients.module",
}


def require() -> None:
    """Raise MissingExtra where torch is not installed."""
    try:
        import_module("torch")
    except ImportError:
        raise MissingExtra("PyTorch is not installed: pip install 'spa-onnx[torch]'") from None


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: the options are read without torch.

    Raises:
        MissingExtra: torch is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'spa.gradients' has no attribute {name!r}")
    require()
    return getattr(import_module(_HOMES[name]), name)
