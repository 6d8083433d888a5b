"""What results depend on beside the model: versions, and the sources of SPA itself."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from spa.version import __version__


def installed() -> dict[str, str]:
    """What is installed in this process's environment, by name; onnxruntime may be missing."""
    versions = {"spa": f"{__version__} ({_sources()})", "python": platform.python_version()}
    for name in ("numpy", "scipy", "onnx", "onnx-ir"):
        versions[name] = importlib.metadata.version(name)
    try:
        import onnxruntime

        versions["onnxruntime"] = str(onnxruntime.__version__)
    except ImportError:
        versions["onnxruntime"] = "missing"
    return versions


def _sources() -> str:
    """The beginning of a digest of all modules of SPA: versions say nothing of a checkout."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    paths = [Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
    for path in sorted(path.relative_to(root) for path in paths if path.suffix == ".py"):
        digest.update(path.as_posix().encode() + (root / path).read_bytes())
    return digest.hexdigest()[:8]
