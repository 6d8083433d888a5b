"""Cut out the chosen units, and check the result."""

from __future__ import annotations
