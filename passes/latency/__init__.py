"""What widths cost in time on a device: which are timed, how times are foretold from them, how a budget is met."""

from __future__ import annotations
