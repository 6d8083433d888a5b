"""Choosing by loss and refitting what stays, from samples."""

from __future__ import annotations
