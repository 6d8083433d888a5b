"""What to remove, removing it, repairing what is left."""

from __future__ import annotations
