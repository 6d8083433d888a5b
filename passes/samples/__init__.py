"""Samples that a model is calibrated with: given, made up, checked."""

from __future__ import annotations
