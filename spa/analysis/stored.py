"""Tell the stored tensors that hold parameters from those that hold sizes and positions."""

from __future__ import annotations

import onnx_ir as ir

NUMBERS = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING}
"""Types of stored tensors that are no parameters (indices, shapes, masks); zero points and scales are."""


def has_parameters(value: ir.Value) -> bool:
    """Whether a value is a stored tensor of parameters."""
    return value.const_value is not None and value.const_value.dtype not in NUMBERS
