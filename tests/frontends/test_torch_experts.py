"""Experts in groups as torch's two exporters write them, against the module with scores at minus infinity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import spa
from spa import runtime
from spa.analysis.plan import Plan
from spa.steps import analyse, load_normal

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
functional = torch.nn.functional

WIDTH, FFN, EXPERTS, GROUPS, CHOSEN_GROUPS, CHOSEN = 12, 10, 16, 4, 2, 3


class Mixture(torch.nn.Module):  # type: ignore[misc,name-defined]
    """DeepSeek-V2 scores by softmax, and groups by their best; V3 by sigmoid with a shift, and by their best two."""

    def __init__(self, version: int, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.version, self.form = version, form
        self.router, self.last = torch.nn.Linear(WIDTH, EXPERTS, bias=False), torch.nn.Linear(WIDTH, 5)
        self.up = torch.nn.Parameter(torch.randn(EXPERTS, WIDTH, FFN) / WIDTH**0.5)
        self.down = torch.nn.Parameter(torch.randn(EXPERTS, FFN, WIDTH) / FFN**0.5)
        self.register_buffer("shift", 0.1 * torch.randn(EXPERTS))
        self.absent: Any = None

    def barred(self, scores: Any) -> Any:
        return scores if self.absent is None else scores.masked_fill(self.absent, -torch.inf)

    def chosen(self, x: Any) -> tuple[Any, Any]:
        if self.version == 3:
            scores = self.router(x).sigmoid()
            choice = self.barred(scores + self.shift)
            groups = choice.view(-1, GROUPS, EXPERTS // GROUPS).topk(2, dim=-1)[0].sum(-1)
        else:
            choice = scores = self.barred(self.router(x)).softmax(-1)
            groups = scores.view(-1, GROUPS, EXPERTS // GROUPS).max(dim=-1).values
        best = torch.topk(groups, k=CHOSEN_GROUPS, dim=-1, sorted=False)[1]
        marks = torch.zeros_like(groups).scatter_(1, best, 1).unsqueeze(-1)
        marks = marks.expand(-1, GROUPS, EXPERTS // GROUPS).reshape(-1, EXPERTS)
        choice = choice.masked_fill(~marks.bool(), -torch.inf if self.version == 3 else 0.0)
        numbers = torch.topk(choice, k=CHOSEN, dim=-1, sorted=False)[1]
        gates = scores.gather(1, numbers)
        return 2.5 * gates / (gates.sum(-1, keepdim=True) if self.version == 3 else 1), numbers

    def forward(self, x: Any) -> Any:
        gates, numbers = self.chosen(x)
        if self.form == "gathered":
            hidden = torch.relu(torch.matmul(x[:, None, None, :], self.up[numbers]))
            mixed = (torch.matmul(hidden, self.down[numbers])[:, :, 0] * gates[..., None]).sum(1)
        else:
            if self.form == "scattered":
                share = torch.zeros(x.shape[0], EXPERTS, dtype=x.dtype).scatter(1, numbers, gates)
            else:
                share = (functional.one_hot(numbers, EXPERTS).to(x.dtype) * gates[..., None]).sum(1)
            hidden = torch.relu(torch.einsum("nw,ewf->nef", x, self.up))
            mixed = torch.einsum("nef,efw,ne->nw", hidden, self.down, share)
        return self.last(x + mixed)


def exported(module: Any, path: Path, *, dynamo: bool) -> Path:
    x = torch.randn(6, WIDTH)
    if dynamo:
        shapes = {"x": {0: torch.export.Dim("n", min=2)}}
        torch.onnx.export(
            module, (x,), path, dynamo=True, input_names=["x"], dynamic_shapes=shapes, external_data=False
        )
    else:
        axes = {"x": {0: "n"}}
        torch.onnx.export(module, (x,), path, dynamo=False, opset_version=18, input_names=["x"], dynamic_axes=axes)
    return path


def answers(model: ir.Model, x: np.ndarray) -> np.ndarray:
    (result,) = runtime.run(runtime.session(model, optimize=False), {"x": x}).values()
    return np.asarray(result)


@pytest.mark.filterwarnings("ignore")  # of the exporters themselves
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", ["gathered", "scattered", "one-hot"])
def test_groups_and_places_go_exactly(tmp_path: Path, version: int, form: str, dynamo: bool) -> None:
    module = Mixture(version, form).eval()
    path = exported(module, tmp_path / "mixture.onnx", dynamo=dynamo)
    whole, places = [group for group in analyse(load_normal(path)).groups if group.kind == "experts"]
    x = torch.randn(32, WIDTH)
    for gone in ({whole.name: (1,)}, {places.name: (2,)}, {whole.name: (0, 3), places.name: (1,)}):
        result = spa.apply_plan(path, Plan(gone, dict.fromkeys(gone, 4)))
        assert result.report.verified
        at, place = np.divmod(np.arange(EXPERTS), EXPERTS // GROUPS)
        lost = np.isin(at, gone.get(whole.name, ())) | np.isin(place, gone.get(places.name, ()))
        module.absent = torch.from_numpy(lost)
        with torch.no_grad():
            expected = module(x).numpy()
        np.testing.assert_allclose(answers(result.model, x.numpy()), expected, rtol=1e-4, atol=1e-5)
