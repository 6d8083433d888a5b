"""What the heads of attentions look at, and what experts are chosen for."""

from __future__ import annotations
