"""Times of widths on a device: which are measured, how others are foretold, and how a budget of time is met."""

from __future__ import annotations
