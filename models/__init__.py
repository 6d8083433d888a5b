"""Builders of the models that tests, README and benchmarks use."""

from __future__ import annotations
