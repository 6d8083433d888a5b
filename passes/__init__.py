"""The passes over a graph: choose units, cut them out, repair what is left."""

from __future__ import annotations
