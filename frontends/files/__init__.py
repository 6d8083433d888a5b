"""Read and write ONNX files and folders."""

from __future__ import annotations
