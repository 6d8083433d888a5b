"""The `spa` command: app.py runs it, the modules that are imported here add its commands."""

from __future__ import annotations

import gc

_COLLECTS = gc.isenabled()
gc.disable()  # what loads stays until the end: looking for garbage in it, at the end too, was a third of the start
try:
    from spa.cli import attending, converting, looking, measuring, profiling, pruning, sweeping  # noqa: F401
    from spa.cli.app import app, main
finally:
    gc.freeze()
    if _COLLECTS:
        gc.enable()

__all__ = ["app", "main"]
