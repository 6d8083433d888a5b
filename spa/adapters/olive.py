"""Pruning as a pass of Olive (olive-ai), after any pass that leaves an ONNX model and before any that takes one.

Olive is imported with this module, which nothing in SPA imports. In a configuration:

    {"passes": {"prune": {"type": "SpaPruning", "ratio": 0.3}}}

with ``olive.run(config, package_config={"passes": {"SpaPruning": {"module_path": "spa.adapters.olive.SpaPruning"}}})``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

import spa
from spa.fields import options_of
from spa.passes.choose.budget import Budget


class SpaPruning(Pass):  # type: ignore[misc]
    """Remove whole channels, heads and FFN units from an ONNX model; options as for `spa.prune`."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:  # noqa: ARG003 - Olive's signature
        known = {option.name: option for option in options_of(Budget)}
        return {
            "ratio": PassConfigParam(type_=float, required=True, description=known["ratio"].about.sentence),
            "of": PassConfigParam(type_=str, default_value=known["of"].default, description=known["of"].about.sentence),
            "options": PassConfigParam(type_=dict, default_value={}, description="More arguments of spa.prune."),
        }

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        target = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        spa.prune(model.model_path, ratio=config.ratio, of=config.of, **config.options).save(target)
        return ONNXModelHandler(model_path=target)
