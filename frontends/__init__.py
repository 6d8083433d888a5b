"""Models and samples in and out: ONNX files, PyTorch, Keras, JAX, Hugging Face; images, arrays and texts."""

from __future__ import annotations
