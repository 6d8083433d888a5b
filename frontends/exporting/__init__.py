"""Exporters of PyTorch, Keras, JAX and Hugging Face models to ONNX, and the way back to smaller ones."""

from __future__ import annotations
