"""Refuse a web address where a file is expected, and say what to do instead: nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from spa.errors import UsageError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}\S")  # a Path makes one slash of two
_HUB = re.compile(r"[\w.-]+/[\w-]+(\.\d[\w-]*)*")


def refuse_address(source: str | os.PathLike[str]) -> None:
    """Refuse an address of the net, and the name of a model on a hub, where there is no such file.

    Raises:
        UsageError: says how to download it.
    """
    text = str(source)
    if _ADDRESS.match(text) and not os.path.lexists(source):
        address = re.sub(r":/+", "://", text, count=1)
        raise UsageError(f"{address!r} is an address: download it first, with curl -LO {address}, and give the file")


def hub_hint(source: str | os.PathLike[str]) -> str:
    """Where a missing source may be the name of a model on the Hugging Face hub: how to get it; or nothing."""
    text = str(source)
    if not _HUB.fullmatch(text) or os.path.lexists(Path(text).parent):
        return ""
    return f"; a model of the Hugging Face hub is downloaded first: hf download {text} --local-dir {Path(text).name}"
