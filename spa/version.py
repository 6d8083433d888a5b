"""The version of SPA: what `spa --version` prints, and what models and documents made with it carry."""

from __future__ import annotations

__version__ = "0.2.0"
