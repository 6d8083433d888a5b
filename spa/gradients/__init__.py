"""An ONNX graph as a `torch.nn.Module`: the same numbers as onnxruntime, and gradients.

    import spa
    module = spa.torch_module("model.onnx")            # parameters carry the initializers' names
    loss = module(images).logsumexp(-1).sum()
    loss.backward()
    smaller = module.to_onnx()                         # the file again, with the weights as they are now

torch is an extra (`pip install 'spa-onnx[torch]'`); nothing else in SPA imports this package.
"""

from __future__ import annotations

from spa.errors import MissingExtra

try:
    from spa.gradients.module import GraphModule, torch_module
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingExtra("PyTorch is not installed: pip install 'spa-onnx[torch]'") from None

__all__ = ["GraphModule", "torch_module"]
