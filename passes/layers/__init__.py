"""Layers as least-squares problems: rows, weights, moments."""

from __future__ import annotations
