"""SPA inside other toolchains, and back into frameworks."""

from __future__ import annotations
