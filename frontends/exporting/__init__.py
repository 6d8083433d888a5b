"""What the exporters of frameworks share."""

from __future__ import annotations
