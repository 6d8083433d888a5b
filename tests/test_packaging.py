from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "LICENSE", "README.md", "spa", "passes", "frontends")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: building leaves folders behind."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(copy)], check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_module_once(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "spa").rglob("*.py")}  # links are not followed
    for folder in ("passes", "frontends"):
        modules |= {f"spa/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    templates = [f"spa/pages/templates/{path.name}" for path in (ROOT / "spa/pages/templates").iterdir()]
    library = {f"spa/passes/samples/library/{name}" for name in ("photographs.npz", "glyphs.npz", "SOURCES.md")}
    packed = sorted(name for name in names if ".dist-info/" not in name)
    assert packed == sorted(
        {
            *modules,
            *library,
            *templates,
            "spa/py.typed",
            "spa/profile.schema.json",
            "spa/schema.json",
            "spa/operators/applied.txt",
        }
    )


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert files["entry_points.txt"].split() == ["[console_scripts]", "spa", "=", "spa.cli:main"]
    assert files["LICENSE"] == (ROOT / "LICENSE").read_text()
    metadata = files["METADATA"]
    assert "Name: spa-onnx" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert not [line for line in required if "onnxruntime" in line], "the two runtimes exclude each other: extras only"


def test_wheel_imports_without_the_sources(wheel: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import spa, spa.frontends.files.onnx_file, spa.passes\n"
        "print(spa.__file__, spa.frontends.files.onnx_file.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [f"{wheel}/spa/__init__.py", f"{wheel}/spa/frontends/files/onnx_file.py"]


def test_links_are_relative() -> None:
    for name in ("passes", "frontends"):
        assert (ROOT / "spa" / name).readlink() == Path("..") / name
