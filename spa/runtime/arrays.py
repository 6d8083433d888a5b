"""Arrays to onnxruntime and back, those of types that numpy itself lacks (bfloat16, float8) too."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.runtime.installed import onnxruntime_here


def lacks_numpy(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself lacks this type, so that onnxruntime does not take its arrays."""
    return dtype.type.__module__ == "ml_dtypes"


def ort_value(array: np.ndarray) -> Any:
    """The array as onnxruntime holds it."""
    ort_value, contiguous = onnxruntime_here().OrtValue, np.ascontiguousarray(array)
    if not lacks_numpy(array.dtype):
        return ort_value.ortvalue_from_numpy(contiguous)
    bits = contiguous.view(np.dtype(f"u{array.dtype.itemsize}"))
    return ort_value.ortvalue_from_numpy_with_onnx_type(bits, ir.DataType.from_numpy(array.dtype).value)


def array_of(value: Any) -> np.ndarray:
    """What onnxruntime holds, as an array."""
    dtype = ir.DataType(value.element_type())
    if not lacks_numpy(np.dtype(dtype.numpy())):
        array: np.ndarray = value.numpy()
        return array
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, dtype.numpy()).reshape(value.shape())
