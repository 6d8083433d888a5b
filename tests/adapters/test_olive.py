from __future__ import annotations

from pathlib import Path

import pytest

from spa.frontends.files import onnx_file

pytestmark = pytest.mark.filterwarnings("ignore")  # of Olive and what it imports
pytest.importorskip("olive", reason="the extra olive is not installed")

RESNET = Path(__file__).resolve().parents[2] / "models" / "fashion_resnet.onnx"


def test_a_pass_of_olive(tmp_path: Path) -> None:
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    from spa.adapters.olive import SpaPruning

    pruning = create_pass_from_dict(SpaPruning, {"ratio": 0.3, "of": "flops"}, disable_search=True)
    handler = pruning.run(ONNXModelHandler(model_path=str(RESNET)), str(tmp_path / "out"))
    model = onnx_file.load(handler.model_path)
    assert sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None) > 0
    assert Path(handler.model_path).stat().st_size < RESNET.stat().st_size
